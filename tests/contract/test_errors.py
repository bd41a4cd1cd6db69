"""The error contract: ``{"error": "<what and why>"}``, the statuses of the wire contract, nothing from the inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.support.device import (
    PREFIX,
    Answer,
    HttpDevice,
    Session,
    WebSocketDevice,
    authenticate,
    join,
    model_query,
    plan_query,
    report,
    report_of,
)
from tests.support.ledger import counters
from tests.support.node import Management, NodeProcess
from tests.support.postgres import PostgresForTests
from tests.support.recordings import Hosting, load_model
from tests.support.syft_messages import parse, state_of, tensors_of, zero_diff

pytestmark = pytest.mark.integration

BODY_LIMIT = 128 * 1024
INSIDE = re.compile(
    r"Traceback|File \"|line \d+, in|SELECT |INSERT |UPDATE |DELETE |psycopg|sqlalchemy|gridnode\.\w+\."
    r"|/\w+/\w+/|\.py\b|0x[0-9a-f]{6,}"
)
UNKNOWN_WORKER = "00000000-0000-4000-8000-000000000000"
WRONG_KEY = "0" * 64


@dataclass(frozen=True, slots=True)
class Scene:
    """A node with a hosted process, a worker in its running cycle, and one whose cycle has ended."""

    node: NodeProcess
    database_url: str
    hosting: Hosting
    other: Hosting
    session: Session
    ended: Session
    tensors: list[np.ndarray[Any, Any]]

    @property
    def zero(self) -> bytes:
        return zero_diff(self.hosting.model)


@pytest.fixture(scope="module")
def scene(postgres: PostgresForTests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("errors")
    tiny = load_model("tiny")
    tensors = tensors_of(tiny.model)
    with (
        postgres.database() as url,
        NodeProcess(url, directory, body_limit=BODY_LIMIT) as node,
        closing(HttpDevice(node.device_port)) as device,
    ):
        hosting, other = tiny.named("errors", max_diffs=50), tiny.named("errors-other", max_diffs=1, num_cycles=2)
        protected = tiny.named("errors-jwt", authentication={"type": "jwt", "secret": "a-secret-of-the-tests"})
        for each in (hosting, other, protected):
            node.management.host(each)
        ended = join(device, other.name)
        assert report(device, join(device, other.name), zero_diff(tiny.model)) == {"status": "success"}
        node.management.wait_for_checkpoint(other.name, 2)
        yield Scene(node, url, hosting, other, join(device, hosting.name), ended, tensors)


def test_authenticate(scene: Scene) -> None:
    for body, status in (
        ({"model_name": "no-such-process", "model_version": "1.0"}, 401),
        ({"model_name": scene.hosting.name, "model_version": "9.9"}, 401),
        ({"model_name": "errors-jwt", "model_version": "1.0"}, 400),
        ({"model_name": "errors-jwt", "model_version": "1.0", "auth_token": "nonsense"}, 400),
        ({}, 400),
    ):
        assert_error(post(scene, "authenticate", body), status)


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b"1", b"null", b'"text"', b"{", b"\xff\xfe", b'{"a": NaN}'])
@pytest.mark.parametrize("event", ["authenticate", "cycle-request", "report"])
def test_body_that_is_no_json_object(scene: Scene, event: str, body: bytes) -> None:
    with closing(HttpDevice(scene.node.device_port)) as device:
        assert_error(device.request("POST", PREFIX + event, body=body), 400)


def test_cycle_request_that_is_bad_in_itself(scene: Scene) -> None:
    good = {"worker_id": scene.session.worker_id, "model": scene.hosting.name, "version": "1.0"}
    for change in (
        {"worker_id": UNKNOWN_WORKER},
        {"worker_id": None},
        {"worker_id": 7},
        {"worker_id": "no uuid"},
        {"model": "no-such-process"},
        {"model": scene.other.name},
        {"version": "9.9"},
        {"ping": -2},
        {"download": -1},
        {"upload": "fast"},
    ):
        answer = post(scene, "cycle-request", {**good, **change})
        assert answer.status == 200, change
        body = answer.json()
        assert body.keys() == {"status", "error"}, f"{change}: {body}"
        assert body["status"] == "rejected"
        assert not INSIDE.search(body["error"]), body


def test_ping_that_was_not_measured_is_accepted(scene: Scene) -> None:
    with closing(HttpDevice(scene.node.device_port)) as device:
        worker = authenticate(device, scene.hosting.name)
        request = {"worker_id": worker, "model": scene.hosting.name, "version": "1.0", "ping": -1}
        assert device.post("cycle-request", request).json()["status"] == "accepted"


@pytest.mark.parametrize("endpoint", ["get-model", "get-plan", "get-protocol"])
def test_downloads(scene: Scene, endpoint: str) -> None:
    good: dict[str, Any] = {**model_query(scene.session), **plan_query(scene.session), "protocol_id": 1}
    id_name = {"get-model": "model_id", "get-plan": "plan_id", "get-protocol": "protocol_id"}[endpoint]
    if endpoint != "get-protocol":
        assert get(scene, endpoint, good).status == 200
        assert_error(get(scene, endpoint, {**good, "request_key": WRONG_KEY}), 401)
        assert_error(get(scene, endpoint, {**good, "request_key": scene.ended.request_key}), 401)
        assert_error(get(scene, endpoint, {**good, "request_key": "short"}), 401)
        assert_error(get(scene, endpoint, {key: good[key] for key in good if key != "request_key"}), (400, 401))
        assert_error(get(scene, endpoint, {**good, "worker_id": UNKNOWN_WORKER}), (400, 401))
    for bad in ("", "x", "1.5", "-1", "1e3", "٣", str(2**63), str(2**64), "9" * 40, "999999"):
        assert_error(get(scene, endpoint, {**good, id_name: bad}), 400)
    assert_error(get(scene, endpoint, {key: good[key] for key in good if key != id_name}), 400)


def test_downloads_after_the_end_of_the_cycle(scene: Scene) -> None:
    assert_error(get(scene, "get-model", model_query(scene.ended)), 400)
    assert_error(get(scene, "get-plan", plan_query(scene.ended)), 400)


def test_reports(scene: Scene) -> None:
    before = counters(scene.database_url)
    for what, body in bad_reports(scene).items():
        answer = post(scene, "report", body)
        assert answer.status in range(400, 500), f"{what}: {answer.status} {answer.body!r}"
        assert_error(answer, answer.status)
        with closing(WebSocketDevice(scene.node.device_port)) as device:
            over_websocket = device.call("report", body)
        assert over_websocket.keys() == {"error"}, what
        assert not INSIDE.search(over_websocket["error"]), over_websocket
    assert counters(scene.database_url) == before


def test_report_after_the_end_of_its_cycle(scene: Scene) -> None:
    assert_error(post(scene, "report", report_of(scene.ended, scene.zero)), range(400, 500))


def test_oversize_bodies(scene: Scene) -> None:
    before = counters(scene.database_url)
    for event in ("authenticate", "cycle-request", "report", "speed-test"):
        with closing(HttpDevice(scene.node.device_port)) as device:
            query = {"worker_id": scene.session.worker_id, "random": "1"} if event == "speed-test" else None
            body = b'{"diff": "' + b"A" * (BODY_LIMIT + 1) + b'"}'
            assert_error(device.request("POST", PREFIX + event, query=query, body=body), 413)
    assert counters(scene.database_url) == before


def test_paths_and_methods_that_do_not_exist(scene: Scene) -> None:
    for method, path, status in (
        ("GET", "/model-centric/no-such-endpoint", 404),
        ("GET", "/favicon.ico", 404),
        ("GET", "/../../etc/passwd", 404),
        ("DELETE", "/model-centric/report", 405),
        ("GET", "/model-centric/report", 405),
        ("GET", "/model-centric/authenticate", 405),
        ("POST", "/model-centric/get-model", 405),
    ):
        with closing(HttpDevice(scene.node.device_port)) as device:
            assert_error(device.request(method, path), status)


def test_management_needs_its_token(scene: Scene) -> None:
    for token in (None, "wrong-token-of-somebody"):
        stranger = Management(scene.node.management_port, token)
        assert_error(stranger.retrieve(scene.hosting.name), 401)
        assert_error(stranger.request("POST", "/model-centric/host-training", data={}), 401)
    assert_error(scene.node.management.retrieve("no-such-process"), 404)
    assert_error(scene.node.management.retrieve(scene.hosting.name, checkpoint=99), 404)
    assert_error(scene.node.management.retrieve(scene.hosting.name, checkpoint="no-alias"), (400, 404))
    assert_error(scene.node.management.request("GET", "/model-centric/retrieve-model"), 400)


def test_websocket_stays_usable_after_errors(scene: Scene) -> None:
    with closing(WebSocketDevice(scene.node.device_port)) as device:
        for message in (
            "no json",
            "[]",
            "null",
            '"text"',
            "{}",
            '{"type": 7}',
            '{"type": "model-centric/no-such-message", "data": {}}',
            '{"type": "model-centric/host-training", "data": {}}',
        ):
            answer = device.exchange(message)
            error = answer.get("error") or answer["data"]["error"]
            assert isinstance(error, str)
            assert not INSIDE.search(error), answer
        for data in ("null", "[]", "1", '"text"'):
            answer = device.exchange(f'{{"type": "model-centric/authenticate", "data": {data}}}')
            assert answer["data"].get("error") if "data" in answer else answer["error"]
        assert device.exchange({"type": "socket-ping"}) == {"alive": "True"}


def test_request_id_is_echoed(scene: Scene) -> None:
    with closing(WebSocketDevice(scene.node.device_port)) as device:
        data = {"model_name": scene.hosting.name, "model_version": "1.0"}
        answer = device.exchange({"request_id": "r-1", "type": "model-centric/authenticate", "data": data})
        assert answer["request_id"] == "r-1"
        assert "request_id" not in device.exchange({"type": "model-centric/authenticate", "data": data})
        assert device.exchange({"request_id": "r-2", "type": "no-such-message"})["request_id"] == "r-2"


def test_none_of_these_errors_was_unforeseen(scene: Scene) -> None:
    assert scene.node.unforeseen_errors() == []


def bad_reports(scene: Scene) -> dict[str, dict[str, Any]]:
    """Reports that must not be counted, by what is wrong with them."""
    session, good = scene.session, scene.zero
    first, second = (0 * tensor for tensor in scene.tensors)
    not_finite = first.copy()
    not_finite.flat[0] = np.nan
    infinite = first.copy()
    infinite.flat[0] = np.inf
    encoded = base64.b64encode(good).decode()
    of = report_of
    return {
        "unknown worker": {**of(session, good), "worker_id": UNKNOWN_WORKER},
        "worker of another process": {**of(session, good), "worker_id": scene.ended.worker_id},
        "unknown key": {**of(session, good), "request_key": WRONG_KEY},
        "key of another worker": {**of(session, good), "request_key": scene.ended.request_key},
        "no key": {"worker_id": session.worker_id, "diff": encoded},
        "no diff": {"worker_id": session.worker_id, "request_key": session.request_key},
        "diff is null": {**of(session, good), "diff": None},
        "diff is a list": {**of(session, good), "diff": [1, 2]},
        "empty diff": of(session, b""),
        "not base64": {**of(session, good), "diff": "***"},
        "base64 of the web": {**of(session, good), "diff": "-_-_"},
        "base64 cut short": {**of(session, good), "diff": encoded[:-3]},
        "not a State": of(session, b"\xff" * 50),
        "State cut short": of(session, good[:-5]),
        "a Plan": of(session, scene.hosting.plans["training_plan"]),
        "one tensor less": of(session, state_of([first])),
        "one tensor more": of(session, state_of([first, second, second])),
        "wrong order": of(session, state_of([second, first])),
        "wrong shape": of(session, state_of([first.T, second])),
        "flattened": of(session, state_of([first.ravel(), second])),
        "shape that is larger than its numbers": of(session, with_shape(good, (2, 400))),
        "negative shape": of(session, with_shape(good, (-2, -4))),
        "huge shape": of(session, with_shape(good, (2**31 - 1, 2**31 - 1))),
        "wrong dtype": of(session, with_dtype(good, "float64")),
        "unknown dtype": of(session, with_dtype(good, "complex128")),
        "NaN": of(session, state_of([not_finite, second])),
        "infinite": of(session, state_of([infinite, second])),
        "no samples": of(session, good, num_samples=0),
        "negative samples": of(session, good, num_samples=-1),
        "samples in words": of(session, good, num_samples="many"),
    }


def with_shape(state: bytes, shape: tuple[int, ...]) -> bytes:
    message = parse("State", state)
    dims = message.tensors[0].torch_tensor.contents_data.shape.dims
    del dims[:]
    dims.extend(shape)
    encoded: bytes = message.SerializeToString()
    return encoded


def with_dtype(state: bytes, dtype: str) -> bytes:
    message = parse("State", state)
    message.tensors[0].torch_tensor.contents_data.dtype = dtype
    encoded: bytes = message.SerializeToString()
    return encoded


def post(scene: Scene, event: str, body: Any) -> Answer:
    with closing(HttpDevice(scene.node.device_port)) as device:
        return device.post(event, body)


def get(scene: Scene, endpoint: str, query: dict[str, Any]) -> Answer:
    with closing(HttpDevice(scene.node.device_port)) as device:
        return device.get(endpoint, query)


def assert_error(answer: Answer, status: int | tuple[int, ...] | range) -> None:
    allowed = (status,) if isinstance(status, int) else status
    assert answer.status in allowed, f"{answer.status} {answer.body[:500]!r}"
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert body.keys() == {"error"}, body
    assert isinstance(body["error"], str)
    assert len(body["error"].strip()) > 3
    assert not INSIDE.search(body["error"]), body["error"]
