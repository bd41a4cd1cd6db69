"""The demo's model, and the same training step written out by hand to compare with."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnode.protocol.syft_proto import decode_state
from gridnode.simulation.datasets import Examples
from gridnode.simulation.training import TrainingPlan

Parameters = tuple[NDArray[Any], ...]


def asset(name: str) -> bytes:
    """A file that the demo hosts."""
    return (resources.files("gridnode.simulation") / "assets" / name).read_bytes()


def recorded_plan() -> TrainingPlan:
    """The recorded training plan, compiled."""
    return TrainingPlan.decode(asset("mlp.training_plan.bin"))


def recorded_parameters() -> Parameters:
    """The recorded initial parameters."""
    return decode_state(asset("mlp.state.bin")).tensors


def some_digits(examples: int, seed: int = 0) -> Examples:
    """Random numbers in the shape of digits."""
    rng = np.random.default_rng(seed)
    inputs = rng.random((examples, 784), dtype=np.float32)
    return Examples(inputs, np.eye(10, dtype=np.float32)[rng.integers(10, size=examples)])


def score_by_hand(parameters: Parameters, batch: Examples) -> tuple[float, float]:
    """Mean cross-entropy and accuracy in double precision."""
    log_probabilities, _ = _forward(parameters, batch)
    loss = -(batch.targets * log_probabilities).sum(axis=1).mean()
    accuracy = (log_probabilities.argmax(axis=1) == batch.targets.argmax(axis=1)).mean()
    return float(loss), float(accuracy)


def step_by_hand(parameters: Parameters, batch: Examples, lr: float) -> Parameters:
    """One step of gradient descent in double precision."""
    first, _, second, _ = (np.asarray(each, dtype=np.float64) for each in parameters)
    log_probabilities, hidden = _forward(parameters, batch)
    error = (np.exp(log_probabilities) - batch.targets) / len(batch)
    hidden_error = (error @ second) * (hidden > 0)
    gradients = hidden_error.T @ batch.inputs, hidden_error.sum(axis=0), error.T @ hidden, error.sum(axis=0)
    assert first.shape == gradients[0].shape
    return tuple(old - lr * gradient for old, gradient in zip(parameters, gradients, strict=True))


def _forward(parameters: Parameters, batch: Examples) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    weights, bias, out_weights, out_bias = (np.asarray(each, dtype=np.float64) for each in parameters)
    hidden = np.maximum(batch.inputs @ weights.T + bias, 0)
    scores = hidden @ out_weights.T + out_bias
    log_probabilities = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return log_probabilities, hidden
