"""The operator in tests: as a process, or only its reconcile in the test's own thread."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import psutil

from gridnode.db.revision import REVISION
from gridnode_operator.api import API_VERSION, KIND
from gridnode_operator.children import Checkpoint
from gridnode_operator.convergence import Environment, Outcome
from gridnode_operator.database import AdminDatabase, Timeouts
from gridnode_operator.kube import Cluster
from gridnode_operator.node_client import NodeClient
from gridnode_operator.reconcile import Reconciler
from gridnode_operator.tenants import Tenants
from tests.support.cluster import ControlPlane
from tests.support.control_plane.process import free_port

IMAGE = "registry.example/gridnode:1"
GROUP_PATH = "/apis/gridnode.io/v1alpha1"
_MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}

Object = dict[str, Any]


class OperatorProcess:
    """``gridnode-operator`` with a user's kubeconfig.

    Args:
        kubeconfig: File of the user that it is.
        database_url: Of the administrator.
        directory: For its log.
        settings: More ``GRIDNODE_OPERATOR_…`` variables, without that prefix.
    """

    def __init__(
        self, kubeconfig: Path, database_url: str, directory: Path, settings: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self.log_path = directory / f"operator-{self.port}.log"
        values = {
            "DATABASE_URL": database_url,
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "IMAGE": IMAGE,
            "LEADER_ELECTION": "false",
            **(settings or {}),
        }
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": str(directory),
            "KUBECONFIG": str(kubeconfig),
            "PYTHONFAULTHANDLER": "1",
            **{f"GRIDNODE_OPERATOR_{name}": value for name, value in values.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, without waiting for anything."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(self.command(), env=self._environment, stdout=log, stderr=log)

    def command(self) -> list[str]:
        """What is started."""
        return [sys.executable, "-m", "gridnode_operator"]

    def wait_until_alive(self, seconds: float = 60.0) -> None:
        """Wait until it answers its liveness probe."""
        deadline = time.monotonic() + seconds
        while self.get("/healthz") != (200, "ok\n"):
            assert self.process is not None
            assert self.process.poll() is None, self.log_path.read_text()[-4000:]
            assert time.monotonic() < deadline, self.log_path.read_text()[-4000:]
            time.sleep(0.05)

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """SIGKILL. Harmless if it does not run."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        self.start()
        self.wait_until_alive()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of its own endpoints; status 0 without an answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def memory(self) -> int:
        """Resident bytes."""
        assert self.process is not None
        resident: int = psutil.Process(self.process.pid).memory_info().rss
        return resident


class GridNodes:
    """GridNodes of one namespace, written and read as a person with kubectl would."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self.control_plane = control_plane
        self.namespace = namespace

    def path(self, kind_path: str, name: str = "") -> str:
        """Path of a kind in the namespace, such as ``/apis/apps/v1`` + ``deployments``."""
        prefix, _, plural = kind_path.rpartition("/")
        return f"{prefix}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def create(self, name: str = "demo", spec: Object | None = None, **metadata: Any) -> Object:
        """Create one."""
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name, **metadata},
            "spec": spec or {},
        }
        found: Object = self.control_plane.expect("POST", self.path(f"{GROUP_PATH}/gridnodes"), body)
        return found

    def set_spec(self, name: str, spec: Object) -> Object:
        """Replace the whole spec, so that fields that are left out get their defaults back."""
        path = self.path(f"{GROUP_PATH}/gridnodes", name)
        while True:
            live = self.control_plane.expect("GET", path)
            answer = self.control_plane.request("PUT", path, {**live, "spec": spec})
            if answer.status != 409:
                assert answer.status == 200, answer.body
                changed: Object = answer.json()
                return changed

    def patch(self, name: str, patch: Object) -> Object:
        """Merge something into one."""
        path = self.path(f"{GROUP_PATH}/gridnodes", name)
        changed: Object = self.control_plane.expect("PATCH", path, patch, headers=_MERGE_PATCH)
        return changed

    def delete(self, name: str = "demo") -> None:
        """Delete one, without waiting for its end."""
        self.control_plane.expect("DELETE", self.path(f"{GROUP_PATH}/gridnodes", name))

    def get(self, kind_path: str, name: str) -> Object | None:
        """An object of the namespace; None if it is not there."""
        answer = self.control_plane.request("GET", self.path(kind_path, name))
        assert answer.status in (200, 404), answer.body
        found: Object | None = answer.json() if answer.status == 200 else None
        return found

    def all(self, kind_path: str) -> list[Object]:
        """All objects of a kind in the namespace."""
        found: list[Object] = self.control_plane.expect("GET", self.path(kind_path))["items"]
        return found

    def status(self, name: str = "demo") -> Object:
        """The status of one; empty if there is none."""
        found = self.get(f"{GROUP_PATH}/gridnodes", name)
        return (found or {}).get("status") or {}

    def condition(self, kind: str, name: str = "demo") -> tuple[str, str, str]:
        """Status, reason and message of a condition; all empty before it is there."""
        for each in self.status(name).get("conditions") or []:
            if each["type"] == kind:
                return each["status"], each["reason"], each["message"]
        return "", "", ""

    def events(self, name: str = "demo") -> list[tuple[str, str]]:
        """Reason and message of the Events about one, without order."""
        found = self.all("/api/v1/events")
        return [(each["reason"], each["message"]) for each in found if each["involvedObject"]["name"] == name]


def wait_for(condition: Callable[[], object], what: object = "", seconds: float = 40.0) -> None:
    """Wait until ``condition`` is true; ``what`` is shown if it never is, and called if it can be."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(what() if callable(what) else what)
        time.sleep(0.05)


def make_reconciler(
    control_plane: ControlPlane,
    admin_url: str,
    *,
    user: str = "admin",
    checkpoint: Checkpoint = lambda step: None,
    connect: Callable[[str], AdminDatabase] | None = None,
    environment: Environment | None = None,
    operator_namespace: str = "gridnode-system",
    nodes: NodeClient | None = None,
) -> Reconciler:
    """A reconcile without queue and watches, with short database timeouts."""
    cluster = Cluster(control_plane.configuration(control_plane.kubeconfig_path(user)))
    quick = Timeouts(connect=3, statement=5, lock=1)
    tenants = Tenants(
        default_url=admin_url,
        installation="",
        read_secret=lambda name: cluster.read("v1", "Secret", operator_namespace, name),
        connect=connect or (lambda url: AdminDatabase(url, timeouts=quick)),
    )
    return Reconciler(
        cluster=cluster,
        tenants=tenants,
        nodes=nodes or NodeClient(interval=0.0),
        environment=environment or Environment(default_image=IMAGE, schema_revision=REVISION, resync_interval=5.0),
        checkpoint=checkpoint,
    )


def reconcile_until(
    reconciler: Reconciler, gridnodes: GridNodes, condition: Callable[[], object], *, name: str = "demo"
) -> Outcome:
    """Reconcile as the queue would, until ``condition`` is true."""
    outcomes: list[Outcome] = []

    def step() -> bool:
        outcomes.append(reconciler.reconcile(gridnodes.namespace, name))
        return bool(condition())

    wait_for(step, lambda: f"{outcomes[-1:]}: {gridnodes.status(name)}")
    return outcomes[-1]
