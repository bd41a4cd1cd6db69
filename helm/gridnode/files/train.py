"""What `helm test` runs: make a GridNode, train a small model with simulated phones to the end, and delete it again.

The GridNode's schema goes with it, so that the test leaves nothing behind.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import kubernetes
import numpy as np

from gridnode.commands.host import MultipartForm
from gridnode.commands.management_client import ManagementClient, ManagementFailed
from gridnode.simulation.datasets import Examples
from gridnode.simulation.fleet import Fleet, Limits, Pace, Population, build_phones
from gridnode.simulation.phone import Target

API = ("gridnode.io", "v1alpha1")
MODEL = "helm-test"
PHONES = 4
CYCLES = 2


def main() -> int:
    """Run the test; the exit code says whether it passed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--namespace", required=True, help="where the GridNode is made")
    parser.add_argument("--name", required=True, help="of the GridNode")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds to get ready, and to train")
    parser.add_argument("--device-url", help="of the node; that of its Service if not given")
    parser.add_argument("--management-url", help="likewise")
    given = parser.parse_args()
    config: Any = kubernetes.config  # not typed, unlike the rest
    try:
        config.load_incluster_config()
    except kubernetes.config.ConfigException:
        config.load_kube_config()
    host = f"{given.name}.{given.namespace}.svc"
    device_url = given.device_url or f"http://{host}:5000"
    management_url = given.management_url or f"http://{given.name}-management.{given.namespace}.svc:5050"
    with gridnode(given.namespace, given.name) as read:
        wait_for(lambda: is_ready(read()), given.timeout, lambda: f"the GridNode is not Ready: {conditions(read())}")
        print(f"{given.namespace}/{given.name} is Ready", flush=True)
        node = ManagementClient(management_url, token(given.namespace, given.name))
        # Proxies hear of new pods a moment later.
        wait_for(lambda: answers(node), 60.0, lambda: f"nothing answers at {management_url}")
        host_model(node)
        reports = train(device_url, given.timeout)
        process = node.process(MODEL, "1.0")
        if process["state"] != "finished":
            print(f"the model is {process['state']} after {reports} reports, not finished", file=sys.stderr)
            return 1
        print(f"{MODEL} is trained: {CYCLES} cycles, {reports} reports", flush=True)
    print("the GridNode is deleted", flush=True)
    return 0


@contextlib.contextmanager
def gridnode(namespace: str, name: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """A GridNode that exists as long as the block; the function reads it."""
    custom: Any = kubernetes.client.CustomObjectsApi()
    body = {
        "apiVersion": "/".join(API),
        "kind": "GridNode",
        "metadata": {"name": name},
        "spec": {"processesPerPod": 1, "database": {"reclaimPolicy": "Delete", "poolSize": 2}},
    }
    with ignored(404):  # of a test that was interrupted
        custom.delete_namespaced_custom_object(*API, namespace, "gridnodes", name)
        wait_for(lambda: is_gone(custom, namespace, name), 120.0, lambda: "an older GridNode does not go")
    custom.create_namespaced_custom_object(*API, namespace, "gridnodes", body)
    try:
        yield lambda: custom.get_namespaced_custom_object(*API, namespace, "gridnodes", name)
    finally:
        custom.delete_namespaced_custom_object(*API, namespace, "gridnodes", name)
        wait_for(lambda: is_gone(custom, namespace, name), 120.0, lambda: "the GridNode does not go")


def answers(node: ManagementClient) -> bool:
    """Whether the node's management port does."""
    try:
        node.processes()
    except ManagementFailed:
        return False
    return True


def host_model(node: ManagementClient) -> None:
    """Host the recorded network (784–392–10)."""
    client = {"name": MODEL, "version": "1.0", "batch_size": 8, "lr": 0.1, "max_updates": 2}
    server = {"num_cycles": CYCLES, "min_diffs": PHONES, "max_diffs": PHONES, "max_workers": PHONES}
    assets = resources.files("gridnode.simulation") / "assets"
    with tempfile.TemporaryDirectory() as folder:
        model, plan = Path(folder) / "model", Path(folder) / "plan"
        model.write_bytes((assets / "mlp.state.bin").read_bytes())
        plan.write_bytes((assets / "mlp.training_plan.bin").read_bytes())
        fields = {"client_config": json.dumps(client).encode(), "server_config": json.dumps(server).encode()}
        hosted = node.host(MultipartForm(fields, {"model": model, "plans.training_plan": plan}))
    print(f"hosted {MODEL} as process {hosted['process_id']}", flush=True)


def train(device_url: str, seconds: float) -> int:
    """Let phones train it, on noise; gives the number of reports."""
    random = np.random.default_rng(0)
    shards = [
        Examples(random.random((32, 784), dtype=np.float32), np.eye(10, dtype=np.float32)[random.integers(0, 10, 32)])
        for _ in range(PHONES)
    ]
    phones = build_phones(device_url, Target(MODEL, "1.0"), shards, Population(transport="mixed"), 0)
    fleet = Fleet(phones, seed=0, concurrency=PHONES, limits=Limits(seconds=seconds), pace=Pace(after_report=0.2))
    figures = fleet.run()
    return sum(cycle.reports for cycle in figures.cycles)


def token(namespace: str, name: str) -> str:
    """The management token of the GridNode."""
    secret: Any = kubernetes.client.CoreV1Api().read_namespaced_secret(f"{name}-management", namespace)
    return base64.b64decode(secret.data["token"]).decode()


def conditions(resource: dict[str, Any]) -> str:
    """Conditions that say what is in the way."""
    found = (resource.get("status") or {}).get("conditions") or []
    return "; ".join(f"{each['type']}={each['status']} {each['reason']}: {each['message']}" for each in found)


def is_ready(resource: dict[str, Any]) -> bool:
    """Whether the condition Ready is true."""
    found = (resource.get("status") or {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in found)


def is_gone(custom: Any, namespace: str, name: str) -> bool:
    """Whether there is no such GridNode any more."""
    try:
        custom.get_namespaced_custom_object(*API, namespace, "gridnodes", name)
    except kubernetes.client.ApiException as error:
        if error.status == 404:
            return True
        raise
    return False


@contextlib.contextmanager
def ignored(status: int) -> Iterator[None]:
    """Pass over one answer of the API server."""
    try:
        yield
    except kubernetes.client.ApiException as error:
        if error.status != status:
            raise


def wait_for(condition: Callable[[], bool], seconds: float, why_not: Callable[[], str]) -> None:
    """Wait until something is so.

    Raises:
        TimeoutError: with what ``why_not`` says.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(why_not())
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
