"""What SwiftSyft and KotlinSyft make of a node's answers: as strict as their decoders, and no stricter.

Taken from the response types of SwiftSyft 0.1.3-beta2 and 0.5 (``Codable``) and of KotlinSyft 0.1.3 and 0.5
(kotlinx.serialization 0.14, ``JsonConfiguration.Stable``):

- SwiftSyft ignores unknown keys and HTTP status codes, requires the keys it declares, and tells integers, numbers,
  strings and booleans apart. A WebSocket message that it can't decode is dropped, so the app waits for ever.
- KotlinSyft refuses unknown keys. It reads a string from a string, number or boolean, but not from null. Its HTTP
  client raises for a status outside 2xx before it looks at the body. Its authentication and cycle answers must have
  ``status``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.device import Answer, strict_json

_LARGEST_FLOAT = 3.4028234663852886e38


class Undecodable(AssertionError):
    """The client can't read this answer: the app would wait for ever, crash, or see a network error."""


@dataclass(frozen=True, slots=True)
class Authenticated:
    worker_id: str
    requires_speed_test: bool


@dataclass(frozen=True, slots=True)
class Accepted:
    request_key: str
    model_id: int
    plans: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rejected:
    """``timeout`` in seconds; None: the answer has none."""

    timeout: int | None


@dataclass(frozen=True, slots=True)
class Reported:
    """The answer to a report; ``error`` is None for a success. SwiftSyft never looks at it."""

    error: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The app is told of an error."""

    message: str


Outcome = Authenticated | Accepted | Rejected | Reported | Failed


class SwiftSyft:
    """SwiftSyft's decoders."""

    def http(self, event: str, answer: Answer) -> Outcome:
        """Decode an HTTP answer to ``authenticate``, ``cycle-request`` or ``report``, whatever its status is."""
        body = _text(answer.body)
        if event == "report":
            # Printed with a forced unwrap of the UTF-8 text, and nothing else.
            return Reported(None)
        data = _Object(_parse(body), "the body")
        try:
            return self._authenticated(data) if event == "authenticate" else self._cycle_answer(data)
        except Undecodable as error:
            # Told to the app as a network error: right for an answer that is an error, and for no other.
            if 200 <= answer.status < 300:
                raise
            return Failed(str(error))

    def websocket(self, frame: str) -> Outcome:
        """Decode a WebSocket message."""
        message = _Object(_parse(frame), "the message")
        kind = message.string("type")
        if kind == "model-centric/report":
            return Reported(None)
        data = message.object("data")
        if kind == "model-centric/authenticate":
            if data.has("status") and data.has("worker_id") and data.has("requires_speed_test"):
                return self._authenticated(data)
            return Failed(data.string("error") if data.has("error") else "unknown authentication error")
        if kind == "model-centric/cycle-request":
            if data.string("status") == "accepted":
                return self._accepted(data)
            return Rejected(data.integer("timeout"))
        raise Undecodable(f"SwiftSyft knows no message of type {kind!r}")

    def _authenticated(self, data: _Object) -> Authenticated:
        data.string("status")
        return Authenticated(data.string("worker_id"), data.boolean("requires_speed_test"))

    def _cycle_answer(self, data: _Object) -> Accepted | Rejected:
        try:
            return self._accepted(data)
        except Undecodable:
            data.string("status")
            if data.has("error"):
                data.string("error")
            return Rejected(data.integer("timeout") if data.has("timeout") else None)

    def _accepted(self, data: _Object) -> Accepted:
        data.string("status")
        data.string("model")
        config = data.object("client_config")
        config.string("name")
        config.string("version")
        config.integer("batch_size")
        config.number("lr")
        config.integer("max_updates")
        plans = data.object("plans")
        return Accepted(
            data.string("request_key"), data.integer("model_id"), {name: plans.integer(name) for name in plans.names()}
        )


class KotlinSyft:
    """KotlinSyft's decoders."""

    def http(self, event: str, answer: Answer) -> Outcome:
        """Decode an HTTP answer to ``authenticate``, ``cycle-request``, ``report`` or ``speed-test``."""
        if not 200 <= answer.status < 300:
            return Failed(f"HTTP {answer.status}")
        return self._data(event, _parse(_text(answer.body)))

    def websocket(self, frame: str) -> Outcome:
        """Decode a WebSocket message; keys beside type and data are not looked at."""
        message = _Object(_parse(frame), "the message")
        kind = message.kotlin_string("type")
        if kind not in ("model-centric/authenticate", "model-centric/cycle-request", "model-centric/report"):
            raise Undecodable(f"KotlinSyft knows no message of type {kind!r}")
        return self._data(kind.removeprefix("model-centric/"), message.value("data"))

    def _data(self, event: str, value: Any) -> Outcome:
        data = _Object(value, "the data")
        if event in ("report", "speed-test"):
            data.only("status", "error") if event == "report" else data.only("error")
            error = data.kotlin_string("error") if data.has("error") else None
            return Reported(error)
        status = data.kotlin_string("status")
        if event == "authenticate":
            return self._authentication(data, status)
        if status == "accepted":
            return self._accepted(data)
        data.only("status", "timeout")
        return Rejected(int(data.kotlin_string("timeout")) if data.contains("timeout") else None)

    def _authentication(self, data: _Object, status: str) -> Outcome:
        if status != "success":
            data.only("status", "error")
            return Failed(data.kotlin_string("error"))
        data.only("status", "worker_id", "requires_speed_test")
        needs_test = data.boolean("requires_speed_test") if data.contains("requires_speed_test") else True
        return Authenticated(data.kotlin_string("worker_id"), needs_test)

    def _accepted(self, data: _Object) -> Accepted:
        data.only(
            "status", "model", "version", "request_key", "plans", "client_config", "protocols", "model_id"
        )  # fmt: skip
        data.kotlin_string("model")
        data.kotlin_string("version")
        config = data.object("client_config")
        config.value("name")
        config.value("version")
        if not -(2**31) <= config.integer("max_updates") < 2**31:
            raise Undecodable("client_config.max_updates is no 32-bit integer")
        plans, protocols = data.object("plans"), data.object("protocols")
        for name in protocols.names():
            protocols.kotlin_string(name)
        return Accepted(
            data.kotlin_string("request_key"),
            int(data.kotlin_string("model_id")),
            {name: int(plans.kotlin_string(name)) for name in plans.names()},
        )


class _Object:
    """A JSON object whose values are read by type."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise Undecodable(f"{where} is no object: {value!r:.200}")
        self._values = value
        self._where = where

    def names(self) -> list[str]:
        return list(self._values)

    def contains(self, key: str) -> bool:
        return key in self._values

    def has(self, key: str) -> bool:
        """Whether the key is there and not null, as Swift's decodeIfPresent sees it."""
        return self._values.get(key) is not None

    def only(self, *known: str) -> None:
        if unknown := self._values.keys() - set(known):
            raise Undecodable(f"{self._where} has unknown keys {sorted(unknown)}: {self._values!r:.300}")

    def value(self, key: str) -> Any:
        if key not in self._values:
            raise Undecodable(f"{self._where} has no {key!r}: {self._values!r:.300}")
        return self._values[key]

    def object(self, key: str) -> _Object:
        return _Object(self.value(key), key)

    def string(self, key: str) -> str:
        return str(self._typed(key, str))

    def boolean(self, key: str) -> bool:
        return bool(self._typed(key, bool))

    def integer(self, key: str) -> int:
        value = int(self._typed(key, int))
        if not -(2**63) <= value < 2**63:
            raise Undecodable(f"{key} is no 64-bit integer: {value}")
        return value

    def number(self, key: str) -> float:
        value = float(self._typed(key, (int, float)))
        if not math.isfinite(value) or abs(value) > _LARGEST_FLOAT:
            raise Undecodable(f"{key} is no float: {value}")
        return value

    def kotlin_string(self, key: str) -> str:
        """A string, or what a string is read from: the text of a number or a boolean."""
        value = self.value(key)
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str | int | float):
            return str(value)
        raise Undecodable(f"{key} is no primitive: {value!r:.200}")

    def _typed(self, key: str, kind: type | tuple[type, ...]) -> Any:
        value = self.value(key)
        # To Python a boolean is an integer, to no other client.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise Undecodable(f"{self._where}.{key} is {value!r:.200}")
        return value


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Undecodable(f"the body is not UTF-8: {error}") from None


def _parse(text: str) -> Any:
    try:
        return strict_json(text)
    except ValueError as error:
        raise Undecodable(f"no JSON: {error}: {text[:200]!r}") from None
