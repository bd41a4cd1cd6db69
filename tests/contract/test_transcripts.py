"""The recorded conversations of real clients, sent again: our answers match in status, keys and types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.device import PREFIX, HttpDevice, join, report
from tests.support.node import NodeProcess
from tests.support.postgres import PostgresForTests
from tests.support.recordings import load_model, load_transcript, transcript_names
from tests.support.replay import Replay, assert_preflight_passes
from tests.support.syft_messages import zero_diff

pytestmark = pytest.mark.integration

NAMES = transcript_names()
ORIGIN = "https://app.example"

# What the recordings of syft.js found hosted: model, and what they need of its server_config.
HOSTED: dict[str, tuple[str, dict[str, Any]]] = {
    "js-rec-g": ("tiny", {}),
    "js-node-g": ("tiny", {}),
    "js-jwt-g": ("tiny", {"authentication": {"type": "jwt", "secret": "fixture-hmac-secret"}}),
    "js-speed-g": ("tiny", {"minimum_download_speed": 1, "minimum_upload_speed": 0}),
    "js-mlp-g": ("mlp", {}),
}


def test_recorded_conversations_are_all_there() -> None:
    assert len([name for name in NAMES if name.startswith("train/")]) == 4
    assert len([name for name in NAMES if name.startswith("syftjs/")]) == 13


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("train/")])
def test_python_client_trains_from_hosting_to_the_end(legacy_node: NodeProcess, name: str) -> None:
    """Everything, hosting included, through the device port, as in the recording."""
    assert Replay(legacy_node.device_port, load_transcript(name)).run() > 10


@pytest.fixture(scope="module")
def syft_js_node(postgres: PostgresForTests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node with everything that the recordings of syft.js found hosted."""
    with postgres.database() as url, NodeProcess(url, tmp_path_factory.mktemp("syft-js")) as node:
        for name, (model, server_config) in HOSTED.items():
            node.management.host(load_model(model).named(name, max_workers=100, max_diffs=100, **server_config))
        yield node


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("syftjs/") and "finished" not in name])
def test_syft_js_gets_the_recorded_answers(syft_js_node: NodeProcess, name: str) -> None:
    events = load_transcript(name)
    assert Replay(syft_js_node.device_port, events).run() == number_of_answers(events) > 0


def test_syft_js_is_rejected_once_the_process_is_finished(fresh_node: NodeProcess) -> None:
    hosting = load_model("tiny").named("js-rec-g", num_cycles=1, max_diffs=1)
    fresh_node.management.host(hosting)
    device = HttpDevice(fresh_node.device_port)
    assert report(device, join(device, hosting.name), zero_diff(hosting.model)) == {"status": "success"}
    fresh_node.management.wait_for_checkpoint(hosting.name, 2)
    device.close()

    events = load_transcript("syftjs/chromium-http-finished")
    assert Replay(fresh_node.device_port, events).run() == number_of_answers(events)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "endpoint", ["authenticate", "cycle-request", "report", "get-model", "get-plan", "get-protocol", "speed-test"]
)
def test_browser_may_send_to_every_device_endpoint(node: NodeProcess, endpoint: str, method: str) -> None:
    preflight = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "content-type",
    }
    device = HttpDevice(node.device_port)
    answer = device.request("OPTIONS", PREFIX + endpoint, headers=preflight)
    assert_preflight_passes(preflight, answer)
    device.close()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/model-centric/authenticate", b'{"model_name": "no-such-process"}'),
        ("POST", "/model-centric/cycle-request", b"[]"),
        ("POST", "/model-centric/report", b"no json"),
        ("GET", "/model-centric/get-model?worker_id=x&request_key=y&model_id=z", None),
        ("GET", "/model-centric/no-such-endpoint", None),
        ("PUT", "/model-centric/report", b"{}"),
    ],
)
def test_browser_may_read_errors(node: NodeProcess, method: str, path: str, body: bytes | None) -> None:
    device = HttpDevice(node.device_port)
    answer = device.request(method, path, body=body, headers={"Origin": ORIGIN})
    assert 400 <= answer.status < 500
    assert answer.headers.get("access-control-allow-origin") in ("*", ORIGIN)
    device.close()


def test_downloads_are_not_publicly_cacheable(node: NodeProcess) -> None:
    hosting = load_model("tiny").named("not-cacheable")
    node.management.host(hosting)
    device = HttpDevice(node.device_port)
    session = join(device, hosting.name)
    query = {"worker_id": session.worker_id, "request_key": session.request_key}
    downloads = {"get-model": {"model_id": session.model_id}, "get-plan": {"plan_id": session.plans["training_plan"]}}
    for endpoint, ids in downloads.items():
        answer = device.get(endpoint, {**query, **ids})
        assert answer.status == 200
        directives = answer.headers.get("cache-control", "")
        assert "no-store" in directives or "private" in directives or "no-cache" in directives
    device.close()


def number_of_answers(events: list[dict[str, Any]]) -> int:
    return sum(
        event["kind"] == "http" or (event.get("dir") == "server->client" and event["opcode"] == "text")
        for event in events
    )
