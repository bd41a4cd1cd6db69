"""What lowering is: operands, and how an operator finds the function that lowers it.

Numbers and broadcasting need care: a trace fills tensors of
the batch's size with a number and expands vectors to it, which no old runtime could do without knowing the size. Here a
value keeps the shape it has until an operation needs the whole of it, which is hardly ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np

from gridnode.sdk.errors import PlanNotBuilt
from gridnode.sdk.graph import Graph, Rows, Shape, Size, Value, constant, count
from gridnode.sdk.tracing import Call, Kind, Number, Ref, Trace

Operand: TypeAlias = Value | Number
"""A tensor that may be smaller than it stands for, or a number that stands for a tensor full of it."""


class Lowering:
    """The state of one lowering: the graph so far and what each Ref became."""

    def __init__(self, batch_size: int) -> None:
        self.graph = Graph()
        self._batch_size = batch_size
        self._operands: dict[Ref, Operand] = {}
        self._kinds: dict[Ref, Kind] = {}

    def run(self, trace: Trace) -> Graph:
        """Lower all calls; gives the graph with what no output needs left out."""
        for ref, kind in trace.inputs:
            self._set(ref, kind, self.graph.add_input(kind.shape, kind.dtype))
        for ref, kind in trace.constants:
            self._set_constant(ref, kind)
        for call in trace.calls:
            self._lower_call(call)
        self.graph.outputs = [self.tensor(ref) for ref in trace.outputs]
        self.graph.prune()
        return self.graph

    def _lower_call(self, call: Call) -> None:
        refs = [call.result] if len(call.kinds) == 1 else []
        refs += [Ref(call.result.name, part) for part in range(len(call.kinds))]
        kinds = call.kinds if len(call.kinds) > 1 else call.kinds * 2
        if call.name.partition(".")[0] not in FILLS and all(kind.value is not None for kind in call.kinds):
            for ref, kind in zip(refs, kinds, strict=True):
                self._set_constant(ref, kind)
            return
        try:
            lowering = _LOWERINGS[call.name.partition(".")[0]]
        except KeyError:
            raise PlanNotBuilt(
                f"operator aten::{call.name} has no form that phones of 2020 know. Compute it from simpler operations."
            ) from None
        results = lowering(self, call)
        operands = results if isinstance(results, tuple) else (results, results)
        for ref, kind, operand in zip(refs, kinds, operands, strict=True):
            self._set(ref, kind, operand)

    def _set(self, ref: Ref, kind: Kind, operand: Operand) -> None:
        self._operands[ref] = operand
        self._kinds[ref] = kind

    def _set_constant(self, ref: Ref, kind: Kind) -> None:
        if kind.value is None:
            raise PlanNotBuilt("a tensor of the step is of a kind that can't be part of a plan")
        self._set(ref, kind, self.graph.add_constant(np.ascontiguousarray(kind.value)))

    def kind(self, argument: Any) -> Kind:
        """Shape and dtype that an argument stands for."""
        if isinstance(argument, Ref):
            return self._kinds[argument]
        number = number_of(argument)
        return Kind((), "int64" if isinstance(number.factor, int) else "float32")

    def operand(self, argument: Any) -> Operand:
        """An argument as it is: perhaps smaller than it stands for."""
        return self._operands[argument] if isinstance(argument, Ref) else number_of(argument)

    def value(self, argument: Any, dtype: str = "float32") -> Value:
        """An argument as a tensor, perhaps smaller than it stands for."""
        operand = self.operand(argument)
        return operand if isinstance(operand, Value) else self.scalar(operand, dtype)

    def tensor(self, argument: Any) -> Value:
        """An argument as a tensor of its whole shape."""
        kind = self.kind(argument)
        value = self.value(argument, kind.dtype)
        if value.shape == kind.shape:
            return value
        if all(isinstance(size, int) for size in kind.shape):
            return self.emit("expand", kind.shape, kind.dtype, value, kind.shape)
        like = self.graph.of_shape(kind.shape)
        if like is not None:
            return self.emit("expand_as", kind.shape, kind.dtype, value, like)
        return self._repeat(value, kind.shape)

    def _repeat(self, value: Value, shape: Shape) -> Value:
        """A value repeated along the batch where nothing has the shape already: by adding a column of zeros."""
        X = self.graph.inputs[0]  # noqa: N806 - as plans name it
        if [size for size in shape if isinstance(size, Rows)] != [X.shape[0]]:
            raise PlanNotBuilt("a tensor is repeated for each row of the batch in a way that has no form in a plan")
        flat = self.reshape(X, (X.shape[0], whole(count(X.shape[1:]) or 0)))
        column = self.emit("narrow", (X.shape[0], 1), X.dtype, flat, 1, 0, 1)
        zeros = self.emit("zeros_like", column.shape, X.dtype, column)
        if X.dtype != value.dtype:
            zeros = self.emit("to", column.shape, value.dtype, zeros, value.dtype)
        repeated = self.reshape(zeros, tuple(size if isinstance(size, Rows) else 1 for size in shape))
        alone = tuple(1 if isinstance(size, Rows) else size for size in shape)
        if value.shape != alone:
            value = self.emit("expand", alone, value.dtype, value, alone)
        return self.emit("add", shape, value.dtype, value, repeated)

    def scalar(self, number: Number, dtype: str) -> Value:
        """A number as a tensor without dimensions."""
        if number.power == 0:
            return self.graph.add_constant(constant(number.factor, dtype))
        rows = self._rows()
        power = rows if number.power == 1 else self.emit("reciprocal", (), "float32", rows)
        return power if number.factor == 1 else self.emit("mul", (), "float32", power, number.factor)

    def _rows(self) -> Value:
        """The number of rows as a float: apps also pass an integer, by which some runtimes would divide integers."""
        return self.emit("to", (), "float32", self.graph.inputs[self._batch_size], "float32")

    def emit(self, name: str, shape: Shape, dtype: str, *args: Any) -> Value:
        """Add an operation that gives one value."""
        return self.graph.add(name, args, (shape, dtype))[0]

    def reshape(self, value: Value, shape: Shape) -> Value:
        """The same elements in another shape."""
        if value.shape == shape:
            return value
        if sum(isinstance(size, Rows) for size in shape) > 1:
            raise PlanNotBuilt("a reshape gives two sizes that depend on the batch, where only one can be left open")
        sizes = tuple(-1 if isinstance(size, Rows) else size for size in shape)
        return self.emit("reshape", shape, value.dtype, value, sizes)

    def times(self, value: Operand, number: Number, dtype: str) -> Operand:
        """``value × number``; by the batch's size where the number grows or shrinks with it."""
        if number.factor == 0:
            return Number(0.0)
        if isinstance(value, Number):
            return Number(value.factor * number.factor, value.power + number.power)
        if number.power:
            value = self.emit("mul" if number.power == 1 else "div", value.shape, dtype, value, self._rows())
        return value if number.factor == 1 else self.emit("mul", value.shape, dtype, value, number.factor)


