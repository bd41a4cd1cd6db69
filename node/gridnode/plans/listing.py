"""Plans as readable text."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable

from gridnode.plans.plan import InvalidPlan, parse_plan
from gridnode.protocol import syft_pb2
from gridnode.protocol.syft_proto import InvalidState, decode_tensor

_SHOWN_TENSOR = 8


def list_operations(plan: bytes) -> str:
    """A plan's active operation list as Python-like code: one line for each action.

    Raises:
        InvalidPlan: it is no plan.
    """
    role = parse_plan(plan).message.role
    if not role.actions:
        return "none: the plan has no operation list"
    names: dict[int | str, str] = {}
    for index, identifier in enumerate(role.input_placeholder_ids, start=1):
        names[_key(identifier)] = f"arg_{index}"
    for index, placeholder in enumerate(role.state.placeholders, start=1):
        names[_key(placeholder.id)] = f"constant_{index}"
    for action in role.actions:
        for result in action.return_placeholder_ids:
            names.setdefault(_key(result.id), f"var_{len(names)}")
    inputs = ", ".join(_names(role.input_placeholder_ids, names))
    lines = [f"def {parse_plan(plan).name or 'plan'}({inputs}):"]
    lines += [f"    {_line(action, names)}" for action in role.actions]
    lines.append(f"    return {', '.join(_names(role.output_placeholder_ids, names))}")
    return "\n".join(lines)


def list_torchscript(archive: bytes) -> str:
    """The code in a TorchScript archive.

    Raises:
        InvalidPlan: it is none.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            paths = [name for name in opened.namelist() if "/code/" in name and name.endswith(".py")]
            return "\n".join(opened.read(path).decode().strip() for path in paths)
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise InvalidPlan(f"torchscript is not a TorchScript archive: {error}") from None


def _key(identifier: syft_pb2.Id) -> int | str:
    return identifier.id_int if identifier.WhichOneof("id") == "id_int" else identifier.id_str


def _names(identifiers: Iterable[syft_pb2.Id], names: dict[int | str, str]) -> list[str]:
    return [names.get(_key(identifier), "?") for identifier in identifiers]


def _line(action: syft_pb2.ComputationAction, names: dict[int | str, str]) -> str:
    arguments = [_argument(argument, names) for argument in action.args]
    arguments += [f"{name}={_argument(action.kwargs[name], names)}" for name in sorted(action.kwargs)]
    call = f"{action.command}({', '.join(arguments)})"
    if action.WhichOneof("target") == "target_placeholder_id":
        call = f"{names.get(_key(action.target_placeholder_id.id), '?')}.{call}"
    results = _names((result.id for result in action.return_placeholder_ids), names)
    return f"{', '.join(results)} = {call}" if results else call


def _argument(argument: syft_pb2.Arg, names: dict[int | str, str]) -> str:
    kind = argument.WhichOneof("arg")
    if kind is None:
        return "None"
    if kind == "arg_placeholder_id":
        return names.get(_key(argument.arg_placeholder_id.id), "?")
    if kind == "arg_placeholder":
        return names.get(_key(argument.arg_placeholder.id), "?")
    if kind == "arg_list":
        return f"[{', '.join(_argument(item, names) for item in argument.arg_list.args)}]"
    if kind == "arg_shape":
        return str(list(argument.arg_shape.dims))
    if kind == "arg_tensor":
        return _tensor(argument.arg_tensor)
    if kind == "arg_float":
        return f"{argument.arg_float:.7g}"
    value = getattr(argument, kind)
    return repr(value) if isinstance(value, bool | int | str) else kind.removeprefix("arg_")


def _tensor(message: syft_pb2.TorchTensor) -> str:
    try:
        tensor = decode_tensor(message.SerializeToString())
    except InvalidState:
        return "tensor"
    if tensor.size <= _SHOWN_TENSOR:
        return f"tensor({tensor.tolist()})"
    return f"tensor({tensor.dtype}{list(tensor.shape)})"
