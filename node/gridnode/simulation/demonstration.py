"""The demo's training: host a recorded model on a node, train it with phones, score every checkpoint."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from threadpoolctl import threadpool_limits

from gridnode.errors import GridNodeError
from gridnode.protocol.syft_proto import decode_state
from gridnode.simulation.datasets import DIGITS, Dataset, load_dataset
from gridnode.simulation.evaluation import Evaluation, evaluate_checkpoint
from gridnode.simulation.fleet import Fleet, Limits, Pace, Population, build_phones
from gridnode.simulation.local_node import LocalNode
from gridnode.simulation.partition import split_dirichlet
from gridnode.simulation.phone import TRAINING_PLAN, Target
from gridnode.simulation.tally import CycleFigures, Figures
from gridnode.simulation.training import TrainingPlan

NAME = "demo-mlp"
# Ten classes: guessing gives 10 %, and a lucky cycle can add some points to that.
LEAST_RISE = 0.2
_TIME_LIMIT = 150.0
_PROGRESS_TIMEOUT = 15.0


class DemonstrationFailed(GridNodeError):
    """The training did not show what it should; the message says what happened instead."""


@dataclass(frozen=True, slots=True)
class Plot:
    """Who trains what, and how.

    Local training of 20 steps at a rate of 0.1 reaches more than 90 % held-out accuracy in ten cycles on this split.
    """

    version: str = "1.0"
    phones: int = 20
    cycles: int = 10
    diffs: int = 10
    alpha: float = 0.5
    batch_size: int = 20
    lr: float = 0.1
    max_updates: int = 20
    seed: int = 0
    population: Population = field(
        default_factory=lambda: Population(transport="mixed", dropout=0.05, duplicate_report=0.05, slow_fraction=0.1)
    )

    @property
    def client_config(self) -> dict[str, Any]:
        """What the phones are told."""
        return {
            "name": NAME,
            "version": self.version,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "max_updates": self.max_updates,
        }

    @property
    def server_config(self) -> dict[str, Any]:
        """What the node is told: a cycle ends with ``diffs`` reports, and phones that vanish don't hold it up."""
        return {
            "max_workers": min(self.phones, round(1.4 * self.diffs)),
            "min_diffs": max(1, round(0.8 * self.diffs)),
            "max_diffs": self.diffs,
            "num_cycles": self.cycles,
            "cycle_length": 20,
            "assignment_lease": 5,
            # A phone may take part in the very next cycle.
            "do_not_reuse_workers_until_cycle": 1,
            "aggregation": {"strategy": "weighted_mean"},
        }


@dataclass(frozen=True, slots=True)
class Score:
    """A checkpoint on held-out data. ``cycle`` 0 is the model as hosted; ``training`` is the cycle that made it."""

    cycle: int
    evaluation: Evaluation
    training: CycleFigures | None


@dataclass(frozen=True, slots=True)
class Result:
    """What the demo shows."""

    scores: Sequence[Score]
    figures: Figures

    @property
    def rise(self) -> float:
        """Held-out accuracy at the end minus at the start."""
        return self.scores[-1].evaluation.accuracy - self.scores[0].evaluation.accuracy


class Demonstration:
    """One training with its data; the steps are to be taken in the order of the methods."""

    def __init__(self, plot: Plot) -> None:
        self.plot = plot
        self.dataset: Dataset = load_dataset(DIGITS, plot.seed)
        parts = split_dirichlet(self.dataset.training.labels, plot.phones, plot.alpha, plot.seed)
        self.shards = [self.dataset.training.take(part) for part in parts]
        self._model = _asset("mlp.state.bin")
        self._plan = _asset("mlp.training_plan.bin")

    @property
    def parameter_count(self) -> int:
        """Numbers in the model."""
        return sum(tensor.size for tensor in decode_state(self._model).tensors)

    def host(self, node: LocalNode) -> None:
        """Host the model as a new process."""
        node.host(
            model=self._model,
            plans={TRAINING_PLAN: self._plan},
            client_config=self.plot.client_config,
            server_config=self.plot.server_config,
        )

    def fleet(self, device_url: str) -> Fleet:
        """The phones, not yet started."""
        plot = self.plot
        phones = build_phones(device_url, Target(NAME, plot.version), self.shards, plot.population, plot.seed)
        # A phone that wakes up after most of a cycle finds a place in the next one; earlier it would be sent away for
        # longer. More than four at a time don't train faster on two cores, they only come too late for the cycle.
        pace = Pace(after_report=2.0, after_dropout=3.0)
        return Fleet(phones, seed=plot.seed, concurrency=4, limits=Limits(seconds=_TIME_LIMIT), pace=pace)

    def check_finished(self, fleet: Fleet, percent: Callable[[str], int]) -> Figures:
        """The figures of a fleet that trained to the end.

        Args:
            fleet: It has ended.
            percent: Progress of a model as the master node knows it.

        Raises:
            DemonstrationFailed: it did not, or the master node was not told so.
        """
        figures = fleet.result()
        if fleet.end != "finished":
            raise DemonstrationFailed(
                f"the training ended before the process was finished ({fleet.end}): {len(figures.cycles)} of "
                f"{self.plot.cycles} cycles in {figures.seconds:.0f} s. {_first_error(figures)}"
            )
        deadline = time.monotonic() + _PROGRESS_TIMEOUT
        while (known := percent(NAME)) < 100:
            if time.monotonic() > deadline:
                raise DemonstrationFailed(f"the process is finished, but the master node heard only of {known} %.")
            time.sleep(0.05)
        return figures

    def score(self, node: LocalNode, figures: Figures) -> Result:
        """Retrieve every checkpoint and evaluate it on digits that no phone has seen."""
        plan = TrainingPlan.decode(self._plan)
        by_checkpoint = {cycle.checkpoint: cycle for cycle in figures.cycles}
        scores: list[Score] = []
        training = None
        # On a busy machine BLAS threads wait for each other ten times longer than they compute.
        with threadpool_limits(1, user_api="blas"):
            for cycle in range(self.plot.cycles + 1):
                checkpoint = node.checkpoint(NAME, self.plot.version, cycle + 1)
                scores.append(Score(cycle, evaluate_checkpoint(plan, checkpoint, self.dataset.held_out), training))
                # Phones of a cycle train from the checkpoint that the cycle before made.
                training = by_checkpoint.get(hashlib.sha256(checkpoint).hexdigest())
        return Result(scores, figures)


def check_rise(result: Result) -> None:
    """Raise DemonstrationFailed unless the accuracy rose clearly."""
    if result.rise < LEAST_RISE:
        first, last = (result.scores[position].evaluation.accuracy for position in (0, -1))
        raise DemonstrationFailed(
            f"the held-out accuracy did not rise: {first:.1%} as hosted, {last:.1%} after the last cycle."
        )


def _asset(name: str) -> bytes:
    return (resources.files("gridnode.simulation") / "assets" / name).read_bytes()


def _first_error(figures: Figures) -> str:
    return f"Most often: {next(iter(figures.errors))}" if figures.errors else ""
