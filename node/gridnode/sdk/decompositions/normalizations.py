"""Normalization layers, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gridnode.sdk.errors import PlanNotBuilt


def variance_and_mean(
    input: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    dims = [axis % input.dim() for axis in dim] if dim else list(range(input.dim()))
    mean = input.mean(dims, keepdim=True)
    centred = input - mean
    freedom = math.prod(input.shape[axis] for axis in dims) - (1 if correction is None else correction)
    variance = (centred * centred).sum(dims, keepdim=True) / freedom
    if keepdim:
        return variance, mean
    kept = [size for axis, size in enumerate(input.shape) if axis not in dims]
    return variance.reshape(kept), mean.reshape(kept)


def variance(input: Tensor, dim: Sequence[int] | None = None, **options: Any) -> Tensor:
    return variance_and_mean(input, dim, **options)[0]


def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    dims = list(range(input.dim() - len(normalized_shape), input.dim()))
    mean = input.mean(dims, keepdim=True)
    centred = input - mean
    scale = torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)
    output = centred * scale
    if weight is not None:
        output = output * weight
    return output if bias is None else output + bias, mean, scale


def layer_norm_backward(
    grad: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    mean: Tensor,
    scale: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    outer = list(range(input.dim() - len(normalized_shape)))
    inner = list(range(len(outer), input.dim()))
    normal = (input - mean) * scale
    weighted = grad if weight is None else grad * weight
    along = (weighted * normal).mean(inner, keepdim=True)
    grad_input = scale * (weighted - weighted.mean(inner, keepdim=True) - normal * along)
    grad_weight = (grad * normal).sum(outer) if outer else grad * normal
    return (
        grad_input if mask[0] else None,
        grad_weight if mask[1] and weight is not None else None,
        (grad.sum(outer) if outer else grad) if mask[2] and bias is not None else None,
    )


def group_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    rows: int,
    channels: int,
    space: int,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    grouped = input.reshape(rows, groups, channels // groups * space)
    mean = grouped.mean([2], keepdim=True)
    centred = grouped - mean
    scale = torch.rsqrt((centred * centred).mean([2], keepdim=True) + eps)
    output = (centred * scale).reshape(input.shape)
    if weight is not None:
        output = output * _channels(weight, input)
    if bias is not None:
        output = output + _channels(bias, input)
    return output, mean.reshape(rows, groups), scale.reshape(rows, groups)


def group_norm_backward(
    grad: Tensor,
    input: Tensor,
    mean: Tensor,
    scale: Tensor,
    weight: Tensor | None,
    rows: int,
    channels: int,
    space: int,
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    shape = (rows, groups, channels // groups * space)
    scale = scale.reshape(rows, groups, 1)
    normal = (input.reshape(shape) - mean.reshape(rows, groups, 1)) * scale
    weighted = (grad if weight is None else grad * _channels(weight, input)).reshape(shape)
    along = (weighted * normal).mean([2], keepdim=True)
    grad_input = scale * (weighted - weighted.mean([2], keepdim=True) - normal * along)
    others = [0, *range(2, input.dim())]
    return (
        grad_input.reshape(input.shape) if mask[0] else None,
        (grad * normal.reshape(input.shape)).sum(others) if mask[1] else None,
        grad.sum(others) if mask[2] else None,
    )


def _channels(vector: Tensor, like: Tensor) -> Tensor:
    return vector.reshape([1, -1] + [1] * (like.dim() - 2))


def batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if training or running_mean is None or running_var is None:
        raise PlanNotBuilt(
            "batch norm in training form changes running statistics, which are no parameters: phones could not report "
            "them. Call .eval() on these layers, so that they use the statistics they have, or take nn.GroupNorm."
        )
    output = (input - _channels(running_mean, input)) * _channels(torch.rsqrt(running_var + eps), input)
    if weight is not None:
        output = output * _channels(weight, input)
    if bias is not None:
        output = output + _channels(bias, input)
    nothing = torch.zeros_like(running_mean)
    return output, nothing, nothing


def batch_norm_without_statistics(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    input, weight, bias, mean, variance, momentum, eps = args
    return batch_norm(input, weight, bias, mean, variance, False, momentum, eps)


def batch_norm_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    scale: Tensor,
    training: bool,
    eps: float,
    mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    inverse = _channels(torch.rsqrt(running_var + eps), input)
    others = [0, *range(2, input.dim())]
    grad_input = grad * inverse if weight is None else grad * inverse * _channels(weight, input)
    normal = (input - _channels(running_mean, input)) * inverse
    return (
        grad_input if mask[0] else None,
        (grad * normal).sum(others) if mask[1] else None,
        grad.sum(others) if mask[2] else None,
    )
