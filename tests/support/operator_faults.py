"""Interrupting the operator between any two steps, and comparing what comes of it with what would have come without."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from gridnode.db.revision import REVISION
from gridnode_operator.children import Checkpoint
from gridnode_operator.convergence import Outcome
from gridnode_operator.database import AdminDatabase, Timeouts
from gridnode_operator.desired.names import child_names, database_names
from gridnode_operator.kube import ApiError
from gridnode_operator.reconcile import Reconciler
from tests.support.operator_process import GROUP_PATH, GridNodes, Object
from tests.support.shared_database import SharedDatabase, connect, run

#: What a GridNode may have, but for kinds that a bare API server doesn't know.
CHILD_PATHS = (
    "/api/v1/secrets",
    "/api/v1/serviceaccounts",
    "/api/v1/services",
    "/apis/apps/v1/deployments",
    "/apis/autoscaling/v2/horizontalpodautoscalers",
    "/apis/batch/v1/jobs",
    "/apis/networking.k8s.io/v1/ingresses",
    "/apis/networking.k8s.io/v1/networkpolicies",
    "/apis/policy/v1/poddisruptionbudgets",
)
# What Kubernetes fills in, differently for each object.
_VOLATILE = frozenset({
    "annotations/deployment.kubernetes.io/revision", "clusterIP", "clusterIPs", "creationTimestamp", "generation",
    "lastTransitionTime", "managedFields", "models", "nodePort", "observedGeneration", "resourceVersion", "selector",
    "uid",
})  # fmt: skip
_HASHES = re.compile(r"\b[0-9a-f]{20,64}\b|(?<=-)[0-9a-f]{10}\b")
# Which of the two logins is in use depends on how often the password was changed.
_LOGIN = re.compile(r"(gn_DATABASE)_[ab]\b")


#: Steps that change nothing if there is nothing to change.
_LOOKS = ("prepare the database", "retire the replaced login")

Connect = Callable[[str], AdminDatabase]
_QUICK = Timeouts(connect=3, statement=5, lock=1)


class Killed(BaseException):
    """Nothing of the operator's runs after it."""


class Interruption:
    """Ends the operator before the step with a number; later ones only count.

    Args:
        at: From 1 on; 0 for never.
        statements: Whether each statement to the database is a step, too.
    """

    def __init__(self, at: int, *, statements: bool = False) -> None:
        self.at = at
        self.statements = statements
        self.steps: list[str] = []
        self.happened = False

    def step(self, step: str) -> None:
        """A checkpoint of the reconcile."""
        self.steps.append(step)
        if len(self.steps) == self.at:
            self.happened = True
            raise Killed(step)

    def statement(self, statement: str) -> None:
        """A checkpoint of the database, which counts those that change something."""
        if self.statements and (not statement.lstrip().startswith("SELECT") or "pg_terminate_backend" in statement):
            self.step(statement[:60])


@dataclass
class Patient:
    """One GridNode that is reconciled as the queue would, by an operator that ends once and is started again.

    Attributes:
        name: Of the GridNode.
        make: Makes a reconciler of a checkpoint and what connects to the database, as a start of the operator does.
        interruption: When it ends.
        steps: What the last reconcile that got through has done.
    """

    name: str
    make: Callable[[Checkpoint, Connect], Reconciler]
    interruption: Interruption = field(default_factory=lambda: Interruption(0))
    steps: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.interrupt(self.interruption)

    def interrupt(self, interruption: Interruption) -> None:
        """From now on there is an operator that ends so."""
        self.interruption = interruption
        self._start()

    def reconcile(self, namespace: str) -> Outcome | None:
        """One reconcile; None if the operator ended in it, or the API server wants it to be repeated."""
        self.steps = []
        try:
            return self._reconciler.reconcile(namespace, self.name)
        except Killed:
            self._start()  # another process knows nothing of what this one knew
        except ApiError as error:
            if not error.is_transient:
                raise
        return None

    def _start(self) -> None:
        def connect_to(url: str) -> AdminDatabase:
            return AdminDatabase(url, timeouts=_QUICK, checkpoint=self.interruption.statement)

        self._reconciler = self.make(self._checkpoint, connect_to)

    def _checkpoint(self, step: str) -> None:
        self.interruption.step(step)
        if step not in _LOOKS:
            self.steps.append(step)


def settle(patients: Iterable[Patient], namespace: str, state: str = "Ready", *, seconds: float = 90.0) -> None:
    """Reconcile GridNodes in turn until each has come to a state and nothing more is done about it."""
    deadline = time.monotonic() + seconds
    left = list(patients)
    outcomes: dict[str, Outcome | None] = {}
    while left:
        assert time.monotonic() < deadline, {each.name: (outcomes.get(each.name), each.steps) for each in left}
        began = time.monotonic()
        for patient in list(left):
            outcome = outcomes[patient.name] = patient.reconcile(namespace)
            is_over = outcome is not None and outcome.state == state and outcome.problem is None
            if is_over and not patient.steps:
                left.remove(patient)
        time.sleep(max(0.0, 0.3 - (time.monotonic() - began)))


