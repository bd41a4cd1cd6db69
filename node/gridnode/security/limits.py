"""Limits per client address: how fast it may ask, and how many connections it may hold.

An :class:`AddressLimiter` belongs to the event loop's thread of one process. No method waits or gives up control
between reading and writing, so there are no locks; calling it from other threads is an error. Its counts are those of
this process alone: a node with N processes allows N times as much.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gridnode.errors import TooManyRequests

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_CONNECTION_RETRY_AFTER: Final = 5.0
_MAXIMUM_HOPS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressLimits:
    """What one client address may do. 0 means no limit."""

    requests_per_second: float
    connections_per_address: int
    connections: int
    """Of all addresses together."""
    burst: float | None = None
    """Requests that may come at once after a pause, at least 1; None is what the rate allows in two seconds."""
    shared_addresses: tuple[Network, ...] = ()
    """Proxies: each holds the connections of many clients, so that only ``connections`` bounds theirs."""
    remembered_addresses: int = 65_536
    """Addresses whose recent requests are remembered; the ones not seen for longest are forgotten first."""


class AddressLimiter:
    """Counts requests and connections by client address, in bounded memory.

    An IPv6 address counts together with all of its /64: a subscriber is given as much, and can use any address in it.
    """

    def __init__(self, limits: AddressLimits, *, now: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            limits: see :class:`AddressLimits`.
            now: seconds on a clock that never goes back.
        """
        rate = limits.requests_per_second
        self._limits = limits
        self._now = now
        self._seconds_per_request = 1.0 / rate if rate > 0 else 0.0
        burst = max(1.0, 2 * rate if limits.burst is None else limits.burst)
        self._tolerance = (burst - 1.0) * self._seconds_per_request
        # A token bucket in one number: the time at which it will be full again. One that is full need not be kept.
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._connections: dict[str, int] = {}
        self._open_connections = 0

    @property
    def open_connections(self) -> int:
        """Connections of all addresses that are counted now."""
        return self._open_connections

    @property
    def remembered_addresses(self) -> int:
        """Addresses whose requests are remembered now, at most ``limits.remembered_addresses``."""
        return len(self._full_at)

    def admit_request(self, address: str) -> None:
        """Count one request; a refused one does not count.

        Raises:
            TooManyRequests: the address asks too fast; ``retry_after`` is when the next request will be admitted.
        """
        if not self._seconds_per_request:
            return
        key, now = limited_address(address), self._now()
        full_at = max(now, self._full_at.get(key, now))
        wait = full_at - now - self._tolerance
        if wait > 0:
            # Refusing counts as seeing, or an address could make itself forgotten by flooding.
            self._full_at.move_to_end(key)
            raise TooManyRequests("Too many requests from this address.", wait)
        self._full_at[key] = full_at + self._seconds_per_request
        self._full_at.move_to_end(key)
        if len(self._full_at) > self._limits.remembered_addresses:
            self._full_at.popitem(last=False)

    def open_connection(self, address: str) -> None:
        """Count a connection, until :meth:`close_connection` is called with the same address.

        Raises:
            TooManyRequests: this address, or all together, have as many as they may. The connection is not counted.
        """
        limits, key = self._limits, limited_address(address)
        held = self._connections.get(key, 0)
        if limits.connections and self._open_connections >= limits.connections:
            raise TooManyRequests("This node has as many connections as it can hold.", _CONNECTION_RETRY_AFTER)
        if 0 < limits.connections_per_address <= held and not self._is_shared(address):
            raise TooManyRequests("Too many connections from this address.", _CONNECTION_RETRY_AFTER)
        self._connections[key] = held + 1
        self._open_connections += 1

    def _is_shared(self, address: str) -> bool:
        parsed = _parse_address(address) if self._limits.shared_addresses else None
        return parsed is not None and _is_trusted(parsed, self._limits.shared_addresses)

    def close_connection(self, address: str) -> None:
        """Stop counting a connection.

        Raises:
            ValueError: no connection of this address is counted, so the caller's book-keeping is wrong.
        """
        key = limited_address(address)
        held = self._connections.get(key, 0)
        if held == 0:
            raise ValueError("a connection was closed that was never opened")
        if held == 1:
            del self._connections[key]
        else:
            self._connections[key] = held - 1
        self._open_connections -= 1


def limited_address(address: str) -> str:
    """What is counted together with this address: an IPv4 address alone, an IPv6 address with its /64."""
    if ":" not in address:
        return address
    parsed = _parse_address(address)
    if not isinstance(parsed, ipaddress.IPv6Address):
        return address if parsed is None else str(parsed)
    return f"{ipaddress.IPv6Address(int(parsed) >> 64 << 64)}/64"


def client_address(peer: str, forwarded_for: str | None, trusted_proxies: Sequence[Network]) -> str:
    """The address of the client, as far as it is known for certain.

    Each proxy appends the address that it was called from, so only what trusted proxies wrote is believed: reading from
    the right, the first address that is not a trusted proxy's. Everything left of it is whatever the client sent.

    Args:
        peer: the address of the connection, as the server has it.
        forwarded_for: the ``X-Forwarded-For`` header, several joined by commas in their order; None if there is none.
        trusted_proxies: networks of proxies that append to the header.

    Returns:
        An address in its canonical form (an IPv4-mapped IPv6 address as IPv4, without port and zone). Where a trusted
        proxy wrote something that is no address, or nothing, that proxy's own. ``peer`` unchanged where it is no
        address (a Unix socket).
    """
    address = _parse_address(peer)
    if address is None:
        return peer
    for hop in reversed((forwarded_for or "").rsplit(",", _MAXIMUM_HOPS)):
        if not _is_trusted(address, trusted_proxies):
            break
        forwarded = _parse_address(hop)
        if forwarded is None:
            break
        address = forwarded
    return str(address)


def _is_trusted(address: IPAddress, trusted_proxies: Sequence[Network]) -> bool:
    return any(address in network for network in trusted_proxies)


def _parse_address(text: str) -> IPAddress | None:
    """An address with or without port, brackets, quotes and zone, as the various proxies write it."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped
