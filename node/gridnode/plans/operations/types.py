"""Types of operations and their arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tensor: TypeAlias = NDArray[Any]
Argument: TypeAlias = Any
"""A tensor, a number, a text, None, or a sequence of these, as the plan gives it."""
Dim: TypeAlias = int | Sequence[int] | None
Operation: TypeAlias = Callable[..., Any]
"""A function of tensors that changes none of them and gives a tensor, or a tuple of tensors."""
DType: TypeAlias = np.dtype[Any]
