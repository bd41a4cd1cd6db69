"""Sends a recorded conversation again, request by request, and compares each answer with the recorded one.

Worker ids, request keys and the ids of models and plans differ in every run: those of the recorded answers are
replaced by ours in all later requests.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np
import websocket

from tests.support.device import Answer, HttpDevice, strict_json
from tests.support.syft_messages import parse, plan_without_ids, state_of

# Seconds that all waiting for cycles to be averaged may take together.
PATIENCE = 60.0

_NOT_SENT_AGAIN = {"host", "content-length", "connection", "accept-encoding"}
# 784-392-10, the only model whose reports were too large to be recorded.
_MLP_SHAPES = ((392, 784), (392,), (10, 392), (10,))


class Replay:
    """One conversation with one node.

    Args:
        port: of the device listener.
        events: of the recording.
    """

    def __init__(self, port: int, events: list[dict[str, Any]]) -> None:
        self._port = port
        self._events = events
        self._texts: dict[str, str] = {}
        self._numbers: dict[tuple[str, str], str] = {}
        self._http: dict[int, HttpDevice] = {}
        self._sockets: dict[int, websocket.WebSocket] = {}
        self._sent: dict[int, str] = {}
        self._deadline = time.monotonic() + PATIENCE

    def run(self) -> int:
        """Replay all events and give how many answers were compared.

        Raises:
            AssertionError: an answer differs; says which event.
        """
        compared = 0
        try:
            for number, event in enumerate(self._events):
                try:
                    compared += self._replay(event)
                except Exception as error:
                    raise AssertionError(f"event {number}: {_title(event)}: {error}") from error
        finally:
            for device in self._http.values():
                device.close()
            for socket in self._sockets.values():
                socket.close()
        return compared

    def _replay(self, event: Mapping[str, Any]) -> int:
        connection = event["conn"]
        if event["kind"] == "http":
            self._exchange_http(connection, event["request"], event["response"])
            return 1
        if event["kind"] == "ws-handshake":
            self._sockets[connection] = self._open_socket(event["request"])
            return 0
        if event["opcode"] == "close":
            self._sockets[connection].close()
            return 0
        if event["dir"] == "client->server":
            self._sent[connection] = self._request_text(event["data"])
            self._sockets[connection].send(self._sent[connection])
            return 0
        self._compare_message(event["data"]["json"], self._received(connection))
        return 1

    def _received(self, connection: int) -> Any:
        """The next message; a request that came while a cycle was averaged is sent again, as its timeout says."""
        socket = self._sockets[connection]
        while True:
            message = strict_json(socket.recv())
            if not self._must_wait(message.get("data")):
                return message
            socket.send(self._sent[connection])

    def _must_wait(self, answer: Any) -> bool:
        """Whether the cycle is being averaged, which the historical node did within the last report."""
        if not isinstance(answer, dict) or answer.get("status") != "rejected" or not answer.get("timeout"):
            return False
        assert time.monotonic() < self._deadline, f"still {answer}"
        time.sleep(0.05)
        return True

    def _open_socket(self, request: Mapping[str, Any]) -> websocket.WebSocket:
        headers = dict(request["headers"])
        extra = [
            f"{name}: {headers[name]}" for name in ("User-Agent", "Sec-WebSocket-Extensions") if name in headers
        ]  # fmt: skip
        url = f"ws://127.0.0.1:{self._port}{request['path']}"
        return websocket.create_connection(url, timeout=30, origin=headers.get("Origin"), header=extra)

    def _exchange_http(self, connection: int, request: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
        device = self._http.setdefault(connection, HttpDevice(self._port))
        headers = {name: value for name, value in request["headers"] if name.lower() not in _NOT_SENT_AGAIN}
        body = None if request["body"] is None else self._request_body(request["body"])
        while True:
            answer = device.request(request["method"], self._target(request["path"]), body=body, headers=headers)
            if not (request["path"].endswith("/cycle-request") and request["method"] == "POST"):
                break
            if not self._must_wait(answer.json()):
                break
        self._compare_answer(request, recorded, answer)

    def _target(self, path: str) -> str:
        parts = urlsplit(path)
        query = [
            (key, self._numbers.get((key, value), self._texts.get(value, value)))
            for key, value in parse_qsl(parts.query)
        ]
        return f"{parts.path}?{urlencode(query)}" if query else parts.path

    def _request_body(self, body: Mapping[str, Any]) -> bytes:
        if "head_hex" in body:
            head = bytes.fromhex(body["head_hex"])
            length: int = body["len"]
            return head + b"x" * (length - len(head))
        return self._request_text(body).encode()

    def _request_text(self, data: Mapping[str, Any]) -> str:
        """The text exactly as it was sent, apart from ids."""
        if "text" not in data and "json" not in data:
            return self._large_report(data["len"])
        text: str = data["text"] if "text" in data else json.dumps(data["json"])
        for recorded, ours in self._texts.items():
            text = text.replace(recorded, ours)
        return text

    def _large_report(self, length: int) -> str:
        """A report in place of one that was too large to record; a WebSocket's is longer by its envelope."""
        diff = base64.b64encode(state_of([np.zeros(shape, np.float32) for shape in _MLP_SHAPES])).decode()
        worker, key = list(self._texts.values())[-2:]
        report = {"worker_id": worker, "request_key": key, "diff": diff}
        bare = {"worker_id": "", "request_key": "", "diff": ""}
        envelope = length - 1662440 - len(json.dumps(bare, separators=(",", ":"))) - len(worker) - len(key)
        message = {"type": "model-centric/report", "data": report} if envelope > 0 else report
        return json.dumps(message, separators=(",", ":"))

    def _compare_answer(self, request: Mapping[str, Any], recorded: Mapping[str, Any], answer: Answer) -> None:
        if request["method"] == "OPTIONS":
            assert_preflight_passes(dict(request["headers"]), answer)
            return
        assert answer.status == recorded["status"], f"status {answer.status} {answer.body[:300]!r}"
        origin = dict(request["headers"]).get("Origin")
        if origin is not None:
            assert answer.headers.get("access-control-allow-origin") in ("*", origin)
        theirs = {name.lower(): value for name, value in recorded["headers"]}
        assert media_type(answer.headers) == media_type(theirs)
        assert "public" not in answer.headers.get("cache-control", "")
        if "json" in recorded["body"]:
            self._compare_json(recorded["body"]["json"], answer.json(), "body")
        else:
            _compare_binary(request["path"], recorded["body"], answer)

    def _compare_message(self, recorded: Mapping[str, Any], ours: Any) -> None:
        assert ours.keys() == recorded.keys(), f"{ours} instead of {recorded}"
        assert ours["type"] == recorded["type"]
        expected = dict(recorded["data"])
        given = dict(ours["data"])
        if expected == {"status": "rejected"}:
            # SwiftSyft can't read a rejection over WebSocket without an integer timeout, finished or not.
            assert given.pop("timeout", None) == 0
        if "error" in expected:
            # KotlinSyft can't read an error over WebSocket without a status.
            given.pop("status", None)
        self._compare_json(expected, given, "data")

    def _compare_json(self, recorded: Any, ours: Any, where: str) -> None:
        """Same keys and the same types; ids are learned, everything else that is no error's text must be equal."""
        assert type(ours) is type(recorded), f"{where} is {ours!r} instead of {recorded!r}"
        if isinstance(recorded, dict):
            assert ours.keys() == recorded.keys(), f"{where} is {ours!r} instead of {recorded!r}"
            for key in recorded:
                self._compare_json(recorded[key], ours[key], f"{where}.{key}")
            return
        key = where.rpartition(".")[2]
        if key in ("worker_id", "request_key"):
            assert len(ours) == len(recorded)
            self._texts[recorded] = ours
        elif key == "model_id":
            self._numbers["model_id", str(recorded)] = str(ours)
        elif ".plans." in where:
            self._numbers["plan_id", str(recorded)] = str(ours)
        elif key == "error":
            assert ours
        else:
            assert ours == recorded, f"{where} is {ours!r} instead of {recorded!r}"


