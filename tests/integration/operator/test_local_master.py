"""The master node of ``gridnode up``: notebooks, apps and phones of 2020 find all they need on one machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from gridnode_operator.api import SecretKey
from gridnode_operator.desired.names import child_names
from tests.support.device import HttpDevice, WebSocketDevice, join_when_open, model_query, report
from tests.support.master_process import MasterClient
from tests.support.node import hosting_frame
from tests.support.recordings import Hosting, load_model
from tests.support.syft_messages import state_of, tensors_of
from tests.support.up import Up, manifest, run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

PHONES = 3
CYCLES = 2
DATASET = "heart-rate"
ADDRESS = "127.0.0.1"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A run whose new GridNodes let notebooks of 2020 host through the phones' port."""
    directory = tmp_path_factory.mktemp("up")
    template = directory / "template.yaml"
    template.write_text("legacyHosting: true\nreplicas: 1\nprocessesPerPod: 1\n")
    variables = {"GRIDNODE_MASTER_NODE_TEMPLATE": str(template), "GRIDNODE_MASTER_OBSERVE_INTERVAL": "0.3"}
    with Up(directory, manifest("one"), variables=variables) as started:
        started.wait_until_ready("one")
        yield started


def wait_for(what: str, done: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What ``done`` gives once it gives something true."""
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return found


def hosting(name: str, **server_config: Any) -> Hosting:
    """The plain mean of as many reports as there are phones, from zeros."""
    tiny = load_model("tiny")
    zeros = state_of([np.zeros_like(tensor) for tensor in tensors_of(tiny.model)])
    plain = Hosting(zeros, tiny.plans, b"", tiny.client_config, {**tiny.server_config, "iterative_plan": False})
    wanted = {"num_cycles": CYCLES, "min_diffs": PHONES, "max_diffs": PHONES, "max_workers": PHONES, **server_config}
    return plain.named(name, **wanted)


class App:
    """An app of 2020: it knows the master node, its key and the name of its dataset, and nothing else."""

    def __init__(self, master: MasterClient, key: str, port_of_node: Callable[[], int]) -> None:
        self._master = master.with_key(None)
        self._headers = {"api_key": key}
        # Such an app would call port 5000, which is somebody else's on a machine that runs tests.
        self._port_of_node = port_of_node

    def info(self) -> Any:
        """What to train, and where."""
        return self._master.request("POST", "/info", {"dataset_id": DATASET}, headers=self._headers).json()

    def train(self, number: int) -> None:
        """One phone: ask, train the first model, say how it went, and report."""
        told = self.info()
        assert told["nodeURL"] == ADDRESS
        name, version, features, labels = told["models"][0]
        assert (features, labels) == (["bpm"], ["stress"])
        with closing(HttpDevice(self._port_of_node())) as phone:
            session = join_when_open(phone, name, version)
            model = phone.get("get-model", model_query(session))
            diff = state_of([np.full_like(tensor, number) for tensor in tensors_of(model.body)])
            loss = {"acc": 0.5, "loss": float(number), "model_id": name}
            said = self._master.request("POST", "/model_loss", loss, headers=self._headers)
            assert said.json() == {"status": "success"}
            assert report(phone, session, diff, loss=float(number)) == {"status": "success"}


def test_old_flow_from_key_to_finished_model(up: Up) -> None:
    """generate_key, create, host at nodeURL, /info, train, /model_loss, 100 %, and the finished model is the node's."""
    master, model = up.master, hosting("heart-rate-model")
    notebook = master.with_key(master.post("/api/v1/keys", {"scope": "notebook", "owner": "ann"})["key"])
    key = notebook.post("/generate_key", {"user_id": "ann"})["api_key"]

    def node() -> str:
        (made,) = (each["name"] for each in up.state["gridnodes"] if each["name"] != "one")
        return str(made)

    app = App(master, key, lambda: up.device_port(node()))
    assert list(app.info()) == ["success"]
    creation = {"model_id": model.name, "dataset_id": DATASET, "features": ["bpm"], "labels": ["stress"]}
    ready = wait_for(
        "the node is ready", lambda: (answer := notebook.post("/create", creation))["status"] == "ready" and answer
    )
    assert ready == {"status": "ready", "nodeURL": ADDRESS}
    with closing(WebSocketDevice(up.device_port(node()))) as hosts:
        assert hosts.call("host-training", hosting_frame(model)) == {"status": "success"}
    wait_for("the app is told of it", lambda: app.info().get("models"))
    (heard,) = wait_for("the master node knows it", lambda: master.get("/api/v1/models", name=model.name)["items"])

    for cycle in range(1, CYCLES + 1):
        for number in range(1, PHONES + 1):
            app.train(number * cycle)
        percent = 100 * cycle // CYCLES
        wait_for(f"{percent} %", lambda: master.get(f"/api/v1/models/{heard['id']}")["model"]["percent"] == percent)  # noqa: B023
    up.wait_until(lambda _: up.gridnode(node())["reported"] == {model.name: 100})
    assert app.info() == {"models": [], "nodeURL": ADDRESS}

    cycles = master.get(f"/api/v1/models/{heard['id']}/cycles")["items"]
    shown = [(each["number"], each["state"], each["reported"], each["loss"], each["loss_max"]) for each in cycles]
    assert shown == [(1, "completed", 3, 2.0, 3.0), (2, "completed", 3, 4.0, 6.0)]
    # All phones are at one address, so they have one voice, and the last word counts.
    said = master.get(f"/api/v1/models/{heard['id']}/losses")["items"]
    assert [(each["cycle"], each["devices"], each["loss"]) for each in said] == [(1, 1, 3.0), (2, 1, 6.0)]

    (finished,) = wait_for(
        "the final checkpoint is stored", lambda: master.get("/api/v1/finished-models", state="stored")["items"]
    )
    content = master.with_key(key).request("GET", f"/api/v1/finished-models/{finished['model']}/content").body
    assert content == up.management(node()).checkpoint(model.name)
    # 0 - (1 + 2 + 3) / 3 - (2 + 4 + 6) / 3
    assert {float(value) for tensor in tensors_of(content) for value in np.ravel(tensor)} == {-6.0}

    assert notebook.post("/delete", {"dataset_id": DATASET}) == {"status": "deleted"}
    up.wait_until_ready("one")


def test_master_node_that_is_killed_comes_back_and_loses_nothing(up: Up) -> None:
    model = hosting("outlasts", num_cycles=2, min_diffs=1, max_diffs=1, max_workers=1)
    up.management("one").host(model)
    train(up, model)
    up.wait_until(lambda _: up.gridnode("one")["reported"].get(model.name) == 50)
    before = master_process(up)

    before.kill()
    up.wait_until(lambda state: not state["ready"])
    train(up, model)
    up.wait_until(lambda state: state["ready"] and up.gridnode("one")["reported"].get(model.name) == 100)

    assert master_process(up).pid != before.pid
    assert "the master node ended by itself (code -9" in up.log()
    told = [each["cycle"] for each in up.master.get("/api/v1/events")["items"] if each["name"] == model.name]
    assert told == [2, 1]


def test_every_gridnode_has_a_key_of_its_own(up: Up) -> None:
    up.write(manifest("one"), manifest("two"))
    up.wait_until_ready("one", "two")
    keys = {name: node_key(up, name) for name in ("one", "two")}
    assert keys["one"] != keys["two"]
    event = {"percent_complete": 1, "model_id": "forged", "node_id": "default/one"}
    for name, status in (("one", 200), ("two", 403)):
        assert up.master.with_key(keys[name]).request("POST", "/model_progress", event).status == status

    up.write(manifest("one"))
    up.wait_until_ready("one")
    up.write(manifest("one", {"replicas": 2}))
    up.wait_until(lambda _: up.gridnode("one")["ready_replicas"] == 2)
    assert node_key(up, "one") == keys["one"]
    up.write(manifest("one"))
    up.wait_until_ready("one")


def test_commands_ask_the_master_node_with_its_key_file(up: Up) -> None:
    up.write(manifest("one"))
    state = up.wait_until_ready("one")
    assert Path(state["master_key_file"]).stat().st_mode & 0o777 == 0o600
    url = {"GRIDNODE_MASTER_URL": state["master_url"]}
    assert run("models", variables=url).returncode == 1
    shown = run("models", variables={**url, "GRIDNODE_MASTER_API_KEY_FILE": state["master_key_file"]})
    assert shown.returncode == 0, shown.stderr


def train(up: Up, model: Hosting) -> None:
    """One report."""
    with closing(HttpDevice(up.device_port("one"))) as phone:
        session = join_when_open(phone, model.name)
        assert report(phone, session, model.model) == {"status": "success"}


def node_key(up: Up, name: str) -> str | None:
    """The key that a GridNode's processes show."""
    return up.data.secrets.read("default", SecretKey(child_names(name).master_secret, "key"))


def master_process(up: Up) -> psutil.Process:
    """The process that listens on the master node's port."""
    port = urlsplit(up.state["master_url"]).port
    (found,) = [
        process
        for process in up.processes()
        if any(each.laddr.port == port and each.status == "LISTEN" for each in process.net_connections())
    ]
    return found
