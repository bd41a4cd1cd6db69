"""State and Plan as the frozen clients declare them, independent of the node's own codec.

The message types are built from the descriptors inside the package ``syft-proto``. Its generated modules need
protobuf < 4 and can't be imported any more, but the serialized descriptors in their source are still readable.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import distribution
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

EXECUTION = "syft_proto.execution.v1"
SERIALIZER_ALL = 4


@cache
def message_type(name: str) -> type[Message]:
    """The message class of a full name such as ``syft_proto.execution.v1.State``."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


def parse(name: str, data: bytes) -> Any:
    """A message of ``syft_proto.execution.v1``; Any, because its fields are known at run time only."""
    message = message_type(f"{EXECUTION}.{name}")()
    message.ParseFromString(data)
    return message


def tensors_of(state: bytes) -> list[np.ndarray[Any, Any]]:
    """The float32 tensors of a State, in order, whether they are plain tensors or parameters.

    Raises:
        ValueError: a tensor is of another dtype or has another number of values than its shape says.
    """
    tensors = []
    for each in parse("State", state).tensors:
        kind = each.WhichOneof("tensor")
        tensor = each.torch_tensor if kind == "torch_tensor" else each.torch_param.tensor
        data = tensor.contents_data
        if data.dtype != "float32":
            raise ValueError(f"a tensor is {data.dtype}, not float32")
        tensors.append(np.array(data.contents_float32, dtype=np.float32).reshape(tuple(data.shape.dims)))
    return tensors


def state_of(tensors: Sequence[np.ndarray[Any, Any]]) -> bytes:
    """A State of float32 tensors, in the form in which the Python client reports a diff."""
    message: Any = message_type(f"{EXECUTION}.State")()
    for number, tensor in enumerate(tensors):
        placeholder = message.placeholders.add()
        placeholder.id.id_int = 1000 + number
        placeholder.expected_shape.dims.extend(tensor.shape)
        torch_tensor = message.tensors.add().torch_tensor
        torch_tensor.id.id_int = 2000 + number
        torch_tensor.serializer = SERIALIZER_ALL
        data = torch_tensor.contents_data
        data.dtype = "float32"
        data.shape.dims.extend(tensor.shape)
        data.contents_float32.extend(tensor.astype(np.float32).ravel().tolist())
    encoded: bytes = message.SerializeToString()
    return encoded


def zero_diff(model: bytes) -> bytes:
    """A diff that fits a model and changes nothing."""
    return state_of([0 * tensor for tensor in tensors_of(model)])


def plan_without_ids(data: bytes) -> str:
    """A Plan as text with its ids numbered in order of appearance, and without its TorchScript.

    The historical server gave new ids whenever it re-serialized a plan, in each role on its own, so two encodings of
    one plan differ in them.
    """
    plan = parse("Plan", data)
    for role in plan.roles.values():
        _number_ids(role)
    roles = {name: str(role) for name, role in sorted(plan.roles.items())}
    plan.ClearField("roles")
    plan.ClearField("torchscript")
    _number_ids(plan)
    return "\n".join([str(plan), *(f"role {name}:\n{text}" for name, text in roles.items())])


def _number_ids(message: Any) -> None:
    numbers: dict[bytes, int] = {}
    for identifier in _ids(message):
        key = identifier.SerializeToString(deterministic=True)
        identifier.id_int = numbers.setdefault(key, len(numbers))


def _ids(message: Any) -> Iterator[Any]:
    """Every ``Id`` in a message, depth first, fields in the order of their numbers, maps in the order of their keys."""
    if message.DESCRIPTOR.full_name.endswith(".Id"):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for key in sorted(value):
                    yield from _ids(value[key])
        elif isinstance(value, Message):
            yield from _ids(value)
        else:
            for each in value:
                yield from _ids(each)


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    files = _descriptors()
    added: set[str] = set()

    def add(name: str) -> None:
        if name not in added:
            added.add(name)
            for dependency in files[name].dependency:
                add(dependency)
            pool.Add(files[name])

    for name in ("state", "plan", "protocol"):
        add(f"syft_proto/execution/v1/{name}.proto")
    return pool


def _descriptors() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """File descriptors by their name, out of the source of the generated modules."""
    found = {}
    for path in distribution("syft-proto").files or []:
        if path.name.endswith("_pb2.py") and "crypten" not in path.parts:
            serialized = _serialized_descriptor(path.read_text(encoding="utf-8"))
            descriptor = descriptor_pb2.FileDescriptorProto.FromString(serialized)
            found[descriptor.name] = descriptor
    return found


def _serialized_descriptor(source: str) -> bytes:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "serialized_pb" and isinstance(node.value, ast.Constant):
            value = node.value.value
            if isinstance(value, bytes):
                return value
    raise ValueError("a generated module holds no serialized descriptor")
