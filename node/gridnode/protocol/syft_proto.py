"""States, the form in which model parameters and diffs travel, read and written without copying their numbers.

Message and field numbers are those of ``syft.proto`` beside this file. A State is scanned by hand instead of being
parsed by the protobuf library: that copies every tensor twice (1.4 ms for 1.2 MB of float32, against 0.07 ms here) and
hides what it skipped, while this module can refuse whatever would give other values than the sender meant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridnode.errors import InvalidRequest
from gridnode.protocol.wire_format import (
    LENGTH_DELIMITED,
    Malformed,
    Message,
    decode_packed_varints,
    encode_packed_varints,
    field_header,
    read_fields,
    write_varint,
    write_varint_field,
)

# Field numbers, named Message_field as in syft.proto.
_STATE_PLACEHOLDERS, _STATE_TENSORS = 1, 2
_STATE_TENSOR_TORCH_TENSOR, _STATE_TENSOR_TORCH_PARAM = 1, 2
_PLACEHOLDER_ID, _PLACEHOLDER_EXPECTED_SHAPE = 3, 6
_ID_INT = 1
_PARAMETER_TENSOR = 2
_TENSOR_ID, _TENSOR_CONTENTS_DATA, _TENSOR_CONTENTS_BIN, _TENSOR_CHAIN, _TENSOR_SERIALIZER = 1, 2, 3, 4, 8
_DATA_SHAPE, _DATA_DTYPE, _DATA_IS_QUANTIZED = 1, 2, 3
_SHAPE_DIMS = 1

# syft.js reads a tensor only if it was written for all frameworks.
_SERIALIZER_ALL: Final = 4

_CONTENTS: Final = {
    "uint8": 16,
    "int8": 17,
    "int16": 18,
    "int32": 19,
    "int64": 20,
    "float16": 21,
    "float32": 22,
    "float64": 23,
    "bool": 24,
}
_CONTENTS_NUMBERS: Final = range(16, 29)
_REFUSED_DTYPES: Final = ("qint8", "quint8", "qint32", "bfloat16")

DTYPES: Final[dict[str, np.dtype[Any]]] = {name: np.dtype(name) for name in _CONTENTS}
"""The dtypes a tensor may have, by their name on the wire."""

# What one float16 is on the wire, and the little-endian forms of the others.
_WIRE_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "float16": np.dtype("<f4"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
}

# Real messages have at most a dozen; a tensor's tags count too.
_MAXIMUM_FIELDS: Final = 40
_MAXIMUM_DIMENSIONS: Final = 32
_LARGEST_DIMENSION: Final = 2**31 - 1


class InvalidState(InvalidRequest):
    """The bytes are no State, or one with something this node refuses."""


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The tensors of a model, a diff or a checkpoint, in the order of the model's parameters.

    The arrays are read-only. Decoded ones may lie in the message's own memory, which they then keep alive, at any
    alignment.
    """

    tensors: tuple[NDArray[Any], ...]


def decode_state(data: bytes | memoryview, *, maximum_tensors: int = 10_000, maximum_bytes: int | None = None) -> State:
    """Read a State.

    Floats and bools of an immutable ``data`` are not copied; other tensors are copied once.

    Args:
        data: the message; a ``memoryview`` must be contiguous.
        maximum_tensors: a State with more tensors is refused.
        maximum_bytes: a State whose arrays would take more bytes than this is refused, before they are made.

    Raises:
        InvalidState: not a State, cut off, pickled or quantized contents, a dtype other than :data:`DTYPES`, contents
            that do not fit shape and dtype, or a passed limit.
    """
    view = memoryview(data).cast("B")
    placeholders = 0
    ranges: list[tuple[int, int]] = []
    try:
        for number, wire_type, start, stop in read_fields(view, 0, len(view), 2 * maximum_tensors + _MAXIMUM_FIELDS):
            if number not in (_STATE_PLACEHOLDERS, _STATE_TENSORS):
                continue
            if wire_type != LENGTH_DELIMITED:
                raise Malformed(f"field {number} has wire type {wire_type}, {LENGTH_DELIMITED} is expected")
            if number == _STATE_PLACEHOLDERS:
                placeholders += 1
            else:
                ranges.append((start, stop))
    except Malformed as error:
        raise InvalidState(f"not a State: {error}") from error
    if len(ranges) > maximum_tensors:
        raise InvalidState(f"the State has {len(ranges)} tensors, at most {maximum_tensors} are accepted")
    if placeholders not in (0, len(ranges)):
        raise InvalidState(f"the State has {placeholders} placeholders but {len(ranges)} tensors")

    tensors = []
    remaining = maximum_bytes
    for index, (start, stop) in enumerate(ranges):
        try:
            tensor = _decode_state_tensor(view, start, stop, remaining)
        except Malformed as error:
            raise InvalidState(f"tensor {index} of the State: {error}") from error
        if remaining is not None:
            remaining -= tensor.nbytes
        tensors.append(tensor)
    return State(tuple(tensors))


