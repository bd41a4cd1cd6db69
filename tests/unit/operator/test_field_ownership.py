"""Whether an apply would change anything: by the fields that are owned, and their values."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode_operator.field_ownership import is_applied, owned_fields, owns

ME = "gridnode-operator"


def live(fields: dict[str, Any], **content: Any) -> dict[str, Any]:
    """An object of which ``fields`` were applied, and a label."""
    fields = {"f:metadata": {"f:labels": {"f:a": {}}}, **fields}
    entry = {"manager": ME, "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": fields}
    other = {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:other": {}}}}
    metadata = {"name": "demo", "namespace": "apps", "uid": "1", "labels": {"a": "1"}, "managedFields": [other, entry]}
    return {"apiVersion": "v1", "kind": "Thing", "metadata": metadata, **content}


def desired(**content: Any) -> dict[str, Any]:
    metadata = {"name": "demo", "namespace": "apps", "labels": {"a": "1"}}
    return {"apiVersion": "v1", "kind": "Thing", "metadata": metadata, **content}


def same(wanted: Any, found: Any, fields: dict[str, Any] | None = None) -> bool:
    """Whether a field ``x`` is applied, owned as a whole unless ``fields`` says more."""
    return is_applied(desired(spec={"x": wanted}), live({"f:spec": {"f:x": fields or {}}}, spec={"x": found}), ME)


@pytest.fixture
def service() -> tuple[dict[str, Any], dict[str, Any]]:
    """A manifest, and the object it was applied to, which holds more than that."""
    manifest = desired(
        spec={
            "type": "ClusterIP",
            "selector": {"app": "demo"},
            "ports": [{"name": "http", "port": 80, "targetPort": "device", "protocol": "TCP"}],
        }
    )
    manifest["metadata"] |= {"labels": {"a": "1", "b": ""}, "ownerReferences": [{"uid": "u", "name": "demo"}]}
    fields = {
        "f:metadata": {
            "f:labels": {".": {}, "f:a": {}, "f:b": {}},
            "f:ownerReferences": {".": {}, 'k:{"uid":"u"}': {}},
        },
        "f:spec": {
            "f:type": {},
            "f:selector": {},
            "f:ports": {
                'k:{"port":80,"protocol":"TCP"}': {
                    ".": {}, "f:name": {}, "f:port": {}, "f:targetPort": {}, "f:protocol": {},
                }
            },
        },
    }  # fmt: skip
    found = live(fields, **copy.deepcopy({"spec": manifest["spec"]}))
    found["spec"] |= {"clusterIP": "10.0.0.1"}
    found["spec"]["ports"][0]["nodePort"] = 30000
    found["spec"]["ports"].insert(0, {"name": "of-another", "port": 81, "protocol": "TCP"})
    found["metadata"] |= {
        "labels": {"a": "1", "b": "", "of-another": "x"},
        "ownerReferences": [{"uid": "of-another"}, {"uid": "u", "name": "demo"}],
    }
    return manifest, found


def test_applied_manifest_is_recognized_among_what_others_added(
    service: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    assert is_applied(*service, ME)


def test_every_changed_or_removed_value_is_seen(service: tuple[dict[str, Any], dict[str, Any]]) -> None:
    manifest, found = service

    def places(value: Any) -> list[tuple[Any, Any]]:
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [place for key, each in inside for place in ((value, key), *places(each))]

    seen = 0
    for index in range(len(places(manifest))):
        for change in ("changed", "removed"):
            other = copy.deepcopy(manifest)
            at, key = places(other)[index]
            if at is other or (at is other["metadata"] and key in ("name", "namespace")):
                continue
            if change == "removed":
                del at[key]
            elif isinstance(at[key], str):
                at[key] += "x"
            elif isinstance(at[key], int):
                at[key] += 1
            else:
                continue
            # What is gone from within a value that is owned as a whole can't be told from what the server filled in.
            is_within = change == "removed" and at in ({"uid": "u"}, {})
            assert is_applied(other, found, ME) == is_within, (key, change)
            seen += 1
    assert seen == 26


def test_value_that_somebody_changed_in_the_live_object_is_seen(
    service: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    manifest, found = service
    changes: list[Callable[[Any], object]] = [
        lambda each: each["spec"].update(type="NodePort"),
        lambda each: each["spec"].pop("type"),
        lambda each: each["spec"].update(selector={"app": "other"}),
        lambda each: each["spec"].pop("selector"),
        lambda each: each["spec"]["ports"].pop(),
        lambda each: each["spec"]["ports"][1].update(targetPort=1),
        lambda each: each["metadata"]["labels"].update(a="2"),
        lambda each: each["metadata"]["labels"].pop("b"),
        lambda each: each["metadata"].pop("labels"),
        lambda each: each["metadata"]["ownerReferences"].pop(),
    ]
    for change in changes:
        changed = copy.deepcopy(found)
        change(changed)
        # A label that is to be empty and one that is not there can't be told apart by the value alone.
        is_seen = not is_applied(manifest, changed, ME)
        assert is_seen or changed["metadata"]["labels"] == {"a": "1", "of-another": "x"}


def test_value_that_is_not_owned_any_more_is_seen() -> None:
    """Somebody who writes a field takes it over, even with the same value; a later one could then be lost."""
    assert not is_applied(desired(spec={"x": 1}), live({}, spec={"x": 1}), ME)
    assert not is_applied(desired(spec={"x": 1, "y": 2}), live({"f:spec": {"f:x": {}}}, spec={"x": 1, "y": 2}), ME)


def test_owned_value_that_is_not_wanted_any_more_is_seen() -> None:
    fields: dict[str, Any] = {"f:spec": {"f:x": {}, "f:y": {}}}
    assert not is_applied(desired(spec={"x": 1}), live(fields, spec={"x": 1, "y": 2}), ME)
    assert not is_applied(desired(), live({"f:spec": {"f:x": {}}}, spec={"x": 1}), ME)


@pytest.mark.parametrize(
    "entry",
    [
        {"manager": "kubectl", "operation": "Apply"},
        {"manager": ME, "operation": "Update"},
        {"manager": ME, "operation": "Apply", "subresource": "status"},
    ],
)
def test_only_what_was_applied_by_this_manager_counts(entry: dict[str, str]) -> None:
    found = live({}, spec={"x": 1})
    found["metadata"]["managedFields"] = [{**entry, "fieldsV1": {"f:spec": {"f:x": {}}}}]
    assert owned_fields(found, ME) is None
    assert not is_applied(desired(spec={"x": 1}), found, ME)
    del found["metadata"]["managedFields"]
    assert not is_applied(desired(spec={"x": 1}), found, ME)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("", None),
        ({}, None),
        ([], None),
        (False, None),
        (0, None),
        ({"a": {}}, {"a": {}}),
        ({"a": ""}, {}),
        ({"a": 1}, {"a": 1, "filled-in": 2}),
        ([{"a": 1}], [{"a": 1, "filled-in": 2}]),
        ([1, 2], [1, 2]),
        (True, True),
    ],
)
def test_what_the_server_leaves_out_or_fills_in_is_no_difference(wanted: Any, found: Any) -> None:
    assert same(wanted, found)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("a", None),
        ("1", 1),
        ("", "a"),
        ({}, "a"),
        ([], ["a"]),
        ([1, 2], [2, 1]),
        ([1], [1, 2]),
        ([1, 2], [1]),
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, [1]),
        ([1], {"0": 1}),
        ("1000m", "1"),
    ],
)
def test_other_value_is_a_difference(wanted: Any, found: Any) -> None:
    assert not same(wanted, found)


@pytest.mark.parametrize(
    ("wanted", "found", "is_same"),
    [
        ("1000m", "1", True),
        ("1024Mi", "1Gi", True),
        ("0.5", "500m", True),
        ("1e3", "1k", True),
        ("1E3", "1k", True),
        ("1.5Gi", "1536Mi", True),
        (2, "2", True),
        ("0", "0", True),
        ("100000n", "100u", True),
        ("4096Ki", "4Mi", True),
        ("1Ki", "1024", True),
        ("100u", "1m", True),
        ("1.0001", "1001m", True),
        ("9E", "9000000000000000000", True),
        ("1K", "1000", False),
        ("100u", "2m", False),
        ("1E", "1E", True),
        ("1E", "1000P", True),
        ("1", "2", False),
        ("1k", "1Ki", False),
        ("1Gi", "1G", False),
        ("1x", "1y", False),
        ("1x", "1", False),
        ("", "0", False),
    ],
)
def test_quantities_are_compared_by_what_they_amount_to(wanted: Any, found: str, is_same: bool) -> None:
    for kind in ("requests", "limits"):
        fields: dict[str, Any] = {"f:spec": {"f:resources": {f"f:{kind}": {"f:cpu": {}}}}}
        content, there = {kind: {"cpu": wanted}}, {kind: {"cpu": found}}
        assert is_applied(desired(spec={"resources": content}), live(fields, spec={"resources": there}), ME) == is_same
    # As a whole, such as the request of a claim within a volume, which is one value of a list.
    assert same({"resources": {"requests": {"storage": wanted}}}, {"resources": {"requests": {"storage": found}}}) == (
        is_same
    )
    assert same([{"emptyDir": {"sizeLimit": wanted}}], [{"emptyDir": {"sizeLimit": found}}]) == is_same
    assert same({"divisor": wanted}, {"divisor": found}) == is_same
    assert same({"other": wanted}, {"other": found}) == (wanted == found)


def test_items_of_a_set_are_compared_one_by_one() -> None:
    fields: dict[str, Any] = {".": {}, 'v:"a"': {}, "v:2": {}}
    assert same(["a", 2], ["of-another", 2, "a"], fields)
    assert not same(["a"], ["a", 2], fields)
    assert not same(["a", 2], ["a"], fields)
    assert not same(["a", 3], ["a", 2], fields)
    assert not same(["a", 2], None, fields)
    assert not same("a", ["a", 2], fields)


def test_items_with_keys_are_found_wherever_they_stand() -> None:
    fields: dict[str, Any] = {
        'k:{"name":"A"}': {".": {}, "f:name": {}, "f:value": {}},
        'k:{"name":"B"}': {".": {}, "f:name": {}},
    }
    wanted = [{"name": "A", "value": ""}, {"name": "B"}]
    assert same(wanted, [{"name": "B", "value": "of-another"}, {"name": "C"}, {"name": "A"}], fields)
    assert not same(wanted, [{"name": "A", "value": "x"}, {"name": "B"}], fields)
    assert not same(wanted, [{"name": "A"}], fields)
    assert not same([*wanted, {"name": "C"}], [*wanted, {"name": "C"}], fields)


def test_owns() -> None:
    fields: dict[str, Any] = {"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {}}}}
    assert owns(fields, "spec", "replicas")
    assert owns(fields, "spec")
    assert not owns(fields, "spec", "selector")
    assert not owns(fields, "status", "replicas")
    assert not owns(None, "spec")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def whole_fields(value: Any) -> dict[str, Any]:
    """``fieldsV1`` of a manifest whose lists are each owned as a whole."""
    if not isinstance(value, dict):
        return {}
    return {f"f:{key}": whole_fields(each) for key, each in value.items()}


@given(st.dictionaries(st.text(max_size=3), _VALUES, max_size=4))
def test_what_was_applied_as_it_is_needs_no_other_apply(spec: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"f:spec": whole_fields(spec)}
    assert is_applied(desired(spec=spec), live(fields, spec=copy.deepcopy(spec)), ME)


@given(_VALUES, _VALUES)
def test_comparing_never_fails(wanted: Any, found: Any) -> None:
    assert same(wanted, found) in (True, False)
    assert is_applied(desired(spec=wanted), live({"f:spec": whole_fields(wanted)}, spec=found), ME) in (True, False)
