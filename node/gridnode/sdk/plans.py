"""A plan as the author holds it, ready to be hosted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gridnode.plans.plan import Plan, parse_plan
from gridnode.protocol.syft_proto import encode_state


@dataclass(frozen=True, slots=True, eq=False)
class BuiltPlan:
    """A training plan with the parameters it starts from.

    Attributes:
        data: the Plan as a node hosts it.
        parameters: by name, in the plan's order.
        left_out: why a variant is not there, by its name (``list``, ``tfjs``). Phones that ask for it can't train.
        local_steps: the batch size must be a multiple of it.
    """

    name: str
    data: bytes
    parameters: Mapping[str, NDArray[Any]]
    left_out: Mapping[str, str] = field(default_factory=dict)
    local_steps: int = 1

    @property
    def state(self) -> bytes:
        """The parameters as the State a node hosts."""
        return encode_state(list(self.parameters.values()))

    @property
    def message(self) -> Plan:
        """The Plan, parsed."""
        return parse_plan(self.data)

    def save(self, plan: str | Path, model: str | Path | None = None) -> None:
        """Write the plan, and the parameters beside it, to the files that ``gridnode host`` takes."""
        Path(plan).write_bytes(self.data)
        if model is not None:
            Path(model).write_bytes(self.state)


@dataclass(frozen=True, slots=True, eq=False)
class BuiltAveragingPlan:
    """An averaging plan.

    Attributes:
        iterative: whether it takes one diff after the other; ``server_config.iterative_plan`` must say the same.
        diffs: how many diffs it takes, where the operation list fixes that number.
    """

    name: str
    data: bytes
    iterative: bool
    diffs: int | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write it to a file that ``gridnode host --averaging-plan`` takes."""
        Path(path).write_bytes(self.data)


def numbered(tensors: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Tensors without names of their own as p0, p1, …"""
    return {f"p{index}": tensor for index, tensor in enumerate(tensors)}
