"""The demo's stand-in for the master node."""

from __future__ import annotations

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


def test_nodes_with_a_model_of_the_same_name_are_told_apart(receiver: ProgressReceiver) -> None:
    post(receiver, {"node_id": "default/one", "model_id": "a", "percent_complete": 10})
    post(receiver, {"node_id": "default/two", "model_id": "a", "percent_complete": 70})
    post(receiver, {"node_id": "default/one", "model_id": "a", "percent_complete": 20})

    assert receiver.percents("default/one") == {"a": 20}
    assert receiver.percents("default/two") == {"a": 70}
    assert receiver.percents("default/three") == {}
    assert receiver.percent("a") == 20


def test_port_that_is_in_use_is_an_error(receiver: ProgressReceiver) -> None:
    port = int(receiver.url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        ProgressReceiver(port)
