"""Operators that make fewer numbers of many."""

from __future__ import annotations

from gridnode.sdk.graph import Shape, Value
from gridnode.sdk.lowering.core import Lowering, Operand, argument_of, dims_of, lowers
from gridnode.sdk.tracing import Call


def _reduced(shape: Shape, dims: tuple[int, ...], keepdim: bool) -> Shape:
    if keepdim:
        return tuple(1 if dim in dims else size for dim, size in enumerate(shape))
    return tuple(size for dim, size in enumerate(shape) if dim not in dims)


@lowers("sum")
def _sum(lowering: Lowering, call: Call) -> Operand:
    value = lowering.tensor(call.args[0])
    dims = dims_of(argument_of(call, 1, "dim"), value.shape) if value.shape else ()
    keepdim = bool(argument_of(call, 2, "keepdim", False))
    kept = call.kinds[0]
    if value.dtype != kept.dtype and kept.dtype.startswith("float"):
        value = lowering.emit("to", value.shape, kept.dtype, value, kept.dtype)
    if not dims:
        return value
    if len(dims) == len(value.shape) and not keepdim:
        return lowering.emit("sum", (), kept.dtype, value)
    return lowering.emit("sum_dim", _reduced(value.shape, dims, keepdim), kept.dtype, value, dims, keepdim)


@lowers("logsumexp")
def _logsumexp(lowering: Lowering, call: Call) -> Operand:
    value = lowering.tensor(call.args[0])
    dims = dims_of(call.args[1], value.shape)
    keepdim = bool(argument_of(call, 2, "keepdim", False))
    return lowering.emit("logsumexp", _reduced(value.shape, dims, keepdim), value.dtype, value, dims, keepdim)


@lowers("argmax", "argmin")
def _position(lowering: Lowering, call: Call) -> Operand:
    value = lowering.tensor(call.args[0])
    dim = argument_of(call, 1, "dim")
    if dim is None:
        return lowering.emit(call.name, (), "int64", value)
    dims, keepdim = dims_of(dim, value.shape), bool(argument_of(call, 2, "keepdim", False))
    return lowering.emit(f"{call.name}_dim", _reduced(value.shape, dims, keepdim), "int64", value, dims[0], keepdim)


@lowers("max", "min")
def _extreme(lowering: Lowering, call: Call) -> Operand | tuple[Operand, ...]:
    name = call.name.partition(".")[0]
    value = lowering.tensor(call.args[0])
    if len(call.args) == 1:
        return lowering.emit(name, (), value.dtype, value)
    return _along(lowering, name, value, dims_of(call.args[1], value.shape)[0], bool(argument_of(call, 2, "keepdim")))


@lowers("amax", "amin")
def _extreme_of_dims(lowering: Lowering, call: Call) -> Operand:
    value = lowering.tensor(call.args[0])
    keepdim = bool(argument_of(call, 2, "keepdim", False))
    # Backwards, so that dimensions keep their numbers while others vanish.
    for dim in sorted(dims_of(argument_of(call, 1, "dim"), value.shape), reverse=True):
        value = _along(lowering, call.name.removeprefix("a"), value, dim, keepdim)[0]
    return value


def _along(lowering: Lowering, name: str, value: Value, dim: int, keepdim: bool) -> tuple[Value, ...]:
    shape = _reduced(value.shape, (dim,), keepdim)
    return lowering.graph.add(f"{name}_dim", (value, dim, keepdim), (shape, value.dtype), (shape, "int64"))
