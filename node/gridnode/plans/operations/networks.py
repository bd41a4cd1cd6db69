"""Activations and losses."""

from __future__ import annotations

import numpy as np

from gridnode.plans.operations.arithmetic import sub
from gridnode.plans.operations.dtypes import dtype_named
from gridnode.plans.operations.promotion import as_tensor, floating
from gridnode.plans.operations.types import Argument, Tensor


def relu(input: Argument, inplace: bool = False) -> Tensor:
    return np.maximum(as_tensor(input), 0)


def leaky_relu(input: Argument, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    tensor = floating(input)
    return np.where(tensor > 0, tensor, tensor * negative_slope)


def elu(input: Argument, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    tensor = floating(input)
    return np.where(tensor > 0, tensor, alpha * np.expm1(np.minimum(tensor, 0)))


def sigmoid(input: Argument) -> Tensor:
    tensor = floating(input)
    # exp of a number that is not positive can't overflow.
    small = np.exp(-np.abs(tensor))
    return np.where(tensor >= 0, 1 / (1 + small), small / (1 + small))


def softplus(input: Argument) -> Tensor:
    tensor = floating(input)
    return np.asarray(np.logaddexp(tensor, tensor.dtype.type(0)))


def log_softmax(input: Argument, dim: int | None = None, _stacklevel: int = 3, dtype: str | None = None) -> Tensor:
    tensor = floating(input) if dtype is None else as_tensor(input).astype(dtype_named(dtype))
    axis = _softmax_axis(tensor, dim)
    shifted = tensor - tensor.max(axis=axis, keepdims=True)
    logarithms: Tensor = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return logarithms


def softmax(input: Argument, dim: int | None = None, _stacklevel: int = 3, dtype: str | None = None) -> Tensor:
    tensor = floating(input) if dtype is None else as_tensor(input).astype(dtype_named(dtype))
    axis = _softmax_axis(tensor, dim)
    powers = np.exp(tensor - tensor.max(axis=axis, keepdims=True))
    shares: Tensor = powers / powers.sum(axis=axis, keepdims=True)
    return shares


def _softmax_axis(tensor: Tensor, dim: int | None) -> int:
    # Without a dimension PyTorch takes this one, with a deprecation warning.
    return dim if dim is not None else 0 if tensor.ndim in (0, 1, 3) else 1


def _reduce(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return np.asarray(losses.mean())
    if reduction == "sum":
        return np.asarray(losses.sum())
    if reduction == "none":
        return losses
    raise ValueError(f"reduction {reduction!r} is none of mean, sum, none")


def mse_loss(input: Argument, target: Argument, reduction: str = "mean") -> Tensor:
    return _reduce(np.square(sub(floating(input), target)), reduction)


def nll_loss(input: Argument, target: Argument, reduction: str = "mean") -> Tensor:
    picked = np.take_along_axis(as_tensor(input), np.expand_dims(target, 1), axis=1)
    return _reduce(-np.squeeze(picked, 1), reduction)


def cross_entropy(input: Argument, target: Argument, reduction: str = "mean") -> Tensor:
    return nll_loss(log_softmax(input, 1), target, reduction)


def binary_cross_entropy(input: Argument, target: Argument, reduction: str = "mean") -> Tensor:
    tensor = floating(input)
    # PyTorch keeps the logarithms at -100, so that a certain but wrong answer has a finite loss.
    hit, miss = np.maximum(np.log(tensor), -100), np.maximum(np.log1p(-tensor), -100)
    return _reduce(-(target * hit + (1 - target) * miss), reduction)
