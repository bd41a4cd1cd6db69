"""The master node of this machine: the one place that says which program it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from gridnode.simulation.progress_receiver import ProgressReceiver
from gridnode_operator.local.ports import listen_near


class Master(Protocol):
    """Where nodes report their progress."""

    @property
    def url(self) -> str:
        """Its base URL, for the nodes."""

    def percents(self, node_id: str) -> Mapping[str, int]:
        """The last progress that a node has reported, by model."""

    def close(self) -> None:
        """Stop it."""


async def start_master(port: int, *, exactly: bool) -> Master:
    """Start the master node on loopback.

    Args:
        port: The wished one; 0 for any.
        exactly: Don't take the next one if it is in use.

    Raises:
        PortTaken: it is in use.
    """
    started: list[ProgressReceiver] = []

    async def listen(candidate: int) -> None:
        started.append(ProgressReceiver(candidate))

    await listen_near(listen, port, exactly=exactly)
    [receiver] = started
    receiver.start()
    return receiver
