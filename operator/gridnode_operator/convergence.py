"""Bringing one GridNode that is to stay as far as it gets now: database, children, and what has come of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from gridnode_operator.api import GridNode, ModelsStatus, SecretKey
from gridnode_operator.children import Checkpoint, Children
from gridnode_operator.desired import (
    DesiredContext,
    Manifest,
    NodeSecrets,
    desired_children,
    secret_hash,
    waits_for_migration,
)
from gridnode_operator.desired.environment import (
    DATABASE_URL_KEY,
    MANAGEMENT_TOKEN_KEY,
    management_secret_key,
    optional_secret_references,
    secret_references,
)
from gridnode_operator.desired.labels import is_owned_by, selector_text
from gridnode_operator.desired.migration_job import has_failed, has_succeeded, migration_job_name
from gridnode_operator.desired.names import child_names
from gridnode_operator.kube import Cluster, Object
from gridnode_operator.node_client import NodeClient
from gridnode_operator.rollout import observe_rollout
from gridnode_operator.status import DatabaseObservation, Observed, Problem, compute_status
from gridnode_operator.tenants import RETIRE_INTERVAL, Prepared, Tenants, secret_value, wished_rotation

#: Without these a pod does not start.
_NEEDED_BY_PODS: Final = ("Secret", "ServiceAccount")
#: Seconds until the next reconcile where something that was waited for is done.
_AT_ONCE: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What reconciling depends on beside the GridNode.

    Attributes:
        default_image: For GridNodes that name none.
        schema_revision: Of the release of the node that the operator came with.
        master_url: The operator's master node; None if it has none.
        master_key: The key for it.
        operator_namespace: Where the operator runs.
        resync_interval: Seconds after which a GridNode is looked at again though nothing has happened.
        release_patience: Seconds after which a GridNode whose data stays goes without the database's consent.
    """

    default_image: str
    schema_revision: str
    master_url: str | None = None
    master_key: str | None = None
    operator_namespace: str = "gridnode-system"
    resync_interval: float = 60.0
    release_patience: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a reconcile has come to.

    Attributes:
        state: One word for metrics, such as ``Ready``, ``Progressing`` or ``Gone``.
        after: Seconds after which to look again; None for never.
        problem: Reason of what failed; the next try should be later each time. None if nothing did.
        settled: Whether nothing is left to do: everything is as declared.
    """

    state: str
    after: float | None
    problem: str | None = None
    settled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every reconcile works with; see :class:`.reconcile.Reconciler`."""

    cluster: Cluster
    tenants: Tenants
    nodes: NodeClient
    environment: Environment
    checkpoint: Checkpoint


