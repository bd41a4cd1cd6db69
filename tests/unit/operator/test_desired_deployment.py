"""The Deployment: restarts when it must and never otherwise, loses nothing, and is restricted."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest

from gridnode.settings import check_listeners, load_settings
from gridnode_operator.api import MANAGED_VARIABLES, SECRETS_HASH_ANNOTATION
from gridnode_operator.desired import NodeSecrets, deployment
from gridnode_operator.desired.context import secret_hash
from gridnode_operator.desired.environment import node_environment, secret_references
from tests.support.gridnode_manifests import (
    ALTERNATIVES,
    DATABASE_URL,
    EVERYTHING,
    children,
    context,
    gridnode,
    job_of,
    pod_spec,
)

TOKEN = "a-token-of-sixteen-or-more"


def template(spec: dict[str, Any] | None = None, **changes: Any) -> Any:
    return children(spec, **changes)["Deployment/demo"]["spec"]["template"]


def environment(spec: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    (container,) = template(spec, **changes)["spec"]["containers"]
    names = [variable["name"] for variable in container["env"]]
    assert len(set(names)) == len(names), "server-side apply refuses a name that is there twice"
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


def test_pods_restart_when_a_secret_that_they_read_changes() -> None:
    before, after = template(), template(secret_hashes={"demo-database": "cccc", "demo-management": "bbbb"})
    hashes = [each["metadata"]["annotations"].pop(SECRETS_HASH_ANNOTATION) for each in (before, after)]
    assert hashes[0] != hashes[1]
    assert before == after


def test_pods_don_t_restart_for_what_they_don_t_read() -> None:
    """An upgrade of the operator changes its release's revision, its labels, its own login on the server."""
    later = template(
        schema_revision="9999",
        operator_namespace="elsewhere",
        operator_labels={"app": "other"},
        secret_hashes={"demo-management": "bbbb", "demo-database": "aaaa"},
        secrets=NodeSecrets(database_url=DATABASE_URL + "&x=1", management_token=TOKEN + "x", master_key="other"),
    )
    assert later == template()
    assert "gridnode_operator.__version__" not in inspect.getsource(deployment)


def test_pods_don_t_restart_when_only_the_number_or_what_is_around_them_changes() -> None:
    changed = {
        "replicas": 7,
        "exposure": ALTERNATIVES["exposure"],
        "networkPolicy": {"enabled": True},
        "monitoring": {"enabled": True},
        "disruptionBudget": {"minAvailable": 1},
        "database": {"reclaimPolicy": "Delete", "rotate": "1"},
        "paused": True,
    }
    assert template(changed) == template()


