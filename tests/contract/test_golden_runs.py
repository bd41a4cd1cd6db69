"""Recorded trainings, replayed against the node, give the recorded checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.support.device import (
    Device,
    HttpDevice,
    Session,
    WebSocketDevice,
    authenticate,
    join_when_open,
    model_query,
    report,
)
from tests.support.node import NodeProcess
from tests.support.recordings import Hosting, Run, load_run, recorded_token, run_names
from tests.support.syft_messages import SERIALIZER_ALL, parse, tensors_of

pytestmark = pytest.mark.integration

CONNECT: dict[str, Callable[[int], Device]] = {"http": HttpDevice, "ws": WebSocketDevice}
RUNS = run_names()


@pytest.mark.parametrize("transport", CONNECT)
@pytest.mark.parametrize("name", RUNS)
def test_replayed_run_gives_recorded_checkpoints(node: NodeProcess, name: str, transport: str) -> None:
    run = load_run(name)
    # Over HTTP exactly as recorded; the second replay needs another version, as name and version are unique.
    hosting = run.hosting if transport == "http" else run.hosting.named(run.name, version=f"1.0-{transport}")
    node.management.host(hosting)
    version = hosting.client_config["version"]
    assert_same_tensors(node.management.checkpoint(hosting.name, 1, version), run.checkpoints[0])

    for cycle, diffs in enumerate(run.diffs, start=1):
        for diff in diffs:
            device = CONNECT[transport](node.device_port)
            session = join_when_open(device, hosting.name, version, token_for(hosting))
            assert_same_tensors(download_model(node, session), run.checkpoints[cycle - 1])
            assert report(device, session, diff) == {"status": "success"}
            device.close()
        given = node.management.wait_for_checkpoint(hosting.name, cycle + 1, version)
        assert_same_tensors(given, run.checkpoints[cycle])
        assert_read_by_clients(given)

    assert_finished(node, hosting, transport, run)


def test_recorded_runs_are_all_there() -> None:
    assert RUNS == [
        "jwt-secret",
        "syftjs-tiny",
        "tiny-hardcoded",
        "tiny-iter",
        "tiny-iter7",
        "tiny-noniter",
        "tiny-param",
    ]  # fmt: skip


def token_for(hosting: Hosting) -> str | None:
    return recorded_token() if "authentication" in hosting.server_config else None


def download_model(node: NodeProcess, session: Session) -> bytes:
    device = HttpDevice(node.device_port)
    answer = device.get("get-model", model_query(session))
    device.close()
    assert answer.status == 200, answer.body
    return answer.body


def assert_same_tensors(given: bytes, recorded: bytes) -> None:
    """Equal to the bit: a replay one by one fixes the order of the arithmetic."""
    ours, theirs = tensors_of(given), tensors_of(recorded)
    assert [tensor.shape for tensor in ours] == [tensor.shape for tensor in theirs]
    for own, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, their, rtol=1e-6, atol=0)
        assert own.tobytes() == their.tobytes(), f"within 1e-6, but not equal to the bit: {own - their}"


def assert_read_by_clients(checkpoint: bytes) -> None:
    """syft.js needs the serializer; placeholders and tensors go in parallel; only plain tensors come out of a cycle."""
    state = parse("State", checkpoint)
    assert len(state.placeholders) == len(state.tensors) > 0
    for placeholder, tensor in zip(state.placeholders, state.tensors, strict=True):
        assert tensor.WhichOneof("tensor") == "torch_tensor"
        assert tensor.torch_tensor.serializer == SERIALIZER_ALL
        assert placeholder.id.WhichOneof("id") is not None
        assert list(placeholder.expected_shape.dims) == list(tensor.torch_tensor.contents_data.shape.dims)


def assert_finished(node: NodeProcess, hosting: Hosting, transport: str, run: Run) -> None:
    """The recorded run ends with its last cycle: nobody is accepted again, and no further checkpoint appears."""
    version = hosting.client_config["version"]
    device = CONNECT[transport](node.device_port)
    worker = authenticate(device, hosting.name, version, token_for(hosting))
    request = {"worker_id": worker, "model": hosting.name, "version": version, "ping": 8, "download": 46, "upload": 23}
    expected = {"status": "rejected"} if transport == "http" else {"status": "rejected", "timeout": 0}
    assert device.call("cycle-request", request) == expected
    device.close()

    latest = node.management.checkpoint(hosting.name, "latest", version)
    assert_same_tensors(latest, run.checkpoints[-1])
    assert node.management.retrieve(hosting.name, version, len(run.checkpoints) + 1).status == 404
