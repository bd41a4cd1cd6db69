"""Element by element, and products of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from gridnode.plans.operations.promotion import as_tensor, floating, is_tensor, promote_pair
from gridnode.plans.operations.types import Argument, Operation, Tensor


def binary(function: Callable[[Any, Any], Tensor]) -> Operation:
    def operation(input: Argument, other: Argument) -> Tensor:
        return function(*promote_pair(input, other))

    return operation


def swapped(function: Operation) -> Operation:
    def operation(input: Argument, other: Argument) -> Argument:
        return function(other, input)

    return operation


def unary(function: Callable[[Any], Tensor]) -> Operation:
    def operation(input: Argument) -> Tensor:
        return function(as_tensor(input))

    return operation


def float_unary(function: Callable[[Any], Tensor]) -> Operation:
    def operation(input: Argument) -> Tensor:
        return function(floating(input))

    return operation


multiply = binary(np.multiply)
_erf: Final = np.frompyfunc(math.erf, 1, 1)


def erf(tensor: Tensor) -> Tensor:
    # NumPy has none.
    return np.asarray(_erf(tensor), tensor.dtype)


def add(input: Argument, other: Argument, alpha: float = 1) -> Tensor:
    first, second = promote_pair(input, other if alpha == 1 else multiply(other, alpha))
    total: Tensor = np.add(first, second)
    return total


def sub(input: Argument, other: Argument, alpha: float = 1) -> Tensor:
    first, second = promote_pair(input, other if alpha == 1 else multiply(other, alpha))
    difference: Tensor = np.subtract(first, second)
    return difference


def div(input: Argument, other: Argument, rounding_mode: str | None = None) -> Tensor:
    if rounding_mode not in (None, "floor", "trunc"):
        raise ValueError(f"rounding_mode {rounding_mode!r} is none of floor, trunc")
    first, second = promote_pair(input, other)
    dtype = first.dtype if is_tensor(first) else second.dtype
    quotient: Tensor
    if rounding_mode == "floor":
        quotient = np.floor_divide(first, second)
        return quotient
    if dtype.kind != "f":
        first, second = floating(first), floating(second)
    quotient = np.divide(first, second)
    return np.trunc(quotient).astype(dtype) if rounding_mode == "trunc" else quotient


def reciprocal(input: Argument) -> Tensor:
    inverse: Tensor = np.reciprocal(floating(input))
    return inverse


def rdiv(input: Argument, other: Argument) -> Tensor:
    # PyTorch divides a number by a tensor in two steps, which round differently from one division.
    product: Tensor = multiply(reciprocal(input), other)
    return product


def clamp(input: Argument, min: Argument = None, max: Argument = None) -> Tensor:
    clamped = as_tensor(input)
    if min is not None:
        clamped = np.maximum(*promote_pair(clamped, min))
    if max is not None:
        clamped = np.minimum(*promote_pair(clamped, max))
    return clamped


def addmm(input: Argument, mat1: Argument, mat2: Argument, beta: float = 1, alpha: float = 1) -> Tensor:
    return add(multiply(input, beta), matmul(mat1, mat2), alpha=alpha)


def matmul(input: Argument, other: Argument) -> Tensor:
    product: Tensor = np.matmul(*promote_pair(as_tensor(input), as_tensor(other)))
    return product


def linear(input: Argument, weight: Argument, bias: Argument = None) -> Tensor:
    product = matmul(input, np.swapaxes(weight, -1, -2))
    return product if bias is None else add(product, bias)