def decode_tensor(data: bytes | memoryview, *, maximum_bytes: int | None = None) -> NDArray[Any]:
    """Read one TorchTensor message, as :func:`decode_state` reads those of a State.

    Raises:
        InvalidState: see :func:`decode_state`.
    """
    view = memoryview(data).cast("B")
    try:
        return _decode_torch_tensor(view, 0, len(view), maximum_bytes)
    except Malformed as error:
        raise InvalidState(f"tensor: {error}") from error


def _decode_state_tensor(view: memoryview, start: int, stop: int, maximum_bytes: int | None) -> NDArray[Any]:
    message = Message(view, start, stop, _MAXIMUM_FIELDS)
    tensor = message.content(_STATE_TENSOR_TORCH_TENSOR)
    parameter = message.content(_STATE_TENSOR_TORCH_PARAM)
    if tensor is not None and parameter is not None:
        raise Malformed("it is both a torch_tensor and a torch_param")
    if parameter is not None:
        tensor = Message(view, *parameter, _MAXIMUM_FIELDS).content(_PARAMETER_TENSOR)
    if tensor is None:
        raise Malformed("it has neither a torch_tensor nor a torch_param with a tensor")
    return _decode_torch_tensor(view, *tensor, maximum_bytes)


def _decode_torch_tensor(view: memoryview, start: int, stop: int, maximum_bytes: int | None) -> NDArray[Any]:
    message = Message(view, start, stop, _MAXIMUM_FIELDS)
    if _TENSOR_CONTENTS_BIN in message:
        raise Malformed(
            f"{_identity(message)} has contents_bin (pickled or NumPy bytes), which could run code and is never read. "
            "Serialize with the SERIALIZER_ALL strategy, which gives contents_data"
        )
    # The values of a wrapper are those of the tensor it wraps, in a form of PySyft's own. grad_chain is the gradient of
    # a tensor, which is no part of its value, so that one is ignored.
    if _TENSOR_CHAIN in message:
        raise Malformed(f"{_identity(message)} wraps another tensor (chain). Send the plain tensor")
    contents = message.content(_TENSOR_CONTENTS_DATA)
    if contents is None:
        raise Malformed(f"{_identity(message)} has no contents_data")
    try:
        return _decode_tensor_data(Message(view, *contents, _MAXIMUM_FIELDS), maximum_bytes)
    except Malformed as error:
        raise Malformed(f"{_identity(message)}: {error}") from error


def _identity(message: Message) -> str:
    content = message.content(_TENSOR_ID)
    if content is None:
        return "a tensor without id"
    identifier = Message(message.data, *content, _MAXIMUM_FIELDS)
    return f"id {identifier.number(_ID_INT)}" if _ID_INT in identifier else "a tensor with a text id"


def _decode_tensor_data(message: Message, maximum_bytes: int | None) -> NDArray[Any]:
    name = _dtype_name(message)
    shape = _shape(message)
    count = math.prod(shape)
    dtype = DTYPES[name]
    if maximum_bytes is not None and count * dtype.itemsize > maximum_bytes:
        raise Malformed(f"shape {shape} of {name} passes the limit on the State's size in memory")
    present = [number for number in message.numbers() if number in _CONTENTS_NUMBERS]
    if any(number != _CONTENTS[name] for number in present):
        raise Malformed(f"its dtype is {name} but it has contents of another dtype")
    start, stop = message.content(_CONTENTS[name]) or (0, 0)
    content = np.frombuffer(message.data, np.uint8, stop - start, start)
    try:
        values = _decode_values(name, content, count)
    except Malformed as error:
        raise Malformed(f"contents_{name} of shape {shape}: {error}") from error
    if not message.data.readonly and np.may_share_memory(values, content):
        values = values.copy()
    values.setflags(write=False)
    return values.reshape(shape)


def _dtype_name(message: Message) -> str:
    start, stop = message.content(_DATA_DTYPE) or (0, 0)
    name = bytes(message.data[start : min(stop, start + 40)]).decode("utf-8", "replace")
    if name in _REFUSED_DTYPES or message.number(_DATA_IS_QUANTIZED):
        kind = "quantized" if message.number(_DATA_IS_QUANTIZED) else "not supported"
        raise Malformed(f"dtype {name!r} is {kind}; send float32")
    if name not in DTYPES:
        raise Malformed(f"dtype {name!r} is none of {', '.join(DTYPES)}")
    return name