def assert_preflight_passes(request: Mapping[str, str], answer: Answer) -> None:
    """What a browser demands of a preflight's answer before it sends the request (Fetch, CORS-preflight fetch)."""
    origin = request["Origin"]
    method = request["Access-Control-Request-Method"]
    wanted = set(_listed(request.get("Access-Control-Request-Headers", "")))
    allowed_methods = set(_listed(answer.headers.get("access-control-allow-methods", "")))
    allowed_headers = set(_listed(answer.headers.get("access-control-allow-headers", "")))

    assert 200 <= answer.status < 300, f"status {answer.status}"
    assert answer.headers.get("access-control-allow-origin") in ("*", origin)
    assert method in ("GET", "HEAD", "POST") or method.lower() in allowed_methods or "*" in allowed_methods
    # An asterisk does not stand for Authorization.
    assert wanted <= allowed_headers or ("*" in allowed_headers and "authorization" not in wanted - allowed_headers)


def media_type(headers: Mapping[str, str]) -> str:
    """The media type of an answer without its parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _compare_binary(path: str, recorded: Mapping[str, Any], answer: Answer) -> None:
    if "/get-plan" in path:
        plan = parse("Plan", answer.body)
        variant = dict(parse_qsl(urlsplit(path).query)).get("receive_operations_as", "list")
        assert bool(plan.torchscript) == (variant == "torchscript")
        assert bool(plan.role.actions) == (variant != "torchscript")
        assert (plan.base_framework == "tfjs") == (variant == "tfjs")
        assert plan_without_ids(answer.body)
    elif "/speed-test" in path:
        assert len(answer.body) >= 64 * 1024 * 1024
        boundary = answer.headers["content-type"].partition("boundary=")[2].strip('"').encode()
        assert answer.body.startswith(b"--" + boundary + b"\r\n")
        assert answer.body.rstrip(b"\r\n").endswith(b"--" + boundary + b"--")
        assert b'name="sample"' in answer.body[:300]
        assert bytes.fromhex(recorded["head_hex"]).startswith(b"--")
    else:
        state = parse("State", answer.body)
        assert len(state.tensors) == len(state.placeholders) > 0
        # Varints of other ids are a few bytes shorter or longer.
        assert abs(len(answer.body) - recorded["len"]) < 80


def _listed(value: str) -> Iterator[str]:
    return (item.strip().lower() for item in value.split(",") if item.strip())


def _title(event: Mapping[str, Any]) -> str:
    if event["kind"] == "http":
        return f"{event['request']['method']} {event['request']['path'][:60]}"
    return f"{event['kind']} {event.get('dir', '')}"
