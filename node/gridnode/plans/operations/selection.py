"""Some of the numbers."""

from __future__ import annotations

import numpy as np

from gridnode.plans.operations.promotion import as_tensor, promote_pair
from gridnode.plans.operations.types import Argument, Tensor


def where(condition: Argument, input: Argument, other: Argument) -> Tensor:
    first, second = promote_pair(input, other)
    return np.asarray(np.where(as_tensor(condition), first, second))


def masked_fill(input: Argument, mask: Tensor, value: Argument) -> Tensor:
    tensor = as_tensor(input)
    return np.where(mask, np.asarray(value, tensor.dtype), tensor)


def gather(input: Argument, dim: int, index: Tensor) -> Tensor:
    return np.take_along_axis(as_tensor(input), index, axis=dim)


def index_select(input: Argument, dim: int, index: Tensor) -> Tensor:
    return np.take(as_tensor(input), index, axis=dim)


def narrow(input: Argument, dim: int, start: int, length: int) -> Tensor:
    return np.take(as_tensor(input), np.arange(start, start + length), axis=dim)


def getitem(input: Argument, index: Argument) -> Tensor:
    return np.asarray(as_tensor(input)[index])


def sort(input: Argument, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    tensor = as_tensor(input)
    indices = np.argsort(tensor, axis=dim, kind="stable")
    if descending:
        indices = np.flip(indices, axis=dim)
    return np.take_along_axis(tensor, indices, axis=dim), indices


def topk(input: Argument, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    values, indices = sort(input, dim, descending=largest)
    return narrow(values, dim, 0, k), narrow(indices, dim, 0, k)


def one_hot(tensor: Argument, num_classes: int = -1) -> Tensor:
    labels = as_tensor(tensor)
    classes = int(labels.max()) + 1 if num_classes == -1 else num_classes
    return np.equal(labels[..., np.newaxis], np.arange(classes)).astype(np.int64)
