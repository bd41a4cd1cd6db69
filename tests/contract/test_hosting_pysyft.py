"""PySyft 0.2.9's ModelCentricFLClient hosts through the compatibility switch as it is, and is refused without it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import requests
import websocket

from tests.support.node import NodeProcess
from tests.support.recordings import load_transcript
from tests.support.syft_messages import parse, tensors_of

pytestmark = pytest.mark.integration

RECORDINGS = ["train/tiny-iter", "train/tiny-noniter", "train/tiny-param", "train/jwt-secret"]
FORBIDDEN_IN_ERRORS = ("Traceback", 'File "', "psycopg", "sqlalchemy")


class GridError(Exception):
    """What the client raises for an error in the answer."""


class ModelCentricClient:
    """The client's exchanges, with its libraries and options: it hosts over WebSocket and retrieves over HTTP."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.ws: websocket.WebSocket | None = None

    def send_message(self, message: Mapping[str, Any]) -> Any:
        if self.ws is None or not self.ws.connected:
            self.ws = websocket.create_connection(max_size=None, timeout=60, url=f"ws://{self.address}")
        self.ws.send(json.dumps(message))
        answer = json.loads(self.ws.recv())
        # It looks for an error in the root and under data.
        error = answer["data"].get("error") if "data" in answer else answer.get("error")
        if error is not None:
            raise GridError(error)
        return answer

    def get_model(self, name: str, version: str, checkpoint: str = "latest") -> bytes:
        query = {"name": name, "version": version, "checkpoint": checkpoint}
        answer = requests.get(f"http://{self.address}/model-centric/retrieve-model", query, timeout=60)
        if not answer.ok:
            raise GridError(json.loads(answer.content).get("error"))
        return answer.content

    def close(self) -> None:
        if self.ws is not None:
            self.ws.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def legacy_client(legacy_node: NodeProcess) -> Iterator[ModelCentricClient]:
    client = ModelCentricClient(f"127.0.0.1:{legacy_node.device_port}")
    yield client
    client.close()


@pytest.mark.parametrize("recording", RECORDINGS)
def test_recorded_hosting_is_answered_as_recorded(legacy_client: ModelCentricClient, recording: str) -> None:
    message = hosting_of(recording)
    answer = legacy_client.send_message(message)
    assert answer == {"type": "model-centric/host-training", "data": {"status": "success"}}

    hosted = bytes.fromhex(message["data"]["model"])
    config = message["data"]["client_config"]
    for checkpoint in ("latest", "1"):
        retrieved = legacy_client.get_model(config["name"], config["version"], checkpoint)
        assert len(parse("State", retrieved).tensors) == len(parse("State", hosted).tensors)
        assert [tensor.tobytes() for tensor in tensors_of(retrieved)] == [
            tensor.tobytes() for tensor in tensors_of(hosted)
        ]


def test_plain_mean_is_hosted_with_an_empty_averaging_plan(legacy_client: ModelCentricClient) -> None:
    message = changed(hosting_of("train/tiny-noniter"), name="empty-averaging-plan", averaging_plan="")
    assert legacy_client.send_message(message)["data"] == {"status": "success"}


def test_hosting_something_else_under_the_same_name_is_an_error_and_the_connection_stays_usable(
    legacy_client: ModelCentricClient,
) -> None:
    message = changed(hosting_of("train/tiny-iter"), name="hosted-twice")
    legacy_client.send_message(message)
    assert legacy_client.send_message(message)["data"] == {"status": "success"}
    another = changed(message, name="hosted-twice", protocols={"secure": "00"})
    with pytest.raises(GridError, match="hosted-twice"):
        legacy_client.send_message(another)
    legacy_client.send_message(changed(message, name="hosted-after-an-error"))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ({"model": "zz"}, "model"),
        ({"model": ""}, "model"),
        ({"model": "0a0f1a07"}, "model"),
        ({"plans": {}}, "plans"),
        ({"plans": {"training_plan": "00ff"}}, "training_plan"),
        ({"averaging_plan": "00ff"}, "averaging_plan"),
        ({"client_config": None}, "client_config"),
        ({"server_config": {"max_diffs": -1}}, "max_diffs"),
        ({"server_config": {"no_such_key": 1}}, "no_such_key"),
    ],
)
def test_failed_hosting_names_the_field_and_leaves_nothing_behind(
    legacy_client: ModelCentricClient, damage: dict[str, Any], named: str
) -> None:
    good = changed(hosting_of("train/tiny-iter"), name=f"damaged-{named}-{len(str(damage))}")
    bad = {"type": good["type"], "data": {**good["data"], **damage}}
    with pytest.raises(GridError, match=named) as raised:
        legacy_client.send_message(bad)
    assert not any(word in str(raised.value) for word in FORBIDDEN_IN_ERRORS)
    config = good["data"]["client_config"]
    with pytest.raises(GridError):
        legacy_client.get_model(config["name"], config["version"])

    # The name is still free.
    assert legacy_client.send_message(good)["data"] == {"status": "success"}


def test_hosting_is_refused_on_the_device_port_without_the_switch(node: NodeProcess) -> None:
    client = ModelCentricClient(f"127.0.0.1:{node.device_port}")
    message = changed(hosting_of("train/tiny-iter"), name="not-through-this-port")
    with pytest.raises(GridError):
        client.send_message(message)
    assert client.send_message({"type": "socket-ping"}) is not None
    with pytest.raises(GridError):
        client.get_model("not-through-this-port", "1.0")
    client.close()

    posted = requests.post(
        f"http://127.0.0.1:{node.device_port}/model-centric/host-training", json=message["data"], timeout=60
    )
    assert posted.status_code == 404
    assert node.management.retrieve("not-through-this-port").status == 404


def test_retrieving_is_refused_on_the_device_port_without_the_switch(node: NodeProcess) -> None:
    data = hosting_of("train/tiny-iter")["data"]
    data["client_config"]["name"] = "retrieved-from-inside-only"
    with_base64 = {"type": "model-centric/host-training", "data": data}
    manager = websocket.create_connection(
        f"ws://127.0.0.1:{node.management_port}/",
        timeout=60,
        header=[f"Authorization: Bearer {node.management.token}"],
    )
    manager.send(json.dumps(with_base64))
    assert json.loads(manager.recv()) == {"type": "model-centric/host-training", "data": {"status": "success"}}
    manager.close()

    assert node.management.retrieve("retrieved-from-inside-only").status == 200
    with pytest.raises(GridError):
        ModelCentricClient(f"127.0.0.1:{node.device_port}").get_model("retrieved-from-inside-only", "1.0")


def hosting_of(recording: str) -> dict[str, Any]:
    """The message with which a recorded training was hosted."""
    for event in load_transcript(recording):
        if event["kind"] == "ws" and event["dir"] == "client->server":
            message: dict[str, Any] = event["data"]["json"]
            if message["type"] == "model-centric/host-training":
                return message
    raise AssertionError(f"{recording} hosts nothing")


def changed(message: dict[str, Any], *, name: str, **data: Any) -> dict[str, Any]:
    """The message with another name, and some of its data replaced."""
    config = {**message["data"]["client_config"], "name": name}
    return {"type": message["type"], "data": {**message["data"], "client_config": config, **data}}
