"""The API of 2020, with requests as the iOS and notebook libraries of that time write them; answers key for key."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gridnode_operator.master.nodes.provider import node_name
from tests.support.master_process import MasterClient, MasterProcess
from tests.support.postgres import PostgresForTests

pytestmark = pytest.mark.integration


class LocalNodes:
    """The directory between the master node and ``gridnode up``, and this test as the latter."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def manifests(self) -> list[dict[str, Any]]:
        """What is asked for."""
        return [yaml.safe_load(path.read_text()) for path in sorted(self.directory.glob("*.yaml"))]

    def report_ready(self, name: str, url: str = "http://10.1.2.3:5000") -> None:
        """Say that a node runs."""
        status = {"nodeId": f"default/{name}", "ready": True, "url": url, "replicas": 1, "readyReplicas": 1}
        (self.directory / f"{name}.status.json").write_text(json.dumps(status))

    def report_conditions(self, name: str, **statuses: str) -> None:
        """Say how far a node is that is being made."""
        conditions = [{"type": kind, "status": status, "message": f"{kind}?"} for kind, status in statuses.items()]
        status = {"nodeId": f"default/{name}", "ready": False, "conditions": conditions}
        (self.directory / f"{name}.status.json").write_text(json.dumps(status))

    def report_gone(self, name: str) -> None:
        """Say no more of a node."""
        (self.directory / f"{name}.status.json").unlink()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> LocalNodes:
    """An empty directory."""
    return LocalNodes(tmp_path_factory.mktemp("nodes"))


@pytest.fixture(scope="module")
def master(
    postgres: PostgresForTests, nodes: LocalNodes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MasterProcess]:
    """One that makes nodes through the directory."""
    with (
        postgres.database(migrated=False) as url,
        MasterProcess(
            url, tmp_path_factory.mktemp("master"), provider="local", nodes_dir=nodes.directory, observe_interval="0.1"
        ) as running,
    ):
        yield running
        assert "Traceback" not in running.log()


class Tenant:
    """One owner with the keys of an app and a notebook."""

    def __init__(self, master: MasterProcess) -> None:
        self.owner = f"owner-{uuid.uuid4().hex[:8]}"
        self.notebook = master.anonymous.with_key(master.key("notebook", owner=self.owner))
        self._app = master.key("app", owner=self.owner)
        self._anonymous = master.anonymous

    def info(self, dataset: object = "steps") -> tuple[int, Any]:
        """What the iOS library asks: the key stands in ``api_key``, and nothing says that the body is JSON."""
        body = json.dumps({"dataset_id": dataset}).encode()
        answer = self._anonymous.request("POST", "/info", raw=body, headers={"api_key": self._app})
        return answer.status, answer.json()

    def loss(self, body: object) -> int:
        """Post to ``/model_loss`` as the iOS library does."""
        raw = json.dumps(body).encode()
        return self._anonymous.request("POST", "/model_loss", raw=raw, headers={"api_key": self._app}).status

    def node(self, dataset: str = "steps") -> str:
        """Name of the GridNode of a dataset."""
        return node_name(self.owner, dataset)

    def create(self, model: str, dataset: str = "steps") -> Any:
        """What the notebook library posts again and again."""
        body = {"model_id": model, "dataset_id": dataset, "features": ["pace", "rise"], "labels": ["calories"]}
        return self.notebook.post("/create", body)


@pytest.fixture
def tenant(master: MasterProcess) -> Tenant:
    """A new owner."""
    return Tenant(master)


def wait_until_ready(tenant: Tenant, model: str) -> Any:
    """Poll ``/create`` as a notebook does."""
    for _ in range(200):
        answer = tenant.create(model)
        if answer["status"] == "ready":
            return answer
    raise AssertionError(f"not ready: {answer}")


def progress(master: MasterProcess, tenant: Tenant, model: str, cycle: int, **more: Any) -> None:
    """What a node posts."""
    event = {
        "percent_complete": cycle * 50, "model_id": model, "version": "1.0", "cycle": cycle, "cycles": 2,
        "node_id": f"default/{tenant.node()}", "event_id": str(uuid.uuid4()), **more,
    }  # fmt: skip
    assert master.admin.post("/model_progress", event) == {"status": "success"}


def test_root_says_running(master: MasterProcess) -> None:
    answer = master.anonymous.request("GET", "/")
    assert (answer.status, answer.body) == (200, b"Running")


