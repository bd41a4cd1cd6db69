"""GridNodes for tests of the operator, and comparing manifests with YAML files that a reviewer can read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from gridnode_operator.api import API_VERSION, KIND, GridNode, parse
from gridnode_operator.crd import to_yaml
from gridnode_operator.desired import DesiredContext, NodeSecrets, desired_children
from gridnode_operator.desired.context import HTTP_ROUTE_API, POD_MONITOR_API

DATA = Path(__file__).parents[1] / "data" / "operator"
UID = "0f4c1a52-6d3b-4a1e-9a57-3c5f0d9b7e10"
DATABASE_URL = "postgresql://gn_login_a:opensesame@db.example:5432/nodes?sslmode=prefer"

#: Every field that has a value other than its default, but for those that exclude others (:data:`ALTERNATIVES`).
EVERYTHING: dict[str, Any] = yaml.safe_load((DATA / "everything.input.yaml").read_text(encoding="utf-8"))
#: What EVERYTHING can't hold at the same time.
ALTERNATIVES: dict[str, Any] = yaml.safe_load((DATA / "alternatives.input.yaml").read_text(encoding="utf-8"))


def resource(
    spec: Mapping[str, Any] | None = None, *, name: str = "demo", namespace: str = "apps", **metadata: Any
) -> dict[str, Any]:
    """A GridNode's JSON as the API server gives it."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace, "uid": UID, "generation": 3, **metadata},
        "spec": dict(spec or {}),
    }


def gridnode(
    spec: Mapping[str, Any] | None = None,
    *,
    name: str = "demo",
    namespace: str = "apps",
    status: Mapping[str, Any] | None = None,
    **metadata: Any,
) -> GridNode:
    """A parsed GridNode."""
    return parse({**resource(spec, name=name, namespace=namespace, **metadata), "status": dict(status or {})})


def context(**changes: Any) -> DesiredContext:
    """A context with all optional APIs and the operator's own master node."""
    values: dict[str, Any] = {
        "default_image": "registry.example/gridnode:1.2.3",
        "schema_revision": "0001",
        "secrets": NodeSecrets(
            database_url=DATABASE_URL, management_token="a-token-of-sixteen-or-more", master_key="master-key"
        ),
        "secret_hashes": {"demo-database": "aaaa", "demo-management": "bbbb"},
        "available_apis": frozenset({HTTP_ROUTE_API, POD_MONITOR_API}),
        "master_url": "http://gridnode-master.gridnode-system.svc:5001",
    }
    return DesiredContext(**{**values, **changes})


def children(spec: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, dict[str, Any]]:
    """The children of a GridNode by ``Kind/name``."""
    desired = desired_children(gridnode(spec), context(**changes))
    return {f"{manifest['kind']}/{manifest['metadata']['name']}": manifest for manifest in desired}


def pod_spec(manifest: Mapping[str, Any]) -> Any:
    """The pod spec of a Deployment or Job."""
    return manifest["spec"]["template"]["spec"]


def job_of(manifests: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The migration Job."""
    return next(manifest for manifest in manifests.values() if manifest["kind"] == "Job")


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value of a manifest that is no object or list, with its path."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from leaves(entry, (*path, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from leaves(entry, (*path, index))
    else:
        yield path, value


def assert_snapshot(name: str, manifests: Iterable[Mapping[str, Any]]) -> None:
    """Compare with tests/data/operator/<name>.yaml; ``UPDATE_SNAPSHOTS=1`` writes the file instead."""
    file = DATA / f"{name}.yaml"
    text = "---\n".join(to_yaml(dict(manifest)) for manifest in manifests)
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        file.write_text(text, encoding="utf-8")
    expected = file.read_text(encoding="utf-8") if file.exists() else ""
    assert text == expected, f"{file.name} differs: UPDATE_SNAPSHOTS=1 writes it anew, for you to read"
