"""The wished port, or the next free one."""

from __future__ import annotations

import asyncio
import errno

import pytest

from gridnode.errors import InvalidRequest
from gridnode_operator.local.ports import PortTaken, listen_near


class Machine:
    """A machine on which some ports are taken, and those below 1024 are root's."""

    def __init__(self, *taken: int) -> None:
        self.taken = set(taken)
        self.bound: int | None = None

    async def listen(self, port: int) -> None:
        if 0 < port < 1024:
            raise PermissionError(errno.EACCES, "Permission denied")
        if port in self.taken:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        self.bound = port

    def listen_near(self, port: int, *, exactly: bool = False, but_not: frozenset[int] = frozenset()) -> int | None:
        asyncio.run(listen_near(self.listen, port, exactly=exactly, but_not=but_not))
        return self.bound


@pytest.mark.parametrize(
    ("taken", "wished", "got"),
    [
        ((), 5000, 5000),
        ((5000,), 5000, 5001),
        ((5000, 5001), 5000, 5002),
        ((), 0, 0),
        ((), 80, 5000),
        ((), 65535, 65535),
    ],
)
def test_port_is_the_wished_or_the_next_free_one(taken: tuple[int, ...], wished: int, got: int) -> None:
    assert Machine(*taken).listen_near(wished) == got


def test_port_of_the_master_node_is_kept_free() -> None:
    assert Machine(5000).listen_near(5000, but_not=frozenset({5001})) == 5002


def test_port_of_a_flag_is_had_or_refused() -> None:
    assert Machine().listen_near(5000, exactly=True) == 5000
    with pytest.raises(PortTaken, match="port 5000 in use by another program"):
        Machine(5000).listen_near(5000, exactly=True)
    with pytest.raises(InvalidRequest, match="can't listen on port 80: Permission denied"):
        Machine().listen_near(80, exactly=True)


def test_giving_up_is_told() -> None:
    with pytest.raises(PortTaken, match="port 65530 and those after it are in use"):
        Machine(*range(65530, 65536)).listen_near(65530)


def test_other_trouble_is_told() -> None:
    async def fail(_port: int) -> None:
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    with pytest.raises(InvalidRequest, match="Cannot assign requested address"):
        asyncio.run(listen_near(fail, 5000))
