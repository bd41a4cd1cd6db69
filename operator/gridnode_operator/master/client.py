"""The master node's ``/api/v1`` as the commands use it: its address, a key, and errors that say what to do."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import requests
import typer

from gridnode import setting_kinds as kinds
from gridnode.errors import GridNodeError

DEFAULT_URL: Final = "http://127.0.0.1:5001"
URL_VARIABLE: Final = "GRIDNODE_MASTER_URL"
KEY_VARIABLE: Final = "GRIDNODE_MASTER_API_KEY"
KEY_FILE_VARIABLE: Final = f"{KEY_VARIABLE}_FILE"
_CONNECT_TIMEOUT: Final = 5.0
_ANSWER_TIMEOUT: Final = 30.0
#: The master node says something every fifteen seconds.
_STREAM_TIMEOUT: Final = 45.0
_PAGE: Final = 1000

MasterUrl = Annotated[
    str | None,
    typer.Option(
        "--master-url",
        metavar="URL",
        help=f"Address of the master node; else {URL_VARIABLE}, else {DEFAULT_URL}. "
        f"The key comes from {KEY_VARIABLE} or {KEY_FILE_VARIABLE}.",
        show_default=False,
    ),
]


class MasterFailed(GridNodeError):
    """The master node refused, or did not answer; the message says what to do."""


class MasterClient:
    """One master node.

    Args:
        url: Its address, without a closing slash.
        key: Of scope notebook or admin; None shows none.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url
        self._key = key
        self._http = requests.Session()
        # A proxy for the rest of the world does not lead to this machine.
        self._http.trust_env = not _is_loopback(url)

    @classmethod
    def open(cls, url: str | None, environ: Mapping[str, str] = os.environ) -> MasterClient:
        """A client for the address of a flag, else of the environment, else of a master node on this machine.

        Raises:
            MasterFailed: the address is no URL, or the key's file can't be read.
        """
        chosen = url or environ.get(URL_VARIABLE) or DEFAULT_URL
        try:
            chosen = kinds.http_url().read(chosen)
        except ValueError:
            raise MasterFailed(
                f"{chosen!r} is no address of a master node: give a URL such as {DEFAULT_URL}."
            ) from None
        return cls(chosen, _key(environ))

    def items(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """All entries of a list, page after page.

        Raises:
            MasterFailed: the master node refused, or did not answer.
        """
        found: list[dict[str, Any]] = []
        after = 0
        while True:
            page = self._object(path, {**query, "after": after, "limit": _PAGE})
            found += page["items"]
            if page["next"] is None:
                return found
            after = page["next"]

    def create_node_key(self, node_id: str, note: str = "") -> str:
        """A new key with which one node reports; needs a key of scope admin.

        Raises:
            MasterFailed: the master node refused, or did not answer.
        """
        body = {"scope": "node", "node_id": node_id, "note": note}
        with self._request("POST", "/api/v1/keys", _ANSWER_TIMEOUT, json=body) as response:
            try:
                return str(response.json()["key"])
            except (requests.RequestException, KeyError, TypeError):
                raise MasterFailed(f"what answers at {self.url} is no master node.") from None

    @contextmanager
    def stream(self) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
        """Changes as they happen: names and data of server-sent events, until the stream ends or breaks off.

        Raises:
            MasterFailed: the master node refused, or did not answer.
        """
        with self._request("GET", "/api/v1/stream", _STREAM_TIMEOUT) as response:
            yield _events(response, self._lost)

    def _object(self, path: str, query: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in query.items() if value is not None}
        with self._request("GET", path, _ANSWER_TIMEOUT, params=given) as response:
            try:
                answer = response.json()
                if isinstance(answer, dict) and "items" in answer:
                    return answer
            except requests.RequestException:
                pass
        raise MasterFailed(f"what answers at {self.url} is no master node.")

    def _request(self, method: str, path: str, seconds: float, **options: Any) -> requests.Response:
        try:
            response = self._http.request(
                method,
                self.url + path,
                timeout=(_CONNECT_TIMEOUT, seconds),
                auth=self._authorize,
                allow_redirects=False,
                stream=True,
                **options,
            )
        except requests.RequestException as error:
            raise self._lost(error) from None
        if not 200 <= response.status_code < 300:
            with response:
                raise MasterFailed(self._refusal(response))
        return response

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # As an auth object: requests would replace a header by a password from ~/.netrc.
        if self._key is not None:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _lost(self, error: Exception) -> MasterFailed:
        return MasterFailed(
            f"no answer from {self.url} ({type(error).__name__}). Is the master node running? Start one with "
            f"`gridnode master`, or say where it is with --master-url or {URL_VARIABLE}."
        )

    def _refusal(self, response: requests.Response) -> str:
        try:
            reason = str(response.json()["detail"])
        except (requests.RequestException, KeyError, TypeError):
            return f"what answers at {self.url} is no master node: it answered {response.status_code}."
        if response.status_code in (401, 403):
            return f"{reason} Set {KEY_VARIABLE} to a key of scope notebook or admin: `gridnode keys create` makes one."
        return reason


def _events(
    response: requests.Response, lost: Callable[[Exception], MasterFailed]
) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    lines = response.iter_lines()
    while True:
        try:
            line = next(lines, None)
        except (requests.RequestException, OSError) as error:
            raise lost(error) from None
        if line is None:
            return
        if line.startswith(b"event: "):
            name = line.removeprefix(b"event: ").decode()
        elif line.startswith(b"data: "):
            yield name, json.loads(line.removeprefix(b"data: "))


def _key(environ: Mapping[str, str]) -> str | None:
    given, path = environ.get(KEY_VARIABLE, "").strip(), environ.get(KEY_FILE_VARIABLE, "")
    if given and path:
        raise MasterFailed(f"{KEY_VARIABLE} and {KEY_FILE_VARIABLE} are both set: keep one of them.")
    if not path:
        return given or None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise MasterFailed(f"{KEY_FILE_VARIABLE} names {path!r}, which can't be read: {reason}.") from None


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
