"""Requests to a server of ours: a token, repeats while it is away, and errors that say what to do."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import requests

from gridnode.errors import GridNodeError

_CONNECT_TIMEOUT: Final = 5.0
_ANSWER_TIMEOUT: Final = 90.0
_FIRST_PAUSE: Final = 0.5
#: What is worth another attempt.
_AWAY: Final = (429, 502, 503, 504)


class GridFailed(GridNodeError):
    """The server refused or did not answer; the message says what to do. ``status`` is that of HTTP, if it answered."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Server:
    """A kind of server, in the words of its errors.

    Attributes:
        kind: What answers is no … .
        address: What it is called.
        default_url: Where it is if nobody says.
        url_variable, token_variable: Of the environment; the token's with ``_FILE`` names a file.
        error_key: Where its refusals say why.
        start: What starts one.
        hints: What to do about a refusal, by status.
    """

    kind: str
    address: str
    default_url: str
    url_variable: str
    token_variable: str
    error_key: str
    start: str
    hints: Mapping[int, str] = field(default_factory=dict)


class Connection:
    """One server, by its address. Requests that may be repeated are, while it is away.

    Args:
        url: if not given, that of the environment, or a server on this machine.
        token: if not given, that of the environment or of the file that it names.
        attempts: how often a request is tried.
    """

    def __init__(self, server: Server, url: str | None, token: str | None, attempts: int) -> None:
        self._server = server
        self.url = (url or os.environ.get(server.url_variable) or server.default_url).rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise GridFailed(f"{self.url!r} is no {server.address}: give a URL such as {server.default_url}.")
        self._token = token or _token_of_environment(server.token_variable)
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

    def read(self, path: str, **options: Any) -> dict[str, Any]:
        """A GET whose answer is a JSON object."""
        return self.object_of(self.request("GET", path, **options))

    def object_of(self, response: requests.Response) -> dict[str, Any]:
        """The JSON object of an answer."""
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise GridFailed(f"what answers at {self.url} is no {self._server.kind}: {response.text[:200]!r}")
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
        """One request with the token; a GET, and one that says so, is repeated while the server is away.

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
                    # None of ours redirects; following one would carry the token to somebody else.
                    allow_redirects=False,
                    **options,
                )
            except requests.RequestException as error:
                if attempt == attempts:
                    raise GridFailed(self._no_answer(error)) from None
                pause = None
            else:
                if 200 <= response.status_code < 300:
                    return response
                if attempt == attempts or response.status_code not in _AWAY:
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
        server = self._server
        if isinstance(error, requests.Timeout) and not isinstance(error, requests.ConnectTimeout):
            return f"what runs at {self.url} did not answer in time. Its log says what it is doing."
        return (
            f"nothing answers at {self.url}. Is it running, and is this the {server.address}? Start one with "
            f"`{server.start}`, or give another url."
        )

    def _refusal(self, response: requests.Response) -> str:
        try:
            reason = str(response.json()[self._server.error_key])
        except (ValueError, KeyError, TypeError):
            return f"what answers at {self.url} is no {self._server.kind}: it answered {response.status_code}."
        hint = self._server.hints.get(response.status_code)
        return f"{reason.rstrip('.')}. {hint}" if hint else reason


def _token_of_environment(variable: str) -> str | None:
    if token := os.environ.get(variable):
        return token
    path = os.environ.get(f"{variable}_FILE")
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise GridFailed(f"{variable}_FILE can't be read: {error.strerror}.") from None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
