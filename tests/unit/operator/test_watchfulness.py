"""A watch that went silent is noticed by comparing what was told with what there is."""

from __future__ import annotations

import pytest

from gridnode_operator.metrics import OperatorMetrics
from gridnode_operator.watchfulness import Watchfulness
from gridnode_operator.workqueue import Key

DEMO, OTHER = Key("apps", "demo"), Key("apps", "other")


class Watched:
    """What is tested, and whom it has asked to be looked at."""

    def __init__(self) -> None:
        self.requested: list[Key] = []
        self.metrics = OperatorMetrics()
        self.watchfulness = Watchfulness(self.requested.append, self.metrics)

    def missed(self) -> float:
        return self.metrics.registry.get_sample_value("gridnode_operator_missed_changes_total") or 0.0


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_only_changes_of_more_than_the_status_are_news(watched: Watched) -> None:
    tell = watched.watchfulness.tell
    assert tell(DEMO, "uid", 1, ("x",))
    assert not tell(DEMO, "uid", 1, ("x",))
    assert tell(DEMO, "uid", 2, ("x",))
    assert tell(DEMO, "uid", 2, ("y",))
    assert tell(DEMO, "another", 2, ("y",))
    assert not tell(DEMO, "another", 2, ("y",))
    assert tell(OTHER, "another", 2, ("y",))
    watched.watchfulness.tell_gone(DEMO)
    assert tell(DEMO, "another", 2, ("y",))
    assert watched.requested == []


def test_nothing_is_missed_while_the_watch_tells_everything(watched: Watched) -> None:
    watched.watchfulness.compare([])
    watched.watchfulness.tell(DEMO, "uid", 3)
    for _ in range(5):
        watched.watchfulness.compare([(DEMO, "uid", 3)])
    # The list may be older than what was told since.
    watched.watchfulness.compare([(DEMO, "uid", 2)])
    watched.watchfulness.tell_gone(DEMO)
    watched.watchfulness.compare([])
    assert watched.requested == []
    assert watched.missed() == 0
    assert not watched.watchfulness.is_deaf


@pytest.mark.parametrize("change", ["new", "changed", "made anew", "gone"])
def test_missed_change_is_worked_on_at_once_and_means_deafness_when_it_stays_missed(
    watched: Watched, change: str
) -> None:
    if change != "new":
        watched.watchfulness.tell(DEMO, "uid", 1)
    found = {
        "new": [(DEMO, "uid", 1)],
        "changed": [(DEMO, "uid", 2)],
        "made anew": [(DEMO, "another", 1)],
        "gone": [],
    }[change]
    watched.watchfulness.compare(found)
    assert watched.requested == [DEMO]
    assert not watched.watchfulness.is_deaf
    watched.watchfulness.compare(found)
    assert watched.requested == [DEMO, DEMO]
    assert watched.missed() == 2
    assert watched.watchfulness.is_deaf


@pytest.mark.parametrize("change", ["changed", "gone"])
def test_watch_that_was_only_slow_is_not_deaf(watched: Watched, change: str) -> None:
    watched.watchfulness.tell(DEMO, "uid", 1)
    if change == "changed":
        watched.watchfulness.compare([(DEMO, "uid", 2)])
        watched.watchfulness.tell(DEMO, "uid", 2)
        watched.watchfulness.compare([(DEMO, "uid", 3)])
    else:
        watched.watchfulness.compare([])
        watched.watchfulness.tell_gone(DEMO)
        watched.watchfulness.compare([(DEMO, "another", 1)])
    assert not watched.watchfulness.is_deaf
    assert watched.missed() == 2


def test_different_ones_missed_once_each_are_no_deafness(watched: Watched) -> None:
    watched.watchfulness.compare([(DEMO, "uid", 1)])
    watched.watchfulness.compare([(OTHER, "uid", 1)])
    assert watched.requested == [DEMO, OTHER]
    assert not watched.watchfulness.is_deaf


def test_one_that_came_and_went_unheard_is_forgotten(watched: Watched) -> None:
    """It says nothing about the watch now: between two lists, nobody may have been told of it at all."""
    watched.watchfulness.compare([(DEMO, "uid", 1)])
    watched.watchfulness.compare([])
    watched.watchfulness.compare([(DEMO, "another", 1)])
    assert not watched.watchfulness.is_deaf
    watched.watchfulness.compare([(DEMO, "another", 1)])
    assert watched.watchfulness.is_deaf
    watched.watchfulness.tell(DEMO, "another", 1)
    assert not watched.watchfulness.is_deaf
