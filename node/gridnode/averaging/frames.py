"""What the node and an averaging sandbox say to each other: frames of a JSON header and raw tensors.

A frame is the header's length (4 bytes, little-endian), the header (a JSON object; its key ``tensors`` lists dtype and
shape of each tensor), then the numbers of the tensors one after the other. Both ends are on one machine, so numbers
stay in its byte order. Nothing is pickled, and the receiver decides what it takes before a byte of a tensor is read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnode.protocol.syft_proto import DTYPES

Tensor = NDArray[Any]

_LENGTH: Final = struct.Struct("<I")
# A model of 10 000 tensors needs about 0.5 MB.
_LONGEST_HEADER: Final = 4 * 1024 * 1024
_MOST_DIMENSIONS: Final = 32


class BadFrame(Exception):
    """The other end sent something that is no frame, or a frame the receiver doesn't take."""


class TensorSpec(NamedTuple):
    """Shape and dtype of one tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        return cls(tensor.shape, tensor.dtype)

    @property
    def size(self) -> int:
        """Bytes of the tensor's numbers."""
        size = self.dtype.itemsize
        for length in self.shape:
            size *= length
        return size

    def __str__(self) -> str:
        return f"{self.dtype.name} {self.shape}"


def encode_frame(header: Mapping[str, Any], tensors: Sequence[Tensor] = ()) -> list[memoryview]:
    """A frame as buffers to be written one after the other; contiguous tensors are not copied."""
    listed = [[tensor.dtype.name, tensor.shape] for tensor in tensors]
    text = json.dumps({**header, "tensors": listed}, separators=(",", ":")).encode()
    if len(text) > _LONGEST_HEADER:
        raise BadFrame("the header is too long")
    return [memoryview(_LENGTH.pack(len(text)) + text), *(_bytes_of(tensor) for tensor in tensors if tensor.size)]


def read_frame(
    read_into: Callable[[memoryview], None],
    accept: Callable[[dict[str, Any], list[TensorSpec]], None] = lambda _header, _specs: None,
) -> tuple[dict[str, Any], list[Tensor]]:
    """Read one frame.

    Args:
        read_into: fills the buffer it is given, or raises.
        accept: called with the header and what tensors are announced, before memory is allocated for them; raises
            to refuse them.

    Raises:
        BadFrame: what arrived is no frame.
    """
    length = bytearray(_LENGTH.size)
    read_into(memoryview(length))
    (header_size,) = _LENGTH.unpack(length)
    if header_size > _LONGEST_HEADER:
        raise BadFrame("the header is too long")
    text = bytearray(header_size)
    read_into(memoryview(text))
    header = _parse_header(text)
    specs = _parse_specs(header.pop("tensors", None))
    accept(header, specs)
    tensors = []
    for spec in specs:
        tensor = np.empty(spec.shape, spec.dtype)
        if tensor.size:
            read_into(_bytes_of(tensor))
        tensors.append(tensor)
    return header, tensors


def _bytes_of(tensor: Tensor) -> memoryview:
    return np.asarray(tensor, order="C").reshape(-1).view(np.uint8).data


def _parse_header(text: bytearray) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadFrame("the header is no JSON") from error
    if not isinstance(header, dict):
        raise BadFrame("the header is no JSON object")
    return header


def _parse_specs(listed: object) -> list[TensorSpec]:
    if not isinstance(listed, list):
        raise BadFrame("the header lists no tensors")
    return [_parse_spec(item) for item in listed]


def _parse_spec(item: object) -> TensorSpec:
    if not (isinstance(item, list) and len(item) == 2):
        raise BadFrame("a tensor is announced without dtype and shape")
    name, shape = item
    if not (isinstance(name, str) and name in DTYPES):
        raise BadFrame("a tensor of another dtype is announced")
    # bool is an int, and JSON has true and false.
    if not (isinstance(shape, list) and all(type(length) is int and 0 <= length < 2**63 for length in shape)):
        raise BadFrame("a tensor's shape is no list of lengths")
    if len(shape) > _MOST_DIMENSIONS:
        raise BadFrame("a tensor has too many dimensions")
    return TensorSpec(tuple(shape), DTYPES[name])
