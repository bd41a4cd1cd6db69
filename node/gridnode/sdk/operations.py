"""Writes a graph as an operation list, as PySyft 0.2.9, syft.js and this project's interpreter read it.

PySyft calls a method of a tensor, or a function by its path, by the names of PyTorch 1.4. Which of them have an equal
in TensorFlow.js decides :mod:`gridnode.plans.tfjs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from gridnode.plans.plan import Plan
from gridnode.plans.tfjs import Untranslatable, translate_role
from gridnode.protocol import syft_pb2
from gridnode.protocol.syft_proto import encode_state
from gridnode.sdk.errors import PlanNotBuilt
from gridnode.sdk.graph import Argument, Graph, Operation, Value

_TFJS: Final = "tfjs"
_TORCH: Final = "torch"
_TENSOR: Final = "torch.Tensor"


@dataclass(frozen=True, slots=True)
class _Spelling:
    """How an operation is called: its command, on a tensor or as a function, with which arguments by name."""

    command: str
    is_function: bool = False
    keywords: dict[str, Argument] = field(default_factory=dict)
    args: tuple[Argument, ...] = ()


def write_role(graph: Graph) -> syft_pb2.Role:
    """The operations with their constants.

    Raises:
        PlanNotBuilt: an operation that the list can't hold.
    """
    role = syft_pb2.Role(id=syft_pb2.Id(id_int=_FIRST_ID))
    for operation in graph.operations:
        _write_action(role.actions.add(), operation)
    if graph.constants:
        role.state.MergeFromString(encode_state(list(graph.constants.values())))
        for placeholder, value in zip(role.state.placeholders, graph.constants, strict=True):
            placeholder.id.CopyFrom(_id(value))
    # syft.js looks inputs and outputs up here; PySyft makes its placeholders of it.
    results = [result for operation in graph.operations for result in operation.results]
    for value in (*graph.inputs, *graph.constants, *results):
        role.placeholders.add().id.CopyFrom(_id(value))
    role.input_placeholder_ids.extend(_id(value) for value in graph.inputs)
    role.output_placeholder_ids.extend(_id(value) for value in graph.outputs)
    return role


def write_plan(
    name: str, role: syft_pb2.Role | None, torchscript: bytes, lists: tuple[int, ...]
) -> tuple[Plan, str | None]:
    """The message a node hosts, and why it has no operations for TensorFlow.js (None where it has).

    Args:
        role: the operations; None where there are none.
        lists: the length of each argument that is a list of tensors, 0 for a tensor.
    """
    message = syft_pb2.Plan(id=syft_pb2.Id(id_int=_FIRST_ID), name=name, torchscript=torchscript, base_framework=_TORCH)
    arguments = message.input_types.nested_types.nested_type_tuple.nested_types
    for length in lists:
        kind = arguments.add().nested_types
        if length == 0:
            kind.nested_type.type_name = _TENSOR
        for _ in range(length):
            kind.nested_type_list.nested_types.add().nested_types.nested_type.type_name = _TENSOR
    if role is None:
        return Plan(message), "there is no operation list to translate"
    message.role.CopyFrom(role)
    message.roles[_TORCH].CopyFrom(role)
    try:
        translated = translate_role(role)
    except Untranslatable as error:
        return Plan(message), str(error)
    message.roles[_TFJS].CopyFrom(translated)
    return Plan(message), None


#: Ids are numbers of our own: the same graph gives the same bytes.
_FIRST_ID: Final = 1


def _id(value: Value) -> syft_pb2.Id:
    return syft_pb2.Id(id_int=_FIRST_ID + 1 + value.number)


def _placeholder(value: Value) -> syft_pb2.PlaceholderId:
    return syft_pb2.PlaceholderId(id=_id(value))


def _write_action(action: syft_pb2.ComputationAction, operation: Operation) -> None:
    try:
        spelling = _SPELLINGS[operation.name](*operation.args)
    except KeyError:
        raise PlanNotBuilt(f"{operation.name} is not in the operation list: only TorchScript has it") from None
    action.command = spelling.command
    args = spelling.args
    if not spelling.is_function:
        action.target_placeholder_id.CopyFrom(_placeholder(args[0]))
        args = args[1:]
    action.args.extend(_arg(argument) for argument in args)
    for name, argument in spelling.keywords.items():
        action.kwargs[name].CopyFrom(_arg(argument))
    action.return_placeholder_ids.extend(_placeholder(result) for result in operation.results)


def _arg(argument: Argument) -> syft_pb2.Arg:
    if isinstance(argument, Value):
        return syft_pb2.Arg(arg_placeholder_id=_placeholder(argument))
    if isinstance(argument, tuple):
        arguments = syft_pb2.Arg()
        arguments.arg_list.SetInParent()
        arguments.arg_list.args.extend(_arg(item) for item in argument)
        return arguments
    if argument is None:
        return syft_pb2.Arg()
    # bool before int: it is one in Python.
    kinds = (("arg_bool", bool), ("arg_int", int), ("arg_float", float), ("arg_str", str))
    kind = next(name for name, python_type in kinds if isinstance(argument, python_type))
    values: dict[str, Any] = {kind: argument}
    return syft_pb2.Arg(**values)


def _method(command: str) -> Callable[..., _Spelling]:
    return lambda *args: _Spelling(command, args=args)


def _function(path: str) -> Callable[..., _Spelling]:
    return lambda *args: _Spelling(path, is_function=True, args=args)


def _along(command: str) -> Callable[..., _Spelling]:
    # By name, as the translation to TensorFlow.js takes it.
    return lambda value, dim, keepdim: _Spelling(
        command, args=(value,), keywords={"dim": dim, "keepdim": True} if keepdim else {"dim": dim}
    )


def _along_one(command: str) -> Callable[..., _Spelling]:
    """As functions: PySyft's tensors have methods of these names that take other arguments."""
    return lambda value, dim, keepdim: _Spelling(
        f"torch.{command}",
        is_function=True,
        args=(value,),
        keywords={"dim": dim, "keepdim": True} if keepdim else {"dim": dim},
    )


