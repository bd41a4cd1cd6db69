"""Any State and any plan round-trips, and damaged ones are refused in bounded time and memory."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from gridnode.plans.interpreter import OperationList
from gridnode.plans.plan import InvalidPlan, parse_plan
from gridnode.plans.variants import plan_variants
from gridnode.protocol.syft_proto import DTYPES, InvalidState, decode_state, encode_state
from gridnode.protocol.wire_format import decode_packed_varints, encode_packed_varints
from tests.support.recordings import DATA
from tests.support.syft_messages import parse

STATES = [
    path.read_bytes()
    for path in sorted([*(DATA / "serde").glob("*.bin"), *(DATA / "models" / "tiny").glob("state*.bin")])
]
PLANS = [path.read_bytes() for path in sorted((DATA / "models" / "tiny").glob("*plan*.bin"))]

# Far above what these small messages need, so that a slow machine is no failure and a loop without end is one.
SECONDS = 2.0
BYTES = 20_000_000

arrays = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda dtype: st_numpy.arrays(dtype, st_numpy.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6))
)


def assert_same(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    if expected.dtype == np.float16:
        assert_same_values(found, expected)  # a float16 travels as float32
    else:
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()


def assert_same_values(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    """The same but for the payload of a NaN, which changes on the way through numbers of another width."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)
    if np.issubdtype(expected.dtype, np.floating):
        assert np.array_equal(np.signbit(found[~np.isnan(found)]), np.signbit(expected[~np.isnan(expected)]))


@settings(deadline=None)
@given(st.lists(arrays, max_size=5))
def test_any_state_round_trips(tensors: list[np.ndarray[Any, Any]]) -> None:
    state = decode_state(encode_state(tensors))
    assert len(state.tensors) == len(tensors)
    for found, expected in zip(state.tensors, tensors, strict=True):
        assert_same(found, expected)


@settings(deadline=None)
@given(arrays)
def test_any_state_is_read_alike_by_the_protobuf_library(tensor: np.ndarray[Any, Any]) -> None:
    data = parse("State", encode_state([tensor])).tensors[0].torch_tensor.contents_data
    contents = np.array(list(getattr(data, f"contents_{data.dtype}")), tensor.dtype)
    assert_same(contents.reshape(tuple(data.shape.dims)), tensor)


@settings(deadline=None)
@given(arrays)
def test_any_state_of_the_protobuf_library_is_read_alike(tensor: np.ndarray[Any, Any]) -> None:
    message = parse("State", b"")
    data = message.tensors.add().torch_tensor.contents_data
    data.dtype = tensor.dtype.name
    data.shape.dims.extend(tensor.shape)
    getattr(data, f"contents_{tensor.dtype.name}").extend(tensor.ravel().tolist())
    assert_same(decode_state(message.SerializeToString()).tensors[0], tensor)


@settings(deadline=None)
@given(st.integers(0, 20), st.data())
def test_packed_integers_round_trip_over_block_boundaries(seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 40_000))
    random = np.random.default_rng(seed)
    values = random.integers(-(2**63), 2**63, count) >> random.integers(0, 64, count)
    packed = np.frombuffer(encode_packed_varints(values), np.uint8)
    assert np.array_equal(decode_packed_varints(packed, count, np.dtype(np.int64)), values)


# --- damage -----------------------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """A recorded message cut off, with bits flipped, bytes replaced, a piece of another spliced in, or several."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["cut", "flip", "bytes", "splice", "remove", "repeat"]))
        if kind == "cut":
            del data[position:]
        elif kind == "flip" and data:
            data[position] ^= 1 << draw(st.integers(0, 7))
        elif kind == "bytes":
            data[position : position + draw(st.integers(0, 10))] = draw(st.binary(max_size=20))
        elif kind == "splice":
            other = draw(st.sampled_from(originals))
            start = draw(st.integers(0, len(other)))
            data[position:position] = other[start : start + draw(st.integers(0, 200))]
        elif kind == "remove":
            del data[position : position + draw(st.integers(1, 50))]
        elif kind == "repeat":
            piece = bytes(data[position : position + draw(st.integers(1, 50))])
            data[position:position] = piece * draw(st.integers(1, 20))
    return bytes(data)


def bounded(action: Callable[[], object]) -> None:
    tracemalloc.start()
    started = time.monotonic()
    try:
        action()
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < SECONDS


def read_state(data: bytes) -> None:
    try:
        state = decode_state(data)
    except InvalidState:
        return
    # What is accepted is a State, and no larger than varints allow.
    assert sum(tensor.nbytes for tensor in state.tensors) <= 8 * len(data)
    for found, expected in zip(decode_state(encode_state(state.tensors)).tensors, state.tensors, strict=True):
        assert_same(found, expected)


def read_plan(data: bytes) -> None:
    try:
        variants = plan_variants(data)
        assert (variants.tfjs is None) != (variants.tfjs_refusal is None)
        operations = OperationList.from_plan(parse_plan(data))
        operations.run([np.ones((2, 2), np.float32)] * operations.input_count)
    except InvalidPlan:
        return


@settings(max_examples=4 * settings().max_examples, deadline=None)
@given(damaged(STATES))
def test_damaged_state_is_read_or_refused(data: bytes) -> None:
    bounded(lambda: read_state(data))


@settings(max_examples=2 * settings().max_examples, deadline=None)
@given(damaged(PLANS))
def test_damaged_plan_is_read_or_refused(data: bytes) -> None:
    bounded(lambda: read_plan(data))


@settings(deadline=None)
@given(st.binary(max_size=500))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    bounded(lambda: read_state(data))
    bounded(lambda: read_plan(data))


@settings(max_examples=2 * settings().max_examples, deadline=None)
@given(damaged(STATES))
def test_accepted_state_is_what_the_protobuf_library_reads(data: bytes) -> None:
    """A damaged State that is still accepted has the values another implementation finds in it."""
    try:
        state = decode_state(data)
    except InvalidState:
        return
    try:
        message = parse("State", data)
    except Exception:
        # The library also looks into what is no part of a State's values, such as tags that are no text.
        return
    assert len(message.tensors) == len(state.tensors)
    for each, tensor in zip(message.tensors, state.tensors, strict=True):
        torch_tensor = each.torch_param.tensor if each.HasField("torch_param") else each.torch_tensor
        contents = torch_tensor.contents_data
        expected = np.array(list(getattr(contents, f"contents_{contents.dtype}")), DTYPES[contents.dtype])
        assert_same_values(tensor, expected.reshape(tuple(contents.shape.dims)))
