"""The migration Job: one for each image, revision and database, and replaced only where it did not succeed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gridnode_operator.desired.migration_job import has_failed, has_succeeded, migration_job_name, must_be_replaced
from tests.support.gridnode_manifests import (
    DATABASE_URL,
    EVERYTHING,
    children,
    context,
    gridnode,
    job_of,
    pod_spec,
)


def name(spec: dict[str, Any] | None = None, **changes: Any) -> str:
    return migration_job_name(gridnode(spec), context(**changes))


def finished(kind: str, job: dict[str, Any]) -> dict[str, Any]:
    return {
        **job,
        "status": {"conditions": [{"type": "Suspended", "status": "False"}, {"type": kind, "status": "True"}]},
    }


def with_url(url: str) -> Any:
    return replace(context().secrets, database_url=url)


def test_another_image_revision_or_database_needs_another_migration() -> None:
    names = {
        name(),
        name({"image": "other"}),
        name(default_image="third"),
        name(schema_revision="0002"),
        name(secrets=with_url("postgresql://u:p@other.example/nodes")),
        name(secrets=with_url("postgresql://u:p@db.example/other")),
        name({"database": {"schema": "adopted"}}),
    }
    assert len(names) == 7


def test_another_password_number_of_pods_or_label_does_not() -> None:
    assert name(secrets=with_url(DATABASE_URL.replace("gn_login_a:opensesame", "gn_login_b:other"))) == name()
    changes = {"replicas": 3, "podTemplate": {"labels": {"a": "b"}}, "resources": {"limits": {"memory": "1Gi"}}}
    assert name(changes) == name()
    assert name(secret_hashes={}, master_url=None, available_apis=frozenset()) == name()


def test_a_job_that_did_not_succeed_is_replaced_when_its_pods_would_be_others() -> None:
    live = job_of(children())
    changed = job_of(children({"imagePullSecrets": ["login"]}))
    assert live["metadata"]["name"] == changed["metadata"]["name"]
    for unfinished in (live, finished("Failed", live)):
        assert must_be_replaced(unfinished, changed)
        assert not must_be_replaced(unfinished, live)
    assert not must_be_replaced(finished("Complete", live), changed)


def test_success_and_failure_are_read_from_conditions() -> None:
    job = job_of(children())
    assert not has_succeeded(job)
    assert not has_failed(job)
    assert has_succeeded(finished("Complete", job))
    assert not has_failed(finished("Complete", job))
    assert has_failed(finished("Failed", job))
    # All pods are done, but the controller has not said so yet.
    assert not has_succeeded(
        {**job, "status": {"succeeded": 1, "conditions": [{"type": "SuccessCriteriaMet", "status": "True"}]}}
    )
    assert not has_succeeded({**job, "status": {"conditions": [{"type": "Complete", "status": "False"}]}})


def test_it_migrates_with_the_image_of_the_node_and_gives_up_in_time() -> None:
    made = children(EVERYTHING)
    job = job_of(made)
    (container,) = pod_spec(job)["containers"]
    assert container["image"] == pod_spec(made["Deployment/demo"])["containers"][0]["image"]
    assert container["command"][:2] == ["gridnode", "migrate"]
    assert pod_spec(job)["restartPolicy"] == "Never"
    assert job["spec"]["backoffLimit"] > 0
    assert job["spec"]["activeDeadlineSeconds"] > 60
    # It stays: its name says what is migrated.
    assert "ttlSecondsAfterFinished" not in job["spec"]


def test_it_gets_the_database_but_neither_token_nor_key() -> None:
    variables = {each["name"] for each in pod_spec(job_of(children(EVERYTHING)))["containers"][0]["env"]}
    assert variables == {
        "GRIDNODE_DATABASE_URL", "GRIDNODE_DATABASE_IAM_AUTHENTICATION", "GRIDNODE_LOG_FORMAT", "GRIDNODE_LOG_LEVEL",
        "HTTPS_PROXY",
    }  # fmt: skip


@pytest.mark.parametrize("key", ["nodeSelector", "tolerations", "priorityClassName", "serviceAccountName", "volumes"])
def test_it_runs_where_the_node_runs(key: str) -> None:
    made = children(EVERYTHING)
    assert pod_spec(job_of(made))[key] == pod_spec(made["Deployment/demo"])[key]


def test_rules_about_other_pods_are_for_the_node_only() -> None:
    affinity = pod_spec(job_of(children(EVERYTHING)))["affinity"]
    assert affinity.keys() == {"nodeAffinity"}
    assert "topologySpreadConstraints" not in pod_spec(job_of(children(EVERYTHING)))
    apart = {"podTemplate": {"affinity": {"podAntiAffinity": EVERYTHING["podTemplate"]["affinity"]["podAntiAffinity"]}}}
    assert "affinity" not in pod_spec(job_of(children(apart)))