def _shape(message: Message) -> tuple[int, ...]:
    content = message.content(_DATA_SHAPE)
    if content is None:
        return ()
    if content[1] - content[0] > 12 * _MAXIMUM_DIMENSIONS:
        raise Malformed(f"its shape has more than {_MAXIMUM_DIMENSIONS} dimensions")
    dims = Message(message.data, *content, _MAXIMUM_FIELDS).numbers_of(_SHAPE_DIMS)
    if len(dims) > _MAXIMUM_DIMENSIONS:
        raise Malformed(f"its shape has {len(dims)} dimensions, at most {_MAXIMUM_DIMENSIONS} are accepted")
    for dim in dims:
        if dim >= 1 << 63:
            raise Malformed(f"dimension {dim - (1 << 64)} is negative")
        if dim > _LARGEST_DIMENSION:
            raise Malformed(f"dimension {dim} is too large")
    # NumPy refuses what could not be addressed, even if another dimension is 0.
    if math.prod(dim for dim in dims if dim) > 2**59:
        raise Malformed(f"shape {tuple(dims)} is too large")
    return tuple(dims)


def _decode_values(name: str, content: NDArray[np.uint8], count: int) -> NDArray[Any]:
    if name in _WIRE_DTYPES:
        wire_dtype = _WIRE_DTYPES[name]
        if content.size != count * wire_dtype.itemsize:
            raise Malformed(
                f"{content.size} bytes are present, {count} values ({wire_dtype.itemsize} bytes each) declared"
            )
        values = content.view(wire_dtype)
        return _to_float16(values) if name == "float16" else values
    if name == "bool":
        if content.size == count and (count == 0 or content.max() <= 1):
            return content.view(np.bool_)
        return decode_packed_varints(content, count, np.dtype(np.int64)).astype(np.bool_)
    return decode_packed_varints(content, count, DTYPES[name])


def _to_float16(values: NDArray[np.float32]) -> NDArray[np.float16]:
    with np.errstate(over="ignore", under="ignore"):
        halves = values.astype(np.float16)
    if np.any(np.isinf(halves) & np.isfinite(values)):
        raise Malformed("a value does not fit float16")
    return halves


def encode_state(tensors: Sequence[NDArray[Any]]) -> bytes:
    """Write tensors as the State of a checkpoint: torch_tensor for all frameworks, placeholders with ids and shapes.

    The same tensors always give the same bytes: ids are numbered through. The numbers of a float tensor that lies
    contiguous in memory are copied once.

    Raises:
        InvalidState: a dtype other than :data:`DTYPES`, or more than 32 dimensions.
    """
    parts: list[bytes | memoryview] = []
    for index, tensor in enumerate(tensors):
        parts += _nested(_STATE_PLACEHOLDERS, _placeholder(index + 1, tensor.shape))
    for index, tensor in enumerate(tensors):
        try:
            torch_tensor = _encode_torch_tensor(len(tensors) + index + 1, tensor)
        except Malformed as error:
            raise InvalidState(f"tensor {index}: {error}") from error
        parts += _nested(_STATE_TENSORS, _nested(_STATE_TENSOR_TORCH_TENSOR, torch_tensor))
    return b"".join(parts)


def _nested(number: int, parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    return [field_header(number, sum(map(len, parts))), *parts]


def _encode_id(number: int, identifier: int) -> list[bytes | memoryview]:
    return _nested(number, [write_varint_field(_ID_INT, identifier)])


def _encode_shape(number: int, shape: tuple[int, ...]) -> list[bytes | memoryview]:
    dims: list[bytes | memoryview] = [b"".join(map(write_varint, shape))]
    return _nested(number, _nested(_SHAPE_DIMS, dims) if shape else [])


def _placeholder(identifier: int, shape: tuple[int, ...]) -> list[bytes | memoryview]:
    parts = _encode_id(_PLACEHOLDER_ID, identifier)
    # Recorded States have no expected_shape where the tensor has no dimensions.
    return parts + _encode_shape(_PLACEHOLDER_EXPECTED_SHAPE, shape) if shape else parts


def _encode_torch_tensor(identifier: int, tensor: NDArray[Any]) -> list[bytes | memoryview]:
    name = tensor.dtype.name
    if name not in DTYPES:
        raise Malformed(f"dtype {name} is none of {', '.join(DTYPES)}")
    if tensor.ndim > _MAXIMUM_DIMENSIONS:
        raise Malformed(f"it has {tensor.ndim} dimensions, at most {_MAXIMUM_DIMENSIONS} can be read back")
    data = _encode_shape(_DATA_SHAPE, tensor.shape)
    data += [field_header(_DATA_DTYPE, len(name)), name.encode()]
    if tensor.size:
        data += _nested(_CONTENTS[name], [_encode_values(name, tensor)])
    return [
        *_encode_id(_TENSOR_ID, identifier),
        *_nested(_TENSOR_CONTENTS_DATA, data),
        write_varint_field(_TENSOR_SERIALIZER, _SERIALIZER_ALL),
    ]


def _encode_values(name: str, tensor: NDArray[Any]) -> bytes | memoryview:
    if name in _WIRE_DTYPES:
        return np.ascontiguousarray(tensor, _WIRE_DTYPES[name]).reshape(-1).view(np.uint8).data
    if name == "bool":
        return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data
    return encode_packed_varints(tensor)
