"""The status: Ready only when everything is as declared, and nothing in it that was not observed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode_operator.api import InvalidSpec, ModelsStatus
from gridnode_operator.crd import custom_resource_definition
from gridnode_operator.desired import desired_children
from gridnode_operator.desired.migration_job import migration_job_name
from gridnode_operator.status import (
    DatabaseObservation,
    Observed,
    Problem,
    compute_invalid_status,
    compute_status,
    summarize_models,
)
from tests.support.gridnode_manifests import ALTERNATIVES, assert_snapshot, context, gridnode, resource

NOW = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)
TYPES = ["Ready", "DatabaseReady", "Migrated", "Available", "Exposed", "Progressing", "Degraded"]
SETTLED = {"observedGeneration": 7, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}
Change = Callable[[dict[str, Any]], None]


def settled(spec: dict[str, Any] | None = None) -> dict[str, Any]:
    """What is observed of a node that is as declared, with two pods."""
    node = gridnode({"replicas": 2} if spec is None else spec)
    live = {
        each["kind"]: copy.deepcopy(each) for each in desired_children(node, context()) if each["kind"] != "Service"
    }
    services = [each for each in desired_children(node, context()) if each["kind"] == "Service"]
    live["Deployment"]["metadata"]["generation"] = 7
    live["Deployment"]["spec"].setdefault("replicas", 2)
    live["Deployment"]["status"] = dict(SETTLED)
    live["Job"]["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    return {
        "migration_job_name": migration_job_name(node, context()),
        "database": DatabaseObservation(schema="gn_apps_demo", revision="0001"),
        "migration_job": live["Job"],
        "deployment": live["Deployment"],
        "service": copy.deepcopy(services[0]),
        "ingress": live.get("Ingress"),
        "http_route": live.get("HTTPRoute"),
    }


def status_of(seen: dict[str, Any], spec: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return compute_status(gridnode({"replicas": 2} if spec is None else spec, **more), Observed(**seen), NOW)


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}


def message(status: dict[str, Any], kind: str) -> str:
    return next(str(each["message"]) for each in status["conditions"] if each["type"] == kind)


def test_a_node_that_is_as_declared() -> None:
    seen = settled() | {"models": ModelsStatus(count=3, active=2, finished=1, percent=40, last_completed_cycle=12)}
    status = status_of(seen)
    assert [each["type"] for each in status["conditions"]] == TYPES
    assert_snapshot("status-ready", [status])


def test_a_node_that_is_just_created() -> None:
    assert_snapshot("status-created", [status_of({"migration_job_name": "demo-migrate-0001-x"})])


def test_a_node_whose_migration_failed() -> None:
    seen = settled()
    seen["migration_job"]["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    seen |= {"migration_log": "\nTraceback …\nDiskFull: no space left\n", "not_applied": ["Deployment demo"]}
    assert_snapshot("status-migration-failed", [status_of(seen)])


def remove(key: str) -> Change:
    return lambda seen: seen.__setitem__(key, None)


def deployment(**status: Any) -> Change:
    return lambda seen: seen["deployment"]["status"].update(status)


def job(*conditions: dict[str, str]) -> Change:
    return lambda seen: seen["migration_job"].__setitem__("status", {"conditions": list(conditions)})


def replace(key: str, value: Any) -> Change:
    return lambda seen: seen.__setitem__(key, value)


def foreign(key: str) -> Change:
    return lambda seen: seen[key]["metadata"]["ownerReferences"][0].__setitem__("uid", "another")


LESS_THAN_READY: list[tuple[str, Change]] = [
    ("NotAsked", remove("database")),
    ("ServerAway", replace("database", DatabaseObservation(schema="s", problem=Problem("ServerAway", "It is away.")))),
    ("Waiting", remove("migration_job")),
    ("Waiting", replace("migration_job_name", "demo-migrate-0002-of-another-image")),
    ("Waiting", foreign("migration_job")),
    ("Migrating", job()),
    ("Migrating", job({"type": "Complete", "status": "False"})),
    ("Migrating", job({"type": "SuccessCriteriaMet", "status": "True"})),
    ("MigrationFailed", job({"type": "Failed", "status": "True"})),
    ("SchemaLost", replace("database", DatabaseObservation(schema="s", revision=""))),
    ("NoDeployment", remove("deployment")),
    ("NoDeployment", foreign("deployment")),
    ("NoPods", deployment(availableReplicas=0)),
    ("NoPods", lambda seen: seen["deployment"].pop("status")),
    ("RollingOut", deployment(observedGeneration=6)),
    ("RollingOut", deployment(updatedReplicas=1)),
    ("RollingOut", deployment(replicas=3)),
    ("Scaling", lambda seen: seen["deployment"]["spec"].__setitem__("replicas", 1)),
    ("Scaling", lambda seen: seen["deployment"]["spec"].__setitem__("replicas", 3)),
    ("PodsNotReady", deployment(availableReplicas=1)),
    ("PodsNotReady", deployment(readyReplicas=1)),
    ("DeploymentDeleted", lambda seen: seen["deployment"]["metadata"].__setitem__("deletionTimestamp", "2024")),
    ("NotApplied", replace("not_applied", ["Deployment demo"])),
    ("Forbidden", replace("problems", [Problem("Forbidden", "Secrets can't be written.")])),
    ("NoService", remove("service")),
    ("NoService", foreign("service")),
]


@pytest.mark.parametrize(("reason", "change"), LESS_THAN_READY)
def test_ready_is_not_claimed_when_anything_is_missing(reason: str, change: Change) -> None:
    seen = settled()
    assert conditions(status_of(seen))["Ready"] == ("True", "Ready")
    change(seen)
    status = status_of(seen)
    assert conditions(status)["Ready"] == ("False", reason)
    assert message(status, "Ready")


@given(st.sets(st.sampled_from(range(len(LESS_THAN_READY))), min_size=1))
def test_ready_is_not_claimed_whatever_is_missing_together(chosen: set[int]) -> None:
    seen = settled()
    for index in sorted(chosen):
        change = LESS_THAN_READY[index][1]
        try:
            change(seen)
        except (TypeError, KeyError, AttributeError):
            continue  # what it would change is gone already
    found = conditions(status_of(seen))
    assert found["Ready"][0] == "False"
    assert found["Progressing"][1] != "Settled"


def test_a_node_that_is_deleted_is_not_ready() -> None:
    found = conditions(status_of(settled(), deletionTimestamp="2024-05-01T11:59:00Z"))
    assert found["Ready"] == ("False", "Deleting")
    assert found["Progressing"] == ("True", "Deleting")


def test_the_number_of_pods_is_the_autoscalers_where_there_is_one() -> None:
    seen = settled(ALTERNATIVES)
    accepted = {"type": "Accepted", "status": "True"}
    seen["http_route"]["status"] = {"parents": [{"parentRef": {"name": "public"}, "conditions": [accepted]}]}
    assert conditions(status_of(seen, ALTERNATIVES))["Ready"] == ("True", "Ready")
    seen["deployment"]["spec"]["replicas"] = 3
    assert conditions(status_of(seen, ALTERNATIVES))["Ready"] == ("False", "RollingOut")


def test_scaled_to_zero_is_settled_but_serves_nobody() -> None:
    spec = {"replicas": 0}
    seen = settled(spec)
    seen["deployment"]["status"] = {"observedGeneration": 7}
    status = status_of(seen, spec)
    found = conditions(status)
    assert found["Ready"] == found["Available"] == ("False", "ScaledToZero")
    assert found["Progressing"] == ("False", "Settled")
    assert found["Degraded"] == ("False", "AsExpected")
    assert status["display"]["replicas"] == "0/0"


def test_old_pods_are_available_while_the_next_migration_runs() -> None:
    seen = settled()
    job()(seen)
    seen["not_applied"] = ["Deployment demo"]
    found = conditions(status_of(seen))
    assert found["Available"] == ("True", "PodsInService")
    assert found["Migrated"] == ("False", "Migrating")
    assert found["Progressing"] == ("True", "Migrating")
    assert found["Degraded"] == ("False", "AsExpected")


def test_what_can_t_go_on_by_itself_is_degraded_and_not_progressing() -> None:
    stuck = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}
    forbidden = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": "violates PodSecurity",
    }
    for change, reason in (
        (deployment(updatedReplicas=1, conditions=[stuck]), "RolloutStuck"),
        (deployment(updatedReplicas=1, conditions=[stuck, forbidden]), "FailedCreate"),
        (job({"type": "Failed", "status": "True"}), "MigrationFailed"),
        (replace("problems", [Problem("Forbidden", "no"), Problem("Other", "neither")]), "Forbidden"),
        (replace("database", DatabaseObservation(schema="s", problem=Problem("ServerAway", "away"))), "ServerAway"),
    ):
        seen = settled()
        change(seen)
        found = conditions(status_of(seen))
        assert found["Degraded"] == ("True", reason)
        assert found["Progressing"] == ("False", reason)
        assert found["Ready"][0] == "False"


def test_a_warning_is_degraded_but_ready() -> None:
    status = status_of(
        settled() | {"warnings": [Problem("ConnectionBudget", "180 of 189 connections are spoken for.")]}
    )
    found = conditions(status)
    assert found["Degraded"] == ("True", "ConnectionBudget")
    assert found["Ready"] == ("True", "Ready")
    assert found["Progressing"] == ("False", "Settled")


def test_paused_is_ready_only_if_nothing_is_left_undone() -> None:
    spec = {"replicas": 2, "paused": True}
    as_declared = conditions(status_of(settled(spec), spec))
    assert as_declared["Ready"] == ("True", "Ready")
    assert as_declared["Progressing"] == ("False", "Paused")
    left = conditions(status_of(settled(spec) | {"not_applied": ["Deployment demo"]}, spec))
    assert left["Ready"] == ("False", "Paused")


def test_times_stay_while_a_condition_stays_and_the_status_is_the_same_again() -> None:
    first = status_of(settled())
    later = compute_status(gridnode({"replicas": 2}, status=first), Observed(**settled()), NOW + timedelta(hours=1))
    assert later == first
    seen = settled()
    deployment(availableReplicas=1)(seen)
    changed = compute_status(gridnode({"replicas": 2}, status=first), Observed(**seen), NOW + timedelta(hours=1))
    times = {each["type"]: each["lastTransitionTime"] for each in changed["conditions"]}
    assert times["Ready"] == times["Progressing"] == "2024-05-01T13:00:00Z"
    assert times["Available"] == times["Migrated"] == "2024-05-01T12:00:00Z"


def test_models_and_revision_stay_when_nobody_could_be_asked() -> None:
    first = status_of(settled() | {"models": ModelsStatus(count=3, active=2, finished=1, percent=40)})
    away = settled() | {"database": None}
    later = compute_status(gridnode({"replicas": 2}, status=first), Observed(**away), NOW)
    assert later["models"] == first["models"]
    assert later["schemaRevision"] == "0001"
    assert later["database"] == {"schema": "gn_apps_demo"}
    assert later["display"] == {"replicas": "2/2", "progress": "40%"}


def test_conditions_are_about_the_generation_they_were_computed_for() -> None:
    status = status_of(settled(), generation=12)
    assert status["observedGeneration"] == 12
    assert {each["observedGeneration"] for each in status["conditions"]} == {12}


def test_an_invalid_spec_is_told_and_the_rest_is_kept() -> None:
    before = status_of(settled())
    broken = {**resource(generation=9), "status": before}
    status = compute_invalid_status(broken, InvalidSpec("spec.replicas", "is too many"), NOW + timedelta(hours=1))
    found = conditions(status)
    assert list(found) == TYPES
    assert found["Ready"] == ("False", "InvalidSpec")
    assert found["Degraded"] == ("True", "InvalidSpec")
    assert found["Available"] == ("True", "PodsInService")
    assert message(status, "Ready") == "spec.replicas: is too many"
    assert (status["observedGeneration"], status["url"]) == (9, before["url"])
    assert conditions(compute_invalid_status(resource(), InvalidSpec("spec", "no"), NOW))["Ready"][0] == "False"


def test_a_long_log_keeps_its_end() -> None:
    seen = settled()
    job({"type": "Failed", "status": "True"})(seen)
    text = message(status_of(seen | {"migration_log": "x" * 50_000 + "\nDiskFull: no space left"}), "Migrated")
    assert len(text) <= 4000
    assert text.startswith("Job demo-migrate-")
    assert text.endswith("no space left")


def exposed(spec: dict[str, Any], change: Change | None = None) -> tuple[tuple[str, str], str | None, str]:
    seen = settled({"replicas": 2, "exposure": spec})
    if change is not None:
        change(seen)
    status = status_of(seen, {"replicas": 2, "exposure": spec})
    return conditions(status)["Exposed"], status.get("url"), conditions(status)["Ready"][0]


def balancer(key: str, address: dict[str, str]) -> Change:
    return lambda seen: seen[key].__setitem__("status", {"loadBalancer": {"ingress": [address]}})


def route(*conditions: dict[str, Any]) -> Change:
    parents = [{"parentRef": {"name": "public"}, "conditions": list(conditions)}]
    return lambda seen: seen["http_route"].__setitem__("status", {"parents": parents})


INGRESS = {"ingress": {"host": "demo.example"}}
SECURE_INGRESS = {"ingress": {"host": "demo.example", "tlsSecretName": "cert"}}
ROUTE = ALTERNATIVES["exposure"]
BALANCER = {"service": {"type": "LoadBalancer", "port": 80}}


@pytest.mark.parametrize(
    ("spec", "change", "expected"),
    [
        ({}, None, (("True", "InCluster"), "http://demo.apps.svc:5000", "True")),
        ({"service": {"type": "NodePort"}}, None, (("True", "NodePort"), "http://demo.apps.svc:5000", "True")),
        (BALANCER, None, (("False", "NoLoadBalancer"), None, "False")),
        (BALANCER, balancer("service", {"ip": "1.2.3.4"}), (("True", "LoadBalancer"), "http://1.2.3.4:80", "True")),
        (BALANCER, balancer("service", {"ip": "fd00::1"}), (("True", "LoadBalancer"), "http://[fd00::1]:80", "True")),
        (
            BALANCER,
            balancer("service", {"hostname": "x.elb.example"}),
            (("True", "LoadBalancer"), "http://x.elb.example:80", "True"),
        ),
        (INGRESS, remove("ingress"), (("False", "NoIngress"), None, "False")),
        (INGRESS, None, (("Unknown", "NoAddress"), "http://demo.example", "True")),
        (SECURE_INGRESS, balancer("ingress", {"ip": "1.2.3.4"}), (("True", "Ingress"), "https://demo.example", "True")),
        ({"ingress": {"host": "*.example"}}, None, (("Unknown", "NoAddress"), None, "True")),
        (ROUTE, remove("http_route"), (("False", "NoHTTPRoute"), None, "False")),
        (ROUTE, None, (("Unknown", "NoGateway"), "https://demo.phones.example", "True")),
        (
            ROUTE,
            route({"type": "Accepted", "status": "True"}, {"type": "ResolvedRefs", "status": "True"}),
            (("True", "HTTPRoute"), "https://demo.phones.example", "True"),
        ),
        (
            ROUTE,
            route(
                {"type": "Accepted", "status": "True"}, {"type": "ResolvedRefs", "status": "False", "reason": "Gone"}
            ),
            (("False", "Gone"), "https://demo.phones.example", "False"),
        ),
        (
            ROUTE,
            lambda seen: (
                seen["http_route"]["metadata"].update(generation=2),
                route({"type": "Accepted", "status": "True", "observedGeneration": 1})(seen),
            ),
            (("Unknown", "NoGateway"), "https://demo.phones.example", "True"),
        ),
    ],
)
def test_exposed_and_url_are_those_of_the_outermost_object(
    spec: dict[str, Any], change: Change | None, expected: tuple[Any, ...]
) -> None:
    assert exposed(spec, change) == expected


def process(state: str, completed: int, cycles: int | None) -> dict[str, Any]:
    return {"state": state, "completed_cycles": completed, "num_cycles": cycles}


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        ([], ModelsStatus()),
        ([process("active", 0, 10)], ModelsStatus(count=1, active=1, percent=0)),
        ([process("active", 7, None)], ModelsStatus(count=1, active=1, last_completed_cycle=7)),
        (
            [process("active", 5, 10), process("paused", 0, 10), process("finished", 3, 10), process("failed", 2, 10)],
            ModelsStatus(count=4, active=2, finished=1, failed=1, percent=42, last_completed_cycle=5),
        ),
        ([process("finished", 10, 10)], ModelsStatus(count=1, finished=1, percent=100, last_completed_cycle=10)),
        ([process("active", 999, 1000)], ModelsStatus(count=1, active=1, percent=99, last_completed_cycle=999)),
    ],
)
def test_models_are_summed_up(processes: list[dict[str, Any]], expected: ModelsStatus) -> None:
    assert summarize_models(processes) == expected


def test_every_status_fits_the_schema_and_uses_all_of_it() -> None:
    """What the schema does not name, the API server prunes, and the operator would write it again and again."""
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    full = status_of(settled() | {"models": ModelsStatus(count=1, percent=1, last_completed_cycle=1)})
    assert full.keys() == schema["properties"].keys()
    for each in full["conditions"]:
        assert each.keys() == schema["properties"]["conditions"]["items"]["properties"].keys()
    for part in ("models", "database", "display"):
        assert full[part].keys() == schema["properties"][part]["properties"].keys()
    small = status_of({"migration_job_name": "x"})
    assert small.keys() <= full.keys()
    assert None not in small.values()
