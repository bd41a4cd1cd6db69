"""Loss and accuracy of a checkpoint on held-out data, for any training plan.

A training plan computes loss and accuracy of the parameters it is given before it changes them, so one step with a
learning rate of 0 is an evaluation; no second plan is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gridnode.errors import GridNodeError
from gridnode.protocol.syft_proto import decode_state
from gridnode.simulation.datasets import Examples
from gridnode.simulation.training import Steps, Tensor

BATCH_SIZE = 256
# Enough to know an accuracy to a percent; phones wait for it.
_MOST_SCORED = 2000


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Means over the examples; ``accuracy`` lies between 0 and 1."""

    loss: float
    accuracy: float
    examples: int


def evaluate_checkpoint(plan: Steps, checkpoint: bytes, held_out: Examples, batch_size: int = BATCH_SIZE) -> Evaluation:
    """Evaluate a serialized State, as ``retrieve-model`` and ``get-model`` give it."""
    return evaluate(plan, decode_state(checkpoint).tensors, held_out, batch_size)


def evaluate(plan: Steps, parameters: Sequence[Tensor], held_out: Examples, batch_size: int = BATCH_SIZE) -> Evaluation:
    """Score parameters on all held-out examples, in batches of at most ``batch_size`` (the last may be smaller)."""
    loss = accuracy = 0.0
    for start in range(0, len(held_out), batch_size):
        batch = held_out.take(np.arange(start, min(start + batch_size, len(held_out))))
        step = plan.step(batch, 0.0, parameters)
        loss += step.loss * len(batch)
        accuracy += step.accuracy * len(batch)
    return Evaluation(loss / len(held_out), accuracy / len(held_out), len(held_out))


class Scoreboard:
    """Scores each checkpoint once, on held-out examples. Thread-safe."""

    def __init__(self, held_out: Examples) -> None:
        self._held_out = held_out.take(np.arange(min(len(held_out), _MOST_SCORED)))
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def score(self, checkpoint: str, plan: Steps, parameters: Sequence[Tensor], batch_size: int) -> Evaluation | None:
        """Its scores; None if it had been scored before, or the plan can't score these examples.

        Args:
            checkpoint: identifies the parameters.
            batch_size: rows at a time, since a plan may have been traced for so many only; what is left is not scored.
        """
        with self._lock:
            if checkpoint in self._seen:
                return None
            self._seen.add(checkpoint)
        rows = len(self._held_out) // batch_size * batch_size
        if rows == 0:
            return None
        try:
            return evaluate(plan, parameters, self._held_out.take(np.arange(rows)), batch_size)
        except GridNodeError:
            # The phone's own training says what is wrong.
            return None