def test_life_of_a_dataset(master: MasterProcess, nodes: LocalNodes, tenant: Tenant) -> None:
    status, first = tenant.info()
    assert (status, list(first)) == (200, ["success"])
    assert tenant.notebook.post("/get_datasets", {"user_id": tenant.owner}) == {"datasets": ["steps"]}
    assert tenant.info()[1].keys() == {"wait"}

    assert tenant.create("walk") == {"status": "creating"}
    manifest = next(each for each in nodes.manifests() if each["metadata"]["name"] == tenant.node())
    assert manifest["kind"] == "GridNode"
    assert manifest["metadata"]["annotations"] == {
        "gridnode.io/dataset": "steps",
        "gridnode.io/owner": tenant.owner,
    }
    assert tenant.info()[1].keys() == {"wait"}

    nodes.report_conditions(tenant.node(), Ready="False", Available="False", Migrated="Unknown", DatabaseReady="True")
    deadline = time.monotonic() + 10
    while (answer := tenant.create("walk")) == {"status": "creating"}:
        assert time.monotonic() < deadline
    assert answer == {"status": "creating", "reason": "Migrated?"}

    nodes.report_ready(tenant.node())
    assert wait_until_ready(tenant, "walk") == {"status": "ready", "nodeURL": "10.1.2.3"}
    offered = {"models": [["walk", "1.0", ["pace", "rise"], ["calories"]]], "nodeURL": "10.1.2.3"}
    assert tenant.info() == (200, offered)

    progress(master, tenant, "walk", 1, version="3.1")
    assert tenant.info()[1]["models"] == [["walk", "3.1", ["pace", "rise"], ["calories"]]]
    wait_until_ready(tenant, "run")
    assert [each[0] for each in tenant.info()[1]["models"]] == ["walk", "run"]
    progress(master, tenant, "walk", 2, version="3.1")
    assert [each[0] for each in tenant.info()[1]["models"]] == ["run"]

    assert tenant.notebook.post("/delete", {"dataset_id": "steps"}) == {"status": "deleted"}
    assert tenant.node() not in {each["metadata"]["name"] for each in nodes.manifests()}
    nodes.report_gone(tenant.node())
    assert tenant.info()[1].keys() == {"success"}


def test_generated_key_is_for_apps(master: MasterProcess, tenant: Tenant) -> None:
    answer = tenant.notebook.post("/generate_key", {"user_id": tenant.owner})
    assert list(answer) == ["api_key"]
    assert master.anonymous.with_key(answer["api_key"]).get("/api/v1/whoami") == {
        "scope": "app", "owner": tenant.owner, "node_id": None,
    }  # fmt: skip


@pytest.mark.parametrize("dataset", [None, "", [], {}, "x" * 256, "nul\x00", 1.5, True])
def test_info_answers_400_to_what_is_no_dataset(tenant: Tenant, dataset: object) -> None:
    status, answer = tenant.info(dataset)
    assert (status, list(answer)) == (400, ["error"])


def test_numbers_may_name_datasets_and_users(master: MasterProcess) -> None:
    admin = master.admin
    key = admin.post("/generate_key", {"user_id": 17})["api_key"]
    first = master.anonymous.request("POST", "/info", {"dataset_id": 4}, headers={"api_key": key})
    assert first.json().keys() == {"success"}
    assert admin.post("/get_datasets", {"user_id": "17"}) == {"datasets": ["4"]}


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b'{"percent_complete": NaN}', b"[" * 100_000])
@pytest.mark.parametrize(
    "path", ["/info", "/model_progress", "/model_loss", "/create", "/delete", "/generate_key", "/get_datasets"]
)
def test_bodies_that_are_no_objects_are_refused(master: MasterProcess, path: str, raw: bytes) -> None:
    answer = master.admin.request("POST", path, raw=raw)
    assert (answer.status, list(answer.json())) == (400, ["error"])


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"percent_complete": 10},
        {"model_id": "m"},
        {"percent_complete": -1, "model_id": "m"},
        {"percent_complete": 101, "model_id": "m"},
        {"percent_complete": "10", "model_id": "m"},
        {"percent_complete": True, "model_id": "m"},
        {"percent_complete": 10, "model_id": ""},
        {"percent_complete": 10, "model_id": "a\x00b"},
        {"percent_complete": 10, "model_id": "x" * 300},
    ],
)
def test_events_without_sense_are_refused(master: MasterProcess, event: dict[str, Any]) -> None:
    answer = master.admin.request("POST", "/model_progress", event)
    assert (answer.status, list(answer.json())) == (400, ["error"])


