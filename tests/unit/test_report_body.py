"""A report's diff is cut out of its JSON, and never anything else in its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import InvalidRequest
from gridnode.protocol import messages
from gridnode.protocol.messages import ReportRequest, decode_base64, decode_report

LARGE = "QUJD" * 5000
OTHER = "WFla" * 5000
HEAD = '"worker_id":"w","request_key":"k"'


def diff_of(body: str | bytes) -> str:
    _, diff = decode_report(body.encode() if isinstance(body, str) else body)
    return diff if isinstance(diff, str) else bytes(diff).decode()


def expected(body: str | bytes) -> str:
    return messages.decode(body.encode() if isinstance(body, str) else body, ReportRequest).diff


def test_large_diff_is_a_part_of_the_body_and_not_a_copy() -> None:
    body = f'{{{HEAD},"diff":"{LARGE}","loss":0.5}}'.encode()
    request, diff = decode_report(body)
    assert isinstance(diff, memoryview)
    assert diff.obj is body
    assert bytes(diff) == LARGE.encode()
    assert (request.worker_id, request.request_key, request.loss) == ("w", "k", 0.5)
    assert decode_base64(diff, "diff") == b"ABC" * 5000


@pytest.mark.parametrize(
    "body",
    [
        f'{{{HEAD},"diff":"{LARGE}"}}',
        f'{{"diff" :\n\t"{LARGE}",{HEAD}}}',
        f'{{{HEAD},"diff":"QUJD"}}',
        f'{{{HEAD},"diff":""}}',
        f'{{{HEAD},"diff":"QUJD\\n{LARGE}"}}',
        f'{{{HEAD},"d\\u0069ff":"{LARGE}"}}',
        # The last of two keys counts, whichever is cut.
        f'{{{HEAD},"diff":"{LARGE}","diff":"{OTHER}"}}',
        f'{{{HEAD},"diff":"QUJD","diff":"{OTHER}"}}',
        f'{{{HEAD},"diff":"{LARGE}","d\\u0069ff":"QUJD"}}',
        # A key of that name that is not the report's.
        f'{{"more":{{"diff":"{LARGE}"}},{HEAD},"diff":"{OTHER}"}}',
        f'{{{HEAD},"diff":"{OTHER}","more":{{"diff":"{LARGE}"}}}}',
        f'{{"more":[{{"diff":"{LARGE}"}}],{HEAD},"diff":""}}',
        # The words inside of other strings.
        f'{{"note":"\\"diff\\":\\"{LARGE}","worker_id":"w","request_key":"k","diff":"{OTHER}"}}',
        f'{{"a\\"diff":"{LARGE}",{HEAD},"diff":"{OTHER}"}}',
        f'{{"note":"diff","other":"{LARGE}",{HEAD},"diff":"{OTHER}"}}',
    ],
)
def test_diff_is_what_a_whole_decoding_gives(body: str) -> None:
    assert diff_of(body) == expected(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        f'{{{HEAD},"diff":"{LARGE}'.encode(),
        f'{{{HEAD},"diff":"{LARGE}"'.encode(),
        f'{{{HEAD},"diff":"{LARGE}"}}}}'.encode(),
        f'{{{HEAD},"diff":{{"diff":"{LARGE}"}}}}'.encode(),
        f'{{{HEAD},"diff":["{LARGE}"]}}'.encode(),
        f'{{{HEAD},"more":{{"diff":"{LARGE}"}}}}'.encode(),
        f'{{"worker_id":"w","diff":"{LARGE}"}}'.encode(),
        f'{{"worker_id":7,"request_key":"k","diff":"{LARGE}"}}'.encode(),
        f'"diff":"{LARGE}"'.encode(),
    ],
)
def test_what_is_no_report_is_refused_with_the_same_words(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as whole:
        messages.decode(body, ReportRequest)
    with pytest.raises(InvalidRequest) as cut:
        decode_report(body)
    assert cut.value.message == whole.value.message


@pytest.mark.parametrize("wrong", [b"\n", b"\xff", b"\x00", b"*", "é".encode()])
def test_diff_that_is_no_base64_is_refused(wrong: bytes) -> None:
    body = f'{{{HEAD},"diff":"'.encode() + LARGE.encode() + wrong + LARGE.encode() + b'"}'
    _, diff = decode_report(body)
    with pytest.raises(InvalidRequest, match="diff is not base64"):
        decode_base64(diff, "diff")


def test_diff_wrapped_in_lines_is_read() -> None:
    body = json.dumps({"worker_id": "w", "request_key": "k", "diff": f"{LARGE}\n{LARGE}\r\n"}).encode()
    _, diff = decode_report(body)
    assert decode_base64(diff, "diff") == b"ABC" * 10000


_VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text() | st.sampled_from([LARGE, OTHER, '"diff":"']),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(["diff", "a", 'x"diff']), values),
    max_leaves=8,
)


@given(
    st.lists(st.tuples(st.sampled_from(["diff", "worker_id", "request_key", "more", "\\diff"]), _VALUES), max_size=6)
)
def test_any_object_is_decoded_as_a_whole_decoding_would(items: list[tuple[str, Any]]) -> None:
    body = ("{" + ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in items) + "}").encode()
    assert outcome(lambda: decode_whole(body)) == outcome(lambda: decode_cut(body))


def decode_whole(body: bytes) -> tuple[str, str, str]:
    request = messages.decode(body, ReportRequest)
    return request.worker_id, request.request_key, request.diff


def decode_cut(body: bytes) -> tuple[str, str, str]:
    request, diff = decode_report(body)
    return request.worker_id, request.request_key, diff if isinstance(diff, str) else bytes(diff).decode()


def outcome(decode: Callable[[], tuple[str, str, str]]) -> object:
    try:
        return decode()
    except InvalidRequest as error:
        return error.message
