"""Limits per client address, and who the client is."""

from __future__ import annotations

import ipaddress
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import TooManyRequests
from gridnode.security.limits import AddressLimiter, AddressLimits, client_address, limited_address

PHONE = "203.0.113.7"
OTHER_PHONE = "203.0.113.8"


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def limits(
    rate: float = 0.0, *, burst: float | None = None, per_address: int = 0, total: int = 0, remembered: int = 1000
) -> AddressLimits:
    return AddressLimits(
        requests_per_second=rate,
        burst=burst,
        connections_per_address=per_address,
        connections=total,
        remembered_addresses=remembered,
    )


def admitted(limiter: AddressLimiter, address: str, times: int) -> int:
    count = 0
    for _ in range(times):
        try:
            limiter.admit_request(address)
        except TooManyRequests:
            continue
        count += 1
    return count


# Requests


def test_burst_is_admitted_and_then_the_rate() -> None:
    clock = Clock()
    limiter = AddressLimiter(limits(rate=4, burst=8), now=clock)
    assert admitted(limiter, PHONE, 100) == 8
    clock.seconds += 0.25
    assert admitted(limiter, PHONE, 100) == 1
    clock.seconds += 1
    assert admitted(limiter, PHONE, 100) == 4
    clock.seconds += 3600
    assert admitted(limiter, PHONE, 100) == 8


def test_default_burst_is_two_seconds_of_the_rate() -> None:
    assert admitted(AddressLimiter(limits(rate=16), now=Clock()), PHONE, 100) == 32


def test_rate_below_one_still_admits_a_request() -> None:
    clock = Clock()
    limiter = AddressLimiter(limits(rate=0.125), now=clock)
    assert admitted(limiter, PHONE, 10) == 1
    clock.seconds += 8
    assert admitted(limiter, PHONE, 10) == 1


def test_addresses_do_not_share_a_rate() -> None:
    limiter = AddressLimiter(limits(rate=1, burst=2), now=Clock())
    assert admitted(limiter, PHONE, 10) == 2
    assert admitted(limiter, OTHER_PHONE, 10) == 2


def test_rate_of_zero_is_no_limit_and_remembers_nothing() -> None:
    limiter = AddressLimiter(limits(rate=0), now=Clock())
    assert admitted(limiter, PHONE, 10_000) == 10_000
    assert limiter.remembered_addresses == 0


def test_refusal_says_when_to_come_back() -> None:
    clock = Clock()
    limiter = AddressLimiter(limits(rate=2, burst=1), now=clock)
    limiter.admit_request(PHONE)
    with pytest.raises(TooManyRequests, match="Too many requests") as refusal:
        limiter.admit_request(PHONE)
    assert refusal.value.retry_after == 0.5
    clock.seconds += 0.5
    limiter.admit_request(PHONE)


@given(
    rate=st.sampled_from([0.5, 1.0, 4.0, 100.0]),
    burst=st.integers(1, 10),
    pauses=st.lists(st.sampled_from([0.0, 0.0, 0.01, 0.25, 1.0, 10.0]), max_size=60),
)
def test_no_window_of_time_has_more_than_burst_and_rate(rate: float, burst: int, pauses: list[float]) -> None:
    clock = Clock()
    limiter = AddressLimiter(limits(rate=rate, burst=burst), now=clock)
    times: list[float] = []
    for pause in pauses:
        clock.seconds += pause
        try:
            limiter.admit_request(PHONE)
        except TooManyRequests as refusal:
            clock.seconds += refusal.retry_after + 1e-6
            limiter.admit_request(PHONE)
        times.append(clock.seconds)
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + rate * (times[last] - start) + 1e-3


