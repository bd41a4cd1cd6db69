"""``gridnode demo``: everything on this machine, from an empty database to a trained model and a picture."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gridnode.errors import InvalidRequest
from gridnode.simulation.demonstration import NAME, Demonstration, Plot, Result, check_rise
from gridnode.simulation.fleet import Fleet
from gridnode.simulation.local_node import LocalNode
from gridnode.simulation.report import accuracy_bar, check_picture, counts_line, draw_accuracy, live_view, watch

INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="Keep the database and the logs in this directory; else they are deleted at the end."),
    ] = None,
    picture: Annotated[Path, typer.Option(help="Where to write the picture of accuracy per cycle (PNG).")] = Path(
        "demo-accuracy.png"
    ),
    phones: Annotated[int, typer.Option(min=12, max=1000, help="Number of simulated phones.")] = 20,
    cycles: Annotated[int, typer.Option(min=1, max=100, help="Number of training cycles.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Same seed: same split of the data and same phones.")] = 0,
) -> None:
    """Train a real model over simulated phones on this machine, and draw its accuracy.

    Runs examples/gridnode.yaml as `gridnode up` does: a private PostgreSQL, two replicas of a node, and a master node.
    Hosts a neural network and trains it on handwritten digits, spread unevenly over the phones.
    Scores every checkpoint on digits that no phone has, and stops everything again.
    Takes less than a minute.

    Examples:

        gridnode demo

        gridnode demo --cycles 20 --phones 40 --picture accuracy.png

        gridnode demo --data ./demo-data
    """
    console = Console()
    check_picture(picture)
    plot = Plot(version=_version(data), phones=phones, cycles=cycles, seed=seed)
    interrupts = _Interrupts()
    try:
        with interrupts.raised(), _directory(data) as directory:
            result = _run(plot, directory, interrupts, console)
    except KeyboardInterrupt:
        console.print("Stopped; nothing is left running.")
        raise typer.Exit(INTERRUPTED) from None
    _show(result, picture, console)
    check_rise(result)
    _show_next_steps(result, data, console)


def _run(plot: Plot, directory: Path, interrupts: _Interrupts, console: Console) -> Result:
    with contextlib.ExitStack() as running:
        with _step(console, f"digits split over {plot.phones} phones"):
            demonstration = Demonstration(plot)
        console.print(_data_line(demonstration), style="dim", highlight=False)
        with _step(console, "PostgreSQL, two replicas of a node and a master node started"):
            node = LocalNode(directory)
            running.callback(node.stop)
            with interrupts.held():
                node.start()
            node.wait_until_ready()
        console.print(
            f"  by gridnode up -f examples/gridnode.yaml; phones talk to {node.device_url}",
            style="dim",
            highlight=False,
        )
        with _step(console, f"{NAME} {plot.version} hosted"):
            demonstration.host(node)
        with _step(console, f"{plot.cycles} cycles trained, progress 100 % received"):
            fleet = _train(demonstration, node, console)
            figures = demonstration.check_finished(fleet, node.percent)
        console.print(f"  {counts_line(figures)}", style="dim", highlight=False)
        with _step(console, "every checkpoint retrieved and scored on held-out digits"):
            result = demonstration.score(node, figures)
        # The node is stopped by leaving the block.
    console.print("[green]✓[/] everything stopped")
    return result


def _train(demonstration: Demonstration, node: LocalNode, console: Console) -> Fleet:
    fleet = demonstration.fleet(node.device_url)
    title = f"{demonstration.plot.phones} phones train {NAME}"
    fleet.start()
    watch(
        fleet,
        console,
        lambda figures: live_view(title, figures, cycles=demonstration.plot.cycles, progress=node.percent(NAME) / 100),
    )
    return fleet


def _data_line(demonstration: Demonstration) -> str:
    sizes = sorted(len(shard) for shard in demonstration.shards)
    return (
        f"  {sum(sizes)} digits to train on, {sizes[0]} to {sizes[-1]} a phone, few classes each "
        f"(Dirichlet, alpha {demonstration.plot.alpha}); {len(demonstration.dataset.held_out)} held out; "
        f"model 784-392-10, {demonstration.parameter_count:,} parameters"
    )


def _show(result: Result, picture: Path, console: Console) -> None:
    table = Table(title="Checkpoints on held-out digits", title_justify="left", title_style="bold")
    for name in ("cycle", "devices", "loss", "held-out accuracy", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("", no_wrap=True)
    for score in result.scores:
        training = score.training
        table.add_row(
            str(score.cycle) if score.cycle else "as hosted",
            str(training.reports) if training else "-",
            f"{score.evaluation.loss:.3f}",
            f"{score.evaluation.accuracy:.1%}",
            f"{training.seconds:.1f}" if training else "-",
            accuracy_bar(score.evaluation.accuracy),
        )
    console.print(table)
    draw_accuracy(
        picture,
        [score.cycle for score in result.scores],
        [score.evaluation.accuracy for score in result.scores],
        title="Accuracy of the averaged model",
        what="accuracy on held-out digits",
    )
    console.print(f"Picture: {picture}", highlight=False, soft_wrap=True)


def _show_next_steps(result: Result, data: Path | None, console: Console) -> None:
    figures = result.figures
    console.print(
        "\nShown: phones trained one model together, and no digit left its phone. "
        f"Half of them spoke HTTP, half WebSocket; {figures.outcomes.get('dropped', 0)} times one vanished after it "
        f"was accepted, {figures.duplicates} times one reported twice. Each report counted once.\n\n"
        "Next:\n"
        "  gridnode up -f examples/gridnode.yaml   a node of your own\n"
        "  gridnode host --help                    your own model on it\n"
        "  gridnode simulate --help                phones with your own data to train it",
        highlight=False,
        markup=False,
    )
    if data is not None:
        console.print(
            f"  gridnode up -f examples/gridnode.yaml --data {data}   the demo's node again, with its checkpoints",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _version(data: Path | None) -> str:
    """A kept database may hold earlier demos, and a version can be hosted once."""
    return "1.0" if data is None else f"1.0.{datetime.now():%Y%m%d%H%M%S}"


@contextlib.contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    start = time.monotonic()
    try:
        yield
    except BaseException:
        console.print(f"[red]✗[/] {what}: not done", highlight=False)
        raise
    console.print(f"[green]✓[/] {what} [dim]({time.monotonic() - start:.1f} s)[/]", highlight=False)


@contextlib.contextmanager
def _directory(data: Path | None) -> Iterator[Path]:
    if data is not None:
        try:
            data.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidRequest(f"the directory {data} can't be made: {error.strerror}") from None
        yield data
        return
    with tempfile.TemporaryDirectory(prefix="gridnode-demo-") as directory:
        yield Path(directory)


class _Interrupts:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt once; while everything is being stopped, more of them are ignored."""

    def __init__(self) -> None:
        self._held = False
        self._came = False

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """While the block runs; afterwards signals do what they did before."""
        before = {each: signal.signal(each, self._handle) for each in _SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Raise only when the block is over: for starting what can be stopped only once it has started."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._came:
            self._raise()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        if not self._held:
            self._raise()

    def _raise(self) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt
