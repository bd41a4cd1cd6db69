"""The JSON bodies that devices send, as typed structs, and how they are decoded.

Unknown keys are ignored, as they always were: clients of different versions send more than is read.
"""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Any, TypeVar

import msgspec
import orjson
import pybase64
from msgspec import Meta, Struct

from gridnode.errors import InvalidRequest

#: PostgreSQL's text holds no NUL characters.
Text = Annotated[str, Meta(max_length=1024, pattern=r"\A[^\x00]*\Z")]
#: A speed in the client's unit; −1 is what clients send for a ping they have not measured.
Speed = Annotated[float, Meta(ge=-1)]

S = TypeVar("S", bound=Struct)

_DIFF = re.compile(rb'"diff"[ \t\r\n]*:[ \t\r\n]*"')
_MARKER = secrets.token_hex()
#: Bytes of base64 from which on cutting them out pays.
_WORTH_CUTTING = 4096


class AuthenticateRequest(Struct):
    model_name: Text
    model_version: Text | None = None
    auth_token: object = None


class CycleRequest(Struct):
    worker_id: Text
    model: Text
    version: Text | None = None
    ping: Speed | None = None
    download: Speed | None = None
    upload: Speed | None = None


class ReportRequest(Struct):
    worker_id: Text
    request_key: Text
    diff: str
    num_samples: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    loss: float | None = None
    accuracy: float | None = None


Raw = bytes | bytearray | msgspec.Raw


class Envelope(Struct):
    """A WebSocket message; ``data`` is decoded once ``type`` says what it is."""

    type: str
    data: msgspec.Raw = msgspec.Raw(b"{}")
    request_id: Any = None


# msgspec works out a struct when it is first used, and threads that do so at the same time crash the process (seen with
# 0.22). A decoder does it at once.
for _kind in (AuthenticateRequest, CycleRequest, ReportRequest, Envelope):
    msgspec.json.Decoder(_kind)


def decode(body: Raw, kind: type[S]) -> S:
    """Decode a JSON object.

    Raises:
        InvalidRequest: it is not UTF-8 JSON, no object, or a field is missing or wrong; the message names it.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(explain(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest("the body is not JSON") from None


def decode_report(body: Raw) -> tuple[ReportRequest, str | memoryview]:
    """Decode a report, and give its diff apart: where possible as a part of ``body`` and not as a copy of it.

    A diff is megabytes of base64, and making a string of it takes longer than all the rest. So it is cut out, a marker
    that nobody can guess is put into its place, and the rest is decoded. If the marker then stands in ``diff``, what
    was cut out was the value of ``diff``: it holds no quote and no backslash, so both texts are the same JSON but for
    that value. What is cut out is not known to be UTF-8 without control characters; base64 is.

    Raises:
        InvalidRequest: see :func:`decode`.
    """
    view = memoryview(body)
    content = body if isinstance(body, bytes | bytearray) else bytes(body)
    key = _DIFF.search(content)
    if key is not None:
        start = key.end()
        end = content.find(b'"', start)
        if end - start >= _WORTH_CUTTING and content.find(b"\\", start, end) < 0:
            request = decode(b"".join((view[:start], _MARKER.encode(), view[end:])), ReportRequest)
            if request.diff == _MARKER:
                return request, view[start:end]
    request = decode(body, ReportRequest)
    return request, request.diff


def decode_object(body: Raw) -> dict[str, Any]:
    """Decode a JSON object of any content.

    Raises:
        InvalidRequest: it is not UTF-8 JSON, or no object.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest("the body is not JSON") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body is not a JSON object")
    return value


def explain(error: msgspec.ValidationError) -> str:
    """msgspec's words with the field first: ``worker_id: expected `str`, got `int```."""
    problem, _, path = str(error).partition(" - at `$.")
    problem = problem[:1].lower() + problem[1:]
    return f"{path.rstrip('`')}: {problem}" if path else problem


def decode_base64(text: str | memoryview, field: str) -> bytes:
    """Decode base64, plain or wrapped in lines.

    Raises:
        InvalidRequest: it is not base64; the message names ``field``.
    """
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        if isinstance(text, memoryview):
            # In JSON as it came, a line break would have been a backslash and a letter.
            raise InvalidRequest(f"{field} is not base64") from None
    try:
        # Android's default encoder wraps lines; rare enough to cost a second pass.
        return pybase64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise InvalidRequest(f"{field} is not base64") from None


def encode(payload: object) -> bytes:
    """JSON as it goes out."""
    return orjson.dumps(payload)


Answer = dict[str, Any]
