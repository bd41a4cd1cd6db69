"""The API server's audit log: who asked for what, and how many of those requests were writes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import msgspec

_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
# Creating one of these only asks a question.
_QUESTIONS = frozenset({"authentication.k8s.io", "authorization.k8s.io"})


class User(msgspec.Struct, frozen=True):
    """Who asked."""

    username: str = ""
    groups: tuple[str, ...] = ()


class ObjectReference(msgspec.Struct, frozen=True, rename="camel"):
    """What was asked for."""

    resource: str = ""
    api_group: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""


class Response(msgspec.Struct, frozen=True):
    """What came of it."""

    code: int = 0


class AuditEvent(msgspec.Struct, frozen=True, rename="camel"):
    """A request, as audit.k8s.io/v1 tells of it at level Metadata.

    ``stage`` is ``ResponseComplete``, and for watches ``ResponseStarted`` before that. ``verb`` is Kubernetes' own:
    get, list, watch, create, update, patch, delete, deletecollection.
    """

    stage: str
    verb: str
    request_received_timestamp: datetime
    stage_timestamp: datetime
    request_uri: str = msgspec.field(name="requestURI", default="")
    user_agent: str = ""
    user: User = User()
    object: ObjectReference = msgspec.field(name="objectRef", default=ObjectReference())
    response: Response = msgspec.field(name="responseStatus", default=Response())

    def is_write(self) -> bool:
        """Whether it asked for something to be changed: refused and needless ones too, dry runs and questions not."""
        return (
            self.stage == "ResponseComplete"
            and self.verb in _WRITES
            and "dryRun=" not in self.request_uri
            and self.object.api_group not in _QUESTIONS
            and (self.object.resource, self.object.subresource) != ("serviceaccounts", "token")
        )


class AuditLog:
    """The file that an API server writes a line to for each request.

    Args:
        path: of the log, which may not be there yet.
        mark: makes a request with a user agent, which the log must tell of in the end.
    """

    def __init__(self, path: Path, mark: Callable[[str], object]) -> None:
        self._path = path
        self._mark = mark
        self._decoder = msgspec.json.Decoder(AuditEvent)

    def position(self, seconds: float = 10.0) -> int:
        """Where the log ends after all requests that have been answered by now, in bytes.

        Raises:
            TimeoutError: the log did not tell of the mark.
        """
        start = self._size()
        agent = f"audit-mark/{time.monotonic_ns()}"
        self._mark(agent)
        line = f'"userAgent":{json.dumps(agent)}'.encode()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            written = self._read(start)
            found = written.find(line)
            end = written.find(b"\n", found)
            if found >= 0 and end >= 0:
                return start + end + 1
            time.sleep(0.01)
        raise TimeoutError(f"{self._path} does not tell of a request within {seconds} s of its answer")

    def events(self, since: int = 0) -> Iterator[AuditEvent]:
        """All events of requests that have been answered by now, but for those before a position."""
        with self._path.open("rb") as file:
            end = self.position()
            file.seek(since)
            while file.tell() < end:
                event = self._decoder.decode(file.readline())
                if not event.user_agent.startswith("audit-mark/"):
                    yield event

    def writes(self, *, user: str = "", user_agent: str = "", since: int = 0) -> list[AuditEvent]:
        """The writes of users and user agents that begin so; see :meth:`AuditEvent.is_write`."""
        return [
            event
            for event in self.events(since)
            if event.is_write() and event.user.username.startswith(user) and event.user_agent.startswith(user_agent)
        ]

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def _read(self, start: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(start)
            return file.read()


def policy() -> dict[str, object]:
    """What the API server is to write down: everything but questions after its health, without bodies."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/openapi*"]},
            {"level": "Metadata"},
        ],
    }
