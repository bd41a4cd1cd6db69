"""The real ``gridnode master`` as a process of its own, and its APIs as the tests use them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.support.device import Answer
from tests.support.node import ROOT, free_port, gridnode

ADMIN = "administrators-token-of-the-tests-0123456789"


class MasterClient:
    """A master node's port, a connection for each request.

    Args:
        port: On this machine.
        key: Shown as a bearer token; None shows none.
    """

    def __init__(self, port: int, key: str | None = None, *, timeout: float = 30.0) -> None:
        self.port = port
        self._key = key
        self._timeout = timeout

    def with_key(self, key: str | None) -> MasterClient:
        """The same with another key."""
        return MasterClient(self.port, key, timeout=self._timeout)

    def request(
        self,
        method: str,
        path: str,
        data: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        """One request; ``data`` goes as JSON, ``raw`` as it is."""
        sent = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        body = raw
        if data is not None:
            sent["Content-Type"] = "application/json"
            body = json.dumps(data).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self._timeout)
        try:
            connection.request(
                method, path + (f"?{urlencode(query)}" if query else ""), body, {**sent, **(headers or {})}
            )
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def get(self, path: str, **query: Any) -> Any:
        """What a GET that must succeed answers."""
        answer = self.request("GET", path, query=query)
        assert answer.status == 200, f"GET {path}: {answer.status} {answer.body[:500]!r}"
        return answer.json()

    def post(self, path: str, data: object) -> Any:
        """What a POST that must succeed answers."""
        answer = self.request("POST", path, data)
        assert answer.status in (200, 201, 202), f"POST {path}: {answer.status} {answer.body[:500]!r}"
        return answer.json()

    def ready(self) -> bool:
        """Whether it says it is ready."""
        try:
            return self.request("GET", "/readyz").status == 200
        except OSError:
            return False


class MasterProcess:
    """One process of the master node, on a port that it keeps when it is started again.

    Args:
        database_url: Any database; the schema is made.
        directory: For the log and finished models.
        settings: By name, such as ``legacy_access="true"``; each becomes ``GRIDNODE_MASTER_X``.
    """

    def __init__(self, database_url: str, directory: Path, **settings: object) -> None:
        self.port = int(str(settings.get("port") or free_port()))
        self.log_path = directory / f"master-{self.port}.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRIDNODE_")}
        given: dict[str, object] = {
            "database_url": database_url,
            "host": "127.0.0.1",
            "port": self.port,
            "admin_token": ADMIN,
            "data_dir": directory,
            "observe_interval": "0.3",
            "fetch_interval": "0.3",
            **settings,
        }
        path = os.pathsep.join(filter(None, [f"{ROOT}/node", f"{ROOT}/operator", inherited.get("PYTHONPATH")]))
        self._environment = {
            **inherited,
            "PYTHONPATH": path,
            **{f"GRIDNODE_MASTER_{name.upper()}": str(value) for name, value in given.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin(self) -> MasterClient:
        """A client with the administrator's token."""
        return MasterClient(self.port, ADMIN)

    @property
    def anonymous(self) -> MasterClient:
        """A client without a key."""
        return MasterClient(self.port)

    def key(self, scope: str, **values: Any) -> str:
        """A new key."""
        made = self.admin.post("/api/v1/keys", {"scope": scope, **values})
        key: str = made["key"]
        return key

    def start(self) -> None:
        """Start the process; does not wait for anything."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                gridnode("master"),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self, seconds: float = 60.0) -> None:
        """Wait for ``/readyz``.

        Raises:
            AssertionError: it ended, or was not ready in time; holds the end of its log.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.anonymous.ready():
                return
            if self._process is None or self._process.poll() is not None:
                raise AssertionError(f"the master node ended before it was ready:\n{self.log()[-4000:]}")
            time.sleep(0.05)
        raise AssertionError(f"the master node was not ready within {seconds} s:\n{self.log()[-4000:]}")

    def process_id(self) -> int:
        """Of the process, which must have been started."""
        assert self._process is not None
        return self._process.pid

    def stop(self, seconds: float = 30.0) -> int:
        """Ask it to end (SIGTERM) and give its exit status."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL. Harmless if nothing runs."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def log(self) -> str:
        """Everything it has written."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def __enter__(self) -> MasterProcess:
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
