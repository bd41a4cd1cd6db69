"""Which replicas to start and to stop: never fewer in service than before, never more than one above the wish."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode_operator.local.replacement import Backoff, next_steps


@dataclass(eq=False)
class Pod:
    template: str
    ready: bool = True


def settle(wanted: int, pods: list[Pod], template: str) -> tuple[list[Pod], int, int]:
    """Do step after step, with what was started becoming ready one at a time; gives pods, and the extremes seen."""
    fewest_ready = most = None
    for _ in range(100):
        steps = next_steps(wanted, template, pods)
        pods = [pod for pod in pods if pod not in steps.stop] + [Pod(template, False) for _ in range(steps.start)]
        ready = sum(pod.ready for pod in pods)
        fewest_ready = ready if fewest_ready is None else min(fewest_ready, ready)
        most = len(pods) if most is None else max(most, len(pods))
        waiting = next((pod for pod in pods if not pod.ready), None)
        if waiting is None and not steps.start and not steps.stop:
            return pods, fewest_ready, most
        if waiting is not None:
            waiting.ready = True
    raise AssertionError("it does not settle")


def test_all_replicas_of_a_new_gridnode_start_at_once() -> None:
    assert next_steps(3, "a", []).start == 3


def test_nothing_is_done_when_all_is_as_wanted() -> None:
    steps = next_steps(2, "a", [Pod("a"), Pod("a", ready=False)])
    assert (steps.start, steps.stop) == (0, ())


@pytest.mark.parametrize(("wanted", "before"), list(itertools.product((1, 2, 5), (1, 2, 5))))
def test_replacement_keeps_as_many_in_service(wanted: int, before: int) -> None:
    pods, fewest_ready, most = settle(wanted, [Pod("old") for _ in range(before)], "new")

    assert [pod.template for pod in pods] == ["new"] * wanted
    assert fewest_ready >= min(wanted, before)
    assert most <= max(wanted + 1, before)


def test_old_replicas_that_never_serve_do_not_stop_the_replacement() -> None:
    pods, _, most = settle(2, [Pod("broken", ready=False), Pod("broken", ready=False)], "new")

    assert [pod.template for pod in pods] == ["new", "new"]
    assert most == 3


def test_old_replicas_serve_on_while_the_new_ones_do_not() -> None:
    pods = [Pod("old"), Pod("old"), Pod("new", ready=False)]
    steps = next_steps(2, "new", pods)
    assert (steps.start, steps.stop) == (0, ())


def test_surplus_goes_from_those_that_do_not_serve_and_then_from_the_youngest() -> None:
    first, second, third = Pod("a"), Pod("a", ready=False), Pod("a")

    assert next_steps(2, "a", [first, second, third]).stop == (second,)
    assert next_steps(1, "a", [first, second, third]).stop == (second, third)
    assert next_steps(0, "a", [first, third]).stop == (third, first)


def test_replica_that_died_during_a_replacement_is_made_anew() -> None:
    assert next_steps(2, "new", [Pod("old"), Pod("new", ready=False)]).start == 1


@given(
    wanted=st.integers(0, 6),
    pods=st.lists(st.tuples(st.sampled_from(["old", "older", "new"]), st.booleans()), max_size=12),
)
def test_every_beginning_comes_to_the_same_end(wanted: int, pods: list[tuple[str, bool]]) -> None:
    beginning = [Pod(template, ready) for template, ready in pods]
    ready_before = sum(pod.ready for pod in beginning)

    end, fewest_ready, most = settle(wanted, beginning, "new")

    assert [pod.template for pod in end] == ["new"] * wanted
    assert fewest_ready >= min(wanted, ready_before)
    assert most <= max(wanted + 1, len(beginning))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_single_death_is_answered_at_once_and_further_ones_later_and_later() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    assert backoff.wait == 0

    waits = []
    for _ in range(8):
        backoff.failed(served=True, lived=1.0)
        waits.append(backoff.wait)
    assert waits == [0, 2, 4, 8, 16, 30, 30, 30]

    backoff.failed(served=True, lived=60.0)
    assert backoff.wait == 0


def test_replica_that_never_served_is_not_repeated_at_once() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    backoff.failed(served=False, lived=60.0)
    assert backoff.wait == 1
    clock.now += 0.4
    assert backoff.wait == pytest.approx(0.6)
    clock.now += 1
    assert backoff.wait == 0
    backoff.failed(served=False, lived=1.0)
    assert backoff.wait == 2
    backoff.reset()
    assert backoff.wait == 0
