"""Small models that cover the layers, losses and optimizers a plan may have."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gridnode.sdk.optimizers import SGD

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Case:
    """A module, a batch for it, and what else ``build_plan`` is given."""

    module: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    options: dict[str, Any] = field(default_factory=dict)


class Recurrent(nn.Module):  # type: ignore[misc, unused-ignore] # untyped where PyTorch is not installed
    """A recurrent cell, unrolled over the steps of its input."""

    def __init__(self, cell: type[nn.RNNCellBase], words: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 6) if words else nn.Identity()
        self.cell = cell(6, 8)  # type: ignore[call-arg, unused-ignore]
        self.scores = nn.Linear(8, 3)

    def forward(self, input: Tensor) -> Tensor:
        embedded = self.embedding(input)
        state: Any = None
        for step in range(embedded.shape[1]):
            state = self.cell(embedded[:, step], state)
        scores: Tensor = self.scores(state[0] if isinstance(state, tuple) else state)
        return scores


def one_hot(rows: int, classes: int) -> Tensor:
    return functional.one_hot(torch.arange(rows) % classes, classes).float()


def _dense(*layers: nn.Module, outputs: int = 5) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(20, 10), *copy.deepcopy(layers), nn.Linear(10, outputs))


def _rows(outputs: int = 5) -> Callable[[], Batch]:
    return lambda: (torch.randn(6, 20), one_hot(6, outputs))


def _numbers() -> Batch:
    return torch.randn(6, 20), 3 * torch.randn(6, 1)


def _picture() -> Batch:
    return torch.randn(6, 1, 12, 12), one_hot(6, 5)


def _trained(layer: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """A batch norm that has seen data, in eval form."""
    layer.running_mean = torch.linspace(-0.5, 0.5, layer.num_features)
    layer.running_var = torch.linspace(0.5, 2, layer.num_features)
    return layer.eval()


CASES: dict[str, Case] = {
    "softmax": Case(_dense(nn.ReLU()), _rows()),
    "classes": Case(_dense(nn.Tanh()), lambda: (torch.randn(6, 20), torch.arange(6) % 5)),
    "bce": Case(
        _dense(nn.Sigmoid(), outputs=1),
        lambda: (torch.randn(6, 20), (torch.randn(6, 1) > 0).float()),
        {"loss": "bce_with_logits"},
    ),
    "mse-gelu": Case(_dense(nn.GELU(), outputs=1), _numbers, {"loss": "mse"}),
    "huber-leaky-relu": Case(_dense(nn.LeakyReLU(), outputs=1), _numbers, {"loss": "huber"}),
    "own-loss": Case(
        _dense(nn.ELU(), outputs=1),
        _numbers,
        {"loss": lambda outputs, y: functional.smooth_l1_loss(outputs, y, beta=0.5)},
    ),
    "activations": Case(_dense(nn.SiLU(), nn.Softplus(), nn.Hardtanh(), nn.Softmax(1)), _rows()),
    "cnn": Case(
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, stride=2, groups=2)),
            *(nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6, 5)),
        ),
        _picture,
    ),
    "overlapping-pool": Case(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(100, 5)),
        _picture,
    ),
    "dilated-conv1d": Case(
        lambda: nn.Sequential(nn.Conv1d(3, 4, 5, stride=2, dilation=2), nn.ReLU(), nn.Flatten(), nn.Linear(40, 5)),
        lambda: (torch.randn(6, 3, 28), one_hot(6, 5)),
    ),
    "global-pool": Case(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
        _picture,
    ),
    "batch-norm-eval": Case(
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 4, 3), _trained(nn.BatchNorm2d(4)), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))
        ),
        _picture,
    ),
    "group-norm": Case(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)),
        _picture,
    ),
    "layer-norm": Case(_dense(nn.LayerNorm(10)), _rows()),
    "embedding": Case(
        lambda: nn.Sequential(nn.Embedding(30, 8, padding_idx=0), nn.Flatten(), nn.Linear(32, 5)),
        lambda: (torch.randint(0, 30, (6, 4)), one_hot(6, 5)),
    ),
    "lstm": Case(lambda: Recurrent(nn.LSTMCell), lambda: (torch.randn(6, 4, 6), one_hot(6, 3))),
    "gru": Case(lambda: Recurrent(nn.GRUCell, words=11), lambda: (torch.randint(0, 11, (6, 4)), one_hot(6, 3))),
    "attention": Case(
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), nn.Flatten(), nn.Linear(32, 5)
        ),
        lambda: (torch.randn(6, 4, 8), one_hot(6, 5)),
    ),
    "momentum": Case(_dense(nn.ReLU()), _rows(), {"optimizer": SGD(momentum=0.9), "local_steps": 3}),
    "nesterov": Case(
        _dense(nn.ReLU()),
        _rows(),
        {"optimizer": SGD(momentum=0.9, weight_decay=1e-3, nesterov=True), "local_steps": 2},
    ),
    "proximal": Case(_dense(nn.ReLU()), _rows(), {"proximal": 0.1, "local_steps": 2}),
    "frozen-layer": Case(
        lambda: nn.Sequential(nn.Linear(20, 10).requires_grad_(False), nn.ReLU(), nn.Linear(10, 5)), _rows()
    ),
}

#: Cases that an operation list can't hold.
TORCHSCRIPT_ONLY = frozenset(("overlapping-pool",))
#: Cases that TensorFlow.js can run too.
FOR_BROWSERS = frozenset(("softmax", "classes", "bce", "layer-norm", "embedding", "frozen-layer"))


def make(case: Case) -> tuple[nn.Module, Batch]:
    """The module and the batch, always the same ones."""
    torch.manual_seed(0)
    return case.module(), case.batch()


def train_with_autograd(case: Case, module: nn.Module, batch: Batch, lr: float, steps: int) -> list[Tensor]:
    """The parameters after some steps of PyTorch's own optimizer and autograd on one batch: the reference."""
    from gridnode.sdk.losses import choose

    loss, _ = choose(case.options.get("loss", "cross_entropy"), None)
    options = case.options.get("optimizer", SGD())
    parts = case.options.get("local_steps", 1)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for _ in range(steps):
        optimizer = torch.optim.SGD(
            trained, lr, momentum=options.momentum, weight_decay=options.weight_decay, nesterov=options.nesterov
        )
        start = [parameter.detach().clone() for parameter in trained]
        for inputs, targets in zip(*(tensor.chunk(parts) for tensor in batch), strict=True):
            optimizer.zero_grad()
            value = loss(module(inputs), targets)
            distance = sum(((new - old) ** 2).sum() for new, old in zip(trained, start, strict=True))
            (value + case.options.get("proximal", 0.0) / 2 * distance).backward()
            optimizer.step()
    return [parameter.detach() for parameter in trained]
