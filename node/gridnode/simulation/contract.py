"""What the wire contract promises a device: its answers as types, read strictly, and the ways a session can fail.

Answers are read as the strictest of the frozen clients reads them (KotlinSyft refuses unknown keys, SwiftSyft requires
types), so that a simulated phone notices a node that real phones would choke on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gridnode.errors import GridNodeError

Transport = Literal["http", "ws"]

_ACCEPTED_KEYS = {"status", "request_key", "version", "model", "plans", "protocols", "client_config", "model_id"}


class DeviceError(GridNodeError):
    """The session can't go on."""


class Refused(DeviceError):
    """The node answered with an error: repeating the request unchanged will not help. No ``status`` over WebSocket."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(DeviceError):
    """No answer, or one that means 'later' (429, 5xx); ``retry_after`` in seconds where the node said so."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ContractBroken(DeviceError):
    """The node answered something that clients of 2020 can't read."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Ping in milliseconds, transfer speeds in Mbit/s (the units of syft.js)."""

    ping: float
    download: float
    upload: float


NOT_MEASURED = Speed(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Authentication:
    """A worker id, good for one process, and whether the node wants to know the device's speed."""

    worker_id: str
    requires_speed_test: bool


@dataclass(frozen=True, slots=True)
class Accepted:
    """A place in a cycle; ``plans`` and ``protocols`` map names to ids."""

    worker_id: str
    request_key: str
    model_id: int
    plans: Mapping[str, int]
    protocols: Mapping[str, int]
    client_config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rejected:
    """No place now. Ask again after ``retry_after`` seconds; None: never, the process is finished."""

    retry_after: int | None


def read_authentication(answer: Mapping[str, Any]) -> Authentication:
    """Read the answer to authenticate.

    Raises:
        ContractBroken: clients could not read it.
    """
    _expect(answer, "authenticate", status=str, worker_id=str, requires_speed_test=bool)
    return Authentication(answer["worker_id"], answer["requires_speed_test"])


def read_cycle_answer(answer: Mapping[str, Any], worker_id: str, transport: Transport) -> Accepted | Rejected:
    """Read the answer to cycle-request.

    Raises:
        Refused: rejected because the request itself was bad.
        ContractBroken: clients could not read it.
    """
    if answer.get("status") == "accepted":
        return _accepted(answer, worker_id)
    if answer.get("status") != "rejected":
        raise ContractBroken(f"cycle-request answered status {answer.get('status')!r}, not accepted or rejected.")
    if "error" in answer:
        raise Refused(str(answer["error"]))
    timeout = answer.get("timeout")
    if timeout is not None and not _is(timeout, int):
        raise ContractBroken(f"cycle-request answered timeout {timeout!r}; clients read a whole number of seconds.")
    if transport == "http":
        return Rejected(timeout)
    if timeout is None:
        raise ContractBroken("cycle-request was rejected over WebSocket without a timeout; SwiftSyft requires one.")
    # A finished process answers 0 here, where the key can't be left out.
    return Rejected(timeout or None)


def read_report_answer(answer: Mapping[str, Any]) -> None:
    """Check the answer to report; anything but success raises ContractBroken."""
    if answer != {"status": "success"}:
        raise ContractBroken(f"report answered {answer!r:.200} instead of success.")


def read_object(action: str, body: bytes | str) -> dict[str, Any]:
    """The JSON object of an answer's body."""
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise ContractBroken(f"{action} answered something that is no JSON: {error}") from error
    if not isinstance(answer, dict):
        raise ContractBroken(f"{action} answered JSON that is no object.")
    return answer


def read_message(message_type: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a WebSocket answer.

    Raises:
        Refused: it is an error, beside or within its data.
        ContractBroken: it answers another message or has no data.
    """
    data = message.get("data")
    error = message.get("error") or (data.get("error") if isinstance(data, dict) else None)
    if error:
        raise Refused(str(error))
    if message.get("type") != message_type or not isinstance(data, dict):
        raise ContractBroken(f"the answer to {message_type} is of type {message.get('type')!r} or has no data.")
    return data


def _accepted(answer: Mapping[str, Any], worker_id: str) -> Accepted:
    if answer.keys() != _ACCEPTED_KEYS:
        raise ContractBroken(
            f"the accepted cycle-request has other keys than clients read: {', '.join(sorted(answer))}."
        )
    _expect(answer, "cycle-request", request_key=str, version=str, model=str, model_id=int)
    _expect(answer, "cycle-request", plans=dict, protocols=dict, client_config=dict)
    if not all(_is(number, int) for number in (*answer["plans"].values(), *answer["protocols"].values())):
        raise ContractBroken("cycle-request answered ids of plans or protocols that are no whole numbers.")
    return Accepted(
        worker_id=worker_id,
        request_key=answer["request_key"],
        model_id=answer["model_id"],
        plans=answer["plans"],
        protocols=answer["protocols"],
        client_config=answer["client_config"],
    )


def _expect(answer: Mapping[str, Any], action: str, **types: type) -> None:
    for key, expected in types.items():
        if not _is(answer.get(key), expected):
            raise ContractBroken(
                f"{action} answered {key} = {answer.get(key)!r:.100}; clients read {expected.__name__}."
            )


def _is(value: object, expected: type) -> bool:
    # bool is an int to Python, to no other client.
    return isinstance(value, expected) and (expected is bool or not isinstance(value, bool))
