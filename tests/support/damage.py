"""States and Plans with something wrong in them, for nodes that must refuse them."""

from __future__ import annotations

import io
import zipfile
from functools import cache

from tests.support.syft_messages import parse, state_of, tensors_of

MIB = 1024 * 1024


def nested(tag: bytes, depth: int) -> bytes:
    """Messages within messages under one tag, as deep as asked."""
    inner = b""
    for _ in range(depth):
        inner = tag + varint(len(inner)) + inner
    return inner


def nested_plan(depth: int) -> bytes:
    """A Plan whose role has an action whose argument is a list of lists of lists."""
    inner = b""
    for _ in range(depth):
        inner = b"\x0a" + varint(len(inner)) + inner
        inner = b"\x5a" + varint(len(inner)) + inner
    for tag in (b"\x2a", b"\x12", b"\x12"):
        inner = tag + varint(len(inner)) + inner
    return inner


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    encoded = b""
    while value > 127:
        encoded, value = encoded + bytes([value & 127 | 128]), value >> 7
    return encoded + bytes([value])


def with_dims(state: bytes, dims: list[int]) -> bytes:
    """A State whose first tensor says that it has this shape."""
    message = parse("State", state)
    shape = message.tensors[0].torch_tensor.contents_data.shape
    del shape.dims[:]
    shape.dims.extend(dims)
    encoded: bytes = message.SerializeToString()
    return encoded


def pickled(state: bytes) -> bytes:
    """A State whose tensors hold pickles."""
    message = parse("State", state)
    for each in message.tensors:
        each.torch_tensor.contents_bin = b"\x80\x04\x95."
    encoded: bytes = message.SerializeToString()
    return encoded


def with_nan(state: bytes) -> bytes:
    """A State whose first number is none."""
    tensors = tensors_of(state)
    tensors[0][0, 0] = float("nan")
    return state_of(tensors)


@cache
def zip_bomb() -> bytes:
    """300 MB of zeros in 300 KB, laid out as TorchScript."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("archive/version", "3\n")
        with archive.open("archive/code/__torch__.py", "w") as file:
            for _ in range(300):
                file.write(b"\0" * MIB)
    return packed.getvalue()


def with_bomb(plan: bytes) -> bytes:
    """A Plan whose TorchScript is a zip bomb."""
    message = parse("Plan", plan)
    message.torchscript = zip_bomb()
    serialized: bytes = message.SerializeToString()
    return serialized
