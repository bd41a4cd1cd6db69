"""Helm installs the chart, and the operator works with the rights and settings that it gave, to a ready node and on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.chart import CHART, Installed, manifest_in_notes, values_of
from tests.support.cluster import ControlPlane
from tests.support.kubelet import Kubelet
from tests.support.master_process import MasterClient
from tests.support.operator_process import GROUP_PATH, wait_for
from tests.support.shared_database import SharedDatabase

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

_CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gridnodes.gridnode.io"
_APPS = "/apis/apps/v1"


def test_from_install_to_a_ready_node_through_an_upgrade_to_nothing(
    installed: Installed, shared: SharedDatabase, tmp_path: Path
) -> None:
    gridnodes, control_plane = installed.gridnodes, installed.control_plane
    with Kubelet(control_plane), installed.operator(tmp_path) as operator:
        # The notes can be applied as they are.
        control_plane.kubectl("apply", "-f", "-", given=manifest_in_notes(installed.helm("get notes")))
        wait_for(lambda: gridnodes.condition("Ready")[0] == "True", operator.log_path.read_text, 90)
        print(control_plane.kubectl("get", "gn", "-n", installed.namespace))
        deployment = installed.object(f"{_APPS}/deployments", "demo")
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "gridnode/node:0.1.0"
        assert {"name": "GRIDNODE_MASTER_URL", "value": f"http://gridnode-master.{installed.namespace}.svc:5001"} in (
            container["env"]
        )
        keys = installed.secret("gridnode-master")
        assert installed.secret("demo-master") == {"key": keys["node-key"]}
        assert "orbidden" not in operator.log_path.read_text()

        # What is generated stays, and nodes are left alone.
        chart = chart_with_another_crd(tmp_path)
        installed.helm("upgrade", str(chart), values=values_of(installed.namespace, operator={"workers": 3}))
        assert installed.secret("gridnode-master") == keys
        crd = control_plane.expect("GET", _CRD)
        assert crd["spec"]["names"]["shortNames"] == ["gn", "another"]
        assert "workers" in installed.helm("get values")
        assert gridnodes.get(f"{GROUP_PATH}/gridnodes", "demo") is not None
        assert (
            installed.object(f"{_APPS}/deployments", "demo")["metadata"]["generation"]
            == (deployment["metadata"]["generation"])
        )

        gridnodes.patch("demo", {"spec": {"database": {"reclaimPolicy": "Delete"}}})
        gridnodes.delete("demo")
        wait_for(lambda: gridnodes.get(f"{GROUP_PATH}/gridnodes", "demo") is None, operator.log_path.read_text, 60)
    # The garbage collector hears of a new kind within 40 seconds.
    wait_for(lambda: not [name for name in secrets(installed) if name.startswith("demo")], seconds=90)
    installed.helm("uninstall")
    wait_for(lambda: control_plane.request("GET", _CRD).status == 404)
    left = [each["metadata"]["name"] for each in gridnodes.all("/api/v1/persistentvolumeclaims")]
    assert left == ["gridnode-master"]
    assert secrets(installed) == ["aurora"]
    assert gridnodes.all(f"{_APPS}/deployments") == []
    assert shared.execute("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'gn_%'") == []


@pytest.mark.parametrize("installed", [4], indirect=True)
def test_master_node_sees_and_makes_gridnodes_and_lets_nodes_in_with_their_key(
    installed: Installed, tmp_path: Path
) -> None:
    installed.gridnodes.create("demo")
    keys = installed.secret("gridnode-master")
    master = installed.master(tmp_path)
    master.start()
    try:
        master.wait_until_ready()
        admin, node = (MasterClient(master.port, keys[name]) for name in ("admin-token", "node-key"))
        seen = f"{installed.namespace}/demo"
        wait_for(lambda: seen in [each["node_id"] for each in admin.get("/api/v1/nodes")["items"]], master.log)
        # A node's key is good for its progress, and for nothing else.
        assert node.request("POST", "/model_progress", {}).status in (400, 422)
        assert node.request("GET", "/api/v1/nodes").status == 403
        notebook = MasterClient(master.port, admin.post("/api/v1/keys", {"scope": "notebook", "owner": "me"})["key"])
        made = {"model_id": "m", "dataset_id": "heart", "features": ["x"], "labels": ["y"]}
        wait_for(lambda: notebook.request("POST", "/create", made).status == 200, master.log)
        wait_for(lambda: len(installed.gridnodes.all(f"{GROUP_PATH}/gridnodes")) == 2, master.log)
        assert notebook.post("/delete", {"dataset_id": "heart"}) == {"status": "deleted"}
        wait_for(lambda: len(installed.gridnodes.all(f"{GROUP_PATH}/gridnodes")) == 1, master.log)
    finally:
        master.kill()
    assert "orbidden" not in master.log_path.read_text()


def test_helm_shows_no_secret_but_those_that_it_generated(installed: Installed, shared: SharedDatabase) -> None:
    shown = installed.helm("get all")
    assert shared.password not in shown
    keys = installed.secret("gridnode-master")
    assert len(keys["admin-token"]) == 48
    documents = [each for each in yaml.safe_load_all(installed.helm("get manifest")) if each]
    for each in documents:
        if each["kind"] != "Secret":
            text = yaml.safe_dump(each)
            assert not any(value in text for value in keys.values()), each["kind"]


def test_crd_that_is_kept_outlives_the_release_and_is_found_by_the_next(
    empty_control_plane: ControlPlane, installed: Installed
) -> None:
    kept = values_of(installed.namespace, crds={"keep": True})
    installed.helm("upgrade", str(CHART), values=kept)
    installed.helm("uninstall")
    assert empty_control_plane.request("GET", _CRD).status == 200
    installed.helm("install", str(CHART), values=values_of(installed.namespace))
    installed.helm("uninstall")
    wait_for(lambda: empty_control_plane.request("GET", _CRD).status == 404)


def secrets(installed: Installed) -> list[str]:
    """Names of the Secrets that there are."""
    return [each["metadata"]["name"] for each in installed.gridnodes.all("/api/v1/secrets")]


def chart_with_another_crd(directory: Path) -> Path:
    """The chart with another CRD, as another release has it."""
    folder = directory / "chart"
    for path in CHART.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(CHART)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    file = folder / "files" / "crds" / "gridnodes.gridnode.io.yaml"
    crd = yaml.safe_load(file.read_text(encoding="utf-8"))
    crd["spec"]["names"]["shortNames"].append("another")
    file.write_text(yaml.safe_dump(crd), encoding="utf-8")
    return folder
