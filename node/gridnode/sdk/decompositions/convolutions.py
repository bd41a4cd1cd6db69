"""Convolutions' gradients, and pooling as operations that cut a picture into tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from gridnode.sdk.decompositions.labels import one_hot
from gridnode.sdk.errors import PlanNotBuilt

aten: Final = torch.ops.aten


def convolution_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if transposed:
        raise PlanNotBuilt("transposed convolutions can't be trained in a plan. Upsample, then convolve.")
    space = range(2, input.dim())
    return (
        _convolution_grad_input(grad, input, weight, stride, padding, dilation, groups) if mask[0] else None,
        _convolution_grad_weight(grad, input, weight, stride, padding, dilation, groups) if mask[1] else None,
        grad.sum([0, *space]) if mask[2] else None,
    )


def _convolution_grad_input(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    # What the window did not reach at the far side is output_padding of the transposed convolution.
    missing = [
        input.shape[axis + 2]
        - (
            (grad.shape[axis + 2] - 1) * stride[axis]
            - 2 * padding[axis]
            + dilation[axis] * (weight.shape[axis + 2] - 1)
        )
        - 1
        for axis in range(input.dim() - 2)
    ]
    result: Tensor = aten.convolution.default(grad, weight, None, stride, padding, dilation, True, missing, groups)
    return result


def _convolution_grad_weight(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    # The convolution of the input with the output's gradient, rows taking the part of channels.
    space = list(range(2, input.dim()))
    inputs = input.transpose(0, 1)
    if groups > 1:
        split = [input.shape[0], groups, input.shape[1] // groups, *input.shape[2:]]
        order = [2, 1, 0, *(axis + 1 for axis in space)]
        inputs = input.reshape(split).permute(order).reshape(split[2], groups * split[0], *input.shape[2:])
    zeros = [0] * len(space)
    result: Tensor = aten.convolution.default(
        inputs, grad.transpose(0, 1), None, dilation, padding, stride, False, zeros, groups
    )
    for axis in space:
        result = result.narrow(axis, 0, weight.shape[axis])
    return result.transpose(0, 1)


def _tiles(input: Tensor, kernel: Sequence[int], stride: Sequence[int], regular: bool) -> tuple[int, int]:
    kernel = list(kernel) * (2 // len(kernel))
    stride = list(stride) * (2 // len(stride)) if stride else kernel
    fits = input.shape[-2] % kernel[0] == 0 and input.shape[-1] % kernel[1] == 0
    if not (regular and kernel == stride and fits and input.dim() == 4):
        raise PlanNotBuilt(
            "pooling whose windows overlap or do not fill the picture is not in the operation list: only TorchScript "
            "has it. Choose a stride equal to the window and a picture it divides, to have both."
        )
    return kernel[0], kernel[1]


def _cut(input: Tensor, height: int, width: int) -> Tensor:
    rows, channels, high, wide = input.shape
    tiles = input.reshape(rows, channels, high // height, height, wide // width, width).permute(0, 1, 2, 4, 3, 5)
    return tiles.reshape(rows, channels, high // height, wide // width, height * width)


def _paste(tiles: Tensor, like: Tensor, height: int, width: int) -> Tensor:
    rows, channels, high, wide, _ = tiles.shape
    parts = tiles.reshape(rows, channels, high, wide, height, width).permute(0, 1, 2, 4, 3, 5)
    return parts.reshape(like.shape)


def max_pool(
    input: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    regular = not any(padding) and set(dilation) == {1}
    values, places = _cut(input, *_tiles(input, kernel, stride, regular)).max(-1)
    return values, places


def max_pool_backward(
    grad: Tensor,
    input: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    places: Tensor,
) -> Tensor:
    height, width = _tiles(input, kernel, stride, regular=True)
    return _paste(one_hot(places, height * width) * grad.unsqueeze(-1), input, height, width)


def average_pool(
    input: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Tensor:
    return _cut(input, *_tiles(input, kernel, stride, not any(padding) and divisor is None)).mean(-1)


def average_pool_backward(
    grad: Tensor,
    input: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Tensor:
    height, width = _tiles(input, kernel, stride, not any(padding) and divisor is None)
    share = (grad / (height * width)).unsqueeze(-1) * torch.ones(height * width)
    return _paste(share, input, height, width)
