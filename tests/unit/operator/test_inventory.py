"""What the operator needs not ask for again, and what it must."""

from __future__ import annotations

from typing import Any

import pytest

from gridnode_operator.inventory import Inventory

SECRET, JOB, INGRESS = ("v1", "Secret"), ("batch/v1", "Job"), ("networking.k8s.io/v1", "Ingress")
KINDS = [SECRET, JOB, INGRESS]
DEMO = "apps/demo"


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inventory(clock: Clock) -> Inventory:
    """With one reconcile that saw a Secret and wrote it."""
    inventory = Inventory(clock)
    kinds, changes = inventory.to_list(DEMO, KINDS)
    assert kinds == KINDS
    inventory.remember(DEMO, KINDS, [child(SECRET, "a", "7")], changes, listed=3)
    return inventory


def child(kind: tuple[str, str], uid: str, version: str) -> dict[str, Any]:
    return {"apiVersion": kind[0], "kind": kind[1], "metadata": {"uid": uid, "resourceVersion": version}}


def listed(inventory: Inventory, key: str = DEMO) -> list[tuple[str, str]]:
    return inventory.to_list(key, KINDS)[0]


def test_what_was_seen_is_no_news(inventory: Inventory) -> None:
    assert not inventory.is_news(DEMO, "a", "7")
    assert listed(inventory) == [SECRET]
    assert listed(inventory, "apps/other") == KINDS


@pytest.mark.parametrize(("uid", "version"), [("a", "8"), ("b", "7")])
def test_news_has_everything_listed(inventory: Inventory, uid: str, version: str) -> None:
    assert inventory.is_news(DEMO, uid, version)
    assert listed(inventory) == KINDS


def test_news_during_a_reconcile_is_not_lost(inventory: Inventory) -> None:
    kinds, changes = inventory.to_list(DEMO, KINDS)
    assert inventory.is_news(DEMO, "of-an-ingress", "9")
    inventory.remember(DEMO, KINDS, [child(SECRET, "a", "7")], changes, listed=len(kinds))
    assert listed(inventory) == KINDS


def test_absence_holds_for_a_time_only(inventory: Inventory, clock: Clock) -> None:
    clock.now += 599
    kinds, changes = inventory.to_list(DEMO, KINDS)
    assert kinds == [SECRET]
    # One that did not list everything says nothing new of what it did not list.
    inventory.remember(DEMO, KINDS, [child(SECRET, "a", "7")], changes, listed=1)
    clock.now += 2
    assert listed(inventory) == KINDS


def test_kind_that_the_server_has_learned_is_listed(inventory: Inventory) -> None:
    route = ("gateway.networking.k8s.io/v1", "HTTPRoute")
    assert inventory.to_list(DEMO, [*KINDS, route])[0] == [SECRET, route]


def test_gone_is_forgotten(inventory: Inventory) -> None:
    inventory.forget(DEMO)
    assert listed(inventory) == KINDS
    assert inventory.is_news(DEMO, "a", "7")
