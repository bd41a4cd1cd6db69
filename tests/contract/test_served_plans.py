"""The plan variants that phones download are the recorded ones, as messages."""

from __future__ import annotations

import io
import zipfile

import pytest

from tests.support.device import HttpDevice, join, plan_query
from tests.support.node import NodeProcess
from tests.support.recordings import load_model, served_plan
from tests.support.syft_messages import parse, plan_without_ids

pytestmark = pytest.mark.integration

# What a phone asks for, and the recorded variant it must get.
VARIANTS = [("list", "list"), ("torchscript", "torchscript"), ("tfjs", "tfjs"), (None, "list"), ("bogus", "list")]


@pytest.mark.parametrize(("asked", "recorded"), VARIANTS)
@pytest.mark.parametrize("model", ["tiny", "mlp"])
def test_served_plan_equals_recorded_variant(node: NodeProcess, model: str, asked: str | None, recorded: str) -> None:
    hosting = load_model(model).named(f"served-{model}-{asked}")
    node.management.host(hosting)
    device = HttpDevice(node.device_port)
    session = join(device, hosting.name)

    answer = device.get("get-plan", plan_query(session, asked))

    assert answer.status == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    expected = served_plan(model, recorded)
    assert plan_without_ids(answer.body) == plan_without_ids(expected)
    assert torchscript_of(answer.body) == torchscript_of(expected)
    device.close()


def test_averaging_plan_is_never_served(node: NodeProcess) -> None:
    hosting = load_model("tiny").named("no-averaging-plan-for-phones")
    node.management.host(hosting)
    device = HttpDevice(node.device_port)
    session = join(device, hosting.name)
    served = session.plans["training_plan"]

    statuses = {
        number: device.get("get-plan", {**plan_query(session), "plan_id": number}).status
        for number in range(max(0, served - 20), served + 20)
    }

    assert {number for number, status in statuses.items() if status == 200} == {served}
    assert set(statuses.values()) == {200, 400}
    device.close()


def test_protocol_is_served_as_it_was_hosted(node: NodeProcess) -> None:
    protocol = parse("Protocol", b"")
    protocol.name = "secure-sum"
    tiny = load_model("tiny").named("with-protocol")
    hosting = type(tiny)(
        tiny.model,
        tiny.plans,
        tiny.averaging_plan,
        tiny.client_config,
        tiny.server_config,
        {"sum": protocol.SerializeToString()},
    )
    node.management.host(hosting)
    device = HttpDevice(node.device_port)
    session = join(device, hosting.name)

    query = {
        "worker_id": session.worker_id,
        "request_key": session.request_key,
        "protocol_id": session.protocols["sum"],
    }
    answer = device.get("get-protocol", query)

    assert answer.status == 200
    assert parse("Protocol", answer.body) == protocol
    device.close()


def torchscript_of(plan: bytes) -> dict[str, bytes]:
    """The files of a plan's TorchScript. The historical server saved it again, which changed the debug records only."""
    archive = parse("Plan", plan).torchscript
    if not archive:
        return {}
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist() if not name.endswith(".debug_pkl")}
