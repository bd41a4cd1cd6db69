"""Frames between the node and an averaging sandbox: exact for all dtypes, and checked before believed."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from gridnode.averaging.frames import BadFrame, TensorSpec, encode_frame, read_frame
from gridnode.protocol.syft_proto import DTYPES


def reader(data: bytes) -> Callable[[memoryview], None]:
    remaining = memoryview(data)

    def read_into(buffer: memoryview) -> None:
        nonlocal remaining
        if len(buffer) > len(remaining):
            raise EOFError
        buffer[:] = remaining[: len(buffer)]
        remaining = remaining[len(buffer) :]

    return read_into


def frame_of(header: object, content: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text + content


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 3, 4)], ids=str)
def test_tensor_arrives_as_it_was_sent(name: str, shape: tuple[int, ...]) -> None:
    tensor = np.random.default_rng(1).integers(0, 2, shape).astype(DTYPES[name])

    header, (received,) = read_frame(reader(b"".join(encode_frame({"command": "hold"}, [tensor]))))

    assert header == {"command": "hold"}
    assert received.dtype == tensor.dtype
    assert received.shape == shape
    np.testing.assert_array_equal(received, tensor)


def test_noncontiguous_tensors_arrive_in_order_of_their_indices() -> None:
    tensors = [np.arange(12.0).reshape(3, 4).T, np.arange(10)[::2]]

    _, received = read_frame(reader(b"".join(encode_frame({}, tensors))))

    for expected, given in zip(tensors, received, strict=True):
        np.testing.assert_array_equal(given, expected)


def test_contiguous_tensor_is_not_copied() -> None:
    tensor = np.zeros(1000, np.float32)

    buffer = encode_frame({}, [tensor])[1]

    assert np.shares_memory(np.frombuffer(buffer, np.float32), tensor)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {},
        {"tensors": {}},
        {"tensors": [["float32"]]},
        {"tensors": [["complex64", [1]]]},
        {"tensors": [[["float32"], [1]]]},
        {"tensors": [["O", [1]]]},
        {"tensors": [["float32", 1]]},
        {"tensors": [["float32", [-1]]]},
        {"tensors": [["float32", [True]]]},
        {"tensors": [["float32", [2**63]]]},
        {"tensors": [["float32", [1.0]]]},
        {"tensors": [["float32", [1] * 33]]},
    ],
    ids=str,
)
def test_header_of_another_form_is_refused(header: object) -> None:
    with pytest.raises(BadFrame):
        read_frame(reader(frame_of(header, bytes(64))))


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[" * 100_000], ids=["cut off", "no text", "nested"])
def test_header_that_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(BadFrame):
        read_frame(reader(struct.pack("<I", len(text)) + text))


def test_long_header_is_refused_before_it_is_read() -> None:
    with pytest.raises(BadFrame, match="too long"):
        read_frame(reader(struct.pack("<I", 2**32 - 1)))


def test_refused_tensors_are_neither_allocated_nor_read() -> None:
    announced: list[TensorSpec] = []

    def refuse(_header: dict[str, Any], specs: Sequence[TensorSpec]) -> None:
        announced.extend(specs)
        raise PermissionError

    with pytest.raises(PermissionError):
        read_frame(reader(frame_of({"tensors": [["float64", [10**9, 10**9]]]})), refuse)

    assert announced == [TensorSpec((10**9, 10**9), np.dtype(np.float64))]
