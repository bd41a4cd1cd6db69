"""How events move a model: forward only, whatever their order."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from gridnode_operator.master.models.events import CycleFigures, ProgressEvent
from gridnode_operator.master.models.progress import advance, cycle_of, take_figures
from gridnode_operator.master.models.rows import CycleRow, ModelRow

START = datetime(2026, 5, 1, tzinfo=UTC)


def model() -> ModelRow:
    """One that nothing was heard of."""
    return ModelRow(id=1, node_id=1, name="m", version="1", progressed_at=START, changed_at=START)


def event(cycle: int, cycles: int = 5) -> ProgressEvent:
    """What a node sends after a cycle."""
    return ProgressEvent(
        model="m",
        percent=cycle * 100 // cycles,
        occurred_at=START + timedelta(minutes=cycle),
        event_id=uuid.uuid4(),
        cycle=cycle,
        num_cycles=cycles,
        finished=cycle == cycles,
        figures=CycleFigures(reported=cycle, loss=1 / cycle),
    )


@given(st.permutations(range(1, 6)), st.lists(st.integers(1, 5), max_size=5))
def test_any_order_ends_in_the_same_state(order: list[int], again: list[int]) -> None:
    row = model()
    percents = [0]
    for cycle in [*order, *again]:
        advance(row, event(cycle), START)
        percents.append(row.percent)
    assert percents == sorted(percents)
    assert (row.percent, row.completed_cycles, row.state, row.loss) == (100, 5, "finished", 1 / 5)
    assert row.finished_at == START + timedelta(minutes=5)


def test_late_event_changes_nothing() -> None:
    row = model()
    assert advance(row, event(3), START)
    before = replace(row)
    assert not advance(row, event(2), START + timedelta(hours=1))
    assert row == before


def test_failure_is_over_when_another_cycle_was_averaged() -> None:
    row = model()
    advance(row, replace(event(1), state="failed", failure="why"), START)
    assert (row.state, row.failure) == ("failed", "why")
    advance(row, event(2), START)
    assert (row.state, row.failure) == ("active", None)


def test_paused_stays_until_the_node_says_otherwise() -> None:
    row = model()
    advance(row, replace(event(1), state="paused"), START)
    advance(row, event(2), START)
    assert row.state == "paused"
    advance(row, replace(event(3), state="active"), START)
    assert row.state == "active"


def test_nothing_moves_what_was_deleted() -> None:
    row = model()
    advance(row, replace(event(2), deleted=True), START)
    assert not advance(row, event(3), START)
    assert (row.completed_cycles, row.deleted_at) == (2, START + timedelta(minutes=2))


def test_figures_are_of_the_cycle_that_was_completed() -> None:
    assert cycle_of(event(3), None) == (3, "completed")


def test_figures_of_a_model_finished_early_are_of_the_cycle_that_was_given_up() -> None:
    early = replace(event(3), finished=True)
    told = CycleRow(model_id=1, number=3, state="completed")
    assert cycle_of(early, told) == (4, "abandoned")
    assert cycle_of(early, None) == (3, "completed")
    assert cycle_of(replace(event(1), cycle=0), None) == (1, "abandoned")


def test_event_about_no_cycle() -> None:
    assert cycle_of(replace(event(1), cycle=0, figures=CycleFigures()), None) is None
    assert cycle_of(replace(event(1), cycle=None), None) is None
    # Paused, resumed, failed or deleted, between two cycles.
    assert cycle_of(replace(event(2), state="paused", figures=CycleFigures()), None) is None
    assert cycle_of(replace(event(2), state="active", figures=CycleFigures(number=2)), None) == (2, "completed")


def test_reports_are_counted_beyond_those_that_were_counted() -> None:
    cycle = CycleRow(model_id=1, number=1, state="running", reported=2)
    figures = CycleFigures(reported=5, accepted=6)
    assert take_figures(cycle, figures, end="completed", ended_at=START) == 3
    assert take_figures(cycle, figures, end="completed", ended_at=START + timedelta(hours=1)) == 0
    assert (cycle.state, cycle.reported, cycle.accepted, cycle.completed_at) == ("completed", 5, 6, START)


def test_what_an_event_does_not_say_stays() -> None:
    cycle = CycleRow(model_id=1, number=1, state="completed", loss=0.5, rejected={"full": 1})
    take_figures(cycle, CycleFigures(accuracy=0.9), end="completed", ended_at=START)
    assert (cycle.loss, cycle.accuracy, cycle.rejected) == (0.5, 0.9, {"full": 1})
