"""Plans: what a model author has phones run, as operation list and as TorchScript."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from gridnode.errors import InvalidRequest
from gridnode.protocol import syft_pb2
from gridnode.protocol.wire_format import Malformed, read_fields

_TORCHSCRIPT_FIELD: Final = 7
# Id, names, tags and one role per framework; real plans have about ten.
_MAXIMUM_FIELDS: Final = 1000


class InvalidPlan(InvalidRequest):
    """The bytes are no Plan, or one that this node can't serve or run."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A parsed Plan. The message is not to be changed; :mod:`gridnode.plans.variants` edits copies."""

    message: syft_pb2.Plan

    @property
    def name(self) -> str:
        """The name its author gave it."""
        return self.message.name

    @property
    def base_framework(self) -> str:
        """The framework of the active operation list: ``torch``, ``tfjs``, or empty in early plans, which are torch."""
        return self.message.base_framework

    @property
    def has_operations(self) -> bool:
        """Whether it holds an operation list for its base framework."""
        return len(self.message.role.actions) > 0

    @property
    def torchscript(self) -> bytes:
        """The TorchScript archive (zip), empty if it has none."""
        return self.message.torchscript

    @property
    def input_count(self) -> int:
        """The number of inputs, lists of tensors counted flat."""
        return len(self.message.role.input_placeholder_ids)

    @property
    def input_shapes(self) -> list[tuple[int, ...] | None]:
        """The shape that each input had when the plan was traced; None where the plan does not say."""
        role = self.message.role
        shapes = {
            placeholder.id.id_int: tuple(placeholder.expected_shape.dims)
            for placeholder in role.placeholders
            if placeholder.HasField("expected_shape")
        }
        return [shapes.get(each.id_int) for each in role.input_placeholder_ids]

    @property
    def output_count(self) -> int:
        """The number of outputs, lists of tensors counted flat."""
        return len(self.message.role.output_placeholder_ids)


def parse_plan(data: bytes | memoryview, *, maximum_operations_bytes: int = 4 << 20) -> Plan:
    """Read a Plan.

    Args:
        data: the message.
        maximum_operations_bytes: a plan is refused if everything but its TorchScript is larger. Parsed messages take up
            to 40 times the memory of their bytes; a thousand operations for two frameworks are 0.2 MB.

    Raises:
        InvalidPlan: not a Plan, one with neither operations nor TorchScript, or too large.
    """
    view = memoryview(data).cast("B")
    try:
        sizes = [(number, stop - start) for number, _, start, stop in read_fields(view, 0, len(view), _MAXIMUM_FIELDS)]
    except Malformed as error:
        raise InvalidPlan(f"not a Plan: {error}") from error
    size = sum(size for number, size in sizes if number != _TORCHSCRIPT_FIELD)
    if size > maximum_operations_bytes:
        raise InvalidPlan(f"the plan's operations take {size} bytes, at most {maximum_operations_bytes} are accepted")
    try:
        message = syft_pb2.Plan.FromString(bytes(data))
    except (DecodeError, UnicodeDecodeError, ValueError) as error:
        raise InvalidPlan("not a Plan: a part of the message is cut off, nested too deep or no text") from error
    plan = Plan(message)
    if not plan.has_operations and not plan.torchscript:
        raise InvalidPlan(f"plan {plan.name!r} has neither operations nor TorchScript")
    return plan
