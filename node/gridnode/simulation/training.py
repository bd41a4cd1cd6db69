"""What a device does between download and report: some steps of the training plan on its own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gridnode.errors import InvalidRequest
from gridnode.plans.interpreter import OperationList
from gridnode.plans.plan import parse_plan
from gridnode.simulation.datasets import Examples

Tensor = NDArray[Any]
Tensors = tuple[Tensor, ...]


class UnusablePlan(InvalidRequest):
    """The plan does not have the signature of a training plan, or this data does not fit it."""


@dataclass(frozen=True, slots=True)
class Step:
    """Outputs of one call of a training plan: scores of the parameters that went in, and those after the step."""

    loss: float
    accuracy: float
    parameters: Tensors


@dataclass(frozen=True, slots=True)
class LocalUpdate:
    """What a device reports. ``num_samples`` counts the distinct examples it trained on."""

    diff: Tensors
    num_samples: int
    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """The part of ``client_config`` that steers local training."""

    batch_size: int
    lr: float
    max_updates: int

    @classmethod
    def from_answer(cls, client_config: Mapping[str, Any]) -> ClientConfig:
        """Read it from an accepted cycle request.

        Raises:
            UnusablePlan: a key is missing or no positive number.
        """
        values = {key: client_config.get(key) for key in ("batch_size", "lr", "max_updates")}
        for key, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise UnusablePlan(f"client_config.{key} is {value!r}; a device needs a number above 0.")
        return cls(int(values["batch_size"] or 0), float(values["lr"] or 0), int(values["max_updates"] or 0))


class Steps(Protocol):
    """What trains: a plan, compiled for some runtime."""

    def step(self, batch: Examples, lr: float, parameters: Sequence[Tensor]) -> Step:
        """Run the plan once; the batch's length is its ``batch_size``.

        Raises:
            UnusablePlan: other inputs or outputs than a training plan has.
        """


class TrainingPlan:
    """A plan of the signature ``(X, y, batch_size, lr, *params) → (loss, accuracy, *params)``, run with NumPy."""

    def __init__(self, operations: OperationList) -> None:
        self._operations = operations

    @classmethod
    def decode(cls, data: bytes) -> TrainingPlan:
        """Compile the op list of a serialized Plan (the variant ``list`` of get-plan)."""
        return cls(OperationList.from_plan(parse_plan(data)))

    def step(self, batch: Examples, lr: float, parameters: Sequence[Tensor]) -> Step:
        """See :meth:`Steps.step`."""
        if self._operations.input_count != 4 + len(parameters):
            raise UnusablePlan(
                f"the plan takes {self._operations.input_count} inputs, but a training plan for {len(parameters)} "
                f"parameters takes {4 + len(parameters)}: X, y, batch_size, lr and the parameters."
            )
        # Clients pass both as float32 tensors without dimensions.
        scalars = np.asarray(len(batch), dtype=np.float32), np.asarray(lr, dtype=np.float32)
        outputs = self._operations.run([batch.inputs, batch.targets, *scalars, *parameters])
        return read_outputs(outputs, len(parameters))


def read_outputs(outputs: Sequence[Tensor], parameters: int) -> Step:
    """What a training plan gave.

    Raises:
        UnusablePlan: it is not (loss, accuracy, *parameters).
    """
    if len(outputs) != 2 + parameters or outputs[0].size != 1 or outputs[1].size != 1:
        raise UnusablePlan("the plan's outputs are not (loss, accuracy, *parameters) with two numbers first.")
    return Step(float(outputs[0].item()), float(outputs[1].item()), tuple(outputs[2:]))


def train(
    plan: Steps, parameters: Sequence[Tensor], shard: Examples, config: ClientConfig, rng: np.random.Generator
) -> LocalUpdate:
    """Train ``max_updates`` steps and give the difference old - new.

    Every batch has exactly ``batch_size`` examples, because a plan may have been traced for that size only: the shard
    is shuffled and read again and again, so that a shard smaller than a batch appears in it more than once. Loss and
    accuracy are means over the steps.
    """
    batches = _batches(len(shard), config.batch_size, config.max_updates, rng)
    current: Sequence[Tensor] = parameters
    losses, accuracies = [], []
    for batch in batches:
        step = plan.step(shard.take(batch), config.lr, current)
        losses.append(step.loss)
        accuracies.append(step.accuracy)
        current = step.parameters
    return LocalUpdate(
        diff=tuple(np.subtract(old, new) for old, new in zip(parameters, current, strict=True)),
        num_samples=len(np.unique(np.concatenate(batches))),
        loss=float(np.mean(losses)),
        accuracy=float(np.mean(accuracies)),
    )


def _batches(examples: int, batch_size: int, count: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    rounds = -(-batch_size * count // examples)
    order = np.concatenate([rng.permutation(examples) for _ in range(rounds)])
    return list(order[: batch_size * count].reshape(count, batch_size))
