"""All children together: whole manifests as YAML, their order, and that every field of the spec reaches one."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest

from gridnode_operator.api import InvalidSpec, parse_spec
from gridnode_operator.desired import CHILD_KINDS, desired_children, waits_for_migration
from tests.support.gridnode_manifests import (
    ALTERNATIVES,
    DATABASE_URL,
    EVERYTHING,
    assert_snapshot,
    children,
    context,
    gridnode,
    leaves,
)

#: What the database server is told, or whether the operator does anything at all.
NOT_IN_CHILDREN = {
    ("database", "adminSecretRef", "name"),
    ("database", "adminSecretRef", "key"),
    ("database", "reclaimPolicy"),
    ("database", "rotate"),
    ("paused",),
}

HOSTILE_TEXT = "x\"\n- evil: {{ .Values }} $(id) '; DROP SCHEMA public; -- \u202e 日本語 🦜: #"


def without(spec: dict[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    changed = copy.deepcopy(spec)
    parent: Any = changed
    for step in path[:-1]:
        parent = parent[step]
    del parent[path[-1]]
    return changed


def least_without(spec: dict[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    """Without a field; where what is around it can't be without it, without that."""
    for length in range(len(path), 0, -1):
        less = without(spec, path[:length])
        with contextlib.suppress(InvalidSpec):
            parse_spec(less)
            return less
    raise AssertionError(path)


@pytest.mark.parametrize("name", ["minimal", "everything", "alternatives"])
def test_manifests(name: str) -> None:
    spec = {"minimal": {}, "everything": EVERYTHING, "alternatives": ALTERNATIVES}[name]
    assert_snapshot(name, desired_children(gridnode(spec), context()))


def test_manifests_of_a_long_name() -> None:
    node = gridnode(name="0.very-" + "long-" * 49 + "x", namespace="n" * 63)
    assert_snapshot("long-name", desired_children(node, context(master_url=None, available_apis=frozenset())))


def test_pods_and_what_needs_them_come_after_the_migration() -> None:
    kinds = [manifest["kind"] for manifest in desired_children(gridnode({**EVERYTHING}), context())]
    job = kinds.index("Job")
    assert kinds.index("Secret") < job
    assert kinds[job + 1 :] == ["Deployment"]
    manifests = desired_children(gridnode(ALTERNATIVES), context())
    assert [each["kind"] for each in manifests if waits_for_migration(each)] == [
        "Deployment",
        "HorizontalPodAutoscaler",
    ]
    assert [waits_for_migration(each) for each in manifests] == sorted(waits_for_migration(each) for each in manifests)


def test_every_kind_that_is_made_is_listed_for_pruning() -> None:
    made = [*children(EVERYTHING).values(), *children(ALTERNATIVES).values()]
    assert {(each["apiVersion"], each["kind"]) for each in made} == set(CHILD_KINDS)


def test_children_are_plain_json_and_the_same_each_time() -> None:
    for spec in ({}, EVERYTHING, ALTERNATIVES):
        first, second = (desired_children(gridnode(spec), context()) for _ in range(2))
        assert first == second
        assert json.loads(json.dumps(first)) == first


def test_building_changes_neither_spec_nor_context() -> None:
    node, surroundings = gridnode(EVERYTHING), context()
    before = copy.deepcopy((node, surroundings))
    for manifest in desired_children(node, surroundings):
        manifest["metadata"].clear()
    assert (node, surroundings) == before


@pytest.mark.parametrize("spec", [EVERYTHING, ALTERNATIVES])
def test_every_field_reaches_a_child_and_goes_when_it_is_removed(spec: dict[str, Any]) -> None:
    with_all = children(spec)
    for path, _ in leaves(spec):
        if path not in NOT_IN_CHILDREN:
            assert children(least_without(spec, path)) != with_all, path


def test_fields_of_the_database_alone_change_no_child() -> None:
    for path in NOT_IN_CHILDREN - {
        ("paused",),
        ("database", "adminSecretRef", "name"),
        ("database", "adminSecretRef", "key"),
    }:
        assert children(without(EVERYTHING, path)) == children(EVERYTHING), path
    assert children(without(EVERYTHING, ("database", "adminSecretRef"))) == children(EVERYTHING)
    assert children(without(ALTERNATIVES, ("paused",))) == children(ALTERNATIVES)


def test_what_is_switched_off_is_not_made() -> None:
    minimal = set(children())
    assert {name.split("/")[0] for name in minimal} == {"ServiceAccount", "Secret", "Service", "Job", "Deployment"}
    assert not any(name.startswith("PodMonitor") for name in children(EVERYTHING, available_apis=frozenset()))
    assert not any(name.startswith("HTTPRoute") for name in children(ALTERNATIVES, available_apis=frozenset()))


def test_secrets_stand_only_in_secrets() -> None:
    for spec in ({}, EVERYTHING, ALTERNATIVES):
        for name, manifest in children(spec).items():
            text = json.dumps(manifest)
            for secret in ("opensesame", "a-token-of-sixteen-or-more", "master-key", DATABASE_URL):
                assert secret not in text, name
    assert "opensesame" not in repr(context())


def test_hostile_text_stays_text() -> None:
    """Values never become structure: whatever is in a text, it comes out of YAML as it went in, at its own place."""
    spec = copy.deepcopy(EVERYTHING)
    spec["podTemplate"]["annotations"] = {"team.example/contact": HOSTILE_TEXT}
    spec["podTemplate"]["env"] = [{"name": "X", "value": HOSTILE_TEXT}]
    spec["exposure"]["service"]["annotations"] = {"a": HOSTILE_TEXT}
    spec["exposure"]["ingress"]["annotations"] = {"a": HOSTILE_TEXT}
    spec["database"]["rotate"] = HOSTILE_TEXT
    spec["managementTokenSecretRef"] = {"name": "x", "key": "..data"}
    node = gridnode(spec, labels={"größe": HOSTILE_TEXT}, annotations={"x": HOSTILE_TEXT})
    changed = desired_children(node, context())
    places = {
        (manifest["kind"], path)
        for manifest in changed
        for path, value in leaves(manifest)
        if isinstance(value, str) and ("evil" in value or "DROP" in value)
    }
    assert {value for manifest in changed for _, value in leaves(manifest) if "evil" in str(value)} == {HOSTILE_TEXT}
    assert {kind for kind, _ in places} == {"Service", "Ingress", "Deployment", "Job"}
    assert {path[0] for kind, path in places if kind in ("Service", "Ingress")} == {"metadata"}