@pytest.mark.parametrize("burst", [1, 100])
def test_memory_is_bounded_and_the_longest_unseen_are_forgotten(burst: int) -> None:
    limiter = AddressLimiter(limits(rate=1, burst=burst, remembered=100), now=Clock())
    times_admitted = 0
    for number in range(10_000):
        limiter.admit_request(str(ipaddress.IPv4Address(number)))
        if number % 50 == 0:
            times_admitted += admitted(limiter, PHONE, 1)
    assert times_admitted == burst, "an address that keeps coming was forgotten"
    assert limiter.remembered_addresses == 100


def test_default_memory_is_small() -> None:
    limiter = AddressLimiter(
        AddressLimits(requests_per_second=1, connections_per_address=0, connections=0), now=Clock()
    )
    for number in range(70_000):
        limiter.admit_request(str(ipaddress.IPv4Address(number)))
    assert limiter.remembered_addresses == 65_536
    remembered = limiter._full_at
    assert sys.getsizeof(remembered) + sum(map(sys.getsizeof, remembered)) + 24 * len(remembered) < 20_000_000


# Connections


def test_connections_of_one_address_are_limited() -> None:
    limiter = AddressLimiter(limits(per_address=2))
    limiter.open_connection(PHONE)
    limiter.open_connection(PHONE)
    with pytest.raises(TooManyRequests, match="from this address") as refusal:
        limiter.open_connection(PHONE)
    assert refusal.value.retry_after > 0
    limiter.open_connection(OTHER_PHONE)
    limiter.close_connection(PHONE)
    limiter.open_connection(PHONE)
    assert limiter.open_connections == 3


def test_connections_of_all_addresses_are_limited() -> None:
    limiter = AddressLimiter(limits(total=2))
    limiter.open_connection(PHONE)
    limiter.open_connection(OTHER_PHONE)
    with pytest.raises(TooManyRequests, match="as many connections"):
        limiter.open_connection("198.51.100.1")
    limiter.close_connection(PHONE)
    limiter.open_connection("198.51.100.1")


@pytest.mark.parametrize("opened", [[], [OTHER_PHONE], [PHONE]])
def test_closing_what_is_not_open_is_an_error_and_changes_nothing(opened: list[str]) -> None:
    limiter = AddressLimiter(limits())
    for address in opened:
        limiter.open_connection(address)
    if PHONE in opened:
        limiter.close_connection(PHONE)
    before = limiter.open_connections
    with pytest.raises(ValueError, match="never opened"):
        limiter.close_connection(PHONE)
    assert limiter.open_connections == before


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([PHONE, OTHER_PHONE, "2001:db8::1", "2001:db8::2"]))))
def test_counts_are_those_of_the_connections_that_are_open(moves: list[tuple[bool, str]]) -> None:
    limiter = AddressLimiter(limits(per_address=2, total=4))
    open_now: Counter[str] = Counter()
    for opens, address in moves:
        key = limited_address(address)
        if opens:
            may = open_now[key] < 2 and open_now.total() < 4
            try:
                limiter.open_connection(address)
            except TooManyRequests:
                assert not may
            else:
                assert may
                open_now[key] += 1
        elif open_now[key]:
            limiter.close_connection(address)
            open_now[key] -= 1
        assert limiter.open_connections == open_now.total()
    assert limiter._connections == +open_now, "addresses without connections are kept"


# What counts as one address


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        (PHONE, PHONE),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("::ffff:203.0.113.7", PHONE),
        ("", ""),
        ("unix:", "unix:"),
        ("no:address", "no:address"),
    ],
)
def test_ipv6_addresses_count_with_their_subnet(address: str, counted: str) -> None:
    assert limited_address(address) == counted


def test_changing_the_address_within_a_subnet_gives_nothing() -> None:
    limiter = AddressLimiter(limits(rate=1, burst=3, per_address=1), now=Clock())
    assert sum(admitted(limiter, f"2001:db8::{number:x}", 1) for number in range(100)) == 3
    limiter.open_connection("2001:db8::1")
    with pytest.raises(TooManyRequests):
        limiter.open_connection("2001:db8::2")
    limiter.close_connection("2001:db8::2")


# The client's address

