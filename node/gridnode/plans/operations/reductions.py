"""What makes fewer numbers of many."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gridnode.plans.operations.dtypes import dtype_named
from gridnode.plans.operations.promotion import as_tensor, floating, is_tensor, promote_pair
from gridnode.plans.operations.types import Argument, Dim, Operation, Tensor


def _axis(dim: Dim) -> int | tuple[int, ...] | None:
    if dim is None or isinstance(dim, int):
        return dim
    return tuple(dim) or None


def accumulating(function: Callable[..., Tensor]) -> Operation:
    def operation(input: Argument, dim: Dim = None, keepdim: bool = False, dtype: str | None = None) -> Tensor:
        tensor = as_tensor(input)
        into = (
            dtype_named(dtype)
            if dtype is not None
            else tensor.dtype
            if tensor.dtype.kind == "f"
            else np.dtype(np.int64)
        )
        return function(tensor, axis=_axis(dim), keepdims=keepdim, dtype=into)

    return operation


def mean(input: Argument, dim: Dim = None, keepdim: bool = False, dtype: str | None = None) -> Tensor:
    tensor = floating(input) if dtype is None else as_tensor(input).astype(dtype_named(dtype))
    return np.asarray(tensor.mean(axis=_axis(dim), keepdims=keepdim))


def variance(input: Argument, dim: Argument = None, unbiased: bool = True, keepdim: bool = False) -> Tensor:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    return np.asarray(floating(input).var(axis=_axis(dim), ddof=int(unbiased), keepdims=keepdim))


def standard_deviation(input: Argument, dim: Argument = None, unbiased: bool = True, keepdim: bool = False) -> Tensor:
    return np.sqrt(variance(input, dim, unbiased, keepdim))


def extreme(
    reduce: Callable[..., Tensor], position: Callable[..., Tensor], pick: Callable[[Any, Any], Tensor]
) -> Operation:
    def operation(
        input: Argument, other: Argument = None, keepdim: bool = False, *, dim: int | None = None
    ) -> Argument:
        tensor = as_tensor(input)
        if is_tensor(other):
            return pick(*promote_pair(tensor, other))
        axis = dim if other is None else other
        if axis is None:
            return reduce(tensor)
        indices = position(tensor, axis=axis, keepdims=True)
        values = np.take_along_axis(tensor, indices, axis=axis)
        return (values, indices) if keepdim else (np.squeeze(values, axis), np.squeeze(indices, axis))

    return operation


def position(function: Callable[..., Tensor]) -> Operation:
    def operation(input: Argument, dim: int | None = None, keepdim: bool = False) -> Tensor:
        return np.asarray(function(as_tensor(input), axis=dim, keepdims=keepdim))

    return operation


def truth(function: Callable[..., Tensor]) -> Operation:
    def operation(input: Argument, dim: Dim = None, keepdim: bool = False) -> Tensor:
        return np.asarray(function(as_tensor(input), axis=_axis(dim), keepdims=keepdim))

    return operation


def norm(input: Argument, p: float | str = "fro", dim: Dim = None, keepdim: bool = False) -> Tensor:
    magnitudes = np.abs(floating(input))
    order = 2.0 if p == "fro" else float(p)
    axis = _axis(dim)
    if order == 2:
        return np.asarray(np.sqrt(np.square(magnitudes).sum(axis=axis, keepdims=keepdim)))
    if math.isinf(order):
        return np.asarray((magnitudes.max if order > 0 else magnitudes.min)(axis=axis, keepdims=keepdim))
    if order == 0:
        return np.asarray((magnitudes != 0).sum(axis=axis, keepdims=keepdim).astype(magnitudes.dtype))
    return np.asarray(np.power(np.power(magnitudes, order).sum(axis=axis, keepdims=keepdim), 1 / order))


def logsumexp(input: Argument, dim: Dim, keepdim: bool = False) -> Tensor:
    tensor, axis = floating(input), _axis(dim)
    highest = tensor.max(axis=axis, keepdims=True)
    highest = np.where(np.isfinite(highest), highest, 0).astype(tensor.dtype)
    total: Tensor = np.log(np.exp(tensor - highest).sum(axis=axis, keepdims=True)) + highest
    return total if keepdim else np.squeeze(total, axis)


def cumsum(input: Argument, dim: int, dtype: str | None = None) -> Tensor:
    tensor = as_tensor(input)
    into = dtype_named(dtype) if dtype is not None else tensor.dtype if tensor.dtype.kind == "f" else np.dtype(np.int64)
    return np.cumsum(tensor, axis=dim, dtype=into)
