"""``gridnode simulate``: phones that train a hosted model against any node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from gridnode.simulation.availability import Availability
from gridnode.simulation.datasets import Examples, load_dataset
from gridnode.simulation.errors import InvalidDataset
from gridnode.simulation.fleet import Fleet, Limits, Pace, Population, build_phones
from gridnode.simulation.partition import Split, split_examples
from gridnode.simulation.phone import Target
from gridnode.simulation.pictures import draw_training
from gridnode.simulation.report import as_json, check_picture, live_view, summary, watch
from gridnode.simulation.tally import Figures

INTERRUPTED = 130


def simulate(
    model: Annotated[str, typer.Option(help="Name of the hosted process to train.")],
    url: Annotated[str, typer.Option(help="Device address of the node.")] = "http://127.0.0.1:5000",
    version: Annotated[str | None, typer.Option(help="Version of the process; the newest if not given.")] = None,
    phones: Annotated[int, typer.Option(min=1, help="Number of phones; each has its own part of the data.")] = 20,
    data: Annotated[
        str,
        typer.Option(
            help="'digits' (28 x 28, for models that take 784 inputs), 'digits-8x8', 'breast-cancer', 'housing', "
            "a .npz file with X and y, or module:function that returns them."
        ),
    ] = "digits",
    split: Annotated[
        Split,
        typer.Option(
            help="How the data is split over the phones: evenly, by size, by label skew, or by the data's own owners."
        ),
    ] = "dirichlet",
    alpha: Annotated[
        float, typer.Option(help="Label skew of --split dirichlet: 0.1 is strong, 100 is almost none.")
    ] = 0.5,
    dropout: Annotated[
        float, typer.Option(min=0, max=1, help="Probability that an accepted phone vanishes without a report.")
    ] = 0.0,
    duplicates: Annotated[
        float, typer.Option(min=0, max=1, help="Probability that a phone sends its report a second time.")
    ] = 0.0,
    slow_fraction: Annotated[float, typer.Option(min=0, max=1, help="Fraction of the phones that are slow.")] = 0.0,
    slow_factor: Annotated[float, typer.Option(min=1, help="How many times longer slow phones train.")] = 5.0,
    speed_spread: Annotated[
        float, typer.Option(min=0, help="How unequally fast all phones are; 1: one in twenty trains 7 times as long.")
    ] = 0.0,
    availability: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the day that a phone is there; each begins at its own time.")
    ] = 1.0,
    day: Annotated[float, typer.Option(min=0, help="Seconds of a simulated day.")] = 60.0,
    runtime: Annotated[
        Literal["numpy", "torchscript"],
        typer.Option(help="What trains: the op list in NumPy, or what apps run, which needs the extra torch."),
    ] = "numpy",
    transport: Annotated[
        Literal["http", "ws", "mixed"], typer.Option(help="HTTP, WebSocket, or half of the phones each.")
    ] = "http",
    cycles: Annotated[
        int | None, typer.Option(min=1, help="Stop when so many cycles are over; else when the process is finished.")
    ] = None,
    time_limit: Annotated[float | None, typer.Option(min=0, help="Stop after so many seconds.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Phones that are awake at the same time.")] = 8,
    pause: Annotated[float, typer.Option(min=0, help="Seconds a phone sleeps after its report.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Same seed: same split, phones and behaviour.")] = 0,
    auth_token: Annotated[str | None, typer.Option(help="Token (JWT) for processes that ask for one.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Write loss and accuracy by cycle as a picture to this PNG file.")
    ] = None,
    output: Annotated[Literal["text", "json"], typer.Option(help="Form of the result on standard output.")] = "text",
) -> None:
    """Train a hosted model with simulated phones that really train, on real data.

    The phones know the node by its wire contract only, so it can be any node.
    They stop when the process is finished, at --cycles, at --time-limit or with Ctrl-C.
    A fifth of the data is held out, and each cycle's checkpoint is scored on it.

    Examples:

        gridnode simulate --model mnist --phones 50

        gridnode simulate --model mnist --transport mixed --dropout 0.1 --slow-fraction 0.2

        gridnode simulate --model mnist --phones 1000 --availability 0.3 --speed-spread 0.7 --picture mnist.png

        gridnode simulate --model prices --data housing --split unequal

        gridnode simulate --url https://node.example.org --model steps --data steps.npz --runtime torchscript

        gridnode simulate --model mnist --cycles 5 --output json > result.json
    """
    console = Console(stderr=output == "json")
    if picture is not None:
        check_picture(picture)
    dataset = load_dataset(data, seed)
    shards = _shards(dataset.training, split, phones, alpha, seed)
    population = Population(
        transport=transport,
        dropout=dropout,
        duplicate_report=duplicates,
        slow_fraction=slow_fraction,
        slow_factor=slow_factor,
        speed_spread=speed_spread,
    )
    target = Target(model, version, auth_token)
    fleet = Fleet(
        build_phones(url, target, shards, population, seed, runtime=runtime, held_out=dataset.held_out),
        seed=seed,
        concurrency=concurrency,
        limits=Limits(cycles=cycles, seconds=time_limit),
        pace=Pace(after_report=pause),
        availability=None if availability == 1 else Availability(availability, day, phones, seed),
    )
    interrupted = _run(fleet, console, f"{phones} phones train {model}", cycles)
    figures = fleet.result()
    _show(figures, fleet, output, console)
    if picture is not None:
        draw_training(picture, figures.cycles, f"{model}, trained by {phones} phones")
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if fleet.end == "unreachable":
        raise typer.Exit(1)


def _shards(examples: Examples, split: Split, phones: int, alpha: float, seed: int) -> list[Examples]:
    # Labels and owners are asked for only where the split needs them: other targets need not be classes.
    if split == "owner":
        if examples.owners is None:
            raise InvalidDataset("the data don't say whose they are; --split owner needs a third array, owner.")
        groups = examples.owners
    else:
        groups = examples.labels if split == "dirichlet" else examples.positions
    return [examples.take(part) for part in split_examples(split, groups, phones, alpha=alpha, seed=seed)]


def _run(fleet: Fleet, console: Console, title: str, cycles: int | None) -> bool:
    """Run the fleet with its display; True if Ctrl-C ended it."""
    fleet.start()
    try:
        watch(fleet, console, lambda figures: live_view(title, figures, cycles=cycles))
    except KeyboardInterrupt:
        return True
    return False


def _show(figures: Figures, fleet: Fleet, output: str, console: Console) -> None:
    if output == "json":
        typer.echo(json.dumps(as_json(figures, fleet.end), indent=2))
    else:
        console.print(summary(figures, fleet.end))
