"""Training steps made of a module, a loss and an optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value

from gridnode.sdk.errors import PlanNotBuilt
from gridnode.sdk.losses import Loss, Metric
from gridnode.sdk.optimizers import SGD


@dataclass(frozen=True, slots=True)
class ModuleStep:
    """``(X, y, batch_size, lr, params) → (loss, accuracy, *params)`` for a module.

    Attributes:
        names: of the parameters that are trained, in the order of ``params``.
        local_steps: in how many parts a batch is taken, one after the other.
        proximal: FedProx's μ: how strongly parameters are held at those the call began with.
    """

    module: torch.nn.Module
    names: Sequence[str]
    loss: Loss
    metric: Metric
    optimizer: SGD
    local_steps: int
    proximal: float

    def __call__(
        self,
        X: Tensor,  # noqa: N803 - as plans name it
        y: Tensor,
        batch_size: Tensor,
        lr: Tensor,
        params: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        start = current = list(params)
        velocities: list[Tensor | None] = [None] * len(current)
        losses, metrics = [], []
        for inputs, targets in zip(self._parts(X), self._parts(y), strict=True):
            gradients, (loss, outputs) = grad_and_value(self._loss, has_aux=True)(current, inputs, targets)
            losses.append(loss)
            metrics.append(self.metric(outputs, targets))
            changed = [self._update(*each, lr) for each in zip(current, gradients, start, velocities, strict=True)]
            current, velocities = [parameter for parameter, _ in changed], [velocity for _, velocity in changed]
        return (_mean(losses), _mean(metrics), *current)

    def _loss(self, params: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        outputs = functional_call(self.module, dict(zip(self.names, params, strict=True)), (inputs,))
        if not isinstance(outputs, Tensor):
            raise PlanNotBuilt(
                f"the module gives a {type(outputs).__name__}, not one tensor. Wrap it in one that does."
            )
        loss = self.loss(outputs, targets)
        if loss.dim():
            raise PlanNotBuilt(f"the loss has shape {list(loss.shape)}: it must be one number, the mean over the rows.")
        return loss, outputs

    def _parts(self, batch: Tensor) -> list[Tensor]:
        if self.local_steps == 1:
            return [batch]
        parts = batch.reshape(self.local_steps, batch.shape[0] // self.local_steps, *batch.shape[1:])
        return [parts[index] for index in range(self.local_steps)]

    def _update(
        self, parameter: Tensor, gradient: Tensor, start: Tensor, velocity: Tensor | None, lr: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        optimizer = self.optimizer
        if optimizer.weight_decay:
            gradient = gradient + optimizer.weight_decay * parameter
        if self.proximal and parameter is not start:
            gradient = gradient + self.proximal * (parameter - start)
        if optimizer.momentum:
            velocity = gradient if velocity is None else optimizer.momentum * velocity + gradient
            gradient = gradient + optimizer.momentum * velocity if optimizer.nesterov else velocity
        return parameter - lr * gradient, velocity


def _mean(values: Sequence[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total / len(values) if len(values) > 1 else total


def step_of_module(
    module: torch.nn.Module, loss: Loss, metric: Metric, optimizer: SGD, local_steps: int, proximal: float
) -> tuple[ModuleStep, dict[str, Tensor]]:
    """The step of a module, and the parameters it trains by name.

    Raises:
        PlanNotBuilt: a layer or choice that can't be trained on phones as it is meant.
    """
    if local_steps < 1:
        raise PlanNotBuilt(f"local_steps is {local_steps}: it is at least 1.")
    if local_steps == 1 and (optimizer.momentum or proximal):
        what = "momentum" if optimizer.momentum else "proximal"
        raise PlanNotBuilt(
            f"{what} has no effect in a single local step: phones keep nothing between two calls of a plan. Give "
            "local_steps=4, say, and a batch_size that is a multiple of it."
        )
    if not proximal >= 0:
        raise PlanNotBuilt(f"proximal is {proximal}: it is at least 0.")
    _check_layers(module)
    parameters = {name: tensor.detach() for name, tensor in module.named_parameters() if tensor.requires_grad}
    return ModuleStep(module, list(parameters), loss, metric, optimizer, local_steps, proximal), parameters


def _check_layers(module: torch.nn.Module) -> None:
    layers: Any = torch.nn.modules
    for name, layer in module.named_modules():
        if not layer.training:
            continue
        if isinstance(layer, layers.dropout._DropoutNd) and layer.p > 0:
            raise PlanNotBuilt(
                f"layer {name!r} is dropout, which draws random numbers: phones of 2020 have no seed for them, and "
                "their results could not be compared. Take it out or call .eval() on it; weight_decay is another "
                "regularizer."
            )
        if isinstance(layer, layers.batchnorm._NormBase) and layer.track_running_stats:
            raise PlanNotBuilt(
                f"layer {name!r} is batch norm in training form: it changes running statistics, which are no "
                "parameters, so phones could not report them. Call .eval() on it to use the statistics it has, or "
                "take nn.GroupNorm."
            )
