"""Whatever a stranger sends as a request: a 4xx within bounded time and memory, and no cycle changed."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.damage import MIB, nested, pickled, with_bomb, with_dims
from tests.support.device import HttpDevice, report_of
from tests.support.syft_messages import zero_diff
from tests.support.target import BODY_LIMIT, EVENTS, Target, assert_bounded, over_websocket, spoiled

pytestmark = pytest.mark.integration

BAD_VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "zero": 0,
    "negative": -1,
    "beyond 64 bits": 2**64,
    "beyond a double": 10**400,
    "fraction": 0.5,
    "empty text": "",
    "NUL": "\0",
    "NUL inside": "a\0b",
    "lone surrogate": "\ud800",
    "long text": "x" * 100_000,
    "quote": "'; DROP TABLE cycles; --",
    "percent": "%s%n%00",
    "path": "../../etc/passwd",
    "list": [],
    "object": {},
    "deep list": [[[[[[[[[[1]]]]]]]]]],
}
FIELDS = {
    "authenticate": ("model_name", "model_version", "auth_token"),
    "cycle-request": ("worker_id", "model", "version", "ping", "download", "upload"),
    "report": ("worker_id", "request_key", "diff", "num_samples", "loss", "accuracy"),
}


@pytest.mark.parametrize("what", BAD_VALUES)
@pytest.mark.parametrize("event", EVENTS)
def test_bad_value_in_each_field(target: Target, event: str, what: str) -> None:
    for field in FIELDS[event]:
        body = {**spoiled(target, event), field: BAD_VALUES[what]}
        assert_bounded(target, event, json.dumps(body).encode())
        over_websocket(target, {"type": f"model-centric/{event}", "data": body})


NUMBERS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    "1e-400",
    "0x10",
    "01",
    "+1",
    "1.",
    ".5",
    "--1",
    "9" * 5000,
]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:12])
def test_numbers_that_json_does_not_have(target: Target, number: str) -> None:
    session = target.session
    for event, field in (
        ("cycle-request", "ping"),
        ("cycle-request", "download"),
        ("report", "num_samples"),
        ("report", "loss"),
    ):
        body = json.dumps({**spoiled(target, event), field: "@"}).replace('"@"', number)
        assert_bounded(target, event, body.encode())
    for event, field in (("cycle-request", "worker_id"), ("report", "request_key")):
        body = json.dumps({**report_of(session, b""), field: "@"}).replace('"@"', number)
        assert_bounded(target, event, body.encode())


BODIES: dict[str, bytes] = {
    "empty": b"",
    "white space": b" \r\n\t ",
    "a zero byte": b"\0",
    "zero bytes": b"\0" * 10_000,
    "not UTF-8": b'{"model_name": "\xff\xfe\xfd"}',
    "UTF-16": '{"model_name": "x"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"model_name": "x"}',
    "cut short": b'{"model_name": "x',
    "trailing garbage": b'{"model_name": "x"} x',
    "key twice": b'{"model_name": "x", "model_name": 1}',
    "nested lists": b"[" * 500_000,
    "nested lists, closed": b"[" * 100_000 + b"]" * 100_000,
    "nested objects": b'{"a":' * 200_000,
    "nested under a field": b'{"worker_id":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "many keys": json.dumps({f"k{number}": number for number in range(50_000)}).encode(),
    "long key": b'{"' + b"k" * 3_000_000 + b'": 1}',
    "huge number": b'{"ping": ' + b"9" * 1_000_000 + b"}",
    "escapes": b'{"worker_id": "' + b"\\u0000" * 100_000 + b'"}',
    "gzip": gzip.compress(b'{"model_name": "x"}'),
    "multipart": b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n',
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
}


@pytest.mark.parametrize("what", BODIES)
@pytest.mark.parametrize("event", EVENTS)
def test_body_that_is_no_request(target: Target, event: str, what: str) -> None:
    assert_bounded(target, event, BODIES[what])


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "identity, gzip"])
def test_compressed_body_is_not_unpacked(target: Target, encoding: str) -> None:
    bomb = zlib.compress(b"[" + b"0," * 50_000_000 + b"0]", 9)
    assert len(bomb) < MIB
    assert_bounded(target, "authenticate", bomb, {"Content-Encoding": encoding})


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
fuzzed = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("event", EVENTS)
@fuzzed
@given(data=st.data())
def test_any_json(target: Target, event: str, data: st.DataObject) -> None:
    fields = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS[event], json_values)))
    body = data.draw(st.just({**spoiled(target, event), **fields}) | json_values)
    assert_bounded(target, event, json.dumps(body).encode())


@fuzzed
@given(
    query=st.dictionaries(
        st.sampled_from(["worker_id", "request_key", "model_id", "plan_id", "protocol_id"]), st.text(max_size=80)
    )
)
@pytest.mark.parametrize("endpoint", ["get-model", "get-plan", "get-protocol", "speed-test"])
def test_any_query(target: Target, endpoint: str, query: dict[str, str]) -> None:
    encodable = {key: value.encode("utf-8", "surrogatepass") for key, value in query.items()}
    with closing(HttpDevice(target.node.device_port)) as device:
        if endpoint == "speed-test":
            encodable["is_ping"] = b"1"
        answer = device.get(endpoint, encodable)
        assert answer.status < 500, answer.body
        assert answer.status != 200 or endpoint == "speed-test"


@fuzzed
@given(body=st.binary(max_size=300))
def test_any_diff(target: Target, body: bytes) -> None:
    assert_bounded(target, "report", json.dumps(report_of(target.session, body)).encode(), refused=True)


# Made of a diff that is right, as bytes.
DIFFS: dict[str, Callable[[bytes], bytes]] = {
    "cut in half": lambda good: good[: len(good) // 2],
    "tensor chain, nested": lambda good: nested(b"\x22", 4000),
    "length beyond the end": lambda good: b"\x12\xff\xff\xff\xff\x0f",
    "length beyond 64 bits": lambda good: b"\x12" + b"\xff" * 10 + b"\x01",
    "endless varint": lambda good: b"\x08" + b"\x80" * 1000,
    "groups": lambda good: b"\x0b" * 10_000,
    "field number zero": lambda good: b"\x00\x00",
    "100 000 empty tensors": lambda good: b"\x12\x00" * 100_000,
    "100 000 placeholders": lambda good: b"\x0a\x00" * 100_000,
    "a million dimensions": lambda good: with_dims(good, [1] * 1_000_000),
    "product of dimensions wraps around": lambda good: with_dims(good, [2**31 - 1] * 4),
    "dimension of zero": lambda good: with_dims(good, [0, 4]),
    "contents as pickle": lambda good: pickled(good),
    "a Plan with a zip bomb": lambda good: with_bomb(b""),
}


@pytest.mark.parametrize("what", DIFFS)
def test_diff_that_is_no_diff(target: Target, what: str) -> None:
    body = report_of(target.session, DIFFS[what](zero_diff(target.hosting.model)))
    assert_bounded(target, "report", json.dumps(body).encode(), refused=True)
    if len(body["diff"]) < BODY_LIMIT // 2:
        over_websocket(target, {"type": "model-centric/report", "data": body}, refused=True)


def test_diff_cut_at_every_length(target: Target) -> None:
    good = zero_diff(target.hosting.model)
    with closing(HttpDevice(target.node.device_port)) as device:
        for length in range(len(good)):
            answer = device.post("report", report_of(target.session, good[:length]))
            assert 400 <= answer.status < 500, f"cut at {length}: {answer.status}"
