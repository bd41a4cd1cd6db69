"""The master node as this node sees it: one address that takes progress events."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import requests
from requests.auth import AuthBase

Outcome = Literal["accepted", "invalid", "refused", "unreachable"]

# What a proxy answers for a master node that is starting, overloaded or away.
_AWAY = frozenset({429, 502, 503, 504})
# About what was sent. All others are about the key, the address, the moment or the master node itself, and pass once
# somebody has seen to that.
_INVALID = frozenset({400, 413, 422})


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one post.

    Attributes:
        outcome: ``accepted`` for any 2xx; ``unreachable`` if the master node is away, which concerns every event;
            ``invalid`` if it says that this event is wrong in itself; ``refused`` if it answered anything else.
        reason: why not, for people; empty if accepted.
        retry_after: seconds that the master node asked to wait.
    """

    outcome: Outcome
    reason: str = ""
    retry_after: float | None = None


class MasterNode:
    """Posts progress events.

    Args:
        url: ``settings.master_url``, without a closing slash.
        key: ``settings.master_key``, sent as a bearer token.
        timeout: ``settings.master_timeout``: seconds to connect, and again to get the answer's header.
    """

    def __init__(self, url: str, *, key: str | None, timeout: float) -> None:
        self._address = f"{url}/model_progress"
        self._authorization = _Bearer(key) if key else None
        self.timeout = timeout

    def post(self, body: Mapping[str, Any]) -> Answer:
        """Post one event and wait for the answer. Never raises because of what the network or the master node does."""
        try:
            # Every post opens a connection: they are rare, and one kept open fails after the master node's restart.
            with requests.post(
                self._address,
                json=body,
                auth=self._authorization,
                timeout=self.timeout,
                allow_redirects=False,
                # The answer's body says nothing to us: it is not read, so it can't be too large or too slow.
                stream=True,
            ) as response:
                return _answer(response)
        except requests.Timeout:
            return Answer("unreachable", f"no answer within {self.timeout:g} s")
        except requests.ConnectionError as error:
            return Answer("unreachable", f"connection failed: {_innermost(error)}")
        except (requests.RequestException, ValueError, OSError) as error:
            return Answer("unreachable", f"{type(error).__name__}: {error}")


class _Bearer(AuthBase):
    """As an auth object and not a header: requests replaces the header by what a ~/.netrc says."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _answer(response: requests.Response) -> Answer:
    status = response.status_code
    if 200 <= status < 300:
        return Answer("accepted")
    reason = f"HTTP {status}"
    if 300 <= status < 400:
        reason += " (redirects are not followed: set master_url to the final address)"
    outcome: Outcome = "unreachable" if status in _AWAY else "invalid" if status in _INVALID else "refused"
    return Answer(outcome, reason, _retry_after(response.headers.get("Retry-After")))


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None if it is absent or unreadable."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _innermost(error: BaseException) -> str:
    """What the operating system said: the outer layers only repeat the address."""
    while True:
        nested = getattr(error, "reason", None) or error.__cause__ or error.__context__
        if not isinstance(nested, BaseException):
            break
        error = nested
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
