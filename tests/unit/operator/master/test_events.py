"""Reading progress events: what must be there, and what is left out when it makes no sense."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import InvalidRequest
from gridnode_operator.master.models.events import CycleFigures, read_event

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LEAST = {"percent_complete": 40, "model_id": "digits"}


def test_least_event() -> None:
    event = read_event(LEAST, NOW)
    assert (event.model, event.percent, event.occurred_at) == ("digits", 40, NOW)
    assert (event.version, event.node_id, event.event_id, event.cycle, event.num_cycles) == (None,) * 5
    assert (event.finished, event.deleted, event.running, event.figures) == (False, False, None, CycleFigures())


def test_event_of_a_node_of_today() -> None:
    event_id = uuid.uuid4()
    body = {
        **LEAST, "version": "1.0", "node_id": "apps/demo", "event_id": str(event_id), "cycle": 4, "cycles": 10,
        "occurred_at": "2026-05-01T11:59:00+00:00", "finished": False, "deleted": False, "reports": 3, "accepted": 5,
        "dropped": 2, "loss": 0.5, "accuracy": None, "cycle_seconds": 60.5,
    }  # fmt: skip
    event = read_event(body, NOW)
    assert (event.event_id, event.cycle, event.num_cycles) == (event_id, 4, 10)
    assert event.occurred_at == NOW - timedelta(minutes=1)
    assert event.figures == CycleFigures(reported=3, accepted=5, dropped=2, loss=0.5, seconds=60.5)


def test_extension() -> None:
    body = {
        **LEAST, "cycle_number": 5, "cycle_state": "abandoned", "rejected": {"full": 2, "slow": -1, "bad": "x"},
        "loss_min": 0.1, "loss_max": 0.9, "accuracy_min": 0, "accuracy_max": 1, "state": "failed", "failure": "why\x00",
        "cycle_started_at": "2026-05-01T11:00:00Z", "running": {"number": 6, "reports": 1, "min_diffs": 3},
    }  # fmt: skip
    event = read_event(body, NOW)
    assert (event.figures.number, event.figures.end, event.figures.rejected) == (5, "abandoned", {"full": 2})
    assert (event.figures.loss_min, event.figures.accuracy_max) == (0.1, 1.0)
    assert event.figures.started_at == NOW - timedelta(hours=1)
    assert (event.state, event.failure) == ("failed", "why\ufffd")
    assert event.running is not None
    assert (event.running.number, event.running.reports, event.running.min_diffs) == (6, 1, 3)


@pytest.mark.parametrize("body", [{**LEAST, "percent_complete": 100}, {**LEAST, "finished": True}])
def test_finished(body: dict[str, Any]) -> None:
    assert read_event(body, NOW).finished


@pytest.mark.parametrize("percent", [None, "40", True, -1, 100.5, [], float("nan")])
def test_percent_must_be_one(percent: object) -> None:
    with pytest.raises(InvalidRequest, match="percent_complete"):
        read_event({**LEAST, "percent_complete": percent}, NOW)


@pytest.mark.parametrize("name", ["model_id", "version", "node_id"])
@pytest.mark.parametrize("value", ["", "a\nb", "\x00", "x" * 300, 5, "\ud800"])
def test_names_must_be_such_that_they_can_be_kept(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=name):
        read_event({**LEAST, name: value}, NOW)


def test_clock_that_is_ahead_is_not_believed() -> None:
    ahead = (NOW + timedelta(hours=1)).isoformat()
    assert read_event({**LEAST, "occurred_at": ahead}, NOW).occurred_at == NOW


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
_OPTIONAL = (
    "event_id", "occurred_at", "cycle", "cycles", "finished", "deleted", "reports", "accepted", "dropped", "rejected",
    "loss", "loss_min", "accuracy", "cycle_seconds", "cycle_number", "cycle_state", "cycle_started_at", "state",
    "failure", "running",
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(_OPTIONAL), _JSON))
def test_optional_values_never_make_an_event_refused(optional: dict[str, Any]) -> None:
    event = read_event({**LEAST, **optional}, NOW)
    assert event.percent == 40
    assert event.cycle is None or event.cycle >= 0
    assert event.figures.loss is None or abs(event.figures.loss) < 1e100
