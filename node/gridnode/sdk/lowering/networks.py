"""Products of matrices, convolutions, pooling and embeddings."""

from __future__ import annotations

from typing import Any

from gridnode.sdk.errors import PlanNotBuilt
from gridnode.sdk.graph import Value
from gridnode.sdk.lowering.core import Lowering, Operand, argument_of, lowers
from gridnode.sdk.tracing import Call, Number


@lowers("mm", "bmm", "matmul", "mv", "dot")
def _matmul(lowering: Lowering, call: Call) -> Operand:
    if any(_is_zero(lowering.operand(argument)) for argument in call.args):
        return Number(0.0)
    first, second = lowering.tensor(call.args[0]), lowering.tensor(call.args[1])
    return lowering.emit("matmul", call.kinds[0].shape, call.kinds[0].dtype, first, second)


def _is_zero(operand: Operand) -> bool:
    # The first state of a recurrent layer, mostly.
    return isinstance(operand, Number) and operand.factor == 0


@lowers("addmm", "addmv")
def _addmm(lowering: Lowering, call: Call) -> Operand:
    if argument_of(call, 3, "beta", 1) != 1 or argument_of(call, 4, "alpha", 1) != 1:
        raise PlanNotBuilt("addmm with beta or alpha: write the product and the sum.")
    if any(_is_zero(lowering.operand(argument)) for argument in call.args[1:3]):
        return lowering.operand(call.args[0])
    bias, first, second = lowering.value(call.args[0]), *(lowering.tensor(ref) for ref in call.args[1:3])
    shape, dtype = call.kinds[0].shape, call.kinds[0].dtype
    return lowering.emit("add", shape, dtype, lowering.emit("matmul", shape, dtype, first, second), bias)


@lowers("convolution")
def _convolution(lowering: Lowering, call: Call) -> Operand:
    input, weight = lowering.tensor(call.args[0]), lowering.tensor(call.args[1])
    bias = None if call.args[2] is None else lowering.tensor(call.args[2])
    stride, padding, dilation, transposed, output_padding, groups = call.args[3:9]
    dimensions = len(input.shape) - 2
    if dimensions not in (1, 2):
        raise PlanNotBuilt("convolutions are supported in one and two dimensions, with a dimension for the rows")
    arguments: tuple[Any, ...] = (input, weight, bias, stride, padding)
    arguments += (output_padding, groups, dilation) if transposed else (dilation, groups)
    name = f"conv_transpose{dimensions}d" if transposed else f"conv{dimensions}d"
    return lowering.emit(name, call.kinds[0].shape, call.kinds[0].dtype, *arguments)


@lowers("max_pool2d_with_indices")
def _max_pool(lowering: Lowering, call: Call) -> tuple[Operand, ...]:
    input = lowering.tensor(call.args[0])
    kinds = [(kind.shape, kind.dtype) for kind in call.kinds]
    return lowering.graph.add("max_pool2d_with_indices", (input, *_window(call, 1)), *kinds)


@lowers("max_pool2d_with_indices_backward")
def _max_pool_backward(lowering: Lowering, call: Call) -> Operand:
    grad, input, places = (lowering.tensor(call.args[index]) for index in (0, 1, 7))
    kind = call.kinds[0]
    return lowering.emit(call.name, kind.shape, kind.dtype, grad, input, *_window(call, 2), places)


def _window(call: Call, first: int) -> tuple[Any, ...]:
    """Window, stride, padding, dilation and ceil_mode from a position on; defaults as PyTorch has them."""
    kernel = _pair(call.args[first])
    stride = argument_of(call, first + 1, "stride", ())
    padding = argument_of(call, first + 2, "padding", (0, 0))
    dilation = argument_of(call, first + 3, "dilation", (1, 1))
    ceil_mode = bool(argument_of(call, first + 4, "ceil_mode", False))
    return kernel, _pair(stride) if stride else kernel, _pair(padding), _pair(dilation), ceil_mode


@lowers("avg_pool2d")
def _average_pool(lowering: Lowering, call: Call) -> Operand:
    kind = call.kinds[0]
    return lowering.emit("avg_pool2d", kind.shape, kind.dtype, lowering.tensor(call.args[0]), *_average(call, 1))


@lowers("avg_pool2d_backward")
def _average_pool_backward(lowering: Lowering, call: Call) -> Operand:
    kind = call.kinds[0]
    grad, input = lowering.tensor(call.args[0]), lowering.tensor(call.args[1])
    return lowering.emit("avg_pool2d_backward", kind.shape, kind.dtype, grad, input, *_average(call, 2))


def _average(call: Call, first: int) -> tuple[Any, ...]:
    kernel = _pair(call.args[first])
    stride = argument_of(call, first + 1, "stride", ())
    return (
        kernel,
        _pair(stride) if stride else kernel,
        _pair(argument_of(call, first + 2, "padding", (0, 0))),
        bool(argument_of(call, first + 3, "ceil_mode", False)),
        bool(argument_of(call, first + 4, "count_include_pad", True)),
        argument_of(call, first + 5, "divisor_override"),
    )


def _pair(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return sizes * 2 if len(sizes) == 1 else sizes


@lowers("embedding")
def _embedding(lowering: Lowering, call: Call) -> Operand:
    weight, indices = lowering.tensor(call.args[0]), lowering.tensor(call.args[1])
    kind = call.kinds[0]
    return lowering.emit("embedding", kind.shape, kind.dtype, weight, indices)


@lowers("embedding_dense_backward")
def _embedding_backward(lowering: Lowering, call: Call) -> Operand:
    grad, indices = lowering.tensor(call.args[0]), lowering.tensor(call.args[1])
    words, padding, by_frequency = call.args[2:5]
    if by_frequency:
        raise PlanNotBuilt("an embedding with scale_grad_by_freq is not supported")
    kind = call.kinds[0]
    result: Value = lowering.emit(call.name, kind.shape, kind.dtype, grad, indices, words, padding, False)
    return result
