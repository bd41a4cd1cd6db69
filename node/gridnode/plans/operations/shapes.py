"""The same numbers in another shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gridnode.plans.operations.promotion import as_tensor, promote
from gridnode.plans.operations.types import Argument, Tensor


def read_sizes(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes given one by one or as one sequence."""
    if len(sizes) == 1 and isinstance(sizes[0], list | tuple):
        sizes = tuple(sizes[0])
    return tuple(int(size) for size in sizes)


def t(input: Argument) -> Tensor:
    tensor = as_tensor(input)
    if tensor.ndim > 2:
        raise ValueError(f"t expects at most 2 dimensions, the tensor has {tensor.ndim}")
    return tensor.T


def reshape(input: Argument, *shape: Argument) -> Tensor:
    return np.reshape(as_tensor(input), read_sizes(shape))


def reshape_as(input: Argument, other: Tensor) -> Tensor:
    return np.reshape(as_tensor(input), other.shape)


def permute(input: Argument, *dims: Argument) -> Tensor:
    return np.transpose(as_tensor(input), read_sizes(dims))


def transpose(input: Argument, dim0: int, dim1: int) -> Tensor:
    return np.swapaxes(as_tensor(input), dim0, dim1)


def flatten(input: Argument, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    tensor = as_tensor(input)
    if tensor.ndim == 0:
        return tensor.reshape(1)
    start, end = range(tensor.ndim)[start_dim], range(tensor.ndim)[end_dim]
    return tensor.reshape(*tensor.shape[:start], math.prod(tensor.shape[start : end + 1]), *tensor.shape[end + 1 :])


def squeeze(input: Argument, dim: int | None = None) -> Tensor:
    tensor = as_tensor(input)
    if dim is None:
        return np.squeeze(tensor)
    return np.squeeze(tensor, dim) if tensor.shape[dim] == 1 else tensor


def unsqueeze(input: Argument, dim: int) -> Tensor:
    return np.expand_dims(as_tensor(input), dim)


def expand(input: Argument, *sizes: Argument) -> Tensor:
    tensor, wanted = as_tensor(input), read_sizes(sizes)
    padded = (1,) * (len(wanted) - tensor.ndim) + tensor.shape
    return np.broadcast_to(tensor, tuple(own if size == -1 else size for own, size in zip(padded, wanted, strict=True)))


def expand_as(input: Argument, other: Tensor) -> Tensor:
    return np.broadcast_to(as_tensor(input), other.shape)


def repeat(input: Argument, *sizes: Argument) -> Tensor:
    tensor, times = as_tensor(input), read_sizes(sizes)
    if len(times) < tensor.ndim:
        raise ValueError(f"repeat needs a number for each of the {tensor.ndim} dimensions")
    return np.tile(tensor, times)


def cat(tensors: Sequence[Any], dim: int = 0) -> Tensor:
    return np.concatenate(promote(tensors), axis=dim)


def stack(tensors: Sequence[Any], dim: int = 0) -> Tensor:
    return np.stack(promote(tensors), axis=dim)


def split(tensor: Argument, split_size: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    length = as_tensor(tensor).shape[dim]
    if isinstance(split_size, int):
        cuts = list(range(split_size, length, split_size))
    else:
        if sum(split_size) != length:
            raise ValueError(f"split sizes sum to {sum(split_size)}, the dimension has {length}")
        cuts = [sum(split_size[: index + 1]) for index in range(len(split_size) - 1)]
    return tuple(np.split(as_tensor(tensor), cuts, axis=dim))


def chunk(input: Argument, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    return split(input, max(1, -(-as_tensor(input).shape[dim] // chunks)), dim)