_CASTS: Final = {"float32": "float", "float64": "double", "int64": "long", "int32": "int", "bool": "bool"}


def _cast(value: Value, dtype: str) -> _Spelling:
    return _Spelling(_CASTS[dtype], args=(value,))


def _clamp(value: Value, lowest: float | None, highest: float | None) -> _Spelling:
    bounds = {name: bound for name, bound in (("min", lowest), ("max", highest)) if bound is not None}
    return _Spelling("clamp", args=(value,), keywords=bounds)


_METHODS: Final = (
    *("abs", "acos", "add", "asin", "atan", "ceil", "cos", "cosh", "div", "eq", "erf", "exp", "expand", "expand_as"),
    *(
        "expm1",
        "floor",
        "fmod",
        "gather",
        "ge",
        "gt",
        "index_select",
        "le",
        "log",
        "log10",
        "log1p",
        "log2",
        "logical_not",
    ),
    *("logical_xor", "lt", "matmul", "max", "min", "mul", "narrow", "ne", "neg", "permute", "pow", "reciprocal"),
    *("relu", "remainder", "reshape", "round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "sqrt", "sub", "sum", "t"),
    *("tan", "tanh", "trunc"),
)

_SPELLINGS: Final[dict[str, Callable[..., _Spelling]]] = {
    **{name: _method(name) for name in _METHODS},
    "argmax": _function("torch.argmax"),
    "argmax_dim": _along_one("argmax"),
    "argmin": _function("torch.argmin"),
    "argmin_dim": _along_one("argmin"),
    "cat": _function("torch.cat"),
    "clamp": _clamp,
    "constant_pad_nd": lambda value, padding, fill: _Spelling(
        "torch.nn.functional.pad", is_function=True, args=(value, padding), keywords={"value": fill}
    ),
    "conv1d": _function("torch.nn.functional.conv1d"),
    "conv2d": _function("torch.nn.functional.conv2d"),
    "conv_transpose1d": _function("torch.nn.functional.conv_transpose1d"),
    "conv_transpose2d": _function("torch.nn.functional.conv_transpose2d"),
    # PyTorch 1.4 has them for bools under these names only.
    "logical_and": _method("__and__"),
    "logical_or": _method("__or__"),
    "logsumexp": _along("logsumexp"),
    "max_dim": _along_one("max"),
    "maximum": _function("torch.max"),
    "min_dim": _along_one("min"),
    "minimum": _function("torch.min"),
    "sum_dim": _along("sum"),
    "to": _cast,
    "where": _function("torch.where"),
    "zeros_like": _function("torch.zeros_like"),
}
