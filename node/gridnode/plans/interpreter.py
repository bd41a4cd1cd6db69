"""Runs the operation list of a plan in NumPy.

A list is compiled once: placeholders become numbered slots, commands become functions, and every problem that can be
seen without values is found. Running it then touches no message.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

from gridnode.plans.operations import find_operation
from gridnode.plans.operations.promotion import as_tensor
from gridnode.plans.operations.types import Argument, Operation
from gridnode.plans.plan import InvalidPlan, Plan
from gridnode.protocol import syft_pb2
from gridnode.protocol.syft_proto import InvalidState, decode_state, decode_tensor


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation. Inputs and outputs are slots; every slot in ``last_used`` is of no use after it."""

    label: str
    function: Callable[..., Any]
    args: tuple[int, ...]
    kwargs: tuple[tuple[str, int], ...]
    results: tuple[int, ...]
    last_used: tuple[int, ...]


class OperationList:
    """A compiled operation list. Running it leaves it as it is, so threads may share it."""

    def __init__(
        self, constants: Sequence[Any], steps: Sequence[_Step], inputs: Sequence[int], outputs: Sequence[int]
    ) -> None:
        self._constants = list(constants)
        self._steps = tuple(steps)
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)

    @classmethod
    def from_plan(cls, plan: Plan) -> OperationList:
        """Compile a plan's active operation list.

        Raises:
            InvalidPlan: an operation or argument that is not known, a value used before it is made, a constant that is
                no readable tensor, or no operations.
        """
        compiler = _Compiler(plan)
        try:
            return compiler.compile()
        except InvalidState as error:
            raise InvalidPlan(f"{compiler.label}: {error.message}") from error

    @property
    def input_count(self) -> int:
        """The number of inputs, lists of tensors counted flat."""
        return len(self._inputs)

    @property
    def output_count(self) -> int:
        """The number of outputs."""
        return len(self._outputs)

    def run(self, inputs: Sequence[NDArray[Any] | int | float | bool]) -> list[NDArray[Any]]:
        """Run all operations.

        Args:
            inputs: in the order of the plan's inputs, lists flattened. They are not changed. Python numbers become
                tensors without dimensions, floats of dtype float32.

        Returns:
            The outputs. They may share memory with inputs, with constants of the plan and with each other.

        Raises:
            InvalidPlan: another number of inputs, or an operation failed on these; the message names it.
        """
        if len(inputs) != len(self._inputs):
            raise InvalidPlan(f"the plan has {len(self._inputs)} inputs, {len(inputs)} were given")
        slots = self._constants.copy()
        for slot, value in zip(self._inputs, inputs, strict=True):
            slots[slot] = as_tensor(value)
        # PyTorch gives inf and nan without a word.
        with np.errstate(all="ignore"):
            for step in self._steps:
                try:
                    _execute(step, slots)
                except Exception as error:
                    raise InvalidPlan(f"{step.label} failed: {error}") from error
        return [np.asarray(slots[slot]) for slot in self._outputs]


def _execute(step: _Step, slots: list[Any]) -> None:
    value = step.function(*[slots[slot] for slot in step.args], **{name: slots[slot] for name, slot in step.kwargs})
    if len(step.results) == 1:
        if isinstance(value, tuple):
            raise ValueError(f"it gives {len(value)} values where the plan takes one")
        slots[step.results[0]] = value
    elif step.results:
        values = value if isinstance(value, tuple) else (value,)
        for slot, single in zip(step.results, values, strict=True):
            slots[slot] = single
    for slot in step.last_used:
        slots[slot] = None


def _as_list(*values: Argument) -> list[Argument]:
    return list(values)


