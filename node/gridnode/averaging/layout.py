"""Where each parameter of a model lies in one flat buffer, and in which type its diffs are summed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnode.errors import InvalidRequest

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One model parameter: its shape and dtype, and the slice of the flat buffer that holds its sum."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sum_dtype: np.dtype[Any]
    offset: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def sum_bytes(self) -> int:
        return self.size * self.sum_dtype.itemsize


@dataclass(frozen=True, slots=True)
class ModelLayout:
    """The parameters of a model in order; ``nbytes`` is the size of the buffer that holds one diff or sum."""

    parameters: tuple[Parameter, ...]
    nbytes: int

    @classmethod
    def of(cls, tensors: Sequence[Array]) -> ModelLayout:
        return cls._build([(tensor.shape, tensor.dtype) for tensor in tensors])

    @classmethod
    def from_json(cls, items: Sequence[dict[str, Any]]) -> ModelLayout:
        """Read what :meth:`to_json` wrote."""
        return cls._build([(tuple(item["shape"]), np.dtype(item["dtype"])) for item in items])

    @classmethod
    def _build(cls, items: Sequence[tuple[tuple[int, ...], np.dtype[Any]]]) -> ModelLayout:
        parameters = []
        offset = 0
        for shape, dtype in items:
            parameter = Parameter(shape, dtype, _sum_dtype(dtype), offset)
            parameters.append(parameter)
            # Eight-byte alignment lets NumPy use every view at full speed.
            offset += -(-parameter.sum_bytes // 8) * 8
        return cls(tuple(parameters), offset)

    def to_json(self) -> list[dict[str, Any]]:
        return [{"shape": list(p.shape), "dtype": p.dtype.name} for p in self.parameters]

    def zeros(self) -> bytearray:
        """A buffer of one diff, all zero."""
        return bytearray(self.nbytes)

    def views(self, buffer: bytes | bytearray | memoryview) -> list[Array]:
        """The buffer as one array per parameter, in the sum's dtype, without copying.

        Raises:
            ValueError: the buffer is not of this model.
        """
        if len(buffer) != self.nbytes:
            raise ValueError(f"buffer has {len(buffer)} bytes, the model needs {self.nbytes}")
        return [
            np.frombuffer(buffer, p.sum_dtype, count=p.size, offset=p.offset).reshape(p.shape) for p in self.parameters
        ]

    def check_diff(self, tensors: Sequence[Array]) -> float:
        """Refuse a diff that is not one of this model.

        Returns:
            The diff's L2 norm, over all tensors.

        Raises:
            InvalidRequest: number, shape or dtype of tensors differ, or a value is NaN, infinite, or too large.
        """
        if len(tensors) != len(self.parameters):
            raise InvalidRequest(f"the diff has {len(tensors)} tensors, the model has {len(self.parameters)}")
        for index, (tensor, parameter) in enumerate(zip(tensors, self.parameters, strict=True)):
            if tensor.shape != parameter.shape:
                raise InvalidRequest(
                    f"tensor {index} of the diff has shape {list(tensor.shape)}, the model has {list(parameter.shape)}"
                )
            if tensor.dtype != parameter.dtype:
                raise InvalidRequest(f"tensor {index} of the diff is {tensor.dtype}, the model has {parameter.dtype}")
            if not is_finite(tensor):
                raise InvalidRequest(f"tensor {index} of the diff has NaN or infinite values")
        norm = math.sqrt(squared_norm(tensors))
        if not math.isfinite(norm):
            # Such values would overflow the cycle's sum, and so undo everybody's report. With a finite square, a
            # billion reports of the largest weight don't.
            raise InvalidRequest("the values of the diff are too large to be averaged: has the training diverged?")
        return norm


def is_finite(tensor: Array) -> bool:
    """Whether no value is NaN or infinite; true for types that know neither."""
    if tensor.dtype.kind != "f":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        # The sum is finite unless a value is not, or the sum itself overflows: one pass and no array of booleans.
        if np.isfinite(tensor.sum()):
            return True
    return bool(np.isfinite(tensor).all())


def squared_norm(tensors: Sequence[Array]) -> float:
    """Sum of the squares of all values, for the update norm."""
    total = 0.0
    for tensor in tensors:
        flat = tensor.reshape(-1)
        if flat.dtype.kind != "f":
            flat = flat.astype(np.float64)
        elif flat.dtype == np.float16:
            flat = flat.astype(np.float32)
        with np.errstate(over="ignore"):
            total += float(np.dot(flat, flat))
    return total


def _sum_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    # float16 sums lose everything after a few hundred diffs; integer and bool diffs are averaged as real numbers.
    return dtype if dtype == np.float32 else np.dtype(np.float32 if dtype == np.float16 else np.float64)
