"""Operators that work element by element: they broadcast, so operands stay as small as they are."""

from __future__ import annotations

from typing import Final

from gridnode.sdk.errors import PlanNotBuilt
from gridnode.sdk.graph import Rows, Value, broadcast
from gridnode.sdk.lowering.core import FILLS, Lowering, Operand, argument_of, lowers, number_of
from gridnode.sdk.tracing import Call, Number

_UNARY: Final = (
    *("abs", "acos", "asin", "atan", "ceil", "cos", "cosh", "erf", "exp", "expm1", "floor", "log", "log10", "log1p"),
    *("log2", "logical_not", "neg", "reciprocal", "relu", "round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "sqrt"),
    *("tan", "tanh", "trunc"),
)
_SAME_AS: Final = {"bitwise_not": "logical_not", "sgn": "sign"}
_SWAPPED: Final = {"eq": "eq", "ge": "le", "gt": "lt", "le": "ge", "lt": "gt", "ne": "ne"}


def _dtype(call: Call) -> str:
    return call.kinds[0].dtype


@lowers(*_UNARY, *_SAME_AS)
def _unary(lowering: Lowering, call: Call) -> Operand:
    name = call.name.partition(".")[0]
    operand = lowering.operand(call.args[0])
    if isinstance(operand, Number) and name == "neg":
        return Number(-operand.factor, operand.power)
    if name == "bitwise_not" and _dtype(call) != "bool":
        raise PlanNotBuilt("bitwise_not of numbers has no form that all runtimes share")
    value = lowering.value(call.args[0])
    return lowering.emit(_SAME_AS.get(name, name), value.shape, _dtype(call), value)


@lowers("alias", "clone", "detach", "lift_fresh_copy", "contiguous")
def _identity(lowering: Lowering, call: Call) -> Operand:
    return lowering.operand(call.args[0])


@lowers("_to_copy")
def _cast(lowering: Lowering, call: Call) -> Operand:
    operand, dtype = lowering.operand(call.args[0]), _dtype(call)
    if isinstance(operand, Number):
        return Number(float(operand.factor), operand.power) if dtype == "float32" else operand
    return operand if operand.dtype == dtype else lowering.emit("to", operand.shape, dtype, operand, dtype)


@lowers(*FILLS)
def _fill(lowering: Lowering, call: Call) -> Operand:
    name = call.name.partition(".")[0]
    if "full" in name:
        number = number_of(argument_of(call, 1 if name != "new_full" else 2, "fill_value"))
    elif name == "scalar_tensor":
        number = number_of(call.args[0])
    else:
        number = Number(1 if "ones" in name else 0)
    return Number(float(number.factor) if _dtype(call).startswith("float") else number.factor, number.power)


@lowers("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty")
def _empty(lowering: Lowering, call: Call) -> Operand:
    # Whatever is in it, it is not read.
    return Number(0.0)


@lowers("fill")
def _filled(lowering: Lowering, call: Call) -> Operand:
    return lowering.operand(call.args[1])


@lowers("add", "sub")
def _add(lowering: Lowering, call: Call) -> Operand:
    first, second = lowering.operand(call.args[0]), lowering.operand(call.args[1])
    dtype = _dtype(call)
    second = lowering.times(second, number_of(argument_of(call, 2, "alpha", 1)), dtype)
    if call.name.startswith("sub"):
        return _minus(lowering, first, second, dtype)
    if isinstance(first, Number):
        first, second = second, first
    if isinstance(first, Number) and isinstance(second, Number) and first.power == second.power:
        return Number(first.factor + second.factor, first.power)
    # A gradient that is nothing: adding it would only cost time.
    if isinstance(second, Number) and second.factor == 0 and isinstance(first, Value) and first.dtype == dtype:
        return first
    return _binary_values(lowering, "add", first, second, dtype)


def _minus(lowering: Lowering, first: Operand, second: Operand, dtype: str) -> Operand:
    if isinstance(first, Number):
        opposite = lowering.times(second, Number(-1), dtype)
        if isinstance(opposite, Number) and opposite.power == first.power:
            return Number(first.factor + opposite.factor, first.power)
        return _binary_values(lowering, "add", opposite, first, dtype)
    return _binary_values(lowering, "sub", first, second, dtype)


@lowers("rsub")
def _rsub(lowering: Lowering, call: Call) -> Operand:
    return _minus(lowering, lowering.operand(call.args[1]), lowering.operand(call.args[0]), _dtype(call))


@lowers("mul")
def _mul(lowering: Lowering, call: Call) -> Operand:
    first, second = lowering.operand(call.args[0]), lowering.operand(call.args[1])
    dtype = _dtype(call)
    if isinstance(second, Number):
        return _times(lowering, first, second, dtype)
    if isinstance(first, Number):
        return _times(lowering, second, first, dtype)
    return _binary_values(lowering, "mul", first, second, dtype)


def _times(lowering: Lowering, operand: Operand, number: Number, dtype: str) -> Operand:
    if isinstance(operand, Value) and operand.dtype == "bool" and number.factor == 1:
        return lowering.emit("to", operand.shape, dtype, operand, dtype)
    return lowering.times(operand, number, dtype)


@lowers("div", "true_divide")
def _div(lowering: Lowering, call: Call) -> Operand:
    if argument_of(call, 2, "rounding_mode") is not None:
        raise PlanNotBuilt("division with rounding is not in runtimes before PyTorch 1.8. Use floor(a / b).")
    first, second = lowering.operand(call.args[0]), lowering.operand(call.args[1])
    dtype = _dtype(call)
    if isinstance(second, Number):
        if second.power or isinstance(first, Number):
            return lowering.times(first, Number(1 / second.factor, -second.power), dtype)
        return (
            first
            if second.factor == 1 and first.dtype == dtype
            else _binary_values(lowering, "div", first, second, dtype)
        )
    if isinstance(first, Number):
        return lowering.times(lowering.emit("reciprocal", second.shape, dtype, second), first, dtype)
    return _binary_values(lowering, "div", first, second, dtype)


@lowers("pow")
def _pow(lowering: Lowering, call: Call) -> Operand:
    base, exponent = lowering.operand(call.args[0]), lowering.operand(call.args[1])
    if isinstance(base, Value) and isinstance(exponent, Number) and exponent.power == 0:
        if exponent.factor == 1:
            return base
        if exponent.factor == 2:
            # Faster everywhere, and exact.
            return lowering.emit("mul", base.shape, _dtype(call), base, base)
    if isinstance(base, Number):
        raise PlanNotBuilt("a number to the power of a tensor: write exp(tensor * log(number)).")
    return _binary_values(lowering, "pow", base, exponent, _dtype(call))


@lowers("atan2", "fmod", "remainder")
def _binary(lowering: Lowering, call: Call) -> Operand:
    first, second = lowering.value(call.args[0]), lowering.operand(call.args[1])
    return _binary_values(lowering, call.name.partition(".")[0], first, second, _dtype(call))


@lowers("logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor")
def _logical(lowering: Lowering, call: Call) -> Operand:
    name = call.name.partition(".")[0].replace("bitwise", "logical")
    if _dtype(call) != "bool":
        raise PlanNotBuilt(f"{call.name} of numbers has no form that all runtimes share")
    first, second = (_truth(lowering, lowering.value(argument)) for argument in call.args)
    return _binary_values(lowering, name, first, second, "bool")


def _truth(lowering: Lowering, value: Value) -> Value:
    # What operation lists have for these takes bools only.
    return value if value.dtype == "bool" else lowering.emit("ne", value.shape, "bool", value, 0)


@lowers("maximum", "minimum")
def _extreme(lowering: Lowering, call: Call) -> Operand:
    first, second = (lowering.value(argument, _dtype(call)) for argument in call.args)
    return _binary_values(lowering, call.name, first, second, _dtype(call))


@lowers(*_SWAPPED)
def _compare(lowering: Lowering, call: Call) -> Operand:
    name = call.name.partition(".")[0]
    first, second = lowering.operand(call.args[0]), lowering.operand(call.args[1])
    if isinstance(first, Number) and isinstance(second, Value):
        name, first, second = _SWAPPED[name], second, first
    return _binary_values(lowering, name, first, second, "bool")


def _binary_values(lowering: Lowering, name: str, first: Operand, second: Operand, dtype: str) -> Value:
    """An operation on a tensor and a tensor or number; numbers that depend on the batch become tensors."""
    if isinstance(first, Number):
        first = lowering.scalar(first, dtype)
    if isinstance(second, Number):
        if second.power == 0:
            return lowering.emit(name, first.shape, dtype, first, second.factor)
        second = lowering.scalar(second, dtype)
    return lowering.emit(name, broadcast(first.shape, second.shape), dtype, first, second)


@lowers("where")
def _where(lowering: Lowering, call: Call) -> Operand:
    condition = lowering.value(call.args[0], "bool")
    # Old runtimes take tensors of one dtype only.
    first, second = (_of_dtype(lowering, argument, _dtype(call)) for argument in call.args[1:])
    shape = broadcast(condition.shape, first.shape, second.shape)
    return lowering.emit("where", shape, _dtype(call), condition, first, second)


def _of_dtype(lowering: Lowering, argument: object, dtype: str) -> Value:
    value = lowering.value(argument, dtype)
    return value if value.dtype == dtype else lowering.emit("to", value.shape, dtype, value, dtype)


@lowers("clamp", "clamp_min", "clamp_max", "hardtanh")
def _clamp(lowering: Lowering, call: Call) -> Operand:
    lowest = argument_of(call, 1, "min") if call.name != "clamp_max" else None
    highest = argument_of(call, 2, "max") if call.name != "clamp_max" else call.args[1]
    bounds = [None if bound is None else lowering.operand(bound) for bound in (lowest, highest)]
    if any(isinstance(bound, Value | Rows) or (isinstance(bound, Number) and bound.power) for bound in bounds):
        raise PlanNotBuilt("clamp with tensors as bounds is not in old runtimes: use torch.minimum and torch.maximum.")
    value = lowering.value(call.args[0])
    if bounds[0] == Number(0) and bounds[1] is None:
        return lowering.emit("relu", value.shape, _dtype(call), value)
    factors = [bound.factor if isinstance(bound, Number) else None for bound in bounds]
    return lowering.emit("clamp", value.shape, _dtype(call), value, *factors)
