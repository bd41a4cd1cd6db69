"""A picture of a training: loss and accuracy by cycle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gridnode.errors import InvalidRequest
from gridnode.simulation.tally import CycleFigures

Line = tuple[Sequence[int], Sequence[float]]


def draw_training(path: Path, cycles: Sequence[CycleFigures], title: str) -> None:
    """Write a PNG with the loss beside the accuracy: as phones report them, and on held-out examples where known.

    Raises:
        InvalidRequest: the file can't be written.
    """
    reported = [cycle for cycle in cycles if cycle.loss is not None and cycle.accuracy is not None]
    scored = [(cycle.number, cycle.held_out) for cycle in cycles if cycle.held_out is not None]
    numbers, before = [cycle.number for cycle in reported], [number for number, _ in scored]
    draw_panels(
        path,
        title,
        {
            "loss": {
                "reported by phones": (numbers, [cycle.loss or 0.0 for cycle in reported]),
                "held-out, before the cycle": (before, [evaluation.loss for _, evaluation in scored]),
            },
            "accuracy": {
                "reported by phones": (numbers, [cycle.accuracy or 0.0 for cycle in reported]),
                "held-out, before the cycle": (before, [evaluation.accuracy for _, evaluation in scored]),
            },
        },
    )


def draw_panels(
    path: Path,
    title: str,
    panels: Mapping[str, Mapping[str, Line]],
    *,
    levels: Mapping[str, Mapping[str, float]] | None = None,
    limits: tuple[float, float] | None = None,
) -> None:
    """Write a PNG of panels side by side, each with its lines by name over cycles.

    Args:
        levels: for a panel, values by name that are drawn as dashed lines across it.
        limits: of the vertical axes; None: as the values are.

    Raises:
        InvalidRequest: the file can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # No pyplot: it keeps global state and may look for a display.
    figure = Figure(figsize=(5.5 * len(panels), 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13, fontweight="bold")
    for axes, (name, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for label, (numbers, values) in lines.items():
            if len(numbers):
                axes.plot(numbers, values, label=label, linewidth=2, marker="o" if len(numbers) < 40 else None)
        for label, level in (levels or {}).get(name, {}).items():
            axes.axhline(level, label=label, linestyle="--", linewidth=1.5, color="#57606a")
        axes.set_title(name, loc="left")
        axes.set_xlabel("cycle")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if limits is not None:
            axes.set_ylim(*limits)
        axes.grid(axis="y", color="#d0d7de", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise InvalidRequest(f"the picture {path} can't be written: {error.strerror}") from None
