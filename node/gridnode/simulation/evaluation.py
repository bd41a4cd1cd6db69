"""Loss and accuracy of a checkpoint on held-out data, for any training plan.

A training plan computes loss and accuracy of the parameters it is given before it changes them, so one step with a
learning rate of 0 is an evaluation; no second plan is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gridnode.protocol.syft_proto import decode_state
from gridnode.simulation.datasets import Examples
from gridnode.simulation.training import Tensor, TrainingPlan

BATCH_SIZE = 256


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Means over the examples; ``accuracy`` lies between 0 and 1."""

    loss: float
    accuracy: float
    examples: int


def evaluate_checkpoint(
    plan: TrainingPlan, checkpoint: bytes, held_out: Examples, batch_size: int = BATCH_SIZE
) -> Evaluation:
    """Evaluate a serialized State, as ``retrieve-model`` and ``get-model`` give it."""
    return evaluate(plan, decode_state(checkpoint).tensors, held_out, batch_size)


def evaluate(
    plan: TrainingPlan, parameters: Sequence[Tensor], held_out: Examples, batch_size: int = BATCH_SIZE
) -> Evaluation:
    """Score parameters on all held-out examples, in batches of at most ``batch_size`` (the last may be smaller)."""
    loss = accuracy = 0.0
    for start in range(0, len(held_out), batch_size):
        batch = held_out.take(np.arange(start, min(start + batch_size, len(held_out))))
        step = plan.step(batch, 0.0, parameters)
        loss += step.loss * len(batch)
        accuracy += step.accuracy * len(batch)
    return Evaluation(loss / len(held_out), accuracy / len(held_out), len(held_out))