def test_a_new_pod_serves_before_an_old_one_goes() -> None:
    strategy = children()["Deployment/demo"]["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


@pytest.mark.parametrize("drain", [1, 30, 3600])
def test_pods_get_more_time_to_stop_than_they_drain(drain: int) -> None:
    spec = {"drainTimeoutSeconds": drain}
    pod = template(spec)["spec"]
    (container,) = pod["containers"]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause >= 5
    # The node itself ends what is left 10 seconds after its drain timeout.
    assert pod["terminationGracePeriodSeconds"] > pause + drain + 10
    assert environment(spec)["GRIDNODE_DRAIN_TIMEOUT"] == str(drain)


def test_replicas_are_left_to_the_autoscaler() -> None:
    assert children({"replicas": 3})["Deployment/demo"]["spec"]["replicas"] == 3
    assert children()["Deployment/demo"]["spec"]["replicas"] == 1
    assert "replicas" not in children({"autoscaling": {"maxReplicas": 5}})["Deployment/demo"]["spec"]


def test_probes_ask_the_management_port_and_liveness_doesn_t_depend_on_the_database() -> None:
    (container,) = template()["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"device": 5000, "management": 5050}
    probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    assert {name: probe["httpGet"] for name, probe in probes.items()} == {
        "startup": {"path": "/healthz", "port": "management"},
        "readiness": {"path": "/readyz", "port": "management"},
        "liveness": {"path": "/healthz", "port": "management"},
    }
    assert probes["startup"]["periodSeconds"] == 1


@pytest.mark.parametrize("spec", [{}, EVERYTHING, ALTERNATIVES])
def test_pods_are_restricted(spec: dict[str, Any]) -> None:
    """Pod Security Standards, profile restricted (Kubernetes 1.36)."""
    made = children(spec)
    for pod in (pod_spec(made["Deployment/demo"]), pod_spec(job_of(made))):
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert not any("hostPort" in port for port in container.get("ports", []))
        assert {"name": "gridnode-tmp", "mountPath": "/tmp"} in container["volumeMounts"]


def test_the_users_own_scratch_volume_takes_the_place_of_ours() -> None:
    mount = {"name": "fast", "mountPath": "/tmp"}
    spec = {"podTemplate": {"volumes": [{"name": "fast", "emptyDir": {"medium": "Memory"}}], "volumeMounts": [mount]}}
    assert template(spec)["spec"]["containers"][0]["volumeMounts"] == [mount]


@pytest.mark.parametrize("spec", [{}, EVERYTHING, ALTERNATIVES])
def test_the_node_accepts_its_environment(spec: dict[str, Any]) -> None:
    variables = environment(spec)
    texts = {name: value for name, value in variables.items() if isinstance(value, str)}
    secrets = {name: TOKEN for name, value in variables.items() if not isinstance(value, str)}
    settings = load_settings({**texts, **secrets, "GRIDNODE_DATABASE_URL": DATABASE_URL})
    assert [each for each in settings.warnings if "IAM_AUTHENTICATION" not in each] == []
    check_listeners(settings)
    assert (settings.device_port, settings.management_port) == (5000, 5050)
    assert settings.management_token == TOKEN
    assert settings.log_format == "json"


def test_every_field_has_its_setting() -> None:
    variables = environment(EVERYTHING)
    settings = load_settings({name: value for name, value in variables.items() if isinstance(value, str)})
    assert settings.worker_processes == 4
    assert settings.drain_timeout == 120
    assert settings.database_pool_size == 6
    assert settings.master_url == "https://master.example/grid"
    assert settings.body_limit == 1048576
    assert settings.connection_limit == 5000
    assert settings.connection_limit_per_address == 0
    assert settings.request_rate_per_address == 20
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8", "fd00::/8"]
    assert settings.legacy_hosting is True
    assert settings.node_id == "apps/demo"
    assert settings.log_level == "debug"
    assert variables["GRIDNODE_DATABASE_IAM_AUTHENTICATION"] == "true"
    assert variables["GRIDNODE_DATABASE_URL"] == {"secretKeyRef": {"name": "demo-database", "key": "url"}}
    assert variables["GRIDNODE_MANAGEMENT_TOKEN"] == {"secretKeyRef": {"name": "management-login", "key": "token"}}
    assert variables["GRIDNODE_MASTER_KEY"] == {"secretKeyRef": {"name": "master-login", "key": "token"}}
    assert environment()["GRIDNODE_MANAGEMENT_TOKEN"] == {"secretKeyRef": {"name": "demo-management", "key": "token"}}


def test_all_variables_that_the_operator_sets_are_reserved() -> None:
    given = {variable["name"] for variable in EVERYTHING["podTemplate"]["env"]}
    assert environment(EVERYTHING).keys() - given <= set(MANAGED_VARIABLES)


def test_the_id_of_a_node_fits_the_node_and_is_its_own() -> None:
    nodes = [gridnode(name="x" * 253, namespace="n" * 63), gridnode(name="x" * 252, namespace="n" * 63), gridnode()]
    ids = [load_settings(node_environment(node, context())).node_id for node in nodes]
    assert len(set(ids)) == 3
    assert ids[2] == "apps/demo"


def test_every_secret_that_pods_read_is_named_for_its_hash() -> None:
    references = secret_references(gridnode(EVERYTHING), context())
    assert [(each.name, each.key) for each in references] == [
        ("demo-database", "url"),
        ("management-login", "token"),
        ("master-login", "token"),
        ("proxy", "url"),
    ]
    assert [each.name for each in secret_references(gridnode(), context())] == [
        "demo-database", "demo-management", "demo-master",
    ]  # fmt: skip


def test_the_hash_of_a_secret_follows_its_content_and_tells_nothing_without_its_uid() -> None:
    base = secret_hash({"url": b"a", "token": b"b"}, "uid")
    assert base == secret_hash({"token": b"b", "url": b"a"}, "uid")
    others = [
        secret_hash({"url": b"a"}, "uid"),
        secret_hash({"url": b"ab", "token": b""}, "uid"),
        secret_hash({"url": b"b", "token": b"a"}, "uid"),
        secret_hash({"url": b"a", "token": b"b"}, "other"),
    ]
    assert len({base, *others}) == 5


def test_the_operators_key_goes_to_the_operators_master_node_only() -> None:
    own: dict[str, Any] = {}
    elsewhere = {"master": {"url": "https://attacker.example"}}
    assert environment(own)["GRIDNODE_MASTER_KEY"] == {"secretKeyRef": {"name": "demo-master", "key": "key"}}
    assert "Secret/demo-master" in children(own)
    assert environment(elsewhere)["GRIDNODE_MASTER_URL"] == "https://attacker.example"
    assert "GRIDNODE_MASTER_KEY" not in environment(elsewhere)
    assert "Secret/demo-master" not in children(elsewhere)
    no_key = replace(context().secrets, master_key=None)
    assert "GRIDNODE_MASTER_KEY" not in environment(own, secrets=no_key)
    assert "GRIDNODE_MASTER_URL" not in environment(own, master_url=None)


def test_quantities_may_be_numbers() -> None:
    (container,) = template({"resources": {"requests": {"cpu": 2, "memory": "1Gi"}}})["spec"]["containers"]
    assert container["resources"] == {"requests": {"cpu": "2", "memory": "1Gi"}}


def test_a_spread_constraint_counts_the_pods_of_its_node_if_it_says_nothing_else() -> None:
    constraint = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    other = {**constraint, "labelSelector": {"matchLabels": {"a": "b"}}}
    made = template({"podTemplate": {"topologySpreadConstraints": [constraint, other]}})
    first, second = made["spec"]["topologySpreadConstraints"]
    assert first["labelSelector"]["matchLabels"].items() <= made["metadata"]["labels"].items()
    assert second == other