class _Compiler:
    """Compiles one plan; ``label`` says what it is at, for errors."""

    def __init__(self, plan: Plan) -> None:
        self._role = plan.message.role
        self._name = plan.name
        self._constants: list[Any] = []
        self._slots: dict[int | str, int] = {}
        self._defined: set[int] = set()
        self._steps: list[_Step] = []
        self.label = ""

    def compile(self) -> OperationList:
        if not self._role.actions:
            raise InvalidPlan(f"plan {self._name!r} has no operation list")
        self._read_constants()
        inputs = [self._input(identifier) for identifier in self._role.input_placeholder_ids]
        for index, action in enumerate(self._role.actions):
            self.label = f"action {index} ({action.command!r}) of plan {self._name!r}"
            self._compile_action(action)
        self.label = f"plan {self._name!r}"
        outputs = [self._use(identifier) for identifier in self._role.output_placeholder_ids]
        return OperationList(self._constants, _release(self._steps, outputs), inputs, outputs)

    def _fail(self, reason: str) -> InvalidPlan:
        return InvalidPlan(f"{self.label}: {reason}")

    def _read_constants(self) -> None:
        self.label = f"state of plan {self._name!r}"
        placeholders = list(self._role.state.placeholders)
        tensors = decode_state(self._role.state.SerializeToString()).tensors
        if len(placeholders) != len(tensors):
            raise self._fail(f"{len(placeholders)} placeholders but {len(tensors)} tensors")
        for placeholder, tensor in zip(placeholders, tensors, strict=True):
            self._set_constant(placeholder.id, tensor)
        for placeholder in self._role.placeholders:
            if placeholder.WhichOneof("child") is not None:
                self._set_constant(placeholder.id, self._child(placeholder))

    def _set_constant(self, identifier: syft_pb2.Id, value: NDArray[Any]) -> None:
        slot = self._slot(identifier)
        self._constants[slot] = value
        self._defined.add(slot)

    def _child(self, placeholder: syft_pb2.Placeholder) -> NDArray[Any]:
        if placeholder.WhichOneof("child") == "child_tensor":
            return decode_tensor(placeholder.child_tensor.SerializeToString())
        return decode_tensor(placeholder.child_parameter.tensor.SerializeToString())

    def _input(self, identifier: syft_pb2.Id) -> int:
        slot = self._slot(identifier)
        if slot in self._defined:
            raise self._fail("an input is given twice, or is part of the state too")
        self._defined.add(slot)
        return slot

    def _slot(self, identifier: syft_pb2.Id) -> int:
        kind = identifier.WhichOneof("id")
        if kind is None:
            raise self._fail("a placeholder has no id")
        key = identifier.id_int if kind == "id_int" else identifier.id_str
        if key not in self._slots:
            self._slots[key] = self._new_slot()
        return self._slots[key]

    def _new_slot(self, value: Argument = None) -> int:
        self._constants.append(value)
        return len(self._constants) - 1

    def _use(self, identifier: syft_pb2.Id) -> int:
        slot = self._slot(identifier)
        if slot not in self._defined:
            raise self._fail(
                f"placeholder {identifier.id_str or identifier.id_int} is used but nothing gives it a value"
            )
        return slot

    def _compile_action(self, action: syft_pb2.ComputationAction) -> None:
        _refuse_unknown_fields(action, self.label)
        try:
            operation, in_place = find_operation(action.command)
        except KeyError:
            raise self._fail("this operation is not known to the node") from None
        target = self._target(action)
        args = [*target, *(self._argument(arg) for arg in action.args)]
        kwargs = {name: self._argument(action.kwargs[name]) for name in sorted(action.kwargs)}
        self._check_signature(operation, args, kwargs)
        results = [self._slot(placeholder.id) for placeholder in action.return_placeholder_ids]
        if in_place and target and results != target:
            if len(results) > 1:
                raise self._fail("it changes one tensor but gives several")
            results, copies = target, results
        else:
            copies = []
        self._add_step(operation, args, kwargs, results)
        for slot in copies:
            self._add_step(as_tensor, results, {}, [slot])

    def _add_step(self, function: Operation, args: list[int], kwargs: dict[str, int], results: list[int]) -> None:
        self._steps.append(_Step(self.label, function, tuple(args), tuple(kwargs.items()), tuple(results), ()))
        self._defined.update(results)

    def _check_signature(self, operation: Operation, args: list[int], kwargs: dict[str, int]) -> None:
        try:
            inspect.signature(operation).bind(*args, **kwargs)
        except TypeError as error:
            raise self._fail(f"wrong arguments: {error}") from None

    def _target(self, action: syft_pb2.ComputationAction) -> list[int]:
        kind = action.WhichOneof("target")
        if kind is None:
            return []
        if kind == "target_placeholder_id":
            return [self._use(action.target_placeholder_id.id)]
        if kind == "target_tensor":
            return [self._new_slot(decode_tensor(action.target_tensor.SerializeToString()))]
        return [self._use(action.target_id)]

    def _argument(self, arg: syft_pb2.Arg) -> int:
        """The slot of an argument; numbers, texts and tensors given in the plan have slots too."""
        _refuse_unknown_fields(arg, self.label)
        kind = arg.WhichOneof("arg")
        if kind == "arg_placeholder_id":
            return self._use(arg.arg_placeholder_id.id)
        if kind == "arg_placeholder":
            if arg.arg_placeholder.WhichOneof("child") is not None:
                return self._new_slot(self._child(arg.arg_placeholder))
            return self._use(arg.arg_placeholder.id)
        if kind == "arg_list":
            return self._list(arg.arg_list.args)
        if kind == "arg_tensor":
            return self._new_slot(decode_tensor(arg.arg_tensor.SerializeToString()))
        if kind == "arg_torch_param":
            return self._new_slot(decode_tensor(arg.arg_torch_param.tensor.SerializeToString()))
        if kind == "arg_shape":
            return self._new_slot(tuple(arg.arg_shape.dims))
        return self._new_slot(None if kind is None else getattr(arg, kind))

    def _list(self, args: Iterable[syft_pb2.Arg]) -> int:
        steps = len(self._steps)
        items = [self._argument(arg) for arg in args]
        if len(self._steps) == steps and self._defined.isdisjoint(items):
            return self._new_slot([self._constants[item] for item in items])
        slot = self._new_slot()
        self._add_step(_as_list, items, {}, [slot])
        return slot


def _refuse_unknown_fields(message: Message, label: str) -> None:
    fields = UnknownFieldSet(message)
    if len(fields):
        raise InvalidPlan(f"{label}: field {fields[0].field_number} is of a kind that is not supported in plans")


def _release(steps: Sequence[_Step], outputs: Sequence[int]) -> list[_Step]:
    """Note in each step which slots are used for the last time, so that their memory can be freed."""
    seen = set(outputs)
    released = []
    for step in reversed(steps):
        touched = {*step.args, *(slot for _, slot in step.kwargs), *step.results}
        last_used = tuple(touched - seen)
        seen |= touched
        released.append(_Step(step.label, step.function, step.args, step.kwargs, step.results, last_used))
    return released[::-1]
