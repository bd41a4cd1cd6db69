"""Losses and what counts as a right answer, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from gridnode.sdk.errors import PlanNotBuilt

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``(outputs, y) → loss``, one number: the mean over the rows."""
Metric: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``(outputs, y) → number``; phones report it as accuracy."""


def cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    """Softmax cross-entropy; ``y`` is one-hot (or shares), or holds class numbers."""
    return functional.cross_entropy(outputs, y.to(outputs.dtype) if y.dim() == outputs.dim() else y)


def bce_with_logits(outputs: Tensor, y: Tensor) -> Tensor:
    """Binary cross-entropy of scores before the sigmoid."""
    # Equal to PyTorch's own, whose parts TensorFlow.js has not.
    return ((1 - y.to(outputs.dtype)) * outputs - functional.logsigmoid(outputs)).mean()


def mse(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean squared error."""
    return functional.mse_loss(outputs, y)


def huber(outputs: Tensor, y: Tensor) -> Tensor:
    """Huber loss, quadratic up to an error of 1."""
    return functional.huber_loss(outputs, y)


def accuracy(outputs: Tensor, y: Tensor) -> Tensor:
    """Share of the rows whose highest score is that of the right class."""
    labels = y.argmax(1) if y.dim() == outputs.dim() else y
    return (outputs.argmax(1) == labels).to(torch.float32).mean()


def binary_accuracy(outputs: Tensor, y: Tensor) -> Tensor:
    """Share of scores on the right side of 0."""
    return ((outputs > 0) == (y > 0.5)).to(torch.float32).mean()


def no_metric(outputs: Tensor, y: Tensor) -> Tensor:
    """0: there are no right answers in a regression."""
    return torch.zeros(())


LOSSES: Final[dict[str, tuple[Loss, Metric]]] = {
    "bce_with_logits": (bce_with_logits, binary_accuracy),
    "cross_entropy": (cross_entropy, accuracy),
    "huber": (huber, no_metric),
    "mse": (mse, no_metric),
}


def choose(loss: str | Loss, metric: Metric | None) -> tuple[Loss, Metric]:
    """The functions for what an author chose.

    Raises:
        PlanNotBuilt: there is no loss of this name.
    """
    if callable(loss):
        return loss, metric or no_metric
    if loss not in LOSSES:
        raise PlanNotBuilt(f"there is no loss {loss!r}: choose {', '.join(LOSSES)}, or give a function (outputs, y).")
    chosen, usual = LOSSES[loss]
    return chosen, metric or usual
