"""States are read and written as real clients do, and whatever is wrong with one is refused."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridnode.protocol.syft_proto import DTYPES, InvalidState, State, decode_state, decode_tensor, encode_state
from gridnode.protocol.wire_format import field_header, write_varint, write_varint_field
from tests.support.recordings import DATA
from tests.support.syft_messages import parse, state_of

SERDE = sorted(path for path in (DATA / "serde").glob("*.bin") if not path.name.startswith("contents_bin"))
RECORDED = sorted([*(DATA / "models").glob("*/state*.bin"), *(DATA / "runs").glob("*/c*_*.bin")])


def assert_same_tensors(found: State, expected: list[np.ndarray[Any, Any]]) -> None:
    """Equal to the bit, with NaN and the sign of zero."""
    assert len(found.tensors) == len(expected)
    for tensor, wanted in zip(found.tensors, expected, strict=True):
        assert (tensor.dtype, tensor.shape) == (wanted.dtype, wanted.shape)
        assert tensor.tobytes() == wanted.tobytes()


def content_of(path: Path) -> list[np.ndarray[Any, Any]]:
    archive = np.load(path.with_name(path.name.replace(".param", "")).with_suffix(".npz"))
    return [archive[name] for name in sorted(archive.files)]


def recorded_id(path: Path) -> str:
    return str(path.relative_to(DATA))


@pytest.mark.parametrize("path", [*SERDE, *RECORDED], ids=recorded_id)
def test_recorded_state_has_the_recorded_content(path: Path) -> None:
    assert_same_tensors(decode_state(path.read_bytes()), content_of(path))


@pytest.mark.parametrize("path", [*SERDE, *RECORDED], ids=recorded_id)
def test_recorded_state_round_trips(path: Path) -> None:
    content = content_of(path)
    assert_same_tensors(decode_state(encode_state(content)), content)


def test_recordings_cover_every_dtype() -> None:
    found = {tensor.dtype.name for path in SERDE for tensor in decode_state(path.read_bytes()).tensors}
    assert found == set(DTYPES)


@pytest.mark.parametrize("serializer", ["torch", "numpy"])
def test_pickled_contents_are_refused_by_name_of_the_tensor(serializer: str) -> None:
    data = (DATA / "serde" / f"contents_bin-{serializer}.bin").read_bytes()
    with pytest.raises(InvalidState, match=r"tensor 0 of the State: id 2249774840 has contents_bin .*SERIALIZER_ALL"):
        decode_state(data)


@pytest.mark.parametrize("path", sorted((DATA / "runs").glob("*/checkpoint_2.bin")), ids=recorded_id)
def test_written_state_is_the_message_the_historical_node_wrote(path: Path) -> None:
    recorded = parse("State", path.read_bytes())
    written = parse("State", encode_state(content_of(path)))

    ids = [each.id.id_int for each in written.placeholders] + [each.torch_tensor.id.id_int for each in written.tensors]
    assert len(set(ids)) == len(ids)
    for message in (recorded, written):
        for each in message.placeholders:
            each.id.id_int = 0
        for each in message.tensors:
            each.torch_tensor.id.id_int = 0
    assert written == recorded


def test_written_state_of_other_shapes_is_the_message_the_python_client_wrote() -> None:
    path = DATA / "serde" / "float32-shapes.bin"
    recorded, written = parse("State", path.read_bytes()), parse("State", encode_state(content_of(path)))
    for ours, theirs in zip(written.placeholders, recorded.placeholders, strict=True):
        assert ours.HasField("expected_shape") == theirs.HasField("expected_shape")
        assert ours.expected_shape == theirs.expected_shape
    for ours, theirs in zip(written.tensors, recorded.tensors, strict=True):
        assert ours.torch_tensor.contents_data == theirs.torch_tensor.contents_data


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_written_numbers_are_read_by_the_protobuf_library(dtype: str) -> None:
    examples: dict[str, list[Any]] = {
        "b": [True, False],
        "f": [0.5, -2.0, 1e4],
        "i": [-128, -1, 0, 127],
        "u": [0, 127, 128, 255],
    }
    values = examples[DTYPES[dtype].kind]
    if dtype == "int64":
        values += [-(2**63), 2**63 - 1, 2**56, -(2**35)]
    message = parse("State", encode_state([np.array(values, dtype)]))
    data = message.tensors[0].torch_tensor.contents_data
    assert list(getattr(data, f"contents_{dtype}")) == values
    assert data.dtype == dtype


def test_same_tensors_give_same_bytes() -> None:
    tensors: list[np.ndarray[Any, Any]] = [np.ones((2, 3), np.float32), np.array(2.5, np.float64)]
    assert encode_state(tensors) == encode_state([tensor.copy() for tensor in tensors])


def test_written_array_may_lie_anyhow_in_memory() -> None:
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    for array in (base.T, base[::2, ::3], base[::-1], np.asfortranarray(base), base.astype(">f4")):
        assert_same_tensors(decode_state(encode_state([array])), [np.array(array, np.float32, order="C")])


def test_dtypes_without_a_field_are_refused_when_writing() -> None:
    with pytest.raises(InvalidState, match=r"tensor 1: dtype complex64 is none of"):
        encode_state([np.ones(1, np.float32), np.ones(1, np.complex64)])


def test_tensors_are_read_only_and_lie_in_the_message() -> None:
    data = state_of([np.arange(1000, dtype=np.float32)])
    tensor = decode_state(data).tensors[0]
    assert np.may_share_memory(tensor, np.frombuffer(data, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        tensor[0] = 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "int64"])
def test_changing_a_buffer_later_does_not_change_the_tensors(dtype: str) -> None:
    expected = np.array([0, 1, 1], dtype)
    buffer = bytearray(encode_state([expected]))
    state = decode_state(memoryview(buffer))
    buffer[:] = b"\xff" * len(buffer)
    assert_same_tensors(state, [expected])


def test_gradients_are_ignored() -> None:
    message = parse("State", state_of([np.ones(2, np.float32)]))
    message.tensors[0].torch_tensor.grad_chain.contents_bin = b"anything"
    assert_same_tensors(decode_state(message.SerializeToString()), [np.ones(2, np.float32)])


def test_state_without_placeholders_is_accepted() -> None:
    message = parse("State", state_of([np.ones(2, np.float32)]))
    message.ClearField("placeholders")
    assert_same_tensors(decode_state(message.SerializeToString()), [np.ones(2, np.float32)])


def test_fields_of_later_versions_are_skipped() -> None:
    data = state_of([np.ones(2, np.float32)]) + field_header(99, 3) + b"abc" + write_varint_field(98, 7)
    assert_same_tensors(decode_state(data), [np.ones(2, np.float32)])


def test_unpacked_dimensions_are_read() -> None:
    shape = write_varint_field(1, 3) + write_varint_field(1, 2)
    data = nested(1, shape) + nested(2, b"float32") + nested(22, bytes(24))
    assert decode_tensor(nested(2, data)).shape == (3, 2)


# --- what is refused --------------------------------------------------------------------------------------------------


def nested(number: int, content: bytes) -> bytes:
    return field_header(number, len(content)) + content


def tensor_data(dims: list[int], dtype: str, contents: bytes) -> bytes:
    """A State of one tensor from raw parts; ``contents`` are whole fields of TensorData."""
    shape = nested(1, nested(1, b"".join(write_varint(dim) for dim in dims)))
    return nested(2, nested(1, nested(2, shape + nested(2, dtype.encode()) + contents)))


def edited(edit: Callable[[Any], object]) -> bytes:
    message = parse("State", state_of([np.ones(2, np.float32)]))
    edit(message)
    data: bytes = message.SerializeToString()
    return data


def torch_tensor(message: Any) -> Any:
    return message.tensors[0].torch_tensor


FLOATS = nested(22, bytes(8))

REFUSED: dict[str, tuple[bytes, str]] = {
    "fewer values than the shape": (tensor_data([3], "float32", FLOATS), "8 bytes are present, 3 values"),
    "more values than the shape": (tensor_data([1], "float32", FLOATS), "8 bytes are present, 1 values"),
    "half a value": (tensor_data([2], "float32", nested(22, bytes(7))), "7 bytes are present"),
    "values of a scalar missing": (tensor_data([], "float32", b""), "0 bytes are present, 1 values"),
    "negative dimension": (tensor_data([2**64 - 2, 2**64 - 1], "float32", FLOATS), "dimension -2 is negative"),
    "dimension beyond 32 bits": (tensor_data([2**31], "float32", FLOATS), "dimension 2147483648 is too large"),
    "product of dimensions overflows": (tensor_data([2**31 - 1] * 4, "float32", FLOATS), "is too large"),
    "overflow beside an empty dimension": (tensor_data([0, 2**31 - 1, 2**31 - 1], "float32", b""), "is too large"),
    "product overflows to the right count": (tensor_data([2**31 - 1, 2**31 - 1, 2], "float32", FLOATS), "is too large"),
    "large shape of few bytes": (tensor_data([2**30], "int8", nested(17, b"\1\1")), "at most 2 values are present"),
    "too many dimensions": (tensor_data([1] * 33, "float32", nested(22, bytes(4))), "33 dimensions"),
    "far too many dimensions": (tensor_data([1] * 100_000, "float32", FLOATS), "more than 32 dimensions"),
    "integers: too few": (tensor_data([3], "int64", nested(20, b"\1\2")), "at most 2 values are present, 3"),
    "integers: too few after long ones": (
        tensor_data([3], "int64", nested(20, b"\x80\1\2")),
        "2 values are present, 3",
    ),
    "integers: too many": (tensor_data([1], "int64", nested(20, b"\1\2")), "more values are present than the 1"),
    "integers: cut off": (tensor_data([2], "int64", nested(20, b"\1\x80")), "cut off or has more than 64"),
    "integers: only continuation": (tensor_data([2], "int64", nested(20, b"\xff" * 8)), "cut off or has more than 64"),
    "integers: 11 bytes": (tensor_data([1], "int64", nested(20, b"\x80" * 10 + b"\1")), "more than 64 bits"),
    "integers: 65 bits": (tensor_data([1], "int64", nested(20, b"\xff" * 9 + b"\2")), "more than 64 bits"),
    "int8 of 128": (tensor_data([1], "int8", nested(17, write_varint(128))), "does not fit int8"),
    "uint8 of 256": (tensor_data([1], "uint8", nested(16, write_varint(256))), "does not fit uint8"),
    "uint8 of -1": (tensor_data([1], "uint8", nested(16, write_varint(2**64 - 1))), "does not fit uint8"),
    "float16 of 70000": (
        tensor_data([1], "float16", nested(21, np.float32(70000).tobytes())),
        "does not fit float16",
    ),
    "unpacked values": (tensor_data([2], "float32", (b"\xb5\1" + bytes(4)) * 2), "comes 2 times"),
    "one unpacked value": (tensor_data([1], "float32", b"\xb5\1" + bytes(4)), "wire type 5, 2 is expected"),
    "values in pieces": (tensor_data([4], "float32", FLOATS * 2), "field 22 comes 2 times"),
    "contents of another dtype": (tensor_data([2], "float32", nested(23, bytes(16))), "contents of another dtype"),
    "contents of two dtypes": (tensor_data([2], "float32", FLOATS + nested(23, bytes(16))), "contents of another"),
    "no dtype": (tensor_data([2], "", FLOATS), "dtype '' is none of"),
    "unknown dtype": (tensor_data([2], "complex64", FLOATS), "dtype 'complex64' is none of"),
    "dtype that is no text": (nested(2, nested(1, nested(2, nested(2, b"\xff\0")))), "is none of"),
    "bfloat16": (tensor_data([2], "bfloat16", nested(28, bytes(8))), "dtype 'bfloat16' is not supported"),
    "quint8": (tensor_data([2], "quint8", nested(26, b"\0\0")), "dtype 'quint8' is not supported"),
    "quantized": (
        edited(lambda state: setattr(torch_tensor(state).contents_data, "is_quantized", True)),
        "dtype 'float32' is quantized",
    ),
    "wrapped tensor": (edited(lambda state: torch_tensor(state).chain.SetInParent()), r"id 2000 wraps another tensor"),
    "pickle beside data": (
        nested(2, nested(1, nested(2, nested(2, b"float32") + nested(22, bytes(4))) + nested(3, b"pickle"))),
        "has contents_bin",
    ),
    "no contents": (edited(lambda state: torch_tensor(state).ClearField("contents_data")), "has no contents_data"),
    "two contents": (nested(2, nested(1, nested(2, b"") * 2)), "field 2 comes 2 times"),
    "empty tensor": (nested(2, b""), "neither a torch_tensor nor a torch_param"),
    "parameter without tensor": (nested(2, nested(2, b"")), "neither a torch_tensor nor a torch_param"),
    "tensor and parameter": (nested(2, nested(1, b"") + nested(2, b"")), "both a torch_tensor and a torch_param"),
    "a placeholder too many": (edited(lambda state: state.placeholders.add()), "2 placeholders but 1 tensors"),
    "a tensor too many": (edited(lambda state: state.tensors.add()), "1 placeholders but 2 tensors"),
    "no message": (b"not a State", "not a State"),
    "a group": (b"\x0b\x0c", "wire type 3, which is not in use"),
    "field number 0": (b"\x02\x00", "field number 0 does not exist"),
    "length beyond the end": (b"\x12\x7f", "field 2 is cut off"),
    "length of 2**63": (b"\x12" + write_varint(2**63), "field 2 is cut off"),
    "length beyond 64 bits": (b"\x12" + b"\xff" * 9 + b"\x7f", "more than 64 bits"),
    "tensors of a wrong wire type": (b"\x10\x01", "field 2 has wire type 0, 2 is expected"),
    "a million fields": (b"\x18\x00" * 1_000_000, "too many fields"),
    "a million fields in a tensor": (nested(2, b"\x18\x00" * 1_000_000), "too many fields"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(data: bytes, reason: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidState, match=reason):
            decode_state(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_every_cut_is_refused() -> None:
    data = (DATA / "models" / "tiny" / "state.param.bin").read_bytes()
    for length in range(1, len(data)):
        with pytest.raises(InvalidState):
            decode_state(data[:length])


def test_nesting_is_not_followed() -> None:
    bomb = b""
    for _ in range(5000):
        bomb = nested(5, bomb)
    assert_same_tensors(decode_state(nested(2, nested(1, tensor_contents() + bomb))), [np.zeros(2, np.float32)])
    with pytest.raises(InvalidState, match="neither"):
        decode_state(nested(2, bomb))


def tensor_contents() -> bytes:
    return nested(2, nested(1, nested(1, b"\2")) + nested(2, b"float32") + FLOATS)


def test_more_tensors_than_the_maximum_are_refused() -> None:
    data = encode_state([np.zeros(1, np.float32)] * 4)
    assert len(decode_state(data, maximum_tensors=4).tensors) == 4
    with pytest.raises(InvalidState, match="has 4 tensors, at most 3"):
        decode_state(data, maximum_tensors=3)


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "float16"])
def test_more_bytes_than_the_maximum_are_refused(dtype: str) -> None:
    tensors = [np.zeros(8, dtype), np.zeros(8, dtype)]
    size = sum(tensor.nbytes for tensor in tensors)
    assert len(decode_state(encode_state(tensors), maximum_bytes=size).tensors) == 2
    with pytest.raises(InvalidState, match=r"tensor 1 of the State: .*passes the limit"):
        decode_state(encode_state(tensors), maximum_bytes=size - 1)


def test_reading_a_large_state_takes_no_memory_for_its_numbers() -> None:
    data = encode_state([np.zeros((1000, 1000), np.float32)])
    tracemalloc.start()
    try:
        state = decode_state(data)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert state.tensors[0].shape == (1000, 1000)


def test_reading_many_small_integers_takes_memory_for_the_result_only() -> None:
    data = encode_state([np.ones(1_000_000, np.int8)])
    tracemalloc.start()
    try:
        decode_state(data)
        assert tracemalloc.get_traced_memory()[1] < 3_500_000
    finally:
        tracemalloc.stop()
