"""A page with syft.js in the Chromium of this machine, on an origin of its own as a real web app has."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.support.chromium import chromium

_PHONE = Path(__file__).with_name("syft_js_phone.js")
_SCRIPTS = {
    "tf.js": "@tensorflow/tfjs-core/dist/tf-core.js",
    "syft.js": "@openmined/syft.js/dist/index.js",
}
_PAGE = "<!doctype html><title>phone</title>" + "".join(
    f'<script src="/{name}"></script>' for name in (*_SCRIPTS, "phone.js")
)


@contextmanager
def phone_page(modules: Path, directory: Path) -> Iterator[Page]:
    """A Playwright page in which ``trainToTheEnd``, ``tf`` and ``syft`` are defined.

    Args:
        modules: node_modules with syft.js and TensorFlow.js.
        directory: empty or missing; what is served.
    """
    directory.mkdir(exist_ok=True)
    for name, source in _SCRIPTS.items():
        shutil.copyfile(modules / source, directory / name)
    shutil.copyfile(_PHONE, directory / "phone.js")
    (directory / "index.html").write_text(_PAGE, encoding="utf-8")
    with _served(directory) as address, chromium() as browser:
        page = browser.new_page()
        page.goto(address)
        yield page


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def _served(directory: Path) -> Iterator[str]:
    handler = functools.partial(_Files, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
