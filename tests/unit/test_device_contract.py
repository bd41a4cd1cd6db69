"""How strictly a simulated phone reads a node's answers."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from gridnode.errors import InvalidRequest
from gridnode.simulation.contract import (
    Accepted,
    ContractBroken,
    Refused,
    Rejected,
    Transport,
    Unreachable,
    read_authentication,
    read_cycle_answer,
    read_message,
    read_object,
    read_report_answer,
)
from gridnode.simulation.device_client import HttpDeviceClient, WebSocketDeviceClient, http_error, open_client

ACCEPTED: dict[str, Any] = {
    "status": "accepted",
    "request_key": "ab" * 32,
    "version": "1.0",
    "model": "digits",
    "plans": {"training_plan": 7},
    "protocols": {"shares": 2},
    "client_config": {"batch_size": 5},
    "model_id": 3,
}


def test_accepted_answer_is_read() -> None:
    answer = read_cycle_answer(ACCEPTED, "worker-1", "http")

    assert answer == Accepted("worker-1", "ab" * 32, 3, {"training_plan": 7}, {"shares": 2}, {"batch_size": 5})


@pytest.mark.parametrize("key", sorted(ACCEPTED.keys() - {"status"}))
def test_accepted_answer_without_a_key_is_unreadable(key: str) -> None:
    answer = {name: value for name, value in ACCEPTED.items() if name != key}

    with pytest.raises(ContractBroken, match="keys"):
        read_cycle_answer(answer, "worker-1", "http")


def test_accepted_answer_with_another_key_is_unreadable() -> None:
    with pytest.raises(ContractBroken, match="keys"):
        read_cycle_answer({**ACCEPTED, "cycle": 4}, "worker-1", "http")


@pytest.mark.parametrize(
    "wrong",
    [
        {"model_id": "3"},
        {"model_id": True},
        {"request_key": None},
        {"plans": []},
        {"plans": {"training_plan": "7"}},
        {"protocols": {"shares": 1.0}},
        {"client_config": None},
    ],
)
def test_accepted_answer_of_another_type_is_unreadable(wrong: dict[str, Any]) -> None:
    with pytest.raises(ContractBroken):
        read_cycle_answer({**ACCEPTED, **wrong}, "worker-1", "http")


@pytest.mark.parametrize(
    ("transport", "answer", "retry_after"),
    [
        ("http", {"timeout": 12}, 12),
        ("http", {"timeout": 0}, 0),
        ("http", {}, None),
        ("ws", {"timeout": 12}, 12),
        ("ws", {"timeout": 0}, None),
    ],
)
def test_rejection_tells_when_to_come_back(
    transport: Transport, answer: dict[str, Any], retry_after: int | None
) -> None:
    assert read_cycle_answer({"status": "rejected", **answer}, "worker-1", transport) == Rejected(retry_after)


@pytest.mark.parametrize("timeout", [1.5, "12", True])
def test_timeout_must_be_whole_seconds(timeout: object) -> None:
    with pytest.raises(ContractBroken, match="timeout"):
        read_cycle_answer({"status": "rejected", "timeout": timeout}, "worker-1", "http")


def test_rejection_over_websocket_must_have_a_timeout() -> None:
    with pytest.raises(ContractBroken, match="SwiftSyft"):
        read_cycle_answer({"status": "rejected"}, "worker-1", "ws")


def test_bad_request_is_told_apart_from_a_rejection() -> None:
    with pytest.raises(Refused, match="unknown worker"):
        read_cycle_answer({"status": "rejected", "error": "unknown worker"}, "worker-1", "http")


@pytest.mark.parametrize("status", [None, "maybe"])
def test_other_status_is_unreadable(status: object) -> None:
    with pytest.raises(ContractBroken, match="status"):
        read_cycle_answer({"status": status}, "worker-1", "http")


@pytest.mark.parametrize("wrong", [{"worker_id": 5}, {"requires_speed_test": 0}, {"status": None}])
def test_authentication_of_another_type_is_unreadable(wrong: dict[str, Any]) -> None:
    answer = {"status": "success", "worker_id": "w", "requires_speed_test": False}
    assert read_authentication(answer).worker_id == "w"

    with pytest.raises(ContractBroken, match=next(iter(wrong))):
        read_authentication({**answer, **wrong})


@pytest.mark.parametrize("answer", [{}, {"status": "failed"}, {"status": "success", "counted": True}])
def test_report_is_acknowledged_by_success_alone(answer: dict[str, Any]) -> None:
    read_report_answer({"status": "success"})

    with pytest.raises(ContractBroken):
        read_report_answer(answer)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff\xfe"])
def test_body_that_is_no_json_object_is_unreadable(body: bytes) -> None:
    with pytest.raises(ContractBroken):
        read_object("report", body)


@pytest.mark.parametrize("message", [{"error": "no"}, {"type": "t", "data": {"error": "no"}}])
def test_error_over_websocket_is_a_refusal(message: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="no"):
        read_message("t", message)


@pytest.mark.parametrize("message", [{"type": "other", "data": {}}, {"type": "t"}, {"type": "t", "data": []}])
def test_message_that_answers_something_else_is_unreadable(message: dict[str, Any]) -> None:
    assert read_message("t", {"type": "t", "data": {"a": 1}, "request_id": "9"}) == {"a": 1}

    with pytest.raises(ContractBroken):
        read_message("t", message)


@pytest.mark.parametrize("url", ["127.0.0.1:5000", "ftp://node", "http://", ""])
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="address"):
        open_client(url, "http")


def answer_of(status: int, body: bytes, **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response._content = body
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


@pytest.mark.parametrize("status", [400, 401, 404, 413])
def test_error_of_the_client_is_a_refusal(status: int) -> None:
    error = http_error("report", answer_of(status, b'{"error": "not base64"}'))

    assert isinstance(error, Refused)
    assert (error.message, error.status) == ("not base64", status)


@pytest.mark.parametrize(
    ("status", "retry_after", "seconds"), [(503, "7", 7.0), (429, "2", 2.0), (500, "", None), (503, "soon", None)]
)
def test_error_that_passes_means_later(status: int, retry_after: str, seconds: float | None) -> None:
    error = http_error("report", answer_of(status, b'{"error": "busy"}', Retry_After=retry_after))

    assert isinstance(error, Unreachable)
    assert (error.message, error.retry_after) == ("busy", seconds)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b""])
def test_error_without_a_reason_is_told_by_its_status(body: bytes) -> None:
    assert http_error("report", answer_of(502, body)).message == "report answered 502"


def test_transport_chooses_the_client() -> None:
    assert isinstance(open_client("http://node", "http"), HttpDeviceClient)
    assert isinstance(open_client("http://node", "ws"), WebSocketDeviceClient)
