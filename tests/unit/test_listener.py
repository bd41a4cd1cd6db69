"""What is answered on the event loop and what in a thread, and that nothing holds up the loop."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from gridnode.errors import Conflict, InvalidRequest
from gridnode.protocol.asgi import BodyLimits, Listener, Receive, Send
from gridnode.protocol.device import Pending
from gridnode.protocol.routes import Call, Outcome, Route, parse_query
from gridnode.protocol.wsgi import Scope
from gridnode.security.limits import AddressLimiter, AddressLimits
from gridnode.waiting import may_wait

PATH = "/model-centric/thing"
NO_LIMITS = AddressLimits(requests_per_second=0, connections_per_address=0, connections=0)


class Answered:
    """An answer as the client gets it."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        start, *bodies = messages
        self.status: int = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        self.body = b"".join(message["body"] for message in bodies)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def flask(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Stands for the application that is asked for everything else."""
    start_response("418 I'm a teapot", [("content-length", "0")])
    return [b""]


async def no_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError


async def _ask(listener: Listener, method: str, target: str, chunks: list[bytes]) -> Answered:
    path, _, query = target.partition("?")
    scope: Scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [], "client": ("192.0.2.1", 1), "http_version": "1.1",
    }  # fmt: skip
    sent: list[dict[str, Any]] = []
    waiting = [
        {"type": "http.request", "body": chunk, "more_body": number < len(chunks)}
        for number, chunk in enumerate(chunks, start=1)
    ]

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await listener(scope, receive, send)
    return Answered(sent)


def ask(
    handler: Callable[[Call], Outcome],
    *chunks: bytes,
    method: str = "POST",
    target: str = PATH,
    answer_seconds: float | None = None,
) -> Answered:
    """Ask a listener with one route."""
    with ThreadPoolExecutor(1) as threads:
        listener = Listener(
            flask,
            no_websocket,
            threads,
            AddressLimiter(NO_LIMITS),
            BodyLimits(largest=1 << 24, seconds=10, in_memory=1 << 24),
            answer_seconds=answer_seconds,
            routes={("POST", PATH): Route("thing", handler)},
        )
        return asyncio.run(_ask(listener, method, target, list(chunks) or [b""]))


def is_loop() -> bool:
    return threading.current_thread() is threading.main_thread()


def test_what_is_in_memory_is_answered_on_the_event_loop() -> None:
    answer = ask(lambda _: {"loop": is_loop()})
    assert (answer.status, answer.json) == (200, {"loop": True})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["x-request-id"]


def test_what_has_to_wait_is_begun_again_in_a_thread() -> None:
    begun: list[bool] = []

    def handler(_call: Call) -> Outcome:
        begun.append(is_loop())
        may_wait()
        return b"waited"

    answer = ask(handler)
    assert (answer.status, answer.body) == (200, b"waited")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["cache-control"] == "private, no-store"
    assert begun == [True, False]


@pytest.mark.parametrize(("size", "on_the_loop"), [(2 << 20, True), ((2 << 20) + 1, False)])
def test_large_body_is_handled_in_a_thread(size: int, on_the_loop: bool) -> None:
    answer = ask(lambda call: {"loop": is_loop(), "size": len(call.body)}, b"x" * (size - 1), b"y")
    assert answer.json == {"loop": on_the_loop, "size": size}


def test_commit_is_awaited_and_holds_nobody_up() -> None:
    committed: Future[int] = Future()

    def handler(_call: Call) -> Outcome:
        # Done by nobody but the loop itself, which would wait in vain if it waited here.
        asyncio.get_running_loop().call_later(0.01, committed.set_result, 7)
        return Pending(committed, lambda total: {"total": total})

    assert ask(handler).json == {"total": 7}


def test_commit_that_fails_is_the_answer() -> None:
    def handler(_call: Call) -> Outcome:
        committed: Future[int] = Future()
        committed.set_exception(Conflict("the cycle is over"))
        return Pending(committed, lambda _: {})

    answer = ask(handler)
    assert (answer.status, answer.json) == (409, {"error": "the cycle is over"})


def test_commit_that_takes_too_long_is_given_up() -> None:
    committed: Future[int] = Future()
    answer = ask(lambda _: Pending(committed, lambda _: {}), answer_seconds=0.05)
    assert answer.status == 503
    assert answer.headers["retry-after"] == "5"
    assert committed.cancelled()


def test_error_of_the_client_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def handler(_call: Call) -> Outcome:
        raise InvalidRequest("diff is missing")

    answer = ask(handler)
    assert (answer.status, answer.json) == (400, {"error": "diff is missing"})
    assert "connection" not in answer.headers
    assert [record.levelname for record in caplog.records if record.levelname != "INFO"] == []


def test_error_of_the_node_tells_nothing_but_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def handler(_call: Call) -> Outcome:
        raise RuntimeError("secret")

    answer = ask(handler)
    assert answer.status == 500
    assert b"secret" not in answer.body
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None


@pytest.mark.parametrize(("method", "target"), [("HEAD", PATH), ("GET", PATH), ("POST", f"{PATH}/"), ("POST", "/")])
def test_everything_else_goes_to_the_application(method: str, target: str) -> None:
    assert ask(lambda _: pytest.fail("it was asked"), method=method, target=target).status == 418


def test_query_is_parsed() -> None:
    answer = ask(lambda call: dict(call.query), target=f"{PATH}?a=1&b=x%20y+z&a=2&c=&d")
    assert answer.json == {"a": "1", "b": "x y z", "c": "", "d": ""}


@pytest.mark.parametrize("query", [b"\xff=\xfe", b"%ff=%00", b"&&&==&", b"a=%zz", b"=" * 10_000])
def test_query_of_any_bytes_is_text(query: bytes) -> None:
    for name, value in parse_query(query).items():
        (name + value).encode()
