"""What people see of a simulation: a live display, tables, JSON and a picture."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gridnode.errors import InvalidRequest
from gridnode.simulation.fleet import End, Fleet
from gridnode.simulation.phone import Outcome
from gridnode.simulation.tally import CycleFigures, Figures

_SHOWN_CYCLES = 12
_BAR_WIDTH = 16
_ERRORS_SHOWN = 3

_ENDS: dict[End, str] = {
    "finished": "the process is finished",
    "cycles": "the wanted number of cycles is over",
    "time": "the time limit is reached",
    "stopped": "stopped",
    "unreachable": "the node did not answer any more",
    "failed": "failed",
}


def watch(fleet: Fleet, console: Console, view: Callable[[Figures], RenderableType]) -> None:
    """Show a running fleet until it has ended; on a terminal live, elsewhere one line a cycle.

    Ctrl-C stops the fleet, gives its sessions a moment to end, and raises KeyboardInterrupt.
    """
    try:
        if console.is_terminal:
            with Live(view(fleet.tally.figures()), console=console, refresh_per_second=5, transient=True) as live:
                while not fleet.wait(0.2):
                    live.update(view(fleet.tally.figures()))
        else:
            _print_cycles(fleet, console)
    except BaseException:
        fleet.stop()
        fleet.wait(5.0)
        raise


def _print_cycles(fleet: Fleet, console: Console) -> None:
    printed = 0
    ended = False
    while not ended:
        ended = fleet.wait(0.2)
        cycles = fleet.tally.figures().cycles
        for cycle in cycles[printed : None if ended else -1]:
            console.print(
                f"cycle {cycle.number}: {cycle.reports} reports, training loss {_number(cycle.loss)}, "
                f"accuracy {_percent(cycle.accuracy)}, {_held_out(cycle)}{cycle.seconds:.1f} s",
                highlight=False,
            )
            printed += 1


def live_view(title: str, figures: Figures, *, cycles: int | None, progress: float | None = None) -> RenderableType:
    """The running simulation on one screen.

    Args:
        cycles: cycles until the end, if there is one.
        progress: between 0 and 1 where the caller knows better than the phones do.
    """
    head = Table.grid(padding=(0, 1))
    head.add_row(Text(title, style="bold"), Text(f"{figures.seconds:.0f} s", style="dim"))
    parts: list[RenderableType] = [head]
    done = progress if progress is not None else _share_done(figures, cycles)
    if done is not None:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=1.0, completed=done, width=50), f"{100 * done:.0f} %")
        parts.append(bar)
    parts.append(Text(counts_line(figures), style="cyan"))
    if figures.cycles:
        parts.append(cycles_table(figures.cycles[-_SHOWN_CYCLES:]))
    return Group(*parts)


def _share_done(figures: Figures, cycles: int | None) -> float | None:
    if cycles is None:
        return None
    return min(max(len(figures.cycles) - 1, 0) / cycles, 1.0)


def counts_line(figures: Figures) -> str:
    """The sessions' outcomes in one line; what did not happen is left out."""
    outcomes = figures.outcomes
    counts = {"accepted": figures.accepted, "reported": outcomes.get("reported", 0)}
    others: dict[str, Outcome] = {
        "rejected": "rejected",
        "vanished": "dropped",
        "too late": "refused",
        "no answer": "unreachable",
    }
    counts |= {text: outcomes[outcome] for text, outcome in others.items() if outcome in outcomes}
    shown = [f"{name} {count}" for name, count in counts.items()]
    return " · ".join([*shown, f"{_megabytes(figures.bytes_received)} down", f"{_megabytes(figures.bytes_sent)} up"])


def cycles_table(cycles: Sequence[CycleFigures]) -> Table:
    """One row a cycle: what phones reported of their training, and how its checkpoint did on held-out examples."""
    scored = any(cycle.held_out is not None for cycle in cycles)
    table = Table(title="Cycles, with loss and accuracy of local training", title_justify="left", title_style="bold")
    for name in (
        "cycle",
        "reports",
        "samples",
        "loss",
        "accuracy",
        *(("held-out",) if scored else ()),
        "MB",
        "seconds",
    ):
        table.add_column(name, justify="right")
    table.add_column("", no_wrap=True)
    for cycle in cycles:
        held_out = cycle.held_out
        table.add_row(
            str(cycle.number),
            str(cycle.reports),
            str(cycle.samples),
            _number(cycle.loss),
            _percent(cycle.accuracy),
            *((f"{_number(held_out.loss)}, {_percent(held_out.accuracy)}" if held_out else "-",) if scored else ()),
            f"{cycle.bytes / 1e6:.1f}",
            f"{cycle.seconds:.1f}",
            accuracy_bar(cycle.accuracy),
        )
    return table


