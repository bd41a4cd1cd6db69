"""``gridnode up --notebook``: a Jupyter on this machine that is set to the GridNode, and ends with it."""

from __future__ import annotations

import importlib.util
import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from gridnode.errors import InvalidRequest
from gridnode_operator.local.notebook import check_jupyter
from tests.support.node import ROOT
from tests.support.up import Up, manifest

pytestmark = [pytest.mark.torch, pytest.mark.integration, pytest.mark.timeout(300)]


def get(url: str, token: str | None) -> Any:
    headers = {} if token is None else {"Authorization": f"token {token}"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return json.load(answer)


def wait_for_address(up: Up, seconds: float = 120.0) -> tuple[str, str]:
    deadline = time.monotonic() + seconds
    while (found := re.search(r"Notebooks: (http://127\.0\.0\.1:\d+)/lab\?token=(\S+)", up.log())) is None:
        assert up.alive(), up.log()
        assert time.monotonic() < deadline, up.log()
        time.sleep(0.1)
    return found[1], found[2]


def test_jupyter_has_the_notebooks_and_is_set_to_the_gridnode(tmp_path: Path) -> None:
    notebook = (ROOT / "examples" / "01-quickstart.ipynb").read_bytes()
    (tmp_path / "01-quickstart.ipynb").write_bytes(notebook)
    kept = tmp_path / "data" / "notebooks" / "mine.ipynb"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"{}")
    (tmp_path / "mine.ipynb").write_bytes(notebook)
    up = Up(tmp_path, manifest("one"))
    try:
        up.start("--port", "0", "--master-port", "0", "--notebook")
        url, token = wait_for_address(up)

        with pytest.raises(urllib.error.HTTPError, match="403"):
            get(f"{url}/api/contents", None)
        listed = {entry["name"] for entry in get(f"{url}/api/contents", token)["content"]}
        assert listed == {"01-quickstart.ipynb", "mine.ipynb"}
        assert kept.read_bytes() == b"{}"
        (jupyter,) = [process for process in up.processes() if "jupyterlab" in " ".join(process.cmdline())]
        environment = jupyter.environ()
        found = up.wait_until_ready("one")["gridnodes"][0]
        assert environment["GRIDNODE_MANAGEMENT_URL"] == found["management_url"]
        assert environment["GRIDNODE_MANAGEMENT_TOKEN_FILE"] == found["token_file"]
        assert environment["GRIDNODE_DEVICE_URL"] == found["url"]
        assert token not in " ".join(jupyter.cmdline())
        assert {each.laddr.ip for each in jupyter.net_connections("tcp") if each.status == "LISTEN"} == {"127.0.0.1"}

        assert up.stop() == 0

        assert not jupyter.is_running()
    finally:
        up.__exit__()


def test_missing_jupyter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(InvalidRequest, match="pip install jupyterlab"):
        check_jupyter()
