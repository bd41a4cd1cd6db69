"""Translates a PyTorch operation list into TensorFlow.js, for plans whose author did not.

The names come from the tables of ``openmined.threepio``, as in the historical client. Those tables also hold pairs
that differ in meaning (``split`` by size and ``split`` by number, ``max`` of two tensors and ``max`` along an axis),
and syft.js hands over keyword arguments by position. A wrong translation would train a wrong model without a word, so
only operations and argument forms that were checked to mean the same are translated, and all others are refused.
"""

from __future__ import annotations

import functools
import re
import warnings
from typing import Any, Final

from pythreepio.command import Command
from pythreepio.threepio import Threepio

from gridnode.protocol import syft_pb2

_TENSOR_ONLY: Final = frozenset(
    (
        *("abs", "ceil", "copy", "cos", "cosh", "exp", "float", "floor", "log", "max", "min", "neg", "reciprocal"),
        *("relu", "round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "sqrt", "t", "tan", "tanh"),
    )
)
_TWO_OPERANDS: Final = frozenset(
    ("add", "div", "eq", "gt", "matmul", "mul", "pow", "reshape", "rtruediv", "sub", "truediv")
)
_ALONG_DIMENSION: Final = frozenset(("argmax", "argmin"))
_ALONG_DIMENSION_KEEPING_IT: Final = frozenset(("logsumexp", "mean", "prod", "sum"))

_DTYPES: Final = frozenset(("float32", "int32", "bool"))
_DUNDER: Final = re.compile(r"__(\w+)__")


class Untranslatable(ValueError):
    """The operation list has no equal in TensorFlow.js; the message says at which action."""


def translate_role(role: syft_pb2.Role) -> syft_pb2.Role:
    """The role with its PyTorch actions translated; ids, inputs, outputs and state stay.

    Raises:
        Untranslatable: an operation, or a form of its arguments, has no translation.
    """
    for tensor in role.state.tensors:
        parameter = tensor.WhichOneof("tensor") == "torch_param"
        contents = tensor.torch_param.tensor if parameter else tensor.torch_tensor
        if contents.contents_data.dtype not in _DTYPES:
            raise Untranslatable(f"a constant is {contents.contents_data.dtype}, which TensorFlow.js has not")
    translated = syft_pb2.Role()
    translated.CopyFrom(role)
    del translated.actions[:]
    for index, action in enumerate(role.actions):
        try:
            translated.actions.append(_translate_action(action))
        except Untranslatable as error:
            raise Untranslatable(f"action {index} ({action.command!r}): {error}") from None
    return translated


@functools.cache
def _translator() -> Any:
    # Its tables are 1.8 MB of JSON, read through a function that Python 3.11 and 3.12 call deprecated.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return Threepio("torch", "tfjs", None)


def _translate_action(action: syft_pb2.ComputationAction) -> syft_pb2.ComputationAction:
    if len(action.return_placeholder_ids) != 1:
        raise Untranslatable("it does not give exactly one value")
    name = _name(action)
    args = [*_target(action), *action.args]
    _check_arguments(name, len(args), set(action.kwargs))
    command = _translator().translate(Command(name, args, dict(action.kwargs)))[0]
    return syft_pb2.ComputationAction(
        command=".".join(command.attrs),
        args=[arg if isinstance(arg, syft_pb2.Arg) else syft_pb2.Arg(arg_str=arg) for arg in command.args],
        kwargs=command.kwargs,
        return_ids=action.return_ids,
        return_placeholder_ids=action.return_placeholder_ids,
    )


def _name(action: syft_pb2.ComputationAction) -> str:
    name = action.command.removeprefix("torch.").removeprefix("nn.functional.")
    if dunder := _DUNDER.fullmatch(name):
        return dunder[1]
    if not name.endswith("_"):
        return name
    # TensorFlow.js has no in-place operations; giving the result the target's name is the same for later actions.
    if action.return_placeholder_ids[0] != action.target_placeholder_id:
        raise Untranslatable("an in-place operation must give its result to its own tensor")
    return name[:-1]


def _target(action: syft_pb2.ComputationAction) -> list[syft_pb2.Arg]:
    kind = action.WhichOneof("target")
    if kind is None:
        return []
    if kind == "target_placeholder_id":
        return [syft_pb2.Arg(arg_placeholder_id=action.target_placeholder_id)]
    if kind == "target_tensor":
        return [syft_pb2.Arg(arg_tensor=action.target_tensor)]
    raise Untranslatable("its target is no tensor of the plan")


def _check_arguments(name: str, count: int, keywords: set[str]) -> None:
    if name in _TENSOR_ONLY:
        translatable = count == 1 and not keywords
    elif name in _TWO_OPERANDS:
        translatable = count == 2 and not keywords
    elif name in _ALONG_DIMENSION | _ALONG_DIMENSION_KEEPING_IT:
        # syft.js would take keepdim for the axis if no axis came before it.
        has_dim = count == 2 or "dim" in keywords
        allowed = {"dim", "keepdim"} if has_dim and name in _ALONG_DIMENSION_KEEPING_IT else {"dim"}
        translatable = keywords <= allowed and count == (1 if "dim" in keywords or not has_dim else 2)
    else:
        raise Untranslatable("there is no TensorFlow.js operation known to mean the same")
    if not translatable:
        raise Untranslatable("TensorFlow.js has no such form of its arguments")
