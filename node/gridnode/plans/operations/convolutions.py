"""Convolutions in one, two and more dimensions, and padding.

As PyTorch has them: the input is [rows, channels, *space], a weight [out, in / groups, *window], that of a transposed
convolution [in, out / groups, *window].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from gridnode.plans.operations.promotion import as_tensor
from gridnode.plans.operations.types import Argument, Operation, Tensor

Sizes = int | Sequence[int]


def convolution(dimensions: int) -> Operation:
    def operation(
        input: Argument,
        weight: Argument,
        bias: Argument = None,
        stride: Sizes = 1,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
    ) -> Tensor:
        input, weight = as_tensor(input), as_tensor(weight)
        borders = [(size, size) for size in _each(padding, dimensions)]
        result = _convolve(
            _bordered(input, borders), weight, _each(stride, dimensions), _each(dilation, dimensions), groups
        )
        return _with_bias(result, bias)

    return operation


def transposed_convolution(dimensions: int) -> Operation:
    def operation(
        input: Argument,
        weight: Argument,
        bias: Argument = None,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        dilation: Sizes = 1,
    ) -> Tensor:
        input, weight = as_tensor(input), as_tensor(weight)
        strides, dilations = _each(stride, dimensions), _each(dilation, dimensions)
        borders = []
        for axis, (inner, outer) in enumerate(
            zip(_each(padding, dimensions), _each(output_padding, dimensions), strict=True)
        ):
            border = dilations[axis] * (weight.shape[axis + 2] - 1) - inner
            borders.append((border, border + outer))
        spread = _bordered(_spread(input, strides), borders)
        result = _convolve(spread, _reversed(weight, groups), [1] * dimensions, dilations, groups)
        return _with_bias(result, bias)

    return operation


def pad(input: Argument, pad: Sequence[int], mode: str = "constant", value: float = 0) -> Tensor:
    if mode != "constant":
        raise ValueError(f"padding of mode {mode!r} is not known")
    tensor = as_tensor(input)
    # Given from the last dimension on.
    borders = [(pad[index], pad[index + 1]) for index in range(0, len(pad), 2)][::-1]
    outer = tensor.ndim - len(borders)
    widths = [(0, 0)] * outer + [(max(before, 0), max(after, 0)) for before, after in borders]
    padded = np.pad(tensor, widths, constant_values=value)
    return _cropped(padded, [(0, 0)] * outer + borders)


def _each(sizes: Sizes, dimensions: int) -> list[int]:
    each = [sizes] if isinstance(sizes, int) else list(sizes)
    return each * dimensions if len(each) == 1 else each


def _bordered(input: Tensor, borders: Sequence[tuple[int, int]]) -> Tensor:
    """Zeros around the input's space, or a part of it where a border is negative."""
    widths = [(0, 0), (0, 0), *borders]
    return _cropped(np.pad(input, [(max(before, 0), max(after, 0)) for before, after in widths]), widths)


def _cropped(tensor: Tensor, widths: Sequence[tuple[int, int]]) -> Tensor:
    kept = [
        slice(max(-before, 0), size - max(-after, 0))
        for size, (before, after) in zip(tensor.shape, widths, strict=True)
    ]
    return tensor[tuple(kept)]


def _spread(input: Tensor, strides: Sequence[int]) -> Tensor:
    """The input with zeros between its elements."""
    sizes = [(size - 1) * stride + 1 for size, stride in zip(input.shape[2:], strides, strict=True)]
    spread = np.zeros((*input.shape[:2], *sizes), input.dtype)
    spread[(slice(None), slice(None), *(slice(None, None, stride) for stride in strides))] = input
    return spread


def _reversed(weight: Tensor, groups: int) -> Tensor:
    """A transposed convolution's weight as that of the convolution which computes the same."""
    window = range(2, weight.ndim)
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    swapped = np.swapaxes(grouped, 1, 2).reshape(-1, weight.shape[0] // groups, *weight.shape[2:])
    return np.flip(swapped, tuple(window))


def _convolve(input: Tensor, weight: Tensor, strides: Sequence[int], dilations: Sequence[int], groups: int) -> Tensor:
    space = tuple(range(2, input.ndim))
    spans = [dilation * (size - 1) + 1 for size, dilation in zip(weight.shape[2:], dilations, strict=True)]
    windows = sliding_window_view(input, spans, space)
    steps = [slice(None, None, step) for step in (*strides, *dilations)]
    windows = windows[(slice(None), slice(None), *steps)]
    axes = ([1, *range(input.ndim, windows.ndim)], [1, *space])
    parts = [
        np.tensordot(part, kernel, axes)
        for part, kernel in zip(np.split(windows, groups, 1), np.split(weight, groups, 0), strict=True)
    ]
    return np.moveaxis(np.concatenate(parts, -1), -1, 1)


def _with_bias(result: Tensor, bias: Argument) -> Tensor:
    if bias is None:
        return result
    added: Tensor = result + as_tensor(bias).reshape(-1, *[1] * (result.ndim - 2))
    return added
