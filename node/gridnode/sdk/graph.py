"""A training step as a list of operations that both old PyTorch and operation lists can spell.

Made by :mod:`gridnode.sdk.lowering` and written down by :mod:`gridnode.sdk.torchscript` and
:mod:`gridnode.sdk.operations`. Nothing here needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Rows:
    """A size that grows with the batch: ``share`` times the number of its rows."""

    share: Fraction

    def __str__(self) -> str:
        return "rows" if self.share == 1 else f"{self.share}·rows"


Size: TypeAlias = int | Rows
Shape: TypeAlias = tuple[Size, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor that an operation gives, or that goes in."""

    number: int
    shape: Shape
    dtype: str


Argument: TypeAlias = Any
"""A Value, a Python number, text or None, or a tuple of these."""


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """``results = name(*args)``. The names are those of the spelling tables, in the main PyTorch's."""

    name: str
    args: tuple[Argument, ...]
    results: tuple[Value, ...]


@dataclass(slots=True)
class Graph:
    """Operations in the order of their execution. Equal operations are computed once."""

    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    constants: dict[Value, NDArray[Any]] = field(default_factory=dict)
    _values: list[Value] = field(default_factory=list)
    _known: dict[Any, tuple[Value, ...]] = field(default_factory=dict)

    def add_input(self, shape: Shape, dtype: str) -> Value:
        """A new input after those that are there."""
        value = self._new(shape, dtype)
        self.inputs.append(value)
        return value

    def add_constant(self, array: NDArray[Any]) -> Value:
        """A tensor that is part of the plan."""
        key = ("constant", array.dtype.name, array.shape, array.tobytes())
        if key not in self._known:
            value = self._new(array.shape, array.dtype.name)
            self.constants[value] = array
            self._known[key] = (value,)
        return self._known[key][0]

    def add(self, name: str, args: Sequence[Argument], *kinds: tuple[Shape, str]) -> tuple[Value, ...]:
        """An operation that gives one value for each kind (shape and dtype)."""
        arguments = tuple(args)
        # 1, 1.0 and True are equal in Python, not to PyTorch.
        key = (name, repr(_identities(arguments)))
        if key not in self._known:
            results = tuple(self._new(shape, dtype) for shape, dtype in kinds)
            self.operations.append(Operation(name, arguments, results))
            self._known[key] = results
        return self._known[key]

    def of_shape(self, shape: Shape) -> Value | None:
        """Some value of this shape."""
        return next((value for value in self._values if value.shape == shape), None)

    def prune(self) -> None:
        """Drop what no output depends on."""
        needed = set(self.outputs)
        kept = []
        for operation in reversed(self.operations):
            if needed.intersection(operation.results):
                kept.append(operation)
                needed.update(values_of(operation.args))
        self.operations = kept[::-1]
        self.constants = {value: array for value, array in self.constants.items() if value in needed}

    def _new(self, shape: Shape, dtype: str) -> Value:
        value = Value(len(self._values), shape, dtype)
        self._values.append(value)
        return value


def values_of(argument: Argument) -> Iterator[Value]:
    """All values within an argument."""
    if isinstance(argument, Value):
        yield argument
    elif isinstance(argument, tuple | list):
        for item in argument:
            yield from values_of(item)


def _identities(argument: Argument) -> Argument:
    if isinstance(argument, Value):
        return ("value", argument.number)
    if isinstance(argument, tuple | list):
        return tuple(_identities(item) for item in argument)
    return argument


def broadcast(*shapes: Shape) -> Shape:
    """The shape of an element-wise operation on tensors of these shapes, which must go together."""
    result: list[Size] = []
    for position in range(1, max(map(len, shapes)) + 1):
        sizes = [shape[-position] for shape in shapes if position <= len(shape)]
        result.append(next((size for size in sizes if size != 1), 1))
    return tuple(reversed(result))


def count(shape: Shape) -> Size | None:
    """The number of elements; None where it does not grow in proportion to the batch."""
    whole, share, growing = 1, Fraction(1), 0
    for size in shape:
        if isinstance(size, Rows):
            share *= size.share
            growing += 1
        else:
            whole *= size
    if growing > 1:
        return None
    return Rows(share * whole) if growing else whole


def constant(value: float | int | bool, dtype: str) -> NDArray[Any]:
    """A tensor without dimensions."""
    return np.asarray(value, dtype)
