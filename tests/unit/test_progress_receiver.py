"""The demo's stand-in for the master node."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from gridnode.simulation.progress_receiver import ProgressReceiver


@pytest.fixture
def receiver() -> Iterator[ProgressReceiver]:
    with ProgressReceiver() as running:
        yield running


def post(receiver: ProgressReceiver, event: Any, path: str = "/model_progress") -> int:
    return requests.post(f"{receiver.url}{path}", json=event, timeout=5).status_code


def test_last_progress_of_each_model_is_kept(receiver: ProgressReceiver) -> None:
    assert post(receiver, {"model_id": "a", "percent_complete": 10, "event_id": "1"}) == 200
    assert post(receiver, {"model_id": "b", "percent_complete": 70}) == 200
    assert post(receiver, {"model_id": "a", "percent_complete": 20}) == 200

    assert (receiver.percent("a"), receiver.percent("b"), receiver.percent("c")) == (20, 70, 0)


@pytest.mark.parametrize(
    "event", [[], {"model_id": "a"}, {"model_id": 1, "percent_complete": 5}, {"percent_complete": 5}]
)
def test_event_without_its_keys_is_refused(receiver: ProgressReceiver, event: Any) -> None:
    assert post(receiver, event) == 400
    assert receiver.percent("a") == 0


def test_other_paths_are_not_found(receiver: ProgressReceiver) -> None:
    assert post(receiver, {"model_id": "a", "percent_complete": 5}, "/elsewhere") == 404
    assert requests.get(receiver.url, timeout=5).text == "Running"


def test_waiting_ends_when_the_progress_arrives(receiver: ProgressReceiver) -> None:
    assert not receiver.wait_for("a", 100, 0.05)
    sender = threading.Timer(0.1, post, (receiver, {"model_id": "a", "percent_complete": 100}))
    sender.start()

    start = time.monotonic()
    assert receiver.wait_for("a", 100, 5.0)

    assert time.monotonic() - start < 2.0
    sender.join()
