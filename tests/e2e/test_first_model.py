"""From `helm install` to finished models and back: what a user does first, on a real kubelet."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gridnode.simulation.datasets import load_dataset
from tests.support.chart import NAMESPACE
from tests.support.real_cluster.prometheus import Prometheus
from tests.support.real_cluster.release import GridNodeUnderTest, Release
from tests.support.real_cluster.target import Target, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

#: What docs/install.md says stays after `helm uninstall` unless it is told otherwise.
KEPT = {
    ("customresourcedefinitions.apiextensions.k8s.io", "", "gridnodes.gridnode.io"),
    ("apiservices.apiregistration.k8s.io", "", "v1alpha1.gridnode.io"),  # of the former
    ("persistentvolumeclaims", NAMESPACE, "gridnode-master"),
    ("persistentvolumeclaims", NAMESPACE, "data-gridnode-database-0"),
    ("secrets", NAMESPACE, "gridnode-database"),
}
#: Kubernetes makes these by itself, when it likes.
_ITS_OWN = ("events", "leases", "endpoints", "endpointslices", "componentstatuses", "persistentvolumes", "nodes")


def test_two_models_are_trained_to_the_end_and_uninstalling_leaves_only_what_is_documented(
    release: Release, target: Target, transcript: list[str], tmp_path: Path
) -> None:
    for name in (NAMESPACE, "team-a", "team-b"):
        target.kubectl("create", "namespace", name)
    before = objects(target)
    began = time.monotonic()
    release.install()
    prometheus_is = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    monitored = {"enabled": True, "managementFrom": [{"namespaceSelector": prometheus_is}]}
    keyboard = GridNodeUnderTest(release, "keyboard", "team-a", {"replicas": 2, "networkPolicy": monitored})
    steps = GridNodeUnderTest(
        release, "steps", "team-b", {"database": {"reclaimPolicy": "Delete"}, "networkPolicy": monitored}
    )
    # At once, as NOTES.txt shows: nothing has to be waited for in between.
    keyboard.apply()
    steps.apply()
    for each in (keyboard, steps):
        each.wait(240)
    ready = time.monotonic() - began
    keyboard.host("digits")
    steps.host("numbers")
    with monitoring(target, [keyboard, steps]) as prometheus:
        with (
            keyboard.phones("digits", phones=10) as some,
            steps.phones("numbers", phones=10, transport="mixed") as others,
        ):
            first = some.result()
            finished = time.monotonic() - began
            second = others.result()
        assert [sum(cycle["reports"] for cycle in figures["cycles"]) for figures in (first, second)] == [25, 25]
        for each, model in ((keyboard, "digits"), (steps, "numbers")):
            assert_it_has_learned(each, model, tmp_path)
            progress = f'gridnode_model_progress_ratio{{job="{each.namespace}/{each.name}", model="{model}"}} == 1'
            wait_for(f"Prometheus knows of {model}", functools.partial(prometheus.query, progress))
        assert {each["health"] for each in prometheus.targets()} == {"up"}
        assert len(prometheus.targets()) == 3
        assert prometheus.alerts() <= {"GridNodeOperatorDown"}  # it is not scraped here
    assert_the_master_knows(release)
    # The status is asked from the nodes once a minute.
    wait_for("both statuses tell of it", lambda: all(finished_models(each) == 1 for each in (keyboard, steps)), 150)
    transcript += [
        f"# ready after {ready:.0f} s, first finished model after {finished:.0f} s",
        "$ kubectl get gn --all-namespaces", target.kubectl("get", "gn", "-A"),
        "$ kubectl get pods --all-namespaces", target.kubectl("get", "pods", "-A"),
        "$ kubectl describe gn keyboard -n team-a", target.kubectl("describe", "gn", "keyboard", "-n", "team-a"),
    ]  # fmt: skip
    assert len(schemas(release)) == 2
    target.kubectl("delete", "gn", "--all", "-A", "--timeout=120s", seconds=130)
    assert len(schemas(release)) == 1, "keyboard's is retained, that of steps is not"
    release.uninstall()
    with contextlib.suppress(AssertionError):  # said below, with what there is
        wait_for("all is gone", lambda: objects(target) - before == KEPT, 90)
    assert objects(target) - before == KEPT


@contextlib.contextmanager
def monitoring(target: Target, gridnodes: list[GridNodeUnderTest]) -> Iterator[Prometheus]:
    """A Prometheus for some GridNodes."""
    prometheus = Prometheus(target, gridnodes)
    try:
        prometheus.install()
        yield prometheus
    finally:
        prometheus.remove()


def assert_it_has_learned(gridnode: GridNodeUnderTest, model: str, folder: Path) -> None:
    """The finished model can be fetched, and tells digits apart better than the one that was hosted."""
    accuracies = []
    for checkpoint in ("1", "latest"):
        path = folder / f"{model}-{checkpoint}.npz"
        gridnode.retrieve(model, checkpoint, path)
        accuracies.append(accuracy(path))
    assert accuracies[1] > max(0.5, accuracies[0]), accuracies


def accuracy(path: Path) -> float:
    """Share of held-out digits that a saved network names right."""
    weights = dict(np.load(path))
    held_out = load_dataset("digits", 0).held_out
    hidden = np.maximum(held_out.inputs @ weights["p0"].T + weights["p1"], 0)
    answers = (hidden @ weights["p2"].T + weights["p3"]).argmax(axis=1)
    return float((answers == held_out.targets.argmax(axis=1)).mean())


def assert_the_master_knows(release: Release) -> None:
    """The master node has both models finished, and has fetched them."""

    def finished() -> bool:
        models = {each["name"]: each for each in release.master("/api/v1/models")["items"]}
        return {"digits", "numbers"} <= models.keys() and all(each["percent"] == 100 for each in models.values())

    wait_for("the master node knows that both are finished", finished)
    wait_for(
        "it has fetched both", lambda: len(release.master("/api/v1/finished-models?state=stored")["items"]) == 2, 90
    )
    for each in release.master("/api/v1/finished-models")["items"]:
        assert len(release.master_bytes(f"/api/v1/finished-models/{each['model']}/content")) > 1_000_000


def finished_models(gridnode: GridNodeUnderTest) -> int:
    """How many its status tells of."""
    status = gridnode.target.get("gn", gridnode.name, gridnode.namespace)["status"]
    return int((status.get("models") or {}).get("finished", 0))


def schemas(release: Release) -> list[str]:
    """Schemas of GridNodes in the database."""
    return release.sql("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'gn\\_%'")


def objects(target: Target) -> set[tuple[str, str, str]]:
    """Kind, namespace and name of everything in the cluster, but for what comes and goes by itself."""
    kinds = target.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    kinds = [kind for kind in kinds if kind.split(".")[0] not in _ITS_OWN]
    listed = json.loads(target.kubectl("get", ",".join(kinds), "-A", "-o", "json"))["items"]
    return {
        (plural(each, kinds), each["metadata"].get("namespace", ""), each["metadata"]["name"])
        for each in listed
        if each["metadata"].get("namespace") != "kube-system"
        and each["metadata"]["name"] not in ("kube-root-ca.crt", "default")  # of each namespace, a moment later
    }


def plural(item: dict[str, str], kinds: list[str]) -> str:
    """A kind as kubectl lists it."""
    group = item["apiVersion"].rpartition("/")[0].split("/")[0]
    wanted = item["kind"].lower()
    for kind in kinds:
        name, _, its_group = kind.partition(".")
        if its_group == group and name in (f"{wanted}s", f"{wanted}es", f"{wanted[:-1]}ies"):
            return kind
    return f"{wanted}.{group}"
