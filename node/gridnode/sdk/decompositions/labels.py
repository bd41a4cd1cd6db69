"""Class numbers as vectors."""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """A dimension more, with 1.0 at the class: by comparing, which all runtimes can."""
    # Classes as floats: TensorFlow.js has no int64, which a constant of PyTorch's usual kind would be.
    return (labels.unsqueeze(-1) == torch.arange(classes, dtype=torch.float32)).to(torch.float32)
