"""A phone as the tests play it: HTTP and WebSocket by the wire contract alone, nothing shared with the node.

Nothing here retries: what a request met is what the caller gets.
"""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

import websocket

PREFIX = "/model-centric/"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as strict JSON.

        Raises:
            ValueError: the body is no JSON, or holds NaN or Infinity, which only Python reads.
        """
        return strict_json(self.body)


def strict_json(text: bytes | str) -> Any:
    """JSON as other languages read it: UTF-8, no NaN or Infinity, no key twice."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in items]
        if len(keys) != len(set(keys)):
            raise ValueError(f"a key stands twice: {keys}")
        return dict(items)

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    return json.loads(decoded, object_pairs_hook=pairs, parse_constant=constant)


class Device(Protocol):
    """What both transports can do. ``call`` gives the answer's data, whether it is a success or an error."""

    def call(self, event: str, data: Mapping[str, Any]) -> Any: ...

    def close(self) -> None: ...


class HttpDevice:
    """One keep-alive connection to a node's device listener."""

    def __init__(self, port: int, *, host: str = "127.0.0.1", timeout: float = 30.0) -> None:
        self.connection = http.client.HTTPConnection(host, port, timeout=timeout)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request and read its whole answer.

        Raises:
            OSError, http.client.HTTPException: the connection failed; whether the node got the request is unknown.
        """
        target = f"{path}?{urlencode(query)}" if query else path
        encoded = body.encode() if isinstance(body, str) else body
        try:
            self.connection.request(method, target, body=encoded, headers=dict(headers or {}))
            response = self.connection.getresponse()
            content = response.read()
        except BaseException:
            self.connection.close()
            raise
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)

    def post(self, event: str, data: Any) -> Answer:
        """POST a JSON value to a ``/model-centric/`` endpoint."""
        return self.request("POST", PREFIX + event, body=json.dumps(data))

    def get(self, event: str, query: Mapping[str, Any]) -> Answer:
        """GET a ``/model-centric/`` endpoint."""
        return self.request("GET", PREFIX + event, query=query)

    def call(self, event: str, data: Mapping[str, Any]) -> Any:
        return self.post(event, data).json()

    def close(self) -> None:
        self.connection.close()


class WebSocketDevice:
    """One WebSocket to a node's device listener."""

    def __init__(self, port: int, *, host: str = "127.0.0.1", timeout: float = 30.0) -> None:
        self.socket = websocket.create_connection(f"ws://{host}:{port}/", timeout=timeout)

    def exchange(self, message: str | bytes | Mapping[str, Any]) -> Any:
        """Send one message and read one."""
        self.send(message)
        return self.receive()

    def send(self, message: str | bytes | Mapping[str, Any]) -> None:
        if isinstance(message, bytes):
            self.socket.send_binary(message)
        else:
            self.socket.send(message if isinstance(message, str) else json.dumps(message))

    def receive(self) -> Any:
        received = self.socket.recv()
        if received == "":
            raise ConnectionError("the node closed the WebSocket")
        return strict_json(received)

    def call(self, event: str, data: Mapping[str, Any]) -> Any:
        frame = self.exchange({"type": f"model-centric/{event}", "data": data})
        return frame["data"]

    def close(self) -> None:
        self.socket.close()
        # After an error, close() leaves the TCP connection alone.
        self.socket.shutdown()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Session:
    """A worker that was accepted into a cycle."""

    worker_id: str
    request_key: str
    model_id: int
    plans: Mapping[str, int]
    protocols: Mapping[str, int]
    accepted: Mapping[str, Any]


class NotAccepted(AssertionError):
    """The node did not accept the phone; holds what it answered."""


def authenticate(device: Device, name: str, version: str | None = "1.0", token: str | None = None) -> str:
    """A new worker id.

    Raises:
        NotAccepted: the node refused.
    """
    answer = device.call("authenticate", {"model_name": name, "model_version": version, "auth_token": token})
    if answer.get("status") != "success":
        raise NotAccepted(answer)
    worker_id: str = answer["worker_id"]
    return worker_id


def request_cycle(device: Device, worker_id: str, name: str, version: str | None = "1.0") -> Session:
    """Ask for a cycle and be accepted.

    Raises:
        NotAccepted: the node rejected or refused.
    """
    request = {"worker_id": worker_id, "model": name, "version": version, "ping": 8, "download": 46.0, "upload": 23.0}
    answer = device.call("cycle-request", request)
    if answer.get("status") != "accepted":
        raise NotAccepted(answer)
    return Session(
        worker_id, answer["request_key"], answer["model_id"], answer["plans"], answer["protocols"], answer
    )  # fmt: skip


def join(device: Device, name: str, version: str | None = "1.0", token: str | None = None) -> Session:
    """Authenticate as a new worker and be accepted into the running cycle."""
    return request_cycle(device, authenticate(device, name, version, token), name, version)


def join_when_open(
    device: Device, name: str, version: str | None = "1.0", token: str | None = None, seconds: float = 30.0
) -> Session:
    """Join, and again while the node rejects with a timeout, as it does for a moment between two cycles."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return join(device, name, version, token)
        except NotAccepted as error:
            if time.monotonic() > deadline or "timeout" not in error.args[0]:
                raise
            time.sleep(0.05)


def report(device: Device, session: Session, diff: bytes, **more: Any) -> Any:
    """Report a diff (an encoded State) and give the node's answer."""
    return device.call("report", report_of(session, diff, **more))


def report_of(session: Session, diff: bytes, **more: Any) -> dict[str, Any]:
    """The body of a report."""
    encoded = base64.b64encode(diff).decode()
    return {"worker_id": session.worker_id, "request_key": session.request_key, "diff": encoded, **more}


def model_query(session: Session) -> dict[str, Any]:
    """The query of get-model."""
    return {"worker_id": session.worker_id, "request_key": session.request_key, "model_id": session.model_id}


def plan_query(session: Session, variant: str | None = None, name: str = "training_plan") -> dict[str, Any]:
    """The query of get-plan."""
    query = {"worker_id": session.worker_id, "request_key": session.request_key, "plan_id": session.plans[name]}
    return query if variant is None else {**query, "receive_operations_as": variant}
