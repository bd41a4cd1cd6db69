"""How a training goes, while it goes: numbers for each cycle, shown as curves in a notebook and as lines elsewhere."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

if TYPE_CHECKING:
    from gridnode.sdk.hosted import HostedProcess

Evaluate: TypeAlias = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, float]]
"""``(arrays by parameter name) → numbers by name``."""


@dataclass(slots=True)
class Progress:
    """What was seen of a training.

    Attributes:
        state: of the process at the end.
        cycles: completed.
        seconds: from the first look until each checkpoint was seen, by its number.
        metrics: what ``evaluate`` gave, by checkpoint number.
    """

    state: str = "active"
    cycles: int = 0
    seconds: dict[int, float] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Checkpoint numbers and one metric's values."""
        points = [(number, values[name]) for number, values in sorted(self.metrics.items()) if name in values]
        return [number for number, _ in points], [value for _, value in points]


def follow(
    process: HostedProcess, *, evaluate: Evaluate | None, every: float, seconds: float | None, show: bool
) -> Progress:
    """Look at a process until it has ended or the time is over."""
    progress = Progress()
    started = time.monotonic()
    view = _view(process) if show else None
    while True:
        process.refresh()
        _note(process, progress, evaluate, time.monotonic() - started)
        if view is not None:
            view(progress)
        if process.ended or (seconds is not None and time.monotonic() - started >= seconds):
            return progress
        time.sleep(every)


def _note(process: HostedProcess, progress: Progress, evaluate: Evaluate | None, elapsed: float) -> None:
    progress.state, progress.cycles = process.state, process.completed_cycles
    for number in range(len(progress.seconds) + 1, int(process.status["latest_checkpoint"]) + 1):
        progress.seconds[number] = elapsed
        if evaluate is not None:
            progress.metrics[number] = dict(evaluate(process.arrays(number)))


def _view(process: HostedProcess) -> Callable[[Progress], None]:
    if "ipykernel" in sys.modules:
        return _notebook_view(process)
    shown: list[str] = []

    def write(progress: Progress) -> None:
        line = _line(process, progress)
        if line not in shown[-1:]:
            shown.append(line)
            print(line)

    return write


def _line(process: HostedProcess, progress: Progress) -> str:
    cycle: Mapping[str, Any] = process.status.get("cycle") or {}
    reports = f", {cycle['reports']} reports in this one" if cycle else ""
    numbers = progress.metrics.get(len(progress.seconds), {})
    metrics = "".join(f", {name} {value:.4g}" for name, value in numbers.items())
    return (
        f"{process.name} {process.version}: {progress.state}, {progress.cycles} of {process.num_cycles or '∞'} cycles"
        f"{reports}{metrics}"
    )


def _notebook_view(process: HostedProcess) -> Callable[[Progress], None]:
    """Replaces the cell's output by the line, and the curves where there are any."""
    shown: Any = importlib.import_module("IPython.display")

    def draw(progress: Progress) -> None:
        shown.clear_output(wait=True)
        print(_line(process, progress))
        if progress.metrics:
            shown.display(draw_curves(progress))

    return draw


def draw_curves(progress: Progress) -> Any:
    """A matplotlib figure with one curve for each metric."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for values in progress.metrics.values() for name in values))
    figure = Figure(figsize=(5 * len(names), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axes.plot(*progress.curve(name), marker="o")
        axes.set_xlabel("checkpoint")
        axes.set_title(name)
        axes.grid(alpha=0.3)
    return figure
