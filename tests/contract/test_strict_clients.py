"""SwiftSyft and KotlinSyft can read every answer of the node, in every state, over both transports."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
import pytest
import websocket

from tests.support.device import HttpDevice, Session, WebSocketDevice, authenticate, join, report, report_of
from tests.support.node import NodeProcess
from tests.support.postgres import PostgresForTests
from tests.support.recordings import Hosting, load_model
from tests.support.strict_clients import (
    Accepted,
    Authenticated,
    Failed,
    KotlinSyft,
    Outcome,
    Rejected,
    Reported,
    SwiftSyft,
    Undecodable,
)
from tests.support.syft_messages import zero_diff

pytestmark = pytest.mark.integration

SMALL_BODY = 64 * 1024


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What each client makes of one answer over each transport."""

    swift_http: Outcome
    swift_ws: Outcome
    kotlin_http: Outcome
    kotlin_ws: Outcome

    def all(self) -> tuple[Outcome, ...]:
        return self.swift_http, self.swift_ws, self.kotlin_http, self.kotlin_ws


@pytest.fixture(scope="module")
def strict_node(
    postgres: PostgresForTests, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[NodeProcess, str]]:
    """A node with a small body limit, and its database."""
    directory = tmp_path_factory.mktemp("strict")
    with postgres.database() as url, NodeProcess(url, directory, body_limit=SMALL_BODY) as node:
        yield node, url


@pytest.fixture
def node(strict_node: tuple[NodeProcess, str]) -> NodeProcess:
    return strict_node[0]


def test_authenticated(node: NodeProcess) -> None:
    hosting = host(node, "strict-authenticated")
    outcomes = ask(node, "authenticate", {"model_name": hosting.name, "model_version": "1.0", "auth_token": None})
    for outcome in outcomes.all():
        assert isinstance(outcome, Authenticated)
        assert outcome.requires_speed_test is False


def test_authenticated_with_speed_test(node: NodeProcess) -> None:
    hosting = host(node, "strict-speed", minimum_download_speed=1)
    outcomes = ask(node, "authenticate", {"model_name": hosting.name, "model_version": "1.0"})
    assert all(isinstance(outcome, Authenticated) and outcome.requires_speed_test for outcome in outcomes.all())


def test_accepted(node: NodeProcess) -> None:
    hosting = host(node, "strict-accepted")
    outcomes = Outcomes(*(decode(node, client, "cycle-request", cycle_request(node, hosting)) for client in CLIENTS))
    for outcome in outcomes.all():
        assert isinstance(outcome, Accepted)
        assert len(outcome.request_key) == 64
        assert outcome.plans.keys() == {"training_plan"}


def test_rejected_while_the_process_goes_on(node: NodeProcess) -> None:
    hosting = host(node, "strict-full", max_workers=2, max_diffs=2)
    for _ in range(2):
        join_once(node, hosting)
    assert_rejected_with_timeout(ask(node, "cycle-request", cycle_request(node, hosting)))


def test_rejected_while_paused(node: NodeProcess) -> None:
    hosting = host(node, "strict-paused")
    node.management.act(hosting.name, "pause")
    assert_rejected_with_timeout(ask(node, "cycle-request", cycle_request(node, hosting)))


def test_rejected_while_a_cycle_is_averaged(strict_node: tuple[NodeProcess, str]) -> None:
    node, url = strict_node
    hosting = host(node, "strict-averaging", max_diffs=1, num_cycles=2)
    session = join_once(node, hosting)
    with checkpoints_locked(url):
        assert send_report(node, session, zero_diff(hosting.model)) == {"status": "success"}
        assert_rejected_with_timeout(ask(node, "cycle-request", cycle_request(node, hosting)))
    node.management.wait_for_checkpoint(hosting.name, 2)


def test_rejected_once_finished(node: NodeProcess) -> None:
    hosting = host(node, "strict-finished", max_diffs=1)
    send_report(node, join_once(node, hosting), zero_diff(hosting.model))
    node.management.wait_for_checkpoint(hosting.name, 2)

    outcomes = ask(node, "cycle-request", cycle_request(node, hosting))

    assert outcomes.swift_http == outcomes.kotlin_http == Rejected(None)
    assert outcomes.swift_ws == outcomes.kotlin_ws == Rejected(0)


