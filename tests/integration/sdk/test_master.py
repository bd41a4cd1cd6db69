"""The master node from a notebook, against a real one with a real node."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml

from gridnode.protocol.syft_proto import decode_state
from gridnode.sdk import GridFailed, Master
from tests.support.device import HttpDevice, join_when_open, report
from tests.support.master_process import ADMIN, MasterProcess
from tests.support.node import TOKEN, NodeProcess
from tests.support.postgres import PostgresForTests
from tests.support.recordings import load_model
from tests.support.syft_messages import zero_diff

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def write_nodes_file(path: Path, node: NodeProcess) -> None:
    token = path.with_name("token")
    token.write_text(TOKEN)
    listed = {
        "node_id": f"node-{node.device_port}",
        "url": f"http://127.0.0.1:{node.device_port}",
        "management_url": f"http://127.0.0.1:{node.management_port}",
        "management_token_file": str(token),
    }
    path.write_text(yaml.safe_dump({"nodes": [listed]}))


def test_from_a_dataset_to_the_finished_model(
    postgres: PostgresForTests, empty_database_url: str, tmp_path: Path
) -> None:
    nodes_file = tmp_path / "nodes.yaml"
    model = load_model("tiny").named("steps-mlp", num_cycles=1, min_diffs=1, max_diffs=1)
    with ExitStack() as stack:
        running = MasterProcess(empty_database_url, tmp_path, provider="static", nodes_file=nodes_file)
        database = stack.enter_context(postgres.database())
        node = NodeProcess(database, tmp_path, master_url=running.url, master_key=ADMIN)
        write_nodes_file(nodes_file, node)
        stack.enter_context(running)
        stack.enter_context(node)
        key = running.key("notebook", owner="ann")
        master = stack.enter_context(Master(running.url, key))

        dataset = master.create_dataset("steps", features=["hour"], labels=["steps"])
        dataset.register_model(model.name, features=["hour"])
        assert dataset.wait_until_ready(60).node_host == "127.0.0.1"
        assert master.create_dataset("steps").id == dataset.id
        assert repr(master.dataset("steps")) == "<dataset steps: ready>"
        assert [each.view["models"] for each in master.datasets()] == [[model.name]]

        with pytest.raises(GridFailed, match="no finished model steps-mlp is at"):
            master.finished_model(model.name)
        node.management.host(model)
        device = HttpDevice(node.device_port)
        session = join_when_open(device, model.name)
        report(device, session, zero_diff(model.model), loss=0.5, accuracy=0.5)
        device.close()
        deadline = time.monotonic() + 60
        while not [view for view in master.items("finished-models") if view["state"] == "stored"]:
            assert time.monotonic() < deadline, "the finished model was not stored in time"
            time.sleep(0.1)
        for got, wanted in zip(
            master.finished_model(model.name, "1.0"), decode_state(model.model).tensors, strict=True
        ):
            np.testing.assert_array_equal(got, wanted)
        (known,) = master.models()
        assert (known["name"], known["percent"], known["owner"]) == (model.name, 100, "ann")

        dataset.delete()
        assert master.datasets() == []
        with pytest.raises(GridFailed, match=r"no dataset steps is at .*create_dataset"):
            master.dataset("steps")


def test_keys_are_made_listed_and_revoked(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MasterProcess(empty_database_url, tmp_path) as running:
        file = tmp_path / "key"
        file.write_text(running.key("notebook", owner="ann") + "\n")
        monkeypatch.setenv("GRIDNODE_MASTER_URL", running.url)
        monkeypatch.setenv("GRIDNODE_MASTER_API_KEY_FILE", str(file))
        with Master() as master:
            made = master.create_key("app", note="the app", expires_at=datetime.now(UTC) + timedelta(days=1))
            assert made.key.startswith("gnk_")
            assert made.key not in repr(made)
            assert running.anonymous.with_key(made.key).get("/api/v1/whoami")["owner"] == "ann"
            listed = master.keys()
            assert {view["id"]: view["note"] for view in listed}[made.id] == "the app"

            master.revoke_key(made.id)

            assert running.anonymous.with_key(made.key).request("GET", "/api/v1/whoami").status == 401
            with pytest.raises(GridFailed, match=r"only an admin makes keys of scope admin\. Another scope") as refusal:
                master.create_key("admin")
            assert refusal.value.status == 403
        with Master(running.url, "gnk_wrong") as master, pytest.raises(GridFailed, match="gridnode keys create"):
            master.datasets()
        with Master(running.url, ADMIN) as master:
            assert master.create_dataset("steps", owner="ann", node=False).state == "registered"
            with pytest.raises(GridFailed, match=r"not ready after 0 s\. It waits for:"):
                master.dataset("steps").wait_until_ready(0)


def test_nobody_there() -> None:
    master = Master("http://127.0.0.1:9", attempts=1)
    with master, pytest.raises(GridFailed, match=r"nothing answers .*`gridnode master`"):
        master.keys()
