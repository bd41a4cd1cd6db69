"""How a process's progress is told as a number."""

from __future__ import annotations

import pytest

from gridnode.reporting.progress import ProcessProgress, progress_ratio


def percent(completed: int, cycles: int, *, finished: bool = False) -> int:
    progress = ProcessProgress(
        process_id=1,
        model="mnist",
        version="1.0",
        completed_cycles=completed,
        num_cycles=cycles,
        state="finished" if finished else "active",
    )
    return progress.percent_complete


@pytest.mark.parametrize(
    ("completed", "cycles", "expected"),
    [(0, 10, 0), (1, 10, 10), (29, 100, 29), (2, 3, 66), (999, 1000, 99), (1, 1000, 0), (9, 10, 90)],
)
def test_percent_is_the_share_of_completed_cycles_rounded_down(completed: int, cycles: int, expected: int) -> None:
    assert percent(completed, cycles) == expected


@pytest.mark.parametrize(("completed", "cycles"), [(10, 10), (11, 10), (1000, 10), (1, 1), (2**40, 2**40)])
def test_percent_is_never_100_before_finished(completed: int, cycles: int) -> None:
    assert percent(completed, cycles) <= 99
    assert progress_ratio(completed, cycles, finished=False) < 1


@pytest.mark.parametrize("completed", [0, 1, 10**9])
def test_process_without_end_is_at_0_until_finished(completed: int) -> None:
    assert percent(completed, 0) == 0
    assert progress_ratio(completed, 0, finished=False) == 0


@pytest.mark.parametrize(("completed", "cycles"), [(0, 10), (3, 10), (10, 10), (5, 0)])
def test_finished_is_100_however_early(completed: int, cycles: int) -> None:
    assert percent(completed, cycles, finished=True) == 100
    assert progress_ratio(completed, cycles, finished=True) == 1


def test_ratio_is_not_rounded() -> None:
    assert progress_ratio(997, 1000, finished=False) == 0.997
