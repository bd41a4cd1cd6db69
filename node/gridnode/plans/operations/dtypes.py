"""Dtypes and new tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from gridnode.plans.operations.promotion import as_tensor, is_tensor
from gridnode.plans.operations.shapes import read_sizes
from gridnode.plans.operations.types import Argument, DType, Operation, Tensor

DTYPES: Final[dict[str, DType]] = {
    "bool": np.dtype(np.bool_),
    "byte": np.dtype(np.uint8),
    "double": np.dtype(np.float64),
    "float": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "half": np.dtype(np.float16),
    "int": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "int8": np.dtype(np.int8),
    "long": np.dtype(np.int64),
    "short": np.dtype(np.int16),
    "uint8": np.dtype(np.uint8),
}
"""Dtypes by PyTorch's names."""


def dtype_named(name: str) -> DType:
    dtype = DTYPES.get(name.removeprefix("torch."))
    if dtype is None:
        raise ValueError(f"dtype {name!r} is not known")
    return dtype


def casting(dtype: DType) -> Operation:
    def operation(input: Argument) -> Tensor:
        return as_tensor(input).astype(dtype, copy=False)

    return operation


def to(input: Argument, dtype: Argument = None, device: str | None = None) -> Tensor:
    tensor = as_tensor(input)
    if is_tensor(dtype):
        return tensor.astype(dtype.dtype, copy=False)
    # All tensors are on the CPU.
    if dtype is None or dtype == "cpu":
        return tensor
    return tensor.astype(dtype_named(dtype), copy=False)


def identity(input: Argument) -> Tensor:
    return as_tensor(input)


def full_like(input: Argument, fill_value: Argument, dtype: str | None = None) -> Tensor:
    tensor = as_tensor(input)
    return np.full(tensor.shape, fill_value, tensor.dtype if dtype is None else dtype_named(dtype))


def zeros_like(input: Argument, dtype: str | None = None) -> Tensor:
    return full_like(input, 0, dtype)


def ones_like(input: Argument, dtype: str | None = None) -> Tensor:
    return full_like(input, 1, dtype)


def zeros(*size: Argument, dtype: str = "float32") -> Tensor:
    return np.zeros(read_sizes(size), dtype_named(dtype))


def ones(*size: Argument, dtype: str = "float32") -> Tensor:
    return np.ones(read_sizes(size), dtype_named(dtype))


def full(size: Sequence[int], fill_value: Argument, dtype: str | None = None) -> Tensor:
    value = as_tensor(fill_value)
    return np.full(tuple(size), value, value.dtype if dtype is None else dtype_named(dtype))


def tensor(data: Argument, dtype: str | None = None) -> Tensor:
    values = as_tensor(data)
    return values if dtype is None else values.astype(dtype_named(dtype))


def copy_from(input: Argument, src: Argument) -> Tensor:
    return np.broadcast_to(as_tensor(src), as_tensor(input).shape)