class Convergence:
    """One reconcile of one GridNode that is not being deleted.

    Args:
        tools: See :class:`Tools`.
        resource: As the API server gave it.
        gridnode: The same, parsed.
        children: What there is of it.
        apis: Which of the optional APIs the server has.
    """

    def __init__(
        self, tools: Tools, resource: Object, gridnode: GridNode, children: Children, apis: frozenset[str]
    ) -> None:
        self._tools = tools
        self._cluster = tools.cluster
        self._tenants = tools.tenants
        self._environment = tools.environment
        self._resource = resource
        self._gridnode = gridnode
        self._children = children
        self._apis = apis
        self._names = child_names(gridnode.name)
        self._problems: list[Problem] = []
        self._not_applied: list[str] = []
        self._pods_lack_something = False
        self._rotates_next = False

    def run(self) -> tuple[dict[str, Any], Outcome]:
        """Do what can be done now.

        Returns:
            The status to be written, and what the queue has to know.

        Raises:
            ApiError: the API server failed half-way; the next reconcile goes on from there.
        """
        prepared = self._prepare(self._own_secret(self._names.database_secret))
        context = self._context(prepared)
        if context is not None:
            self._bring_children(context)
        is_settled = self._retire_login(prepared)
        status = self._status(prepared.observation, context)
        return status, self._outcome(prepared, status, is_settled)

    def _prepare(self, database_secret: Object | None) -> Prepared:
        if self._gridnode.spec.paused:
            observation = self._tenants.look(self._gridnode, database_secret)
            return Prepared(observation=observation, url=secret_value(database_secret, DATABASE_URL_KEY))
        jobs = [each for each in self._children.all() if each["kind"] == "Job"]
        self._tools.checkpoint("prepare the database")
        migrated = any(has_succeeded(job) for job in jobs)
        prepared = self._tenants.prepare(self._gridnode, database_secret, migrated=migrated)
        for reason, message in prepared.done:
            self._cluster.post_event(self._resource, "Normal", reason, message)
        return prepared

    def _retire_login(self, prepared: Prepared) -> bool:
        """Drop the login of before a rotation, once no pod has it.

        Returns:
            Whether there is none any more.
        """
        if not prepared.has_other_login or prepared.url is None:
            return True
        if self._problems or self._not_applied or not self._is_rolled_out():
            return False
        pods = self._cluster.list("v1", "Pod", self._gridnode.namespace, selector_text(self._gridnode))
        if any(pod["metadata"].get("deletionTimestamp") for pod in pods):
            return False
        self._tools.checkpoint("retire the replaced login")
        is_retired = self._tenants.retire(self._gridnode, prepared.url)
        has_password = not self._gridnode.spec.database.iam_authentication
        self._rotates_next = is_retired and has_password and wished_rotation(self._gridnode) != prepared.rotation
        return is_retired

    def _is_rolled_out(self) -> bool:
        """Whether all pods are of the Deployment as it is now; the one that was applied just now says no."""
        deployment = self._children.get("Deployment", self._names.base)
        return observe_rollout(self._gridnode, deployment).unfinished is None

    def _context(self, prepared: Prepared) -> DesiredContext | None:
        """What children are built from, without the hashes of Secrets; None while the node has no login."""
        if prepared.url is None:
            return None
        is_own = self._gridnode.spec.management_token_secret_ref is None
        own = self._own_secret(self._names.management_secret) if is_own else None
        token = secret_value(own, MANAGEMENT_TOKEN_KEY) or secrets.token_urlsafe(32)
        return DesiredContext(
            default_image=self._environment.default_image,
            schema_revision=self._environment.schema_revision,
            secrets=NodeSecrets(
                database_url=prepared.url,
                management_token=token,
                master_key=self._environment.master_key,
                rotation=prepared.rotation,
            ),
            available_apis=self._apis,
            master_url=self._environment.master_url,
            operator_namespace=self._environment.operator_namespace,
        )

    def _bring_children(self, context: DesiredContext) -> None:
        wanted = desired_children(self._gridnode, context)
        first = [each for each in wanted if not waits_for_migration(each) and each["kind"] != "Job"]
        for manifest in first:
            self._bring(manifest)
        # The Secrets are there now, with the uids that their hashes need.
        hashes = self._secret_hashes(context)
        wanted = desired_children(self._gridnode, replace(context, secret_hashes=hashes or {}))
        for manifest in wanted:
            if manifest["kind"] == "Job":
                self._bring(manifest, allowed=not self._pods_lack_something)
        job = self._children.get("Job", migration_job_name(self._gridnode, context))
        may_roll_out = hashes is not None and job is not None and has_succeeded(job) and not self._pods_lack_something
        for manifest in wanted:
            if waits_for_migration(manifest):
                self._bring(manifest, allowed=may_roll_out)
        if not self._gridnode.spec.paused:
            # Pods that are to be replaced need theirs, should they restart before.
            is_over = not self._not_applied and self._is_rolled_out()
            self._children.prune(wanted, keep=() if is_over else _NEEDED_BY_PODS)

    def _bring(self, manifest: Manifest, *, allowed: bool = True) -> None:
        if allowed and not self._gridnode.spec.paused:
            problem = self._children.apply(manifest)
            if problem is None:
                return
            self._problems.append(problem)
            self._pods_lack_something |= manifest["kind"] in (*_NEEDED_BY_PODS, "Job")
        if self._children.differs(manifest):
            self._not_applied.append(f"{manifest['kind']} {manifest['metadata']['name']}")

    def _secret_hashes(self, context: DesiredContext) -> dict[str, str] | None:
        """By name, the hash of each Secret that the pods read; None if one is missing."""
        by_name: dict[str, list[str]] = {}
        for reference in secret_references(self._gridnode, context):
            by_name.setdefault(reference.name, []).append(reference.key)
        optional = optional_secret_references(self._gridnode)
        hashes: dict[str, str] = {}
        is_complete = True
        for name, keys in by_name.items():
            secret = self._secret(name)
            values = {key: value for key in keys if (value := secret_value(secret, key)) is not None}
            if missing := [key for key in keys if key not in values and SecretKey(name, key) not in optional]:
                message = f"There is no Secret {name} with the key {missing[0]}, which the pods read. Create it."
                self._problems.append(Problem("SecretMissing", message))
                is_complete = False
            elif secret is not None and values:
                content = {key: value.encode() for key, value in values.items()}
                hashes[name] = secret_hash(content, secret["metadata"]["uid"])
        return hashes if is_complete else None

    def _secret(self, name: str) -> Object | None:
        return self._children.get("Secret", name) or self._cluster.read("v1", "Secret", self._gridnode.namespace, name)

    def _own_secret(self, name: str) -> Object | None:
        """Also one that has lost its labels: another password or token would restart the pods."""
        found = self._secret(name)
        return found if found is not None and is_owned_by(found, self._gridnode) else None

    def _status(self, database: DatabaseObservation, context: DesiredContext | None) -> dict[str, Any]:
        gridnode, names = self._gridnode, self._names
        job_name = migration_job_name(gridnode, context) if context is not None else ""
        job = self._children.get("Job", job_name)
        deployment = self._children.get("Deployment", names.base)
        warning = self._tenants.budget_warning(gridnode)
        observed = Observed(
            migration_job_name=job_name,
            database=database,
            migration_job=job,
            migration_log=self._migration_log(job) if job is not None and has_failed(job) else "",
            deployment=deployment,
            service=self._children.get("Service", names.base),
            ingress=self._children.get("Ingress", names.base),
            http_route=self._children.get("HTTPRoute", names.base),
            not_applied=self._not_applied,
            problems=self._problems,
            warnings=[warning] if warning is not None else [],
            models=self._models(deployment),
        )
        return compute_status(gridnode, observed, datetime.now(UTC))

    def _models(self, deployment: Object | None) -> ModelsStatus | None:
        if observe_rollout(self._gridnode, deployment).available == 0:
            return None
        source: SecretKey = management_secret_key(self._gridnode)
        token = secret_value(self._secret(source.name), source.key)
        return self._tools.nodes.models(self._gridnode, token) if token else None

    def _migration_log(self, job: Object) -> str:
        selector = f"batch.kubernetes.io/job-name={job['metadata']['name']}"
        pods = self._cluster.list("v1", "Pod", self._gridnode.namespace, selector)
        if not pods:
            return ""
        newest = max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
        log = self._cluster.log_tail(self._gridnode.namespace, newest["metadata"]["name"])
        return log or _termination_message(newest)

    def _outcome(self, prepared: Prepared, status: Mapping[str, Any], is_settled: bool) -> Outcome:
        conditions = {each["type"]: each for each in status["conditions"]}
        is_ready = conditions["Ready"]["status"] == "True"
        problem = self._problems[0] if self._problems else prepared.observation.problem
        if problem is not None:
            return Outcome(state="Degraded", after=self._environment.resync_interval, problem=problem.reason)
        is_degraded = conditions["Degraded"]["status"] == "True"
        state = "Degraded" if is_degraded else "Ready" if is_ready else "Progressing"
        after = self._environment.resync_interval if is_settled else RETIRE_INTERVAL
        if self._rotates_next:
            after = _AT_ONCE
        if self._gridnode.spec.paused:
            return Outcome(state="Paused", after=after)
        return Outcome(state=state, after=after, settled=is_ready and is_settled)


def _termination_message(pod: Mapping[str, Any]) -> str:
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        ended = (container.get("state") or {}).get("terminated") or {}
        if ended.get("message"):
            return str(ended["message"])
    return ""