def test_unknown_model(node: NodeProcess) -> None:
    outcomes = ask(node, "authenticate", {"model_name": "no-such-model", "model_version": "1.0"})
    assert all(isinstance(outcome, Failed) for outcome in outcomes.all())


@pytest.mark.parametrize("token", ["nonsense", None])
def test_bad_token(node: NodeProcess, token: str | None) -> None:
    hosting = host(node, f"strict-token-{token}", authentication={"type": "jwt", "secret": "a-secret-of-the-tests"})
    outcomes = ask(node, "authenticate", {"model_name": hosting.name, "model_version": "1.0", "auth_token": token})
    assert all(isinstance(outcome, Failed) for outcome in outcomes.all())


def test_cycle_request_of_an_unknown_worker(node: NodeProcess) -> None:
    """Only a bad request is told its error in a cycle's answer: a key that SwiftSyft and syft.js read and KotlinSyft
    refuses, which is why no other rejection has it."""
    hosting = host(node, "strict-unknown-worker")
    request = {
        "worker_id": "00000000-0000-4000-8000-000000000000",
        "model": hosting.name,
        "version": "1.0",
        "ping": 1,
        "download": 1.0,
        "upload": 1.0,
    }
    assert isinstance(decode(node, "swift_http", "cycle-request", request), Rejected)
    assert isinstance(decode(node, "swift_ws", "cycle-request", request), Rejected)


def test_counted_report(node: NodeProcess) -> None:
    hosting = host(node, "strict-report")
    sent = report_of(join_once(node, hosting), zero_diff(hosting.model))
    assert ask(node, "report", sent) == Outcomes(*[Reported(None)] * 4)


@pytest.mark.parametrize("diff", ["not base64!", "AAAA", ""])
def test_bad_report(node: NodeProcess, diff: str) -> None:
    hosting = host(node, f"strict-bad-report-{diff}")
    session = join_once(node, hosting)
    sent = {"worker_id": session.worker_id, "request_key": session.request_key, "diff": diff}
    assert_report_failed(ask(node, "report", sent))


def test_report_after_the_end_of_its_cycle(node: NodeProcess) -> None:
    hosting = host(node, "strict-late", max_diffs=1, num_cycles=2)
    late = join_once(node, hosting)
    send_report(node, join_once(node, hosting), zero_diff(hosting.model))
    node.management.wait_for_checkpoint(hosting.name, 2)
    assert_report_failed(ask(node, "report", report_of(late, zero_diff(hosting.model))))


def test_oversize_report_over_http(node: NodeProcess) -> None:
    hosting = host(node, "strict-oversize")
    sent = {**report_of(join_once(node, hosting), b""), "diff": "A" * 2 * SMALL_BODY}
    assert isinstance(decode(node, "kotlin_http", "report", sent), Failed)
    assert isinstance(decode(node, "swift_http", "report", sent), Reported)


def test_oversize_message_closes_the_websocket(node: NodeProcess) -> None:
    """With 1009, message too big (RFC 6455, 7.4.1), unless the rest of the message crosses it on the way."""
    with closing(WebSocketDevice(node.device_port)) as device:
        device.send({"type": "model-centric/report", "data": {"diff": "A" * 2 * SMALL_BODY}})
        try:
            opcode, payload = device.socket.recv_data()
        except ConnectionResetError:
            return
        assert opcode == websocket.ABNF.OPCODE_CLOSE
        assert int.from_bytes(payload[:2], "big") == 1009


def test_speed_test_answers(node: NodeProcess) -> None:
    hosting = host(node, "strict-speed-answers")
    device = HttpDevice(node.device_port)
    query = {"worker_id": authenticate(device, hosting.name), "random": "42"}
    path = "/model-centric/speed-test"
    for answer in (
        device.request("GET", path, query={**query, "is_ping": 1}),
        device.request("POST", path, query=query, body=b"x" * 1000),
    ):
        assert answer.json() == {}
        assert KotlinSyft().http("speed-test", answer) == Reported(None)
    device.close()


