"""Every field of the spec on the real API server: set, a child has it; changed, the child follows; removed, the default
is back, and what was there only for it is gone. Each is also looked at a second time, and then nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.test_fields_database import OF_THE_DATABASE
from tests.support.cluster import ControlPlane
from tests.support.control_plane.namespaces import create_namespace, delete_namespace
from tests.support.one_gridnode import OneGridNode, one_gridnode
from tests.support.operator_process import GROUP_PATH, wait_for
from tests.support.optional_apis import optional_apis
from tests.support.shared_database import SharedServer
from tests.support.spec_fields import FIELDS, PARTS, Field, Look, Spec, given_fields, leaf_fields, with_value

pytestmark = [pytest.mark.cluster]


@pytest.fixture(scope="module")
def demo(control_plane: ControlPlane, shared_server: SharedServer) -> Iterator[OneGridNode]:
    """A ready GridNode for all fields, one after the other: each test begins by replacing its whole spec."""
    namespace = create_namespace(control_plane)
    with optional_apis(control_plane), shared_server.database() as shared:
        with one_gridnode(control_plane, namespace, shared) as one:
            one.create_secret("first", {"one": "a-token-of-sixteen-or-more"})
            one.create_secret("second", {"two": "another-token-of-sixteen-or-more"})
            for account in ("one-account", "other-account"):
                path = one.gridnodes.path("/api/v1/serviceaccounts")
                control_plane.expect("POST", path, {"metadata": {"name": account}})
            one.create()
            one.until_ready()
            yield one
        delete_namespace(control_plane, namespace)


def expect(demo: OneGridNode, field: Field, spec: Spec, shown: object) -> None:
    """Give the GridNode a spec, and wait until its children show this of a field."""
    demo.set_spec(spec)
    demo.until(lambda: field.see(Look(demo)) == shown, lambda: f"{field.see(Look(demo))} is not {shown}")


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.path)
def test_field_reaches_children(demo: OneGridNode, field: Field) -> None:
    first, second = field.values
    expect(demo, field, field.spec(first), field.shown(first))
    expect(demo, field, field.spec(second), field.shown(second))
    assert demo.changes() == []
    expect(demo, field, field.spec_without(), field.default)


@pytest.mark.parametrize("field", PARTS, ids=lambda field: field.path)
def test_part_of_a_value_goes(demo: OneGridNode, field: Field) -> None:
    """Also from within what Kubernetes takes as one value: what it may have filled in itself is no excuse."""
    for value in field.values:
        demo.set_spec(field.spec(value))
        expect(demo, field, field.spec(value), field.shown(value))
        assert demo.changes() == []


def test_everything_that_was_switched_on_is_gone(demo: OneGridNode) -> None:
    demo.set_spec({})
    demo.until_ready()
    demo.set_spec({
        "autoscaling": {"maxReplicas": 2},
        "exposure": {"ingress": {"host": "a.example"}},
        "networkPolicy": {"enabled": True},
        "monitoring": {"enabled": True},
        "disruptionBudget": {"maxUnavailable": 1},
    })  # fmt: skip
    optional = {"HorizontalPodAutoscaler", "Ingress", "NetworkPolicy", "PodMonitor", "PodDisruptionBudget"}
    demo.until(lambda: optional <= {name.split("/")[0] for name in demo.children()})
    demo.set_spec({})
    demo.until_ready()
    children = demo.children()
    job = next(name for name in children if name.startswith("Job/"))
    assert set(children) == {
        "Deployment/demo", "Secret/demo-database", "Secret/demo-management", "Secret/demo-master", "Service/demo",
        "Service/demo-management", "ServiceAccount/demo", job,
    }  # fmt: skip


def test_paused_leaves_everything_as_it_is(demo: OneGridNode) -> None:
    demo.set_spec({})
    demo.until_ready()
    before = {name: each["metadata"]["resourceVersion"] for name, each in demo.children().items()}
    demo.set_spec({"paused": True, "replicas": 2, "exposure": {"ingress": {"host": "a.example"}}})
    for _ in range(3):
        assert demo.reconcile().state == "Paused"
    assert {name: each["metadata"]["resourceVersion"] for name, each in demo.children().items()} == before
    assert demo.condition("Progressing")[:2] == ("False", "Paused")
    status, reason, message = demo.condition("Ready")
    assert (status, reason) == ("False", "Paused")
    assert "Deployment demo" in message
    assert "Ingress demo" in message
    demo.set_spec({"paused": False, "replicas": 2})
    demo.until_ready()
    demo.set_spec({"paused": True, "replicas": 2})
    demo.reconcile()
    # Nothing is to be done: it is paused, and ready nevertheless.
    assert demo.condition("Ready")[0] == "True"
    demo.set_spec({})
    demo.until_ready()


#: Fields that no row of the table stands for, and the tests that do.
ELSEWHERE = {"paused": test_paused_leaves_everything_as_it_is, **OF_THE_DATABASE}


def test_no_field_is_missing(control_plane: ControlPlane) -> None:
    crd = control_plane.expect("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gridnodes.gridnode.io")
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    all_fields = set(leaf_fields(schema))
    in_table = {
        path
        for field in FIELDS
        for value in field.values
        for path in given_fields(schema, with_value({}, field.path, value))
    }
    assert all_fields - in_table - ELSEWHERE.keys() == set()
    assert in_table | ELSEWHERE.keys() <= all_fields
    assert all(callable(test) for test in ELSEWHERE.values())


def test_deleted_gridnode_leaves_no_children(demo: OneGridNode) -> None:
    """The last of this file: the GridNode that all others have changed goes with everything that belongs to it."""
    demo.gridnodes.delete()
    demo.until(lambda: demo.gridnodes.get(f"{GROUP_PATH}/gridnodes", "demo") is None)
    wait_for(lambda: demo.children() == {}, demo.children)