def number_of(argument: Any) -> Number:
    """A plain argument as a number."""
    if isinstance(argument, Number):
        return argument
    if isinstance(argument, Rows):
        share = argument.share
        return Number(int(share) if share.denominator == 1 else float(share), 1)
    if isinstance(argument, bool | int | float):
        return Number(argument)
    raise PlanNotBuilt(f"an operator has an argument {argument!r}, which has no place in a plan")


def dims_of(argument: Any, shape: Shape) -> tuple[int, ...]:
    """Dimensions counted from the front; all of them where none are given."""
    dims = argument if isinstance(argument, tuple) else range(len(shape)) if argument is None else (argument,)
    return tuple(dim % len(shape) for dim in dims or range(len(shape)))


def argument_of(call: Call, position: int, name: str, default: Any = None) -> Any:
    """An argument by position or name."""
    return call.args[position] if len(call.args) > position else call.keywords.get(name, default)


def elements(shape: Shape) -> Size:
    """The number of elements."""
    total = count(shape)
    if total is None:
        raise PlanNotBuilt("a tensor has two sizes that depend on the batch")
    return total


def whole(size: Size) -> int:
    """A size that must not depend on the batch."""
    if isinstance(size, Rows):
        raise PlanNotBuilt("the batch is cut or padded along its rows, whose number is not known while a plan is built")
    return size


#: Operators that fill a tensor with one number.
FILLS: Final = frozenset(
    (
        *("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty"),
        *("full", "full_like", "new_full", "new_ones", "new_zeros", "ones", "ones_like"),
        *("scalar_tensor", "zeros", "zeros_like"),
    )
)

LoweringFunction: TypeAlias = Callable[[Lowering, Call], Operand | tuple[Operand, ...]]
_LOWERINGS: dict[str, LoweringFunction] = {}


def lowers(*names: str) -> Callable[[LoweringFunction], LoweringFunction]:
    """Register how ATen operators of these names, whatever their overload, are lowered."""

    def register(function: LoweringFunction) -> LoweringFunction:
        _LOWERINGS.update(dict.fromkeys(names, function))
        return function

    return register
