"""The connection speed test: a stream of bytes that mean nothing, and bounds on how often a worker may have it."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from gridnode.errors import InvalidRequest, TooManyRequests

_BLOCK = b"x" * 65536
#: Downloads that one worker may have within an hour; a client needs one, syft.js up to three when it is unsure.
_DOWNLOADS_PER_HOUR = 8
_HOUR = 3600.0
_REMEMBERED_WORKERS = 65_536


@dataclass(frozen=True, slots=True)
class Sample:
    """A multipart body with one part of ``size`` bytes, made while it is sent."""

    size: int
    boundary: str

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self.boundary}"

    @property
    def length(self) -> int:
        return len(self._head()) + self.size + len(self._tail())

    def chunks(self) -> Iterator[bytes]:
        yield self._head()
        remaining = self.size
        while remaining > 0:
            yield _BLOCK if remaining >= len(_BLOCK) else _BLOCK[:remaining]
            remaining -= len(_BLOCK)
        yield self._tail()

    def _head(self) -> bytes:
        return f'--{self.boundary}\r\nContent-Disposition: form-data; name="sample"\r\n\r\n'.encode()

    def _tail(self) -> bytes:
        return f"\r\n--{self.boundary}--\r\n".encode()


class SpeedTests:
    """Checks speed-test requests and bounds their downloads per worker, in memory of this worker process."""

    def __init__(self, size: int, now: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._now = now
        self._lock = threading.Lock()
        self._downloads: OrderedDict[str, list[float]] = OrderedDict()

    def check(self, query: Mapping[str, str]) -> str:
        """The worker that tests.

        Raises:
            InvalidRequest: ``worker_id`` or ``random`` is missing.
        """
        worker_id = query.get("worker_id", "")
        if not worker_id or len(worker_id) > 64:
            raise InvalidRequest("worker_id is missing")
        if not query.get("random"):
            raise InvalidRequest("random is missing")
        return worker_id

    def download(self, query: Mapping[str, str]) -> Sample:
        """A sample to send.

        Raises:
            InvalidRequest: ``worker_id`` or ``random`` is missing.
            TooManyRequests: the worker had its share.
        """
        worker_id = self.check(query)
        now = self._now()
        with self._lock:
            recent = [at for at in self._downloads.get(worker_id, []) if now - at < _HOUR]
            if len(recent) >= _DOWNLOADS_PER_HOUR:
                raise TooManyRequests("this worker has tested its connection too often", recent[0] + _HOUR - now)
            self._downloads[worker_id] = [*recent, now]
            self._downloads.move_to_end(worker_id)
            while len(self._downloads) > _REMEMBERED_WORKERS:
                self._downloads.popitem(last=False)
        return Sample(self._size, secrets.token_hex(16))
