"""``gridnode simulate``: phones that train a hosted model against any node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from gridnode.simulation.datasets import load_dataset
from gridnode.simulation.fleet import Fleet, Limits, Pace, Population, build_phones
from gridnode.simulation.partition import Split, split_examples
from gridnode.simulation.phone import Target
from gridnode.simulation.report import as_json, check_picture, draw_accuracy, live_view, summary, watch
from gridnode.simulation.tally import Figures

INTERRUPTED = 130


def simulate(
    model: Annotated[str, typer.Option(help="Name of the hosted process to train.")],
    url: Annotated[str, typer.Option(help="Device address of the node.")] = "http://127.0.0.1:5000",
    version: Annotated[str | None, typer.Option(help="Version of the process; the newest if not given.")] = None,
    phones: Annotated[int, typer.Option(min=1, help="Number of phones; each has its own part of the data.")] = 20,
    dataset: Annotated[
        str, typer.Option(help="'digits' (28 x 28, for models that take 784 inputs), or a .npz file with X and y.")
    ] = "digits",
    split: Annotated[
        Split, typer.Option(help="How the data is split over the phones: by label skew, by size, or evenly.")
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
        Path | None, typer.Option(help="Write the accuracy that phones report as a picture to this PNG file.")
    ] = None,
    output: Annotated[Literal["text", "json"], typer.Option(help="Form of the result on standard output.")] = "text",
) -> None:
    """Train a hosted model with simulated phones that really train, on real data.

    The phones know the node by its wire contract only, so it can be any node.
    They stop when the process is finished, at --cycles, at --time-limit or with Ctrl-C.

    Examples:

        gridnode simulate --model mnist --phones 50

        gridnode simulate --model mnist --transport mixed --dropout 0.1 --slow-fraction 0.2

        gridnode simulate --url https://node.example.org --model steps --dataset steps.npz

        gridnode simulate --model mnist --cycles 5 --output json > result.json
    """
    console = Console(stderr=output == "json")
    if picture is not None:
        check_picture(picture)
    examples = load_dataset(dataset, seed).training
    # Labels are asked for only where the split needs them: other targets need not be classes.
    labels = examples.labels if split == "dirichlet" else examples.positions
    shards = [examples.take(part) for part in split_examples(split, labels, phones, alpha=alpha, seed=seed)]
    population = Population(
        transport=transport,
        dropout=dropout,
        duplicate_report=duplicates,
        slow_fraction=slow_fraction,
        slow_factor=slow_factor,
    )
    fleet = Fleet(
        build_phones(url, Target(model, version, auth_token), shards, population, seed),
        seed=seed,
        concurrency=concurrency,
        limits=Limits(cycles=cycles, seconds=time_limit),
        pace=Pace(after_report=pause),
    )
    interrupted = _run(fleet, console, f"{phones} phones train {model}", cycles)
    figures = fleet.result()
    _show(figures, fleet, output, console)
    if picture is not None:
        _draw(picture, figures, model)
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if fleet.end == "unreachable":
        raise typer.Exit(1)


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


def _draw(path: Path, figures: Figures, model: str) -> None:
    points = [(cycle.number, cycle.accuracy) for cycle in figures.cycles if cycle.accuracy is not None]
    if points:
        numbers, accuracies = zip(*points, strict=True)
        draw_accuracy(path, numbers, accuracies, title=f"{model}: local training", what="accuracy reported by phones")
