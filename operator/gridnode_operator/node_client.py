"""Asking a node how far its models are, by its management API inside the cluster."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Final

import requests

from gridnode_operator.api import GridNode, ModelsStatus
from gridnode_operator.desired.environment import MANAGEMENT_PORT
from gridnode_operator.desired.names import child_names
from gridnode_operator.status import summarize_models

#: Seconds to connect, and between two parts of the answer; and for all of it.
_TIMEOUTS: Final = (2.0, 3.0)
_LONGEST_TIME: Final = 5.0
_LARGEST_ANSWER: Final = 8 * 1024 * 1024


def management_url(gridnode: GridNode) -> str:
    """The management Service within the cluster."""
    return f"http://{child_names(gridnode.name).management_service}.{gridnode.namespace}.svc:{MANAGEMENT_PORT}"


class NodeClient:
    """Asks nodes, each at most once in an interval, for the status can do without a fresh answer.

    Args:
        interval: Seconds.
        url: Where a node's management API is.
        clock: Seconds.
        at_once: Nodes that are asked at the same time at most.
    """

    def __init__(
        self,
        *,
        interval: float,
        url: Callable[[GridNode], str] = management_url,
        clock: Callable[[], float] = time.monotonic,
        at_once: int = 8,
    ) -> None:
        self._interval = interval
        self._at_once = at_once
        self._url = url
        self._clock = clock
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}
        self._asking = 0

    def is_due(self, gridnode: GridNode) -> bool:
        """Whether the node would be asked now."""
        with self._lock:
            return self._clock() >= self._next.get(gridnode.key, 0.0)

    def models(self, gridnode: GridNode, token: str) -> ModelsStatus | None:
        """A summary of the node's models; None if it was asked a moment ago, or does not answer as it should.

        Also None, and asked next time, while as many others as allowed are being asked: nodes that hang, or a name
        server that does, must not hold up all reconciles.
        """
        now = self._clock()
        with self._lock:
            if now < self._next.get(gridnode.key, now) or self._asking >= self._at_once:
                return None
            self._next[gridnode.key] = now + self._interval
            self._asking += 1
        try:
            return summarize_models(_processes(f"{self._url(gridnode)}/processes", token))
        except (requests.RequestException, OSError, ValueError, KeyError, TypeError):
            return None
        finally:
            with self._lock:
                self._asking -= 1

    def forget(self, key: str) -> None:
        """The GridNode ``namespace/name`` is gone."""
        with self._lock:
            self._next.pop(key, None)


def _processes(url: str, token: str) -> list[dict[str, object]]:
    deadline = time.monotonic() + _LONGEST_TIME
    headers = {"Authorization": f"Bearer {token}"}
    # A node is asked directly, whatever proxy the operator's environment names for other things.
    with requests.Session() as session:
        session.trust_env = False
        with session.get(url, headers=headers, timeout=_TIMEOUTS, stream=True, allow_redirects=False) as answer:
            if answer.status_code != 200:
                raise ValueError(f"answered {answer.status_code}")
            content = bytearray()
            for part in answer.iter_content(64 * 1024):
                content += part
                if len(content) > _LARGEST_ANSWER or time.monotonic() > deadline:
                    raise ValueError("the answer is too long")
    found: list[dict[str, object]] = json.loads(content)["processes"]
    return found
