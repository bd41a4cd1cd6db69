"""Providers of nodes that need no cluster: the directory of ``gridnode up``, a file, and none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from gridnode.declared_settings import InvalidSetting
from gridnode_operator.api import parse
from gridnode_operator.master.errors import ProviderFailed
from gridnode_operator.master.nodes.local import LocalProvider
from gridnode_operator.master.nodes.provider import ManagementAccess, NodeRequest, NoProvider, node_name
from gridnode_operator.master.nodes.static import StaticProvider
from gridnode_operator.master.nodes.template import NodeTemplate

REQUEST = NodeRequest(name="dataset-steps-1", dataset="steps", owner="ann")


def test_node_names_are_labels_and_no_two_alike() -> None:
    pairs = [("ann", "steps"), ("bob", "steps"), ("ann", "Steps!"), ("anns", "teps"), ("a", "nnsteps"), ("ann", "日本")]
    names = [node_name(*pair) for pair in pairs]
    assert len(set(names)) == len(pairs)
    assert node_name("ann", "steps") == names[0]
    assert all(len(name) <= 63 and name.replace("-", "").isalnum() and name.isascii() for name in names)
    assert node_name("ann", "x" * 255).startswith("dataset-xxx")


def test_local_manifest_is_a_gridnode_that_up_can_run(tmp_path: Path) -> None:
    template = tmp_path / "spec.yaml"
    template.write_text("exposure: {ingress: {host: '{name}.example.org'}}\nreplicas: 2\n")
    provider = LocalProvider(tmp_path / "nodes", NodeTemplate(template))
    assert provider.create(REQUEST) == "default/dataset-steps-1"
    assert provider.create(REQUEST) == "default/dataset-steps-1"
    gridnode = parse(yaml.safe_load((tmp_path / "nodes" / "dataset-steps-1.yaml").read_text()))
    assert gridnode.spec.replicas == 2
    assert gridnode.spec.exposure.ingress is not None
    assert gridnode.spec.exposure.ingress.host == "dataset-steps-1.example.org"
    assert [path.name for path in (tmp_path / "nodes").iterdir()] == ["dataset-steps-1.yaml"]


def test_local_node_is_seen_by_its_status(tmp_path: Path) -> None:
    provider = LocalProvider(tmp_path, NodeTemplate(None))
    status = {
        "nodeId": "default/demo", "ready": True, "url": "http://127.0.0.1:5000", "replicas": 2, "readyReplicas": 1,
        "conditions": [{"type": "Ready", "status": "True"}],
        "management": {"url": "http://127.0.0.1:5050/", "token": "secret"},
    }  # fmt: skip
    (tmp_path / "demo.status.json").write_text(json.dumps(status))
    (tmp_path / "half.status.json").write_text('{"nodeId": "default/ha')
    (observed,) = provider.observe()
    assert (observed.node_id, observed.ready, observed.replicas, observed.ready_replicas) == (
        "default/demo",
        True,
        2,
        1,
    )
    assert provider.management("default/demo") == ManagementAccess(url="http://127.0.0.1:5050", token="secret")
    assert "secret" not in repr(provider.management("default/demo"))
    assert provider.management("default/other") is None


def test_local_provider_removes_only_what_a_master_node_wrote(tmp_path: Path) -> None:
    provider = LocalProvider(tmp_path, NodeTemplate(None))
    provider.create(REQUEST)
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"metadata": {"name": "mine"}}))
    provider.delete("default/dataset-steps-1")
    provider.delete("default/dataset-steps-1")
    with pytest.raises(ProviderFailed):
        provider.delete("default/mine")
    provider.delete("default/../mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_static_nodes(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    nodes = [
        {
            "node_id": "lab-1", "url": "http://10.0.0.7:5000", "management_url": "http://10.0.0.7:5050/",
            "management_token_file": str(tmp_path / "token"), "datasets": ["steps"],
        },
        {"node_id": "lab-2", "url": "http://10.0.0.8:5000"},
    ]  # fmt: skip
    (tmp_path / "nodes.yaml").write_text(yaml.safe_dump({"nodes": nodes}))
    provider = StaticProvider(tmp_path / "nodes.yaml")
    assert [node.node_id for node in provider.observe()] == ["lab-1", "lab-2"]
    assert provider.create(REQUEST) == "lab-1"
    assert provider.create(NodeRequest(name="x", dataset="other", owner="ann")) == "lab-2"
    assert provider.management("lab-1") == ManagementAccess(url="http://10.0.0.7:5050", token="secret")
    assert provider.management("lab-2") is None
    (tmp_path / "token").unlink()
    with pytest.raises(ProviderFailed, match="lab-1"):
        provider.management("lab-1")


def test_static_provider_without_a_node_for_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "nodes.yaml").write_text("nodes: [{node_id: lab, datasets: [a]}]")
    with pytest.raises(ProviderFailed, match="steps"):
        StaticProvider(tmp_path / "nodes.yaml").create(REQUEST)


@pytest.mark.parametrize(
    "content",
    ["", "nodes: 5", "nodes: [{node_id: ''}]", "nodes: [{node_id: a, url: 'file:///etc'}]", "nodes: [{x: 1}]"],
)
def test_static_file_that_can_not_be_used(tmp_path: Path, content: str) -> None:
    (tmp_path / "nodes.yaml").write_text(content)
    with pytest.raises(InvalidSetting, match="not valid"):
        StaticProvider(tmp_path / "nodes.yaml")


@pytest.mark.parametrize("content", ["replicas: many", "[1]", "{", "unknown: {a: [}"])
def test_template_that_is_no_spec(tmp_path: Path, content: str) -> None:
    (tmp_path / "spec.yaml").write_text(content)
    with pytest.raises(InvalidSetting, match="no GridNode spec"):
        NodeTemplate(tmp_path / "spec.yaml")


def test_no_provider() -> None:
    provider = NoProvider()
    assert provider.observe() == []
    assert provider.management("x") is None
    with pytest.raises(ProviderFailed, match="GRIDNODE_MASTER_PROVIDER"):
        provider.create(REQUEST)
