"""One GridNode, reconciled in the test's own thread, with all that is needed to look at its children."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gridnode.db.revision import REVISION
from gridnode_operator.convergence import Environment, Outcome
from gridnode_operator.desired import CHILD_KINDS
from gridnode_operator.desired.names import child_names
from gridnode_operator.kube import PLURALS, ApiError
from tests.support.cluster import ControlPlane
from tests.support.kubelet import Kubelet
from tests.support.operator_faults import quick_migration
from tests.support.operator_process import IMAGE, GridNodes, Object, make_reconciler, wait_for
from tests.support.shared_database import SharedDatabase

#: By kind, the path under which the API server has it; for :meth:`GridNodes.get` and :meth:`GridNodes.all`.
KIND_PATHS = {
    kind: f"{'/api/v1' if version == 'v1' else f'/apis/{version}'}/{PLURALS[version, kind]}"
    for version, kind in CHILD_KINDS
}
#: The operator's own master node, for GridNodes that name none.
MASTER_URL = "http://operators-master.example:5001"
APPLY = {"Content-Type": "application/apply-patch+yaml"}
MERGE = {"Content-Type": "application/merge-patch+json"}
JSON_PATCH = {"Content-Type": "application/json-patch+json"}


def environment(**changes: Any) -> Environment:
    """What an operator with a master node of its own knows."""
    values: dict[str, Any] = {
        "default_image": IMAGE,
        "schema_revision": REVISION,
        "master_url": MASTER_URL,
        "master_key": "key-of-the-operators-master",
        "resync_interval": 5.0,
    }
    return Environment(**{**values, **changes})


class OneGridNode:
    """A GridNode and its reconciles.

    Args:
        control_plane: Where it is; somebody must play the kubelet (:class:`tests.support.kubelet.Kubelet`).
        namespace: Existing.
        admin_url: Of the database's administrator.
        name: Its name.
        known: What the operator knows.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        namespace: str,
        admin_url: str,
        name: str = "demo",
        known: Environment | None = None,
        **more: Any,
    ) -> None:
        self.control_plane = control_plane
        self.name = name
        self.gridnodes = GridNodes(control_plane, namespace)
        #: What the last reconcile has done to anything at the API server.
        self.steps: list[str] = []
        self.reconciler = make_reconciler(
            control_plane, admin_url, checkpoint=self._note, environment=known or environment(), **more
        )

    def create(self, spec: Object | None = None, **metadata: Any) -> None:
        """Create it, without a reconcile."""
        self.gridnodes.create(self.name, spec, **metadata)

    def set_spec(self, spec: Object) -> None:
        """Replace its spec, without a reconcile."""
        self.gridnodes.set_spec(self.name, spec)

    def reconcile(self) -> Outcome:
        """Reconcile it once; again where the API server wants that, as the queue would."""
        deadline = time.monotonic() + 10
        while True:
            self.steps = []
            try:
                return self.reconciler.reconcile(self.gridnodes.namespace, self.name)
            except ApiError as error:
                if not error.is_transient or time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def until(self, condition: Callable[[], object], what: Callable[[], object] | None = None) -> None:
        """Reconcile as the queue would, until something is so."""
        outcomes: list[Outcome] = []

        def step() -> bool:
            outcomes.append(self.reconcile())
            return bool(condition())

        wait_for(step, lambda: f"{what and what()} {outcomes[-1:]}: {self.gridnodes.status(self.name)}", 20.0)

    def until_ready(self) -> None:
        """Reconcile until it is Ready, and nothing is left to be written."""
        self.until(lambda: self.condition("Ready")[0] == "True" and not self.steps)

    def condition(self, kind: str) -> tuple[str, str, str]:
        """Status, reason and message of a condition."""
        return self.gridnodes.condition(kind, self.name)

    def changes(self) -> list[str]:
        """What a further reconcile does to children; nothing, as long as nobody has changed anything."""
        self.reconcile()
        return [step for step in self.steps if step.split()[0] in ("apply", "create", "delete", "hand")]

    def child(self, kind: str, suffix: str = "") -> Object | None:
        """A child of a kind; the only Job; of Secrets and Services the one whose name ends so."""
        if kind == "Job":
            jobs = self.gridnodes.all(KIND_PATHS[kind])
            return jobs[0] if len(jobs) == 1 else None
        return self.gridnodes.get(KIND_PATHS[kind], child_names(self.name).base + suffix)

    def children(self) -> dict[str, Object]:
        """All children by ``Kind/name``, of the APIs that there are."""
        found = {}
        for kind, path in KIND_PATHS.items():
            answer = self.control_plane.request("GET", self.gridnodes.path(path))
            for each in answer.json()["items"] if answer.status == 200 else []:
                owners = each["metadata"].get("ownerReferences") or []
                if any(owner["kind"] == "GridNode" and owner["name"] == self.name for owner in owners):
                    found[f"{kind}/{each['metadata']['name']}"] = {"kind": kind, **each}
        return found

    def patch_child(
        self, kind: str, body: object, headers: Mapping[str, str] = MERGE, *, suffix: str = "", query: str = ""
    ) -> Object:
        """Change a child as a person would."""
        path = self.gridnodes.path(KIND_PATHS[kind], child_names(self.name).base + suffix)
        changed: Object = self.control_plane.expect("PATCH", path + query, body, headers=headers)
        return changed

    def secret_value(self, suffix: str, key: str) -> str | None:
        """A value in one of its own Secrets."""
        secret = self.child("Secret", suffix)
        return None if secret is None else base64.b64decode(secret["data"][key]).decode()

    def create_secret(self, name: str, values: Mapping[str, str], **metadata: Any) -> None:
        """A Secret of the user's in the namespace."""
        body = {"metadata": {"name": name, **metadata}, "stringData": dict(values)}
        self.control_plane.expect("POST", self.gridnodes.path("/api/v1/secrets"), body)

    def _note(self, step: str) -> None:
        if step.split()[0] not in ("prepare", "retire", "leave"):  # of the database
            self.steps.append(step)


@contextmanager
def one_gridnode(
    control_plane: ControlPlane,
    namespace: str,
    shared: SharedDatabase,
    *,
    run: Callable[[dict[str, str]], None] = quick_migration,
    **more: Any,
) -> Iterator[OneGridNode]:
    """A GridNode that is not created yet, and a kubelet."""
    with Kubelet(control_plane, run):
        yield OneGridNode(control_plane, namespace, shared.admin_url, **more)
