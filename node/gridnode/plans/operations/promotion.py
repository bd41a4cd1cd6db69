"""PyTorch's type promotion for NumPy arrays.

NumPy gives float64 for a float32 array and an int64 array, and counts an array without dimensions like any other. In
PyTorch a float32 stays float32 in both cases (https://docs.pytorch.org/docs/stable/tensor_attributes.html#type-promotion-doc).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeGuard

import numpy as np

from gridnode.plans.operations.types import Argument, DType, Tensor

# What Python numbers count as.
_TYPE_OF_FLOAT: Final = np.dtype(np.float32)
_TYPE_OF_INT: Final = np.dtype(np.int64)
_TYPE_OF_BOOL: Final = np.dtype(np.bool_)


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Whether a value is an array, or the NumPy scalar that NumPy makes of an array without dimensions."""
    return isinstance(value, np.ndarray | np.generic)


def as_tensor(value: Argument) -> Tensor:
    """A Python number (or list of numbers) as PyTorch would make a tensor of it; arrays stay as they are."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, np.generic):
        return np.asarray(value)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{value!r:.60} is no number and no tensor")
    return array.astype(_TYPE_OF_FLOAT) if array.dtype.kind == "f" else array


def floating(value: Argument) -> Tensor:
    """A tensor with integers and bools made float32, as PyTorch's ``exp``, ``mean`` and their like do."""
    tensor = as_tensor(value)
    return tensor if tensor.dtype.kind == "f" else tensor.astype(_TYPE_OF_FLOAT)


def promote_pair(first: Argument, second: Argument) -> tuple[Argument, Argument]:
    """Two operands with their tensors made of the dtype that PyTorch would compute with.

    Python numbers stay Python numbers, which take the dtype of the other operand in NumPy 2 as in PyTorch.
    """
    if not is_tensor(first):
        if not is_tensor(second):
            first = as_tensor(first)
        elif second.dtype.kind == "f" and isinstance(first, int | float):
            return first, second
    elif is_tensor(second):
        if first.dtype == second.dtype:
            return first, second
    elif first.dtype.kind == "f" and isinstance(second, int | float):
        return first, second
    dtype = result_dtype((first, second))
    return _cast(first, dtype), _cast(second, dtype)


def promote(operands: Iterable[Argument]) -> list[Tensor]:
    """Any number of tensors made of one dtype."""
    tensors = [as_tensor(operand) for operand in operands]
    dtype = result_dtype(tensors)
    return [tensor.astype(dtype, copy=False) for tensor in tensors]


def result_dtype(operands: Iterable[Argument]) -> DType:
    """The dtype PyTorch computes with.

    Tensors with dimensions decide; those without, and after them Python numbers, only if they are of a higher category
    (bool, integer, floating).
    """
    dimensioned: DType | None = None
    scalar_tensors: DType | None = None
    numbers: DType | None = None
    for operand in operands:
        if not is_tensor(operand):
            numbers = _join(numbers, _dtype_of_number(operand))
        elif operand.ndim:
            dimensioned = _join(dimensioned, operand.dtype)
        else:
            scalar_tensors = _join(scalar_tensors, operand.dtype)
    dtype = _outrank(dimensioned, _outrank(scalar_tensors, numbers))
    return _TYPE_OF_FLOAT if dtype is None else dtype


def _cast(value: Argument, dtype: DType) -> Argument:
    return value.astype(dtype, copy=False) if is_tensor(value) else value


def _dtype_of_number(number: object) -> DType:
    if isinstance(number, bool):
        return _TYPE_OF_BOOL
    if isinstance(number, int):
        return _TYPE_OF_INT
    if isinstance(number, float):
        return _TYPE_OF_FLOAT
    raise TypeError(f"{type(number).__name__} is no number and no tensor")


def _join(first: DType | None, second: DType | None) -> DType | None:
    if first is None or second is None or first == second:
        return second if first is None else first
    if (first.kind == "f") != (second.kind == "f"):
        return first if first.kind == "f" else second
    return np.promote_types(first, second)


def _outrank(higher: DType | None, lower: DType | None) -> DType | None:
    if higher is None or lower is None or higher.kind == "f":
        return lower if higher is None else higher
    if higher.kind == "b" or lower.kind == "f":
        return _join(higher, lower)
    return higher
