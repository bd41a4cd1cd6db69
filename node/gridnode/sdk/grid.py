"""A node's management from a notebook: host, look, watch, and take the result back into PyTorch."""

from __future__ import annotations

import ipaddress
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import requests

from gridnode.errors import GridNodeError
from gridnode.sdk.hosted import HostedProcess
from gridnode.sdk.plans import BuiltAveragingPlan, BuiltPlan
from gridnode.sdk.progress import Progress

DEFAULT_URL: Final = "http://127.0.0.1:5050"
_URL_VARIABLE: Final = "GRIDNODE_MANAGEMENT_URL"
_TOKEN_VARIABLE: Final = "GRIDNODE_MANAGEMENT_TOKEN"  # noqa: S105 - a name, no token
_CONNECT_TIMEOUT: Final = 5.0
_ANSWER_TIMEOUT: Final = 90.0
# A node tries plans before it answers.
_HOSTING_TIMEOUT: Final = 900.0
_PAGE: Final = 1000
_FIRST_PAUSE: Final = 0.5


class GridFailed(GridNodeError):
    """The node refused or did not answer; the message says what to do. ``status`` is that of HTTP, if it answered."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Grid:
    """One node, by its management address.

    While the node is away, requests that may be repeated are: those that change nothing, and hosting, since a node
    knows what it has already.

    Args:
        url: if not given, ``GRIDNODE_MANAGEMENT_URL``, or a node on this machine.
        token: if not given, ``GRIDNODE_MANAGEMENT_TOKEN`` or the file that ``GRIDNODE_MANAGEMENT_TOKEN_FILE`` names.
        attempts: how often a request is tried.

    Example::

        with Grid("http://127.0.0.1:5050", token) as grid:
            process = grid.host("digits", plan, batch_size=32, lr=0.1, max_updates=10, num_cycles=5, min_diffs=10)
            process.watch()
            model.load_state_dict(process.retrieve())
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, attempts: int = 4) -> None:
        self.url = (url or os.environ.get(_URL_VARIABLE) or DEFAULT_URL).rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise GridFailed(f"{self.url!r} is no management address: give a URL such as {DEFAULT_URL}.")
        self._token = token or _token_of_environment()
        self._attempts = attempts
        self._http = requests.Session()
        # A proxy for the rest of the world does not lead to this machine.
        self._http.trust_env = not _is_loopback(parts.hostname)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next request opens them again."""
        self._http.close()

    def host(
        self,
        name: str,
        plan: BuiltPlan,
        *,
        batch_size: int,
        lr: float,
        max_updates: int = 1,
        version: str = "1.0",
        averaging_plan: BuiltAveragingPlan | None = None,
        client_config: Mapping[str, Any] | None = None,
        **server_config: Any,
    ) -> HostedProcess:
        """Host a model: its parameters, its plan, and what phones and the node are told.

        Args:
            batch_size, lr, max_updates: what a phone trains with, and how many batches of it.
            client_config: more for phones, as they know it.
            server_config: the keys that docs/configuration.md explains, such as num_cycles and min_diffs.

        Raises:
            GridFailed: the node refused; the message names the field.
        """
        if batch_size % plan.local_steps:
            raise GridFailed(
                f"batch_size is {batch_size}, but the plan takes a batch in {plan.local_steps} parts: give a multiple."
            )
        client = {"name": name, "version": version, "batch_size": batch_size, "lr": lr, "max_updates": max_updates}
        server = dict(server_config)
        files = {"model": plan.state, f"plans.{plan.name}": plan.data}
        if averaging_plan is not None:
            files["averaging_plan"] = averaging_plan.data
            server.setdefault("iterative_plan", averaging_plan.iterative)
        fields = {"client_config": {**(client_config or {}), **client}, "server_config": server}
        parts = {key: ("upload", json.dumps(value).encode()) for key, value in fields.items()}
        parts |= {key: ("upload", value) for key, value in files.items()}
        path = "/model-centric/host-training"
        self.request("POST", path, files=parts, answer_timeout=_HOSTING_TIMEOUT, repeat=True)
        return HostedProcess(self, self._status(name, version), tuple(plan.parameters))

    def processes(self, name: str | None = None, version: str | None = None) -> list[HostedProcess]:
        """All processes, or those of one name (and version), in the order in which they were hosted."""
        found: list[HostedProcess] = []
        page: list[dict[str, Any]] = [{"id": 0}]
        while page:
            query = {"name": name, "version": version, "after": page[-1]["id"], "limit": _PAGE}
            page = self.read("/processes", params=query)["processes"]
            found += [HostedProcess(self, status) for status in page]
            if len(page) < _PAGE:
                break
        return found

    def process(self, name: str, version: str | None = None, *, names: Sequence[str] = ()) -> HostedProcess:
        """The process of this name; the newest version if none is given.

        Args:
            names: of the parameters, for its state dict: ``[name for name, _ in model.named_parameters()]``.
        """
        return HostedProcess(self, self._status(name, version), tuple(names))

    def watch(self, name: str, version: str | None = None, **options: Any) -> Progress:
        """Watch a process until it has ended; see :meth:`HostedProcess.watch`."""
        return self.process(name, version).watch(**options)

    def checkpoint(
        self, name: str, number: int | str, version: str | None = None, *, names: Sequence[str] = ()
    ) -> dict[str, Any]:
        """A checkpoint as a state dict; see :meth:`HostedProcess.checkpoint`."""
        return self.process(name, version, names=names).checkpoint(number)

    def retrieve(self, name: str, version: str | None = None, *, names: Sequence[str] = ()) -> dict[str, Any]:
        """The newest checkpoint as a state dict."""
        return self.checkpoint(name, "latest", version, names=names)

    def _status(self, name: str, version: str | None) -> dict[str, Any]:
        found = self.read("/processes", params={"name": name, "version": version})["processes"]
        if not found:
            there = ", ".join(sorted({process.name for process in self.processes()})) or "nothing"
            raise GridFailed(
                f"no process {name}{f' {version}' if version else ''} is hosted at {self.url}; there is {there}."
            )
        status: dict[str, Any] = found[-1]
        return status

    def read(self, path: str, **options: Any) -> dict[str, Any]:
        """A GET whose answer is a JSON object."""
        response = self.request("GET", path, **options)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise GridFailed(f"what answers at {self.url} is no GridNode: {response.text[:200]!r}")
        return answer

    def request(
        self,
        method: str,
        path: str,
        *,
        answer_timeout: float = _ANSWER_TIMEOUT,
        repeat: bool = False,
        **options: Any,
    ) -> requests.Response:
        """One request with the token; a GET, and one that says so, is repeated while the node is away.

        Raises:
            GridFailed: no answer, or one that is an error.
        """
        attempts = self._attempts if repeat or method == "GET" else 1
        for attempt in range(1, attempts + 1):
            try:
                response = self._http.request(
                    method,
                    self.url + path,
                    timeout=(_CONNECT_TIMEOUT, answer_timeout),
                    auth=self._authorize,
                    # A node never redirects; following one would carry the token to somebody else.
                    allow_redirects=False,
                    **options,
                )
            except requests.RequestException as error:
                if attempt == attempts:
                    raise GridFailed(self._no_answer(error)) from None
                pause = None
            else:
                if response.status_code == 200:
                    return response
                if attempt == attempts or response.status_code not in (429, 502, 503, 504):
                    raise GridFailed(self._refusal(response), response.status_code)
                pause = response.headers.get("Retry-After")
            time.sleep(float(pause) if pause and pause.isdecimal() else _FIRST_PAUSE * 2 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Set here, or requests would replace it by a password from ~/.netrc.
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def _no_answer(self, error: requests.RequestException) -> str:
        if isinstance(error, requests.Timeout) and not isinstance(error, requests.ConnectTimeout):
            return f"the node at {self.url} did not answer in time. Its log says what it is doing."
        return (
            f"nothing answers at {self.url}. Is the node running, and is this its management address? Start one with "
            f"`gridnode serve`, or give Grid another url."
        )

    def _refusal(self, response: requests.Response) -> str:
        try:
            reason = str(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            return f"what answers at {self.url} is no GridNode: it answered {response.status_code}."
        if response.status_code == 401:
            return f"{reason} Give Grid the node's management token, or set {_TOKEN_VARIABLE}."
        if response.status_code == 413:
            return f"{reason} Its operator can raise GRIDNODE_HOSTING_LIMIT."
        return reason


def _token_of_environment() -> str | None:
    if token := os.environ.get(_TOKEN_VARIABLE):
        return token
    path = os.environ.get(f"{_TOKEN_VARIABLE}_FILE")
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise GridFailed(f"{_TOKEN_VARIABLE}_FILE can't be read: {error.strerror}.") from None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
