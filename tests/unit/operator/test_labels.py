"""Labels: selectors never change and hold nothing of the user's, and every child belongs to its GridNode."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from gridnode_operator.desired import desired_children
from gridnode_operator.desired.labels import (
    is_owned_by,
    labels,
    metadata,
    owner_labels,
    selector_labels,
    selector_text,
)
from tests.support.gridnode_manifests import ALTERNATIVES, EVERYTHING, UID, children, context, gridnode, job_of

LABEL_VALUE = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]", re.ASCII)


def test_the_selector_never_changes() -> None:
    """Kubernetes lets nobody change it: another one would have every Deployment deleted and made anew."""
    expected = {
        "app.kubernetes.io/name": "gridnode",
        "app.kubernetes.io/instance": "demo",
        "app.kubernetes.io/component": "node",
    }
    for node in (gridnode(), gridnode(EVERYTHING), gridnode(labels={"team": "x"}), gridnode(generation=9, uid="other")):
        assert selector_labels(node) == expected
    assert selector_text(gridnode()) == (
        "app.kubernetes.io/component=node,app.kubernetes.io/instance=demo,app.kubernetes.io/name=gridnode"
    )


def test_the_pods_of_migrations_are_not_selected() -> None:
    selector = selector_labels(gridnode()).items()
    assert not selector <= labels(gridnode(), "migration").items()
    assert selector <= labels(gridnode()).items()
    pod = job_of(children())["spec"]["template"]["metadata"]["labels"]
    assert not selector <= pod.items()


@given(st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", fullmatch=True))
def test_values_are_valid_whatever_the_name(name: str) -> None:
    for value in labels(gridnode(name=name)).values():
        assert LABEL_VALUE.fullmatch(value)
        assert len(value) <= 63


def test_labels_of_the_user_don_t_replace_the_operators() -> None:
    stolen = {"app.kubernetes.io/instance": "other", "gridnode.io/gridnode": "other", "team": "x"}
    spec = {"podTemplate": {"labels": stolen}, "monitoring": {"enabled": True, "labels": stolen}}
    made = children(spec)
    for pods in (made["Deployment/demo"]["spec"]["template"]["metadata"], made["PodMonitor/demo"]["metadata"]):
        assert pods["labels"] == {**labels(gridnode()), "team": "x"}
    assert job_of(made)["spec"]["template"]["metadata"]["labels"] == {**labels(gridnode(), "migration"), "team": "x"}


def test_every_child_is_found_by_its_labels_and_goes_with_its_gridnode() -> None:
    for spec in (EVERYTHING, ALTERNATIVES, {}):
        node = gridnode(spec)
        for child in desired_children(node, context()):
            assert child["metadata"]["namespace"] == "apps"
            assert owner_labels(node).items() <= child["metadata"]["labels"].items()
            (owner,) = child["metadata"]["ownerReferences"]
            assert owner == {
                "apiVersion": "gridnode.io/v1alpha1",
                "kind": "GridNode",
                "name": "demo",
                "uid": UID,
                "controller": True,
                "blockOwnerDeletion": True,
            }
            assert is_owned_by(child, node)


def test_what_another_of_that_name_owned_is_not_a_child() -> None:
    old = {"metadata": metadata(gridnode(uid="the-old-one"), "demo")}
    assert not is_owned_by(old, gridnode())
    assert not is_owned_by({"metadata": {"name": "demo"}}, gridnode())
    assert not is_owned_by({"metadata": {"ownerReferences": [{"uid": UID, "kind": "GridNode"}]}}, gridnode())
