"""Short looks at GridNodes that are as declared: what they read, what they write, and when they are not enough."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gridnode_operator.api import GridNode, ModelsStatus
from gridnode_operator.node_client import NodeClient
from tests.support.cluster import ControlPlane
from tests.support.kubelet import Kubelet
from tests.support.one_gridnode import OneGridNode
from tests.support.operator_faults import quick_migration
from tests.support.shared_database import SharedDatabase

pytestmark = [pytest.mark.cluster]

AGENT = "gridnode-operator"


class Nodes(NodeClient):
    """Nodes that say what the test wants."""

    def __init__(self) -> None:
        super().__init__(interval=0.0)
        self.answer: ModelsStatus | None = None

    def models(self, gridnode: GridNode, token: str) -> ModelsStatus | None:
        assert len(token) >= 16
        return self.answer


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


@pytest.fixture
def demo(control_plane: ControlPlane, namespace: str, shared: SharedDatabase, nodes: Nodes) -> OneGridNode:
    """A GridNode that is as declared."""
    one = OneGridNode(control_plane, namespace, shared.admin_url, nodes=nodes)
    one.create()
    with Kubelet(control_plane, quick_migration):
        one.until_ready()
    return one


def glance(one: OneGridNode) -> bool:
    """Whether a glance is enough."""
    seen = one.reconciler.glance(one.gridnodes.namespace, one.name)
    assert seen is None or (seen.settled and seen.problem is None)
    return seen is not None


def test_glance_reads_two_objects_and_writes_none(control_plane: ControlPlane, demo: OneGridNode) -> None:
    assert glance(demo)
    since = control_plane.audit_position()
    assert glance(demo)
    events = [each for each in control_plane.audit_events(since) if each.user_agent == AGENT]
    assert [(each.verb, each.object.resource) for each in events] == [("get", "gridnodes"), ("get", "secrets")]


def test_glance_shows_how_far_the_models_are(demo: OneGridNode, nodes: Nodes) -> None:
    before = demo.gridnodes.status(demo.name)
    nodes.answer = ModelsStatus(count=2, active=1, finished=1, failed=0, percent=70, last_completed_cycle=7)
    assert glance(demo)
    after = demo.gridnodes.status(demo.name)
    assert after["models"]["percent"] == 70
    assert after["display"] == {**before["display"], "progress": "70%"}
    assert {**after, "models": None, "display": None} == {**before, "models": None, "display": None}
    # A whole look says the same.
    assert demo.changes() == []
    assert demo.gridnodes.status(demo.name) == after
    # A node that does not answer does not unsay it.
    nodes.answer = None
    assert glance(demo)
    assert demo.gridnodes.status(demo.name) == after


def change_the_spec(one: OneGridNode) -> None:
    one.set_spec({"processesPerPod": 3})


def pause(one: OneGridNode) -> None:
    one.set_spec({"paused": True})
    one.reconcile()


def read_a_foreign_secret(one: OneGridNode) -> None:
    one.create_secret("proxy", {"url": "http://proxy.example"})
    reference = {"secretKeyRef": {"name": "proxy", "key": "url"}}
    one.set_spec({"podTemplate": {"env": [{"name": "HTTP_PROXY", "valueFrom": reference}]}})
    one.reconcile()


def delete(one: OneGridNode) -> None:
    one.gridnodes.delete(one.name)


@pytest.mark.parametrize("change", [change_the_spec, pause, read_a_foreign_secret, delete])
def test_glance_is_not_enough_after(
    control_plane: ControlPlane, demo: OneGridNode, change: Callable[[OneGridNode], None]
) -> None:
    assert glance(demo)
    with Kubelet(control_plane, quick_migration):
        change(demo)
        assert not glance(demo)


def test_glance_is_not_enough_while_the_database_is_away(
    control_plane: ControlPlane, namespace: str, demo: OneGridNode
) -> None:
    nowhere = "postgresql+psycopg2://nobody@127.0.0.1:1/nothing"
    cut_off = OneGridNode(control_plane, namespace, nowhere)
    assert glance(demo)
    assert not glance(cut_off)
