"""How a step changes the parameters, as the author chooses it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gridnode.sdk.errors import PlanNotBuilt


@dataclass(frozen=True, slots=True)
class SGD:
    """Stochastic gradient descent; the learning rate is an input of the plan.

    Phones keep nothing between two calls of a plan. So momentum works within the local steps of one call and starts
    from zero in the next.

    Attributes:
        momentum: share of the last change that is kept, in [0, 1).
        weight_decay: L2 penalty.
        nesterov: look ahead along the momentum.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise PlanNotBuilt(f"momentum is {self.momentum}: it lies between 0 and 1, without 1.")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise PlanNotBuilt(f"weight_decay is {self.weight_decay}: it is at least 0.")
        if self.nesterov and not self.momentum:
            raise PlanNotBuilt("nesterov needs momentum.")
