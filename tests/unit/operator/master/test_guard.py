"""Slowing down guesses."""

from __future__ import annotations

import pytest

from gridnode.errors import TooManyRequests
from gridnode_operator.master.keys.guard import FailureGuard


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_address_is_refused_after_its_failures_and_let_in_later() -> None:
    clock = Clock()
    guard = FailureGuard(at_once=3, per_second=0.1, now=clock)
    for _ in range(4):
        guard.check("10.0.0.1")
        guard.failed("10.0.0.1")
    with pytest.raises(TooManyRequests) as refused:
        guard.check("10.0.0.1")
    assert 0 < refused.value.retry_after <= 10
    guard.check("10.0.0.2")
    clock.now += refused.value.retry_after
    guard.check("10.0.0.1")
    guard.failed("10.0.0.1")
    guard.failed("10.0.0.1")
    with pytest.raises(TooManyRequests):
        guard.check("10.0.0.1")


def test_addresses_of_one_ipv6_subscriber_count_together() -> None:
    guard = FailureGuard(at_once=1, per_second=0.1, now=Clock())
    for last in range(2):
        guard.failed(f"2001:db8::{last}")
    with pytest.raises(TooManyRequests):
        guard.check("2001:db8::99")
    guard.check("2001:db8:0:1::1")