PROXIES = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "192.0.2.1/32", "fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        pytest.param(PHONE, None, PHONE, id="no proxy"),
        pytest.param(PHONE, "198.51.100.1", PHONE, id="header of a client that is no proxy"),
        pytest.param(PHONE, "10.0.0.1", PHONE, id="client that claims to be a proxy"),
        pytest.param("10.0.0.1", PHONE, PHONE, id="one proxy"),
        pytest.param("10.0.0.1", f"198.51.100.1, {PHONE}", PHONE, id="client sent a header of its own"),
        pytest.param("10.0.0.1", f"198.51.100.1,{PHONE},192.0.2.1, 10.9.9.9", PHONE, id="several proxies"),
        pytest.param("10.0.0.1", f"10.0.0.2, {PHONE}", PHONE, id="client claims to be behind a proxy of ours"),
        pytest.param("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3", id="client inside the trusted network"),
        pytest.param("10.0.0.1", None, "10.0.0.1", id="proxy without header"),
        pytest.param("10.0.0.1", "", "10.0.0.1", id="empty header"),
        pytest.param("10.0.0.1", "unknown", "10.0.0.1", id="proxy does not say"),
        pytest.param("10.0.0.1", f"{PHONE}, unknown", "10.0.0.1", id="what is left of a gap is not believed"),
        pytest.param("10.0.0.1", f"{PHONE},", "10.0.0.1", id="empty last entry"),
        pytest.param("10.0.0.1", f"{PHONE}:51234", PHONE, id="with port"),
        pytest.param("10.0.0.1", "[2001:db8::7]:51234", "2001:db8::7", id="IPv6 with port"),
        pytest.param("10.0.0.1", '"[2001:db8::7]"', "2001:db8::7", id="IPv6 with quotes"),
        pytest.param("10.0.0.1", "2001:DB8:0::7", "2001:db8::7", id="IPv6 in another spelling"),
        pytest.param("10.0.0.1", "fe80::7%eth0", "fe80::7", id="IPv6 with zone"),
        pytest.param("10.0.0.1", "::ffff:203.0.113.7", PHONE, id="IPv4 written as IPv6"),
        pytest.param("::ffff:10.0.0.1", PHONE, PHONE, id="proxy on a dual-stack listener"),
        pytest.param("fd00::1", PHONE, PHONE, id="proxy with IPv6"),
        pytest.param("2001:db8::1", PHONE, "2001:db8::1", id="stranger with IPv6"),
        pytest.param("", PHONE, "", id="no peer address"),
        pytest.param("unix:", PHONE, "unix:", id="Unix socket"),
        pytest.param("10.0.0.1", "203.0.113.07", "10.0.0.1", id="leading zero"),
        pytest.param("10.0.0.1", "1", "10.0.0.1", id="number"),
        pytest.param("10.0.0.1", "1" * 100_000, "10.0.0.1", id="long entry"),
        pytest.param("10.0.0.1", "\u0663.1.1.1", "10.0.0.1", id="digits of another script"),
    ],
)
def test_client_is_the_rightmost_address_that_is_no_proxy(peer: str, forwarded_for: str | None, client: str) -> None:
    assert client_address(peer, forwarded_for, PROXIES) == client


def test_without_trusted_proxies_the_header_is_ignored() -> None:
    assert client_address("10.0.0.1", PHONE, []) == "10.0.0.1"


addresses = st.ip_addresses().filter(
    lambda address: not any(address in network for network in PROXIES) and "::ffff:" not in str(address)
)


@given(st.text(), addresses)
def test_client_cannot_choose_its_address(sent: str, real: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert client_address("10.0.0.1", f"{sent}, {real}", PROXIES) == str(real)
    assert client_address(str(real), sent, PROXIES) == str(real)


def test_long_header_costs_little() -> None:
    hops = ", ".join(["10.0.0.2"] * 100_000)
    assert client_address("10.0.0.1", hops, PROXIES) == "10.0.0.2"
