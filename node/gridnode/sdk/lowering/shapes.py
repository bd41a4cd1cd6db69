"""Operators that give the same numbers in another shape, or some of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from gridnode.sdk.errors import PlanNotBuilt
from gridnode.sdk.graph import Rows, Size, Value
from gridnode.sdk.lowering.core import Lowering, Operand, argument_of, lowers, number_of, whole
from gridnode.sdk.tracing import Call, Number


@lowers("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "flatten", "_reshape_alias")
def _reshape(lowering: Lowering, call: Call) -> Operand:
    operand = lowering.operand(call.args[0])
    if isinstance(operand, Number):
        return operand
    return lowering.reshape(lowering.tensor(call.args[0]), call.kinds[0].shape)


@lowers("expand", "broadcast_to")
def _expand(lowering: Lowering, call: Call) -> Operand:
    # It stays as small as it is; what needs the whole of it asks for that.
    return lowering.operand(call.args[0])


@lowers("permute", "t", "transpose", "numpy_T", "mT")
def _permute(lowering: Lowering, call: Call) -> Operand:
    value = lowering.tensor(call.args[0])
    order = list(range(len(value.shape)))
    if call.name == "permute":
        order = [dim % len(order) for dim in call.args[1]]
    elif call.name.startswith("transpose"):
        first, second = (dim % len(order) for dim in call.args[1:3])
        order[first], order[second] = order[second], order[first]
    else:
        order.reverse()
    if order == sorted(order):
        return value
    shape = tuple(value.shape[dim] for dim in order)
    undone = _origin_of_permute(lowering, value, order)
    if undone is not None:
        return undone
    if order == [1, 0]:
        return lowering.emit("t", shape, value.dtype, value)
    return lowering.emit("permute", shape, value.dtype, value, tuple(order))


def _origin_of_permute(lowering: Lowering, value: Value, order: list[int]) -> Value | None:
    """What the value was made of, if this permutation undoes the one that made it."""
    for operation in reversed(lowering.graph.operations):
        if value in operation.results:
            made_by = (1, 0) if operation.name == "t" else operation.args[1] if operation.name == "permute" else ()
            if len(made_by) == len(order) and [made_by[dim] for dim in order] == sorted(order):
                origin: Value = operation.args[0]
                return origin
            return None
    return None


@lowers("cat", "concat")
def _cat(lowering: Lowering, call: Call) -> Operand:
    values = tuple(lowering.tensor(ref) for ref in call.args[0])
    shape = call.kinds[0].shape
    return lowering.emit("cat", shape, call.kinds[0].dtype, values, argument_of(call, 1, "dim", 0) % len(shape))


def _narrow(lowering: Lowering, value: Value, dim: int, start: int, size: Size) -> Value:
    dim %= len(value.shape)
    if value.shape[dim] == size:
        return value
    shape = (*value.shape[:dim], whole(size), *value.shape[dim + 1 :])
    whole(value.shape[dim])
    return lowering.emit("narrow", shape, value.dtype, value, dim, start, size)


@lowers("narrow")
def _narrow_call(lowering: Lowering, call: Call) -> Operand:
    return _narrow(lowering, lowering.tensor(call.args[0]), call.args[1], call.args[2], call.args[3])


@lowers("select")
def _select(lowering: Lowering, call: Call) -> Operand:
    value = lowering.tensor(call.args[0])
    dim, index = call.args[1] % len(value.shape), call.args[2]
    size = whole(value.shape[dim])
    return lowering.reshape(_narrow(lowering, value, dim, index % size, 1), call.kinds[0].shape)


@lowers("slice")
def _slice(lowering: Lowering, call: Call) -> Operand:
    value = lowering.tensor(call.args[0])
    dim = argument_of(call, 1, "dim", 0) % len(value.shape)
    shape, step = call.kinds[0].shape, argument_of(call, 4, "step", 1)
    if shape == value.shape and step == 1:
        return value
    size = whole(value.shape[dim])
    start = argument_of(call, 2, "start") or 0
    start = max(start + size, 0) if start < 0 else start
    if step == 1:
        return _narrow(lowering, value, dim, start, shape[dim])
    indices = lowering.graph.add_constant(np.arange(start, start + step * whole(shape[dim]), step))
    return lowering.emit("index_select", shape, value.dtype, value, dim, indices)


@lowers("split", "split_with_sizes", "unbind", "chunk")
def _split(lowering: Lowering, call: Call) -> tuple[Operand, ...]:
    value = lowering.tensor(call.args[0])
    name = call.name.partition(".")[0]
    dim = argument_of(call, 1 if name == "unbind" else 2, "dim", 0) % len(value.shape)
    parts: list[Operand] = []
    start = 0
    for kind in call.kinds:
        size = 1 if name == "unbind" else whole(kind.shape[dim])
        parts.append(lowering.reshape(_narrow(lowering, value, dim, start, size), kind.shape))
        start += size
    return tuple(parts) if len(parts) > 1 else (parts[0], parts[0])


@lowers("constant_pad_nd")
def _pad(lowering: Lowering, call: Call) -> Operand:
    value = lowering.tensor(call.args[0])
    padding, fill = call.args[1], number_of(argument_of(call, 2, "value", 0))
    if any(isinstance(size, Rows) for size in padding):
        raise PlanNotBuilt("the batch is padded along its rows, whose number is not known while a plan is built")
    return lowering.emit("constant_pad_nd", call.kinds[0].shape, value.dtype, value, padding, fill.factor)


@lowers("slice_scatter", "select_scatter")
def _scatter(lowering: Lowering, call: Call) -> Operand:
    """A part put into a tensor: the pieces before and after it are what they were."""
    value, part = lowering.tensor(call.args[0]), lowering.tensor(call.args[1])
    name = call.name.partition(".")[0]
    dim = argument_of(call, 2, "dim", 0) % len(value.shape)
    size = whole(value.shape[dim])
    start = argument_of(call, 3, "start") or 0
    start = start + size if start < 0 else start
    if argument_of(call, 5, "step", 1) != 1:
        raise PlanNotBuilt("writing every n-th place of a tensor has no form that old runtimes know")
    if name == "select_scatter":
        part = lowering.reshape(part, (*value.shape[:dim], 1, *value.shape[dim + 1 :]))
    end = start + whole(part.shape[dim])
    pieces: list[Any] = []
    if start:
        pieces.append(_narrow(lowering, value, dim, 0, start))
    pieces.append(part)
    if end < size:
        pieces.append(_narrow(lowering, value, dim, end, size - end))
    return part if len(pieces) == 1 else lowering.emit("cat", value.shape, value.dtype, tuple(pieces), dim)


@lowers("index_select", "gather")
def _pick(lowering: Lowering, call: Call) -> Operand:
    value, indices = lowering.tensor(call.args[0]), lowering.tensor(call.args[2])
    dim = call.args[1] % len(value.shape)
    return lowering.emit(call.name, call.kinds[0].shape, value.dtype, value, dim, indices)