def snapshot(gridnodes: GridNodes, shared: SharedDatabase, name: str) -> dict[str, Any]:
    """All that there is of a GridNode, without what is different for each: names, uids, addresses, moments, secrets."""
    resource = gridnodes.get(f"{GROUP_PATH}/gridnodes", name)
    owner = database_names(gridnodes.namespace, name).owner
    found: dict[str, Any] = {
        "children": {
            f"{path.rpartition('/')[2]}/{each['metadata']['name']}": _child(each)
            for path in CHILD_PATHS
            for each in gridnodes.all(path)
            if _is_of(each, name)
        },
        "database": catalog(shared, owner),
        "finalizers": (resource or {}).get("metadata", {}).get("finalizers"),
        "status": {**((resource or {}).get("status") or {}), "models": None},
    }
    text = json.dumps(_stable(found), sort_keys=True)
    for what, shown in ((owner, "gn_DATABASE"), ((resource or {}).get("metadata", {}).get("uid"), "UID")):
        text = text.replace(what or "\0", shown)
    text = _LOGIN.sub(r"\1_LOGIN", text.replace(name, "NAME"))
    stable: dict[str, Any] = json.loads(_HASHES.sub("HASH", text))
    return stable


def catalog(shared: SharedDatabase, owner: str) -> dict[str, list[list[str]]]:
    """Everything in the server's catalog about the roles and schemas whose names begin so."""
    queries = {
        "roles": """SELECT rolname, rolcanlogin, rolconnlimit, rolcreaterole, shobj_description(oid, 'pg_authid')
                    FROM pg_roles WHERE starts_with(rolname, '{}')""",
        "members": """SELECT roleid::regrole, member::regrole, admin_option, inherit_option, set_option
                      FROM pg_auth_members WHERE starts_with(roleid::regrole::text, '{}')""",
        "settings": """SELECT setrole::regrole, setconfig FROM pg_db_role_setting
                       WHERE starts_with(setrole::regrole::text, '{}')""",
        "schemas": """SELECT nspname, nspowner::regrole, obj_description(oid, 'pg_namespace')
                      FROM pg_namespace WHERE starts_with(nspname, '{}')""",
        "tables": "SELECT tablename, tableowner FROM pg_tables WHERE starts_with(schemaname, '{}')",
    }
    return {
        key: sorted([str(value) for value in row] for row in shared.execute(query.format(owner)))
        for key, query in queries.items()
    }


def url_in_secret(gridnodes: GridNodes, name: str = "demo") -> str:
    """The database URL that a node is given."""
    secret = gridnodes.get("/api/v1/secrets", child_names(name).database_secret)
    assert secret is not None
    return base64.b64decode(secret["data"]["url"]).decode()


def log_in(url: str, statement: str = "SELECT version_num FROM alembic_version") -> list[tuple[Any, ...]]:
    """What a node with this URL reads."""
    with closing(connect(url)) as connection:
        return run(connection, statement)


def quick_migration(environment: dict[str, str]) -> None:
    """A migration that takes no time: the revision alone, written with the login that the node is given."""
    with closing(connect(environment["GRIDNODE_DATABASE_URL"])) as connection:
        run(connection, "CREATE TABLE IF NOT EXISTS alembic_version (version_num text PRIMARY KEY)")
        run(connection, f"INSERT INTO alembic_version VALUES ('{REVISION}') ON CONFLICT DO NOTHING")


def _is_of(child: Object, name: str) -> bool:
    owners = child["metadata"].get("ownerReferences") or []
    return any(owner["kind"] == "GridNode" and owner["name"] == name for owner in owners)


def _child(child: Object) -> Object:
    metadata = child["metadata"]
    managers = {
        f"{each['manager']} {each['operation']}"
        for each in metadata.get("managedFields") or []
        if not each.get("subresource")
    }
    rest = {key: value for key, value in child.items() if key not in ("data", "status")}
    return {**rest, "keys": sorted(child.get("data") or ()), "managers": sorted(managers)}


def _stable(value: Any, parent: str = "") -> Any:
    if isinstance(value, Mapping):
        return {
            key: _stable(entry, key)
            for key, entry in value.items()
            if key not in _VOLATILE and f"{parent}/{key}" not in _VOLATILE and "job-name" not in key
            and not key.endswith("controller-uid")
        }  # fmt: skip
    return [_stable(entry, parent) for entry in value] if isinstance(value, (list, tuple)) else value
