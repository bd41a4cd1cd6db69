"""What must be true of a node's books after faults, given what its phones know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.support.fleet import Record, Training
from tests.support.ledger import CycleRow, Ledger
from tests.support.node import Management
from tests.support.syft_messages import tensors_of


def assert_counted_are_acknowledged(ledger: Ledger, records: Mapping[str, Record], reports_per_cycle: int) -> None:
    """Every acknowledged report is counted once; of the others only some whose phones got no answer."""
    counted = [worker for cycle in ledger.cycles for worker in cycle.reported]
    assert len(counted) == len(set(counted)), "a worker is counted in two cycles"
    by_fate = {
        fate: {worker for worker, record in records.items() if record.fate == fate}
        for fate in ("acknowledged", "refused", "unknown", "vanished", "working")
    }
    assert by_fate["working"] == set(), "a phone stopped without knowing what became of its report"
    assert by_fate["acknowledged"] - set(counted) == set(), "acknowledged, but not counted"
    assert set(counted) - by_fate["acknowledged"] - by_fate["unknown"] == set(), "counted, but never acknowledged"
    for cycle in ledger.cycles:
        assert cycle.reports == len(cycle.reported), f"cycle {cycle.number} says {cycle.reports} reports"
        assert cycle.reports <= reports_per_cycle


def assert_checkpoints_are_recomputable(
    management: Management, training: Training, ledger: Ledger, records: Mapping[str, Record], *, exact: bool
) -> None:
    """Every checkpoint is what the counted diffs make of the one before it.

    Args:
        exact: To the last bit, as sums of whole numbers are; else to rounding.
    """
    current = tensors_of(management.checkpoint(training.name, 1))
    assert not any(tensor.any() for tensor in current)
    for cycle in ledger.cycles[:-1]:
        following = tensors_of(management.checkpoint(training.name, cycle.number + 1))
        for index, (before, after) in enumerate(zip(current, following, strict=True)):
            expected = before.astype(np.float64) - _mean(cycle, records, index)
            if exact:
                assert after.tobytes() == expected.astype(np.float32).tobytes(), f"cycle {cycle.number}: not exact"
            else:
                np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-4, err_msg=f"cycle {cycle.number}")
        current = following


def _mean(cycle: CycleRow, records: Mapping[str, Record], index: int) -> np.ndarray[Any, Any]:
    """The weighted mean of one tensor of the diffs that were counted, in float64."""
    counted = [records[worker] for worker in cycle.reported]
    weights = sum(record.weight for record in counted)
    total = sum(record.weight * record.diff[index].astype(np.float64) for record in counted)
    return np.asarray(total / weights)
