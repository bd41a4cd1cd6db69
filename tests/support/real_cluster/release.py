"""GridNode in a cluster: the chart's release, GridNodes, their models, and phones outside that train them."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support.chart import CHART, NAMESPACE, RELEASE, HelmRefused, run_helm
from tests.support.real_cluster.target import Object, Target, wait_for

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "tests" / "data" / "models" / "mlp"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


class Release:
    """The chart in a namespace of its own, under Pod Security ``restricted``.

    Args:
        values: Over those that every end-to-end test needs.
    """

    def __init__(self, target: Target, values: Mapping[str, Any]) -> None:
        self.target = target
        self.values = dict(values)

    def install(self, chart: Path = CHART) -> None:
        """Install it, or upgrade it, without waiting for pods."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}}
        self.target.apply(namespace)
        self.helm("upgrade", "--install", str(chart), given=json.dumps(self.values))

    def wait(self, seconds: float = 180.0) -> None:
        """Wait until all pods of it are ready."""
        for what in (
            f"statefulset/{RELEASE}-database",
            f"deployment/{RELEASE}-operator",
            f"deployment/{RELEASE}-master",
        ):
            self.target.kubectl(
                "rollout", "status", what, "-n", NAMESPACE, f"--timeout={seconds:.0f}s", seconds=seconds + 10
            )  # fmt: skip

    def helm(self, *arguments: str, given: str | None = None) -> str:
        """Run a command of helm on it."""
        verb, *rest = arguments
        flags = ["--values", "-"] if given is not None else []
        names = [*[each for each in rest if each.startswith("--")], RELEASE]
        names += [each for each in rest if not each.startswith("--")]
        return run_helm(
            verb, *names, "--namespace", NAMESPACE, *flags, kubeconfig=self.target.kubeconfig, given=given
        )  # fmt: skip

    def uninstall(self) -> None:
        """As docs/install.md says: GridNodes first."""
        self.target.kubectl("delete", "gn", "--all", "--all-namespaces", "--timeout=120s", seconds=130)
        self.helm("uninstall", "--wait")

    def remove(self) -> None:
        """Take everything away, GridNodes that hang and what the chart keeps as well."""
        kubectl = self.target.kubectl
        namespaces: set[str] = set()
        if "gridnodes.gridnode.io" in kubectl("get", "crd", "-o", "name"):
            found = json.loads(kubectl("get", "gn", "-A", "-o", "json"))["items"]
            namespaces = {each["metadata"]["namespace"] for each in found}
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                kubectl("delete", "gn", "--all", "-A", "--timeout=90s")
        if namespaces:
            kubectl("delete", "namespace", *namespaces, "--wait=false")
        with contextlib.suppress(HelmRefused):
            self.helm("uninstall", "--ignore-not-found", "--wait")
        kubectl("delete", "crd", "gridnodes.gridnode.io", "--ignore-not-found", "--timeout=60s")
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=60s")

    # The master node

    def master(self, path: str) -> Any:
        """The JSON of an answer of the master node."""
        return json.loads(self.master_bytes(path))

    def master_bytes(self, path: str) -> bytes:
        """An answer of the master node."""
        token = self.secret(f"{RELEASE}-master", "admin-token", NAMESPACE)
        with self.target.forwarded(f"{RELEASE}-master", NAMESPACE, 5001) as url:
            request = urllib.request.Request(f"{url}{path}", headers={"Authorization": f"Bearer {token}"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                body: bytes = answer.read()
        return body

    def sql(self, statement: str) -> list[str]:
        """The lines that the embedded database answers to a statement; columns are divided by ``|``."""
        said = self.target.kubectl(
            "exec", f"{RELEASE}-database-0", "-n", NAMESPACE, "--",
            "psql", "-U", "postgres", "-d", "gridnode", "--no-align", "--tuples-only", "-c", statement,
        )  # fmt: skip
        return said.splitlines()

    def secret(self, name: str, key: str, namespace: str) -> str:
        """A value of a Secret."""
        data = self.target.get("secret", name, namespace)["data"]
        return base64.b64decode(data[key]).decode()


class GridNodeUnderTest:
    """One GridNode: declared with kubectl, and used with the commands that users have."""

    def __init__(self, release: Release, name: str, namespace: str, spec: Mapping[str, Any] | None = None) -> None:
        self.release = release
        self.target = release.target
        self.name, self.namespace = name, namespace
        self.spec = dict(spec or {})

    def apply(self, **changes: Any) -> None:
        """Create it in its namespace, or change its spec."""
        self.spec |= changes
        namespace = {
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": RESTRICTED}
        }  # fmt: skip
        exposure = {"service": {"type": self.target.service_type}}
        gridnode = {
            "apiVersion": "gridnode.io/v1alpha1",
            "kind": "GridNode",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {"exposure": exposure, "processesPerPod": 1, **self.spec},
        }
        self.target.apply(namespace, gridnode)

    def wait(self, seconds: float = 120.0) -> None:
        """Wait until it is Ready as it is declared now."""
        try:
            wait_for(f"{self.name} is Ready", self.is_ready, seconds)
        except AssertionError as error:
            error.add_note(f"{self.conditions()}\n{self.target.logs(self.namespace)}\n{self.target.logs(NAMESPACE)}")
            raise

    def is_ready(self) -> bool:
        """Whether everything is as it is declared now."""
        found = self.target.get("gn", self.name, self.namespace)
        status = found.get("status") or {}
        if status.get("observedGeneration") != found["metadata"]["generation"]:
            return False
        return self.conditions_of(found).get("Ready") == "True"

    def conditions(self) -> dict[str, str]:
        """Type and status of its conditions."""
        return self.conditions_of(self.target.get("gn", self.name, self.namespace))

    @staticmethod
    def conditions_of(gridnode: Object) -> dict[str, str]:
        """Type and status of a GridNode's conditions."""
        found = (gridnode.get("status") or {}).get("conditions") or []
        return {each["type"]: each["status"] for each in found}

    @property
    def url(self) -> str:
        """Where phones reach it."""
        return self.target.url(self.name, self.namespace)

    def pods(self) -> list[str]:
        """Names of its pods that serve or begin to."""
        found = self.target.items(
            "pods", self.namespace, f"gridnode.io/gridnode={self.name},app.kubernetes.io/component=node"
        )
        serving = [each for each in found if "deletionTimestamp" not in each["metadata"]]
        return [each["metadata"]["name"] for each in serving if each["status"]["phase"] in ("Pending", "Running")]

    # Models

    def host(self, model: str, **server: int) -> None:
        """Host the recorded network for digits."""
        client = {"name": model, "version": "1.0", "batch_size": 32, "lr": 0.1, "max_updates": 20}
        config = {"num_cycles": 5, "min_diffs": 5, "max_diffs": 5, "max_workers": 8, **server}
        self.gridnode(
            "host", "--model", str(MODEL / "state.bin"),
            "--plan", f"training_plan={MODEL / 'training_plan.uploaded.bin'}",
            "--client-config", json.dumps(client), "--server-config", json.dumps(config),
        )  # fmt: skip

    def retrieve(self, model: str, checkpoint: str, out: Path) -> None:
        """Save a checkpoint of a model."""
        self.gridnode("retrieve", model, "--checkpoint", checkpoint, "--out", str(out))

    def gridnode(self, *arguments: str) -> str:
        """What a command of `gridnode` prints that talks to the management port."""
        token = self.release.secret(f"{self.name}-management", "token", self.namespace)
        with self.target.forwarded(f"{self.name}-management", self.namespace, 5050) as url:
            environment = {"GRIDNODE_MANAGEMENT_URL": url, "GRIDNODE_MANAGEMENT_TOKEN": token}
            done = subprocess.run(
                [sys.executable, "-m", "gridnode", *arguments],
                env={**self.target.environment(), **environment},
                capture_output=True,
                text=True,
                timeout=180,
                check=False,
            )
        assert done.returncode == 0, f"gridnode {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def phones(self, model: str, **options: str | int | float) -> Iterator[Phones]:
        """Phones outside of the cluster that train a model until it is finished."""
        phones = Phones(self.url, model, options)
        try:
            yield phones
        finally:
            phones.stop()


class Phones:
    """``gridnode simulate`` as a process."""

    def __init__(self, url: str, model: str, options: Mapping[str, str | int | float]) -> None:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "gridnode", "simulate", f"--url={url}", f"--model={model}", "--output=json",
                *flags,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def is_running(self) -> bool:
        """Whether they still train."""
        return self._process.poll() is None

    def result(self, seconds: float = 240.0) -> Object:
        """What they have to tell when the model is finished."""
        said, complaints = self._process.communicate(timeout=seconds)
        assert self._process.returncode == 0, f"the phones gave up: {said[-2000:]}{complaints[-4000:]}"
        found: Object = json.loads(said)
        return found

    def stop(self) -> None:
        """End them. Harmless if they have ended."""
        if self.is_running():
            self._process.kill()
            self._process.communicate()
