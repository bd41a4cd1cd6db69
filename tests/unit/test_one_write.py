"""An answer's head and the first of its body go out together, and nothing is kept back."""

from __future__ import annotations

from typing import Any

import pytest

from gridnode.serving.connections import _OneWrite


class Transport:
    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def writelines(self, parts: list[bytes]) -> None:
        self.writes.append(b"".join(parts))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class Cycle:
    def __init__(self, method: str) -> None:
        self.scope = {"method": method}
        self.response_started = False


@pytest.fixture
def transport() -> Transport:
    return Transport()


def answer(transport: Any, method: str = "GET", *, interim: bytes = b"") -> Any:
    cycle: Any = Cycle(method)
    one_write = _OneWrite(transport, cycle)
    if interim:
        one_write.write(interim)
    cycle.response_started = True
    return one_write


def test_head_and_body_are_one_write(transport: Transport) -> None:
    one_write = answer(transport)
    one_write.write(b"head;")
    assert transport.writes == []
    one_write.write(b"body")
    one_write.write(b"more")
    assert transport.writes == [b"head;body", b"more"]


def test_empty_body_sends_the_head(transport: Transport) -> None:
    one_write = answer(transport)
    one_write.write(b"head;")
    one_write.write(b"")
    assert transport.writes == [b"head;"]


def test_head_that_no_body_follows_is_sent_at_once(transport: Transport) -> None:
    answer(transport, "HEAD").write(b"head;")
    assert transport.writes == [b"head;"]


def test_continue_is_sent_at_once(transport: Transport) -> None:
    one_write = answer(transport, "POST", interim=b"100;")
    assert transport.writes == [b"100;"]
    one_write.write(b"head;")
    one_write.write(b"body")
    assert transport.writes == [b"100;", b"head;body"]


def test_head_is_sent_before_the_connection_closes(transport: Transport) -> None:
    one_write = answer(transport)
    one_write.write(b"head;")
    one_write.close()
    assert transport.writes == [b"head;"]
    assert one_write.is_closing()
