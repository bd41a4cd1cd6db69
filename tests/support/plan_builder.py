"""Plans written by hand, as the frozen clients would serialize them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.support.syft_messages import parse

_CONTENTS = {"float32": "contents_float32", "float64": "contents_float64", "int64": "contents_int64"}


@dataclass(frozen=True, slots=True)
class Value:
    """A placeholder, by a name of the test's choice."""

    name: str

    @property
    def id(self) -> int:
        """The id it has in the message."""
        return int.from_bytes(self.name.encode(), "big")


@dataclass(frozen=True, slots=True)
class Action:
    """One operation; the target is None for functions such as ``torch.argmax``."""

    command: str
    target: Value | None = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    returns: Sequence[Value] = (Value("out"),)


def plan_of(
    actions: Sequence[Action],
    inputs: Sequence[Value] = (Value("in"),),
    outputs: Sequence[Value] = (Value("out"),),
    state: Mapping[str, np.ndarray[Any, Any]] | None = None,
) -> bytes:
    """A Plan with these actions for torch, and no other role than the active one."""
    plan = parse("Plan", b"")
    plan.id.id_int = 1
    plan.name = "handmade"
    plan.base_framework = "torch"
    role = plan.role
    for action in actions:
        _write_action(role.actions.add(), action)
    for value in inputs:
        role.input_placeholder_ids.add().id_int = value.id
    for value in outputs:
        role.output_placeholder_ids.add().id_int = value.id
    for name, tensor in (state or {}).items():
        role.state.placeholders.add().id.id_int = Value(name).id
        _write_tensor(role.state.tensors.add().torch_tensor, tensor)
    encoded: bytes = plan.SerializeToString()
    return encoded


def without_shapes(plan: bytes) -> bytes:
    """The plan without the shapes of its inputs, so that it can be hosted with any model of few tensors."""
    message = parse("Plan", plan)
    for placeholder in message.role.placeholders:
        placeholder.ClearField("expected_shape")
    encoded: bytes = message.SerializeToString()
    return encoded


def _write_action(message: Any, action: Action) -> None:
    message.command = action.command
    if action.target is not None:
        message.target_placeholder_id.id.id_int = action.target.id
    for arg in action.args:
        _write_arg(message.args.add(), arg)
    for name, arg in action.kwargs.items():
        _write_arg(message.kwargs[name], arg)
    for value in action.returns:
        message.return_placeholder_ids.add().id.id_int = value.id


def _write_arg(message: Any, arg: Any) -> None:
    if isinstance(arg, Value):
        message.arg_placeholder_id.id.id_int = arg.id
    elif isinstance(arg, list):
        message.arg_list.SetInParent()
        for item in arg:
            _write_arg(message.arg_list.args.add(), item)
    elif isinstance(arg, np.ndarray):
        _write_tensor(message.arg_tensor, arg)
    elif arg is not None:
        # bool before int: it is one in Python.
        kinds = (("arg_bool", bool), ("arg_int", int), ("arg_float", float), ("arg_str", str))
        kind = next(name for name, python_type in kinds if isinstance(arg, python_type))
        setattr(message, kind, arg)


def _write_tensor(message: Any, tensor: np.ndarray[Any, Any]) -> None:
    data = message.contents_data
    data.shape.dims.extend(tensor.shape)
    data.shape.SetInParent()
    data.dtype = tensor.dtype.name
    getattr(data, _CONTENTS[tensor.dtype.name]).extend(tensor.ravel().tolist())
