"""The management API of a node as the commands use it: its address, its token, and errors that say what to do."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol
from urllib.parse import urlsplit

import requests
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from urllib3.exceptions import NewConnectionError

from gridnode import setting_kinds as kinds
from gridnode.errors import GridNodeError
from gridnode.settings import load_settings

DEFAULT_URL: Final = "http://127.0.0.1:5050"
URL_VARIABLE: Final = "GRIDNODE_MANAGEMENT_URL"
_TOKEN_VARIABLE: Final = "GRIDNODE_MANAGEMENT_TOKEN"  # noqa: S105 - a name, no token
_CONNECT_TIMEOUT: Final = 5.0
_ANSWER_TIMEOUT: Final = 90.0
# Plans are tried before the answer, an averaging plan for as long as the node's averaging_plan_timeout.
_HOSTING_TIMEOUT: Final = 900.0
_PAGE: Final = 1000
_CHUNK: Final = 1 << 18
#: Smaller transfers are over before a bar could be read.
_WORTH_A_BAR: Final = 1 << 20

ManagementUrl = Annotated[
    str | None,
    typer.Option(
        "--management-url",
        metavar="URL",
        help=f"Management address of the node; else {URL_VARIABLE}, else {DEFAULT_URL}. "
        f"The token comes from {_TOKEN_VARIABLE} or {_TOKEN_VARIABLE}_FILE.",
        show_default=False,
    ),
]


class ManagementFailed(GridNodeError):
    """The node refused, or did not answer; the message says what to do."""


class Body(Protocol):
    """A request body that is sent in pieces; its length is known before."""

    content_type: str

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Download:
    """A checkpoint on its way: its number, its size in bytes if known, and its State in pieces."""

    number: int
    size: int | None
    chunks: Iterable[bytes]


class ManagementClient:
    """One node's management listener.

    Args:
        url: its address, without a closing slash.
        token: what it asks for, None where it asks for none.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self._token = token
        self._http = requests.Session()
        # A proxy for the rest of the world does not lead to this machine.
        self._http.trust_env = not _is_loopback(url)

    @classmethod
    def open(cls, url: str | None, environ: Mapping[str, str] = os.environ) -> ManagementClient:
        """A client for the address of a flag, else of the environment, else of a node on this machine.

        Raises:
            ManagementFailed: the address is no URL.
            InvalidSetting: the token can't be used, is given twice, or its file can't be read.
        """
        chosen = url or environ.get(URL_VARIABLE) or DEFAULT_URL
        try:
            chosen = kinds.http_url().read(chosen)
        except ValueError:
            raise ManagementFailed(f"{chosen!r} is no management address: give a URL such as {DEFAULT_URL}.") from None
        # Only these variables: what else the environment says of a node need not be right here.
        given = {name: environ[name] for name in (_TOKEN_VARIABLE, f"{_TOKEN_VARIABLE}_FILE") if name in environ}
        return cls(chosen, load_settings(given).management_token)

    def processes(self, name: str | None = None, version: str | None = None) -> list[dict[str, Any]]:
        """All processes of a node, or those of one name (and version), in the order in which they were hosted."""
        found: list[dict[str, Any]] = []
        page = [{"id": 0}]
        while page:
            query = {"name": name, "version": version, "after": page[-1]["id"], "limit": _PAGE}
            page = self._object("processes", "GET", "/processes", params=query)["processes"]
            found += page
            if len(page) < _PAGE:
                break
        return found

    def process(self, name: str, version: str | None) -> dict[str, Any]:
        """The one process of this name and version.

        Raises:
            ManagementFailed: there is none, or there are several because no version is given.
        """
        found = self.processes(name, version)
        if not found:
            raise ManagementFailed(
                f"no process {name}{f' {version}' if version else ''} is hosted here: `gridnode processes` lists them."
            )
        if len(found) > 1:
            versions = ", ".join(process["version"] for process in found)
            raise ManagementFailed(f"{name} is hosted in several versions: say which of {versions}.")
        return found[0]

    def newest(self, name: str) -> dict[str, Any]:
        """The newest version of a process.

        Raises:
            ManagementFailed: there is none of this name.
        """
        found = self.processes(name)
        return found[-1] if found else self.process(name, None)

    def act(self, process: Mapping[str, Any], action: str) -> dict[str, Any]:
        """Pause, resume or finish a process; gives the node's answer."""
        return self._object(None, "POST", f"/processes/{process['id']}/{action}")

    def delete(self, process: Mapping[str, Any], *, force: bool) -> None:
        """Delete a process."""
        self._object("status", "DELETE", f"/processes/{process['id']}", params={"force": "true"} if force else {})

    def host(self, body: Body) -> dict[str, Any]:
        """Host a process from a form; gives ``process_id``, ``name`` and ``version``."""
        headers = {"Content-Type": body.content_type}
        path = "/model-centric/host-training"
        return self._object("process_id", "POST", path, data=body, headers=headers, answer_timeout=_HOSTING_TIMEOUT)

    @contextlib.contextmanager
    def checkpoint(self, name: str, version: str, checkpoint: str) -> Iterator[Download]:
        """A checkpoint by number or ``latest``; its pieces can be read while the block runs."""
        query = {"name": name, "version": version, "checkpoint": checkpoint}
        with self._request("GET", "/model-centric/retrieve-model", params=query, stream=True) as response:
            size = response.headers.get("Content-Length", "")
            yield Download(
                int(response.headers.get("X-Checkpoint", 0)), int(size) if size else None, self._chunks(response)
            )

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        try:
            yield from response.iter_content(_CHUNK)
        except requests.RequestException as error:
            raise ManagementFailed(f"the connection to {self.url} broke off: {error}") from None

    def _object(self, key: str | None, method: str, path: str, **options: Any) -> dict[str, Any]:
        """The JSON object that is answered; it must have ``key``, by which a node is told from other servers."""
        response = self._request(method, path, **options)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or (key is not None and key not in answer):
            raise ManagementFailed(f"what answers at {self.url} is no GridNode: {response.text[:200]!r}")
        return answer

    def _request(
        self, method: str, path: str, *, answer_timeout: float = _ANSWER_TIMEOUT, **options: Any
    ) -> requests.Response:
        try:
            response = self._http.request(
                method,
                self.url + path,
                timeout=(_CONNECT_TIMEOUT, answer_timeout),
                # Set here, or requests would replace it by a password from ~/.netrc.
                auth=self._authorize,
                # A node never redirects; following one would carry the token to somebody else.
                allow_redirects=False,
                **options,
            )
        except requests.RequestException as error:
            raise ManagementFailed(self._no_answer(error)) from None
        if response.status_code != 200:
            with response:
                raise ManagementFailed(self._refusal(response))
        return response

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def _no_answer(self, error: requests.RequestException) -> str:
        cause = getattr(error.args[0] if error.args else None, "reason", None)
        if isinstance(error, requests.ConnectTimeout) or isinstance(cause, NewConnectionError):
            reason = getattr(cause, "__cause__", None) or getattr(cause, "__context__", None)
            because = reason.strerror if isinstance(reason, OSError) and reason.strerror else "no connection"
            return (
                f"nothing answers at {self.url} ({because.lower()}). Is the node running? Start one with "
                f"`gridnode serve`, or say where it is with --management-url or {URL_VARIABLE}."
            )
        if isinstance(error, requests.exceptions.SSLError):
            return f"no TLS with {self.url}: {cause or error}. A node itself speaks http; TLS is its ingress's."
        if isinstance(error, requests.Timeout):
            return f"the node at {self.url} did not answer in time. Its log says what it is doing."
        return f"the connection to {self.url} broke off: {error}"

    def _refusal(self, response: requests.Response) -> str:
        try:
            reason = str(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            return f"what answers at {self.url} is no GridNode: it answered {response.status_code}."
        if response.status_code == 401:
            return f"{reason} {self._token_hint()}"
        if response.status_code == 404 and response.request.path_url.startswith("/processes?"):
            return (
                f"{self.url} has no management: is it the address for phones? Management has a port of its own, "
                "5050 where nothing else was set."
            )
        if response.status_code == 413:
            return f"{reason}. Its operator can raise GRIDNODE_HOSTING_LIMIT."
        if response.status_code == 503:
            return f"{reason} (try again in {response.headers.get('Retry-After', '5')} s)"
        if response.status_code >= 500:
            return f"{reason} ({response.headers.get('X-Request-Id', 'none')})"
        return reason

    def _token_hint(self) -> str:
        if self._token is not None:
            return f"The token that {_TOKEN_VARIABLE} or {_TOKEN_VARIABLE}_FILE gave is not the one of {self.url}."
        return f"Set {_TOKEN_VARIABLE} to the node's token, or {_TOKEN_VARIABLE}_FILE to a file that holds it."


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def transfer(what: str, size: int | None, *, afterwards: str | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar on the terminal's standard error while the block runs, gone afterwards; none for small transfers.

    Args:
        what: said beside the bar.
        size: bytes in all, None if that is not known.
        afterwards: said when all bytes are over and the block still runs.

    Yields:
        what to call with the number of bytes that were moved.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    hidden = not console.is_terminal or (size is not None and size < _WORTH_A_BAR)
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(what, total=size)

        def moved(count: int) -> None:
            progress.advance(task, count)
            if afterwards is not None and progress.tasks[task].finished:
                progress.update(task, description=afterwards)

        yield moved