def test_optional_values_without_sense_do_not_hold_up_an_event(master: MasterProcess, tenant: Tenant) -> None:
    strange = {
        "occurred_at": "yesterday", "cycles": "many", "reports": -3, "loss": "NaN", "rejected": [1],
        "running": {"number": "x"}, "cycle_seconds": 1e300, "state": "dancing", "failure": 7, "event_id": "no",
    }  # fmt: skip
    progress(master, tenant, f"strange-{tenant.owner}", 1, **strange)
    (model,) = master.admin.get("/api/v1/models", name=f"strange-{tenant.owner}")["items"]
    assert (model["percent"], model["num_cycles"], model["loss"], model["state"]) == (50, None, None, "active")


def test_losses_of_devices(master: MasterProcess, nodes: LocalNodes, tenant: Tenant) -> None:
    tenant.create("walk")
    nodes.report_ready(tenant.node())
    wait_until_ready(tenant, "walk")
    assert tenant.loss({"acc": 0.1, "loss": 3.0, "model_id": "unheard-of"}) == 404
    assert tenant.loss({"acc": 0.1, "loss": 3.0, "model_id": "walk"}) == 200  # its node has not told of it yet
    progress(master, tenant, "walk", 1)
    for _ in range(50):
        assert tenant.loss({"acc": 0.2, "loss": 9.0, "model_id": "walk"}) == 200
    for device in range(3):
        assert tenant.loss({"acc": "0.6", "loss": 1.0, "model_id": "walk", "worker_id": f"w{device}"}) == 200
    wrong: list[dict[str, Any]] = [
        {"loss": "NaN"}, {"loss": None}, {"loss": "x"}, {"loss": 1e200}, {"acc": []}, {"loss": True},
    ]  # fmt: skip
    for bad in wrong:
        assert tenant.loss({"acc": 0.5, "loss": 1.0, "model_id": "walk", **bad}) == 400
    (model,) = tenant.notebook.get("/api/v1/models")["items"]
    (said,) = tenant.notebook.get(f"/api/v1/models/{model['id']}/losses")["items"]
    assert (said["cycle"], said["devices"], said["posts"]) == (2, 4, 53)
    assert said["loss"] == pytest.approx((9 + 3) / 4)
    assert said["accuracy"] == pytest.approx((0.2 + 3 * 0.6) / 4)
    assert (said["loss_min"], said["loss_max"]) == (1.0, 9.0)


def test_losses_of_others_models_are_not_taken(master: MasterProcess, tenant: Tenant, nodes: LocalNodes) -> None:
    tenant.create("walk-of-one")
    nodes.report_ready(tenant.node())
    wait_until_ready(tenant, "walk-of-one")
    loss = {"acc": 0.5, "loss": 1.0, "model_id": "walk-of-one"}
    other = Tenant(master)
    assert other.loss(loss) == 404
    progress(master, tenant, "walk-of-one", 1)
    assert (other.loss(loss), tenant.loss(loss)) == (404, 200)


def test_one_address_has_a_bounded_number_of_voices(master: MasterProcess, tenant: Tenant, nodes: LocalNodes) -> None:
    tenant.create("walk")
    nodes.report_ready(tenant.node())
    wait_until_ready(tenant, "walk")
    progress(master, tenant, "walk", 1)
    for device in range(80):
        assert tenant.loss({"acc": 0.5, "loss": 1.0, "model_id": "walk", "worker_id": str(device)}) == 200
    (model,) = tenant.notebook.get("/api/v1/models")["items"]
    (said,) = tenant.notebook.get(f"/api/v1/models/{model['id']}/losses")["items"]
    assert said["devices"] == 64


def test_create_without_a_node_provider_says_what_to_do(shared_master: MasterProcess) -> None:
    notebook: MasterClient = shared_master.anonymous.with_key(shared_master.key("notebook", owner="ann"))
    body = {"model_id": "m", "dataset_id": "d", "features": [], "labels": []}
    answer = notebook.request("POST", "/create", body)
    assert answer.status == 503
    assert "GRIDNODE_MASTER_PROVIDER" in answer.json()["error"]