def summary(figures: Figures, end: End | None) -> RenderableType:
    """Everything once it is over."""
    totals = Table(title="Sessions", title_justify="left", title_style="bold", show_header=False)
    totals.add_column()
    totals.add_column(justify="right")
    for name, value in _totals(figures):
        totals.add_row(name, value)
    parts: list[RenderableType] = [cycles_table(figures.cycles), totals]
    for message, count in list(figures.errors.items())[:_ERRORS_SHOWN]:
        parts.append(Text(f"{count} × {message}", style="yellow"))
    parts.append(Text(f"End: {_ENDS[end] if end else 'still running'}."))
    return Group(*parts)


def _totals(figures: Figures) -> list[tuple[str, str]]:
    outcomes = figures.outcomes
    return [
        ("accepted into a cycle", str(figures.accepted)),
        ("reported", str(outcomes.get("reported", 0))),
        ("reports sent twice", str(figures.duplicates)),
        ("vanished after being accepted", str(outcomes.get("dropped", 0))),
        ("refused after being accepted (mostly: cycle over)", str(outcomes.get("refused", 0))),
        ("rejected: ask again later", str(outcomes.get("rejected", 0))),
        ("no answer from the node", str(outcomes.get("unreachable", 0))),
        ("received", _megabytes(figures.bytes_received)),
        ("sent", _megabytes(figures.bytes_sent)),
        ("time", f"{figures.seconds:.1f} s"),
    ]


def as_json(figures: Figures, end: End | None) -> dict[str, Any]:
    """The figures as plain types, for ``--output json``."""
    return {"end": end, **asdict(figures), "cycles": [asdict(cycle) for cycle in figures.cycles]}


def accuracy_bar(accuracy: float | None) -> Text:
    """An accuracy between 0 and 1 as a bar for a table cell."""
    filled = round(_BAR_WIDTH * accuracy) if accuracy is not None else 0
    return Text("█" * filled, style="green") + Text("░" * (_BAR_WIDTH - filled), style="bright_black")


def check_picture(path: Path) -> None:
    """Find out before a long run whether its picture can be drawn at its end.

    Raises:
        InvalidRequest: matplotlib is not installed, or the file can't be written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidRequest("a picture needs matplotlib: pip install 'gridnode[demo]'")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InvalidRequest(f"the picture {path} can't be written: no such directory, or it is not yours to write.")


def draw_accuracy(path: Path, cycles: Sequence[int], accuracies: Sequence[float], *, title: str, what: str) -> None:
    """Write a picture (PNG) of accuracy per cycle.

    Args:
        cycles: position of each point; 0 is the model as it was hosted.
        accuracies: between 0 and 1, one for each cycle.
        what: which accuracy it is, for the axis label.

    Raises:
        InvalidRequest: the file can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    # No pyplot: it keeps global state and may look for a display.
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(cycles, accuracies, color="#1f6feb", linewidth=2, marker="o", markersize=6, clip_on=False, zorder=3)
    axes.fill_between(cycles, accuracies, color="#1f6feb", alpha=0.08)
    # Right of the first point and below the last, where a rising line is not.
    for position, offset in {0: (32, -4), len(cycles) - 1: (0, -20)}.items():
        axes.annotate(
            f"{accuracies[position]:.1%}",
            (cycles[position], accuracies[position]),
            xytext=offset,
            textcoords="offset points",
            ha="center",
            fontsize=11,
            fontweight="bold",
        )
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=12)
    axes.set_xlabel("completed cycles", fontsize=11)
    axes.set_ylabel(f"{what} (%)", fontsize=11)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#d0d7de", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise InvalidRequest(f"the picture {path} can't be written: {error.strerror}") from None


def _held_out(cycle: CycleFigures) -> str:
    return f"held-out {_percent(cycle.held_out.accuracy)} before it, " if cycle.held_out else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
