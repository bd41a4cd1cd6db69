"""How operators of today's PyTorch are computed by those that runtimes of 2020 have.

Each function says in PyTorch what an operator does; :func:`make_fx` puts its parts in the operator's place. Backward
operators are the main case: their schemas changed with every release. Formulas are the derivatives themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions

from gridnode.sdk.decompositions import convolutions, normalizations
from gridnode.sdk.decompositions.labels import one_hot
from gridnode.sdk.errors import PlanNotBuilt

aten: Final = torch.ops.aten
Table = dict[Any, Callable[..., Any]]


def decompositions(*, as_operations: bool) -> Table:
    """The table for :func:`make_fx`.

    Args:
        as_operations: for the operation list, which has no pooling and no embedding.
    """
    # PyTorch's own, for all that is not below.
    table: Table = dict(core_aten_decompositions())
    table.update(get_decompositions(_COMPOSITE))
    for operator in _KEPT:
        table.pop(operator, None)
    table.update(_ALWAYS)
    if as_operations:
        table.update(_AS_OPERATIONS)
    return table


#: Not in PyTorch's table of core operators, but computed from simpler ones by a formula it has.
_COMPOSITE: Final = (
    *(aten.baddbmm, aten.elu, aten.gelu, aten.hardsigmoid, aten.hardswish, aten.hardtanh, aten.huber_loss),
    *(aten.huber_loss_backward, aten.leaky_relu, aten.silu, aten.softplus),
)
#: In all runtimes as they are; logsumexp in TensorFlow.js too.
_KEPT: Final = (aten.embedding_dense_backward.default, aten.logsumexp.default)


def _log_softmax(input: Tensor, dim: int, half_to_float: bool) -> Tensor:
    return input - torch.logsumexp(input, dim, keepdim=True)


def _softmax(input: Tensor, dim: int, half_to_float: bool) -> Tensor:
    return torch.exp(input - torch.logsumexp(input, dim, keepdim=True))


def _safe_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    # Safe for rows without any score, which a plan's attention has not.
    return _softmax(input, dim, False)


def _log_softmax_backward(grad: Tensor, output: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    return grad - torch.exp(output) * grad.sum(dim, keepdim=True)


def _softmax_backward(grad: Tensor, output: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    weighted = grad * output
    return weighted - output * weighted.sum(dim, keepdim=True)


def _threshold_backward(grad: Tensor, input: Tensor, threshold: float) -> Tensor:
    return grad * (input > threshold)


def _log_sigmoid(input: Tensor) -> tuple[Tensor, Tensor]:
    # With relu and log rather than minimum and log1p: those are in TensorFlow.js too.
    output = -(torch.relu(-input) + torch.log(1 + torch.exp(-torch.abs(input))))
    return output, torch.zeros_like(input)


def _log_sigmoid_backward(grad: Tensor, input: Tensor, buffer: Tensor) -> Tensor:
    return grad * torch.sigmoid(-input)


def _mean(input: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return input.sum(dtype=dtype) / input.numel()


def _mean_dim(
    input: Tensor, dim: Sequence[int] | None, keepdim: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    dims = list(dim) if dim else list(range(input.dim()))
    return input.sum(dims, keepdim, dtype=dtype) / math.prod(input.shape[index] for index in dims)


def _nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    _check_nll_loss(input, weight)
    losses = -(one_hot(target, input.shape[1]) * input).sum(1)
    total = torch.full((), float(input.shape[0]))
    if reduction == 0:
        return losses, total
    return losses.sum() / (input.shape[0] if reduction == 1 else 1), total


def _nll_loss_backward(
    grad: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    total_weight: Tensor,
) -> Tensor:
    _check_nll_loss(input, weight)
    share = grad.unsqueeze(-1) if reduction == 0 else grad / (input.shape[0] if reduction == 1 else 1)
    return -(one_hot(target, input.shape[1]) * share)


def _check_nll_loss(input: Tensor, weight: Tensor | None) -> None:
    if weight is not None or input.dim() != 2:
        raise PlanNotBuilt(
            "cross entropy of class numbers is supported for scores of shape [rows, classes] and without class "
            "weights. Write it with one-hot targets: -(log_softmax(scores) * targets).sum() / batch_size."
        )


def _embedding(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, scale: bool = False, sparse: bool = False
) -> Tensor:
    rows = one_hot(indices.reshape(-1), weight.shape[0]).mm(weight)
    return rows.reshape(*indices.shape, weight.shape[1])


def _embedding_backward(grad: Tensor, indices: Tensor, words: int, padding_idx: int, scale: bool) -> Tensor:
    chosen = one_hot(indices.reshape(-1), words)
    if padding_idx >= 0:
        chosen = chosen * (torch.arange(words) != padding_idx)
    return chosen.t().mm(grad.reshape(-1, grad.shape[-1]))


_ALWAYS: Final[Table] = {
    aten._log_softmax.default: _log_softmax,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
    aten._native_batch_norm_legit.default: normalizations.batch_norm,
    aten._native_batch_norm_legit_no_training.default: normalizations.batch_norm_without_statistics,
    aten._safe_softmax.default: _safe_softmax,
    aten._softmax.default: _softmax,
    aten._softmax_backward_data.default: _softmax_backward,
    aten.convolution_backward.default: convolutions.convolution_backward,
    aten.log_sigmoid_backward.default: _log_sigmoid_backward,
    aten.log_sigmoid_forward.default: _log_sigmoid,
    aten.mean.default: _mean,
    aten.mean.dim: _mean_dim,
    aten.native_batch_norm.default: normalizations.batch_norm,
    aten.native_batch_norm_backward.default: normalizations.batch_norm_backward,
    aten.native_group_norm.default: normalizations.group_norm,
    aten.native_group_norm_backward.default: normalizations.group_norm_backward,
    aten.native_layer_norm.default: normalizations.layer_norm,
    aten.native_layer_norm_backward.default: normalizations.layer_norm_backward,
    aten.nll_loss_backward.default: _nll_loss_backward,
    aten.nll_loss_forward.default: _nll_loss,
    aten.threshold_backward.default: _threshold_backward,
    aten.var.correction: normalizations.variance,
    aten.var_mean.correction: normalizations.variance_and_mean,
}

_AS_OPERATIONS: Final[Table] = {
    aten.avg_pool2d.default: convolutions.average_pool,
    aten.avg_pool2d_backward.default: convolutions.average_pool_backward,
    aten.embedding.default: _embedding,
    aten.embedding_dense_backward.default: _embedding_backward,
    aten.max_pool2d_with_indices.default: convolutions.max_pool,
    aten.max_pool2d_with_indices_backward.default: convolutions.max_pool_backward,
}
