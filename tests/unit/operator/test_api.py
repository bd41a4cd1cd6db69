"""The GridNode's spec: what is accepted, what is refused, and that a refusal names the field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from gridnode.settings import setting_specs
from gridnode_operator.api import MANAGED_VARIABLES, GridNodeSpec, InvalidSpec, parse, parse_spec
from tests.support.gridnode_manifests import ALTERNATIVES, EVERYTHING, UID, gridnode, resource


def test_an_empty_spec_is_a_node_of_one_pod() -> None:
    spec = parse_spec({})
    assert spec == GridNodeSpec()
    assert (spec.replicas, spec.processes_per_pod, spec.database.reclaim_policy) == (1, 1, "Retain")


def test_fields_that_are_null_or_unknown_count_as_absent() -> None:
    assert parse_spec({"image": None, "replicas": None, "database": {"poolSize": None}, "future": 1}) == GridNodeSpec()


@pytest.mark.parametrize("spec", [EVERYTHING, ALTERNATIVES])
def test_every_field_is_accepted(spec: dict[str, Any]) -> None:
    assert parse_spec(spec) != GridNodeSpec()


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"replicas": 101}, "spec.replicas"),
        ({"replicas": -1}, "spec.replicas"),
        ({"replicas": "2"}, "spec.replicas"),
        ({"image": ""}, "spec.image"),
        ({"image": "two words"}, "spec.image"),
        ({"image": "evil\n"}, "spec.image"),
        ({"imagePullPolicy": "Sometimes"}, "spec.imagePullPolicy"),
        ({"imagePullSecrets": ["ok", "Not OK"]}, "spec.imagePullSecrets[1]"),
        ({"autoscaling": {"maxReplicas": 0}}, "spec.autoscaling.maxReplicas"),
        ({"autoscaling": {}}, "spec.autoscaling"),
        ({"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}, "spec.autoscaling.minReplicas"),
        ({"autoscaling": {"maxReplicas": 2}, "replicas": 3}, "spec.replicas"),
        ({"database": {"schema": "a" * 64}}, "spec.database.schema"),
        ({"database": {"schema": 'x"; DROP SCHEMA public; --'}}, "spec.database.schema"),
        ({"database": {"schema": "pg_temp"}}, "spec.database.schema"),
        ({"database": {"schema": "public"}}, "spec.database.schema"),
        ({"database": {"poolSize": 0}}, "spec.database.poolSize"),
        ({"database": {"tlsMode": "none"}}, "spec.database.tlsMode"),
        ({"database": {"adminSecretRef": {"name": "x"}}}, "spec.database.adminSecretRef"),
        ({"master": {"url": "file:///etc/passwd"}}, "spec.master.url"),
        ({"master": {"url": "http://a b"}}, "spec.master.url"),
        ({"exposure": {"ingress": {"host": "a..b"}}}, "spec.exposure.ingress.host"),
        ({"exposure": {"ingress": {"host": "x\ny"}}}, "spec.exposure.ingress.host"),
        ({"exposure": {"httpRoute": {"parentRefs": [], "hostnames": ["a"]}}}, "spec.exposure.httpRoute.parentRefs"),
        (
            {"exposure": {"httpRoute": {"parentRefs": [{"name": "g\n"}], "hostnames": ["a"]}}},
            "spec.exposure.httpRoute.parentRefs.name",
        ),
        (
            {"exposure": {**ALTERNATIVES["exposure"], "ingress": {"host": "a.example"}}},
            "spec.exposure",
        ),
        ({"limits": {"trustedProxies": ["10.0.0.1/8"]}}, "spec.limits.trustedProxies"),
        ({"monitoring": {"interval": "0s"}}, "spec.monitoring.interval"),
        ({"disruptionBudget": {}}, "spec.disruptionBudget"),
        ({"disruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}}, "spec.disruptionBudget"),
        ({"resources": {"requests": {"cpu": "lots"}}}, "spec.resources.requests"),
        ({"podTemplate": {"labels": {"a b": "c"}}}, "spec.podTemplate.labels"),
        ({"podTemplate": {"labels": {"größe": "c"}}}, "spec.podTemplate.labels"),
        ({"podTemplate": {"labels": {"team": "größe"}}}, "spec.podTemplate.labels"),
        ({"podTemplate": {"env": [{"name": "GRIDNODE_DATABASE_URL", "value": "x"}]}}, "spec.podTemplate.env"),
        ({"podTemplate": {"volumes": [{"name": "gridnode-tmp", "emptyDir": {}}]}}, "spec.podTemplate.volumes"),
        ({"podTemplate": {"tolerations": ["all"]}}, "spec.podTemplate.tolerations[0]"),
    ],
)
def test_a_refusal_names_the_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_spec(spec)
    assert refused.value.field == field
    assert refused.value.why
    assert str(refused.value) == f"{field}: {refused.value.why}"


def test_a_gridnode_is_read_with_its_metadata() -> None:
    read = parse(
        resource(
            {"replicas": 2},
            deletionTimestamp="2024-05-01T10:00:00Z",
            finalizers=["gridnode.io/database"],
            annotations={"gridnode.io/rotate": "now"},
        )
    )
    assert (read.key, read.uid, read.generation, read.replicas) == ("apps/demo", UID, 3, 2)
    assert read.deleting
    assert read.deleted_at == datetime(2024, 5, 1, 10, tzinfo=UTC)
    assert read.finalizers == ("gridnode.io/database",)
    assert not gridnode().deleting


def test_rotation_is_asked_for_by_spec_or_annotation() -> None:
    wishes = [
        gridnode(),
        gridnode({"database": {"rotate": "1"}}),
        gridnode(annotations={"gridnode.io/rotate": "1"}),
        gridnode({"database": {"rotate": "1"}}, annotations={"gridnode.io/rotate": "1"}),
    ]
    assert wishes[0].rotation == ""
    assert all(wish.rotation for wish in wishes[1:])
    assert gridnode({"database": {"rotate": "2"}}).rotation != wishes[1].rotation
    assert (
        gridnode({"database": {"rotate": "1"}}, annotations={"gridnode.io/rotate": "2"}).rotation != wishes[3].rotation
    )


def test_managed_variables_are_settings_of_the_node() -> None:
    known = {spec.variable for spec in setting_specs()} | {
        f"{spec.variable}_FILE" for spec in setting_specs() if spec.secret
    }
    # spec.database.iamAuthentication is for images whose node can log in with IAM tokens.
    assert set(MANAGED_VARIABLES) - known <= {"GRIDNODE_DATABASE_IAM_AUTHENTICATION"}