def test_decoders_refuse_what_the_clients_refuse() -> None:
    """The decoders above can fail at all."""
    accepted = {
        "status": "accepted",
        "request_key": "k",
        "version": "1.0",
        "model": "m",
        "plans": {"training_plan": 1},
        "protocols": {},
        "client_config": {"name": "m", "version": "1.0", "batch_size": 1, "lr": 0.1, "max_updates": 1},
        "model_id": 1,
    }
    frame = "model-centric/cycle-request"
    assert isinstance(SwiftSyft().websocket(json.dumps({"type": frame, "data": accepted})), Accepted)
    assert isinstance(KotlinSyft().websocket(json.dumps({"type": frame, "data": accepted})), Accepted)
    config = accepted["client_config"]
    assert isinstance(config, dict)
    for broken in (
        {**accepted, "model_id": "1"},
        {**accepted, "plans": {"training_plan": 1.0}},
        {**accepted, "client_config": {**config, "batch_size": 1.5}},
        {**accepted, "client_config": {key: value for key, value in config.items() if key != "lr"}},
        {"status": "rejected"},
        {"status": "rejected", "timeout": 1.5},
        {"status": "rejected", "timeout": None},
    ):
        with pytest.raises(Undecodable):
            SwiftSyft().websocket(json.dumps({"type": frame, "data": broken}))
    for unknown in (
        {**accepted, "reason": "none"},
        {"status": "rejected", "timeout": 1, "error": "full"},
        {"status": "rejected", "timeout": None},
        {"error": "no status"},
    ):
        with pytest.raises(Undecodable):
            KotlinSyft().websocket(json.dumps({"type": frame, "data": unknown}))


CLIENTS = ("swift_http", "swift_ws", "kotlin_http", "kotlin_ws")


def ask(node: NodeProcess, event: str, data: Mapping[str, Any]) -> Outcomes:
    """Send the same request four times, once for each client and transport."""
    return Outcomes(*(decode(node, client, event, data) for client in CLIENTS))


def decode(node: NodeProcess, client: str, event: str, data: Mapping[str, Any]) -> Outcome:
    decoder = SwiftSyft() if client.startswith("swift") else KotlinSyft()
    if client.endswith("http"):
        with closing(HttpDevice(node.device_port)) as device:
            return decoder.http(event, device.post(event, data))
    with closing(WebSocketDevice(node.device_port)) as device:
        device.send({"type": f"model-centric/{event}", "data": data})
        return decoder.websocket(str(device.socket.recv()))


def host(node: NodeProcess, name: str, **server_config: Any) -> Hosting:
    hosting = load_model("tiny").named(name, **{"max_workers": 10, "max_diffs": 5, **server_config})
    node.management.host(hosting)
    return hosting


def join_once(node: NodeProcess, hosting: Hosting) -> Session:
    with closing(HttpDevice(node.device_port)) as device:
        return join(device, hosting.name)


def send_report(node: NodeProcess, session: Session, diff: bytes) -> Any:
    with closing(HttpDevice(node.device_port)) as device:
        return report(device, session, diff)


def cycle_request(node: NodeProcess, hosting: Hosting) -> dict[str, Any]:
    """The request of a worker that has not asked yet."""
    with closing(HttpDevice(node.device_port)) as device:
        worker = authenticate(device, hosting.name)
    return {
        "worker_id": worker,
        "model": hosting.name,
        "version": "1.0",
        "ping": 8,
        "download": 46.0,
        "upload": 23.0,
    }


@contextmanager
def checkpoints_locked(database_url: str) -> Iterator[None]:
    """Nobody can write a checkpoint meanwhile, so a full cycle stays in averaging."""
    with closing(psycopg2.connect(database_url.replace("+psycopg2", ""))) as connection:
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE checkpoints IN EXCLUSIVE MODE")
            yield
        connection.rollback()


def assert_rejected_with_timeout(outcomes: Outcomes) -> None:
    for outcome in outcomes.all():
        assert isinstance(outcome, Rejected)
        assert outcome.timeout is not None
        assert 0 < outcome.timeout < 86400


def assert_report_failed(outcomes: Outcomes) -> None:
    assert isinstance(outcomes.kotlin_http, Failed)
    assert isinstance(outcomes.kotlin_ws, Reported)
    assert outcomes.kotlin_ws.error
    assert outcomes.swift_http == outcomes.swift_ws == Reported(None)
