"""The status of a GridNode, computed from what was observed and nothing else.

Ready is claimed only if everything is as declared: the database answers, the migration of this image has succeeded, and
the pods of the newest template are in service.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gridnode_operator.api import (
    Condition,
    ConditionStatus,
    DatabaseStatus,
    Display,
    GridNode,
    GridNodeStatus,
    InvalidSpec,
    ModelsStatus,
)
from gridnode_operator.desired.labels import is_owned_by, selector_text
from gridnode_operator.desired.migration_job import has_failed, has_succeeded
from gridnode_operator.exposure import Exposed, observe_exposure
from gridnode_operator.rollout import Rollout, observe_rollout

Object = Mapping[str, Any]

#: Characters of a message: a condition is read in a terminal.
_LONGEST_MESSAGE: Final = 4000
_LONGEST_REASON: Final = 128

#: Why a GridNode that is as declared is Degraded nevertheless: the server may run out of connections.
BUDGET_REASON: Final = "ConnectionBudget"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        reason: One word in CamelCase, for programs.
        message: For people: what, where, and what to do. Without secrets.
    """

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseObservation:
    """What the database server said.

    Attributes:
        schema: Name of the node's schema.
        problem: Why schema and login can't be used; None if they can.
        revision: Revision that the schema is at; empty if it was never migrated, None if nobody asked.
    """

    schema: str
    problem: Problem | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a reconcile has seen. An object is None if it is not there.

    Attributes:
        migration_job_name: The Job that this spec needs.
        database: None if the server was not asked, because something before it failed.
        migration_job: The Job of that name.
        migration_log: Last lines of the log of a failed one.
        deployment: As the API server gave it back.
        service: The device Service.
        ingress: The Ingress.
        http_route: The HTTPRoute.
        not_applied: Children that differ from the spec and were left so, such as ``Deployment demo``.
        problems: What failed in this reconcile; the node can't be as declared.
        warnings: What deserves attention though everything is as declared, such as a full connection budget.
        models: From the node's management API; None if it was not asked or did not answer.
    """

    migration_job_name: str
    database: DatabaseObservation | None = None
    migration_job: Object | None = None
    migration_log: str = ""
    deployment: Object | None = None
    service: Object | None = None
    ingress: Object | None = None
    http_route: Object | None = None
    not_applied: Sequence[str] = ()
    problems: Sequence[Problem] = ()
    warnings: Sequence[Problem] = ()
    models: ModelsStatus | None = None


@dataclass(frozen=True, slots=True)
class _Verdict:
    type: str
    status: ConditionStatus
    reason: str
    message: str


def compute_status(gridnode: GridNode, observed: Observed, now: datetime) -> dict[str, Any]:
    """The whole status.

    Args:
        gridnode: With its present status, for the times of conditions that have not changed.
        observed: What was seen.
        now: The present moment.
    """
    rollout = observe_rollout(gridnode, observed.deployment)
    exposed = observe_exposure(gridnode, observed.service, observed.ingress, observed.http_route)
    models = observed.models or _previous_models(gridnode)
    status = GridNodeStatus(
        conditions=_conditions(
            gridnode.status, gridnode.generation, _verdicts(gridnode, observed, rollout, exposed), now
        ),
        observed_generation=gridnode.generation,
        url=exposed.url,
        image=rollout.image,
        replicas=rollout.pods,
        ready_replicas=rollout.ready,
        selector=selector_text(gridnode),
        schema_revision=_revision(gridnode, observed),
        database=_database(gridnode, observed),
        models=models,
        display=Display(replicas=f"{rollout.ready}/{rollout.wanted}", progress=_progress(models)),
    )
    written: dict[str, Any] = _without_none(msgspec.to_builtins(status))
    return written


def is_ready(gridnode: GridNode) -> bool:
    """Whether the status that was written last says so."""
    conditions = gridnode.status.get("conditions") or []
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def with_models(status: Mapping[str, Any], models: ModelsStatus | None) -> dict[str, Any]:
    """A status that is still true, with how far the models are now; None if nobody knows better than it."""
    if models is None:
        return dict(status)
    display = {**(status.get("display") or {}), "progress": _progress(models)}
    changed: dict[str, Any] = _without_none({"models": msgspec.to_builtins(models), "display": display})
    return {**status, **changed}


def _progress(models: ModelsStatus | None) -> str | None:
    return None if models is None or models.percent is None else f"{models.percent}%"


def compute_invalid_status(resource: Mapping[str, Any], error: InvalidSpec, now: datetime) -> dict[str, Any]:
    """The status of a resource whose spec can't be worked with: what was said before, but not ready.

    Args:
        resource: As the API server gave it.
        error: What is wrong.
        now: The present moment.
    """
    before = dict(resource.get("status") or {})
    generation = int(resource["metadata"].get("generation") or 0)
    verdicts = [
        _Verdict("Ready", "False", "InvalidSpec", str(error)),
        _Verdict("Progressing", "False", "InvalidSpec", "Can't go on before the spec is repaired; see Degraded."),
        _Verdict("Degraded", "True", "InvalidSpec", str(error)),
    ]
    new = {each.type: msgspec.to_builtins(each) for each in _conditions(before, generation, verdicts, now)}
    kept = [new.pop(each["type"], each) for each in before.get("conditions") or []]
    return {**before, "conditions": [*kept, *new.values()], "observedGeneration": generation}


def summarize_models(processes: Iterable[Mapping[str, Any]]) -> ModelsStatus:
    """A summary of what ``GET /processes`` of the management API lists."""
    listed = list(processes)
    states = Counter(each["state"] for each in listed)
    finite = [each for each in listed if each["num_cycles"]]
    cycles = sum(each["num_cycles"] for each in finite)
    # One that its author finished early has no cycles left either.
    done = sum(each["num_cycles"] if each["state"] == "finished" else each["completed_cycles"] for each in finite)
    return ModelsStatus(
        count=len(listed),
        active=states["active"] + states["paused"],
        finished=states["finished"],
        failed=states["failed"],
        percent=min(100, 100 * done // cycles) if cycles else None,
        last_completed_cycle=max((each["completed_cycles"] for each in listed), default=0) or None,
    )


def _verdicts(gridnode: GridNode, observed: Observed, rollout: Rollout, exposed: Exposed) -> list[_Verdict]:
    database, migrated = _database_ready(observed), _migrated(gridnode, observed)
    available = _available(gridnode, rollout)
    reachable = _Verdict("Exposed", exposed.status, exposed.reason, exposed.message)
    ready = _ready(gridnode, observed, [database, migrated, available, reachable], rollout)
    failures = _failures(observed, database, migrated, rollout)
    degraded = _degraded([*failures, *observed.warnings])
    progressing = _progressing(gridnode, ready, failures)
    return [ready, database, migrated, available, reachable, progressing, degraded]


def _database_ready(observed: Observed) -> _Verdict:
    database = observed.database
    if database is None:
        return _Verdict("DatabaseReady", "Unknown", "NotAsked", "The database was not asked yet.")
    if database.problem is not None:
        return _Verdict("DatabaseReady", "False", database.problem.reason, database.problem.message)
    return _Verdict("DatabaseReady", "True", "Prepared", f"Schema {database.schema} and its login are there.")


def _migrated(gridnode: GridNode, observed: Observed) -> _Verdict:
    job, name = observed.migration_job, observed.migration_job_name
    if job is None or job["metadata"]["name"] != name or not is_owned_by(job, gridnode):
        return _Verdict("Migrated", "False", "Waiting", "The migration has not started yet.")
    if has_succeeded(job) and observed.database is not None and observed.database.revision == "":
        message = f"The schema is empty, though Job {name} has succeeded. Delete the Job to migrate again."
        return _Verdict("Migrated", "False", "SchemaLost", message)
    if has_succeeded(job):
        return _Verdict("Migrated", "True", "Succeeded", f"Job {name} has succeeded.")
    if has_failed(job):
        log = f" Its log ends with:\n{observed.migration_log.strip()}" if observed.migration_log.strip() else ""
        return _Verdict("Migrated", "False", "MigrationFailed", f"Job {name} has failed.{log}")
    return _Verdict("Migrated", "False", "Migrating", f"Job {name} is running; pods there are go on serving.")


def _available(gridnode: GridNode, rollout: Rollout) -> _Verdict:
    if rollout.unfinished is not None and not rollout.exists:
        return _Verdict("Available", "False", *rollout.unfinished)
    if rollout.available == 0:
        reason = "ScaledToZero" if gridnode.replicas == rollout.wanted == 0 else "NoPods"
        return _Verdict("Available", "False", reason, f"0 of {rollout.wanted} pods are in service.")
    message = f"{rollout.available} of {rollout.wanted} pods are in service."
    return _Verdict("Available", "True", "PodsInService", message)


def _ready(gridnode: GridNode, observed: Observed, parts: list[_Verdict], rollout: Rollout) -> _Verdict:
    """Ready, or the first reason why not. Exposed may be unknown: not every controller says what it did."""
    if gridnode.deleting:
        return _Verdict("Ready", "False", "Deleting", "The GridNode is being deleted.")
    if observed.problems:
        return _Verdict("Ready", "False", observed.problems[0].reason, observed.problems[0].message)
    if observed.not_applied and gridnode.spec.paused:
        return _Verdict("Ready", "False", "Paused", f"Left as it is: {', '.join(observed.not_applied)}.")
    *must_be_true, exposed = parts
    for part in must_be_true:
        if part.status != "True":
            return _Verdict("Ready", "False", part.reason, part.message)
    if observed.not_applied:
        return _Verdict("Ready", "False", "NotApplied", f"Not as declared yet: {', '.join(observed.not_applied)}.")
    if rollout.unfinished is not None:
        return _Verdict("Ready", "False", *rollout.unfinished)
    if exposed.status == "False":
        return _Verdict("Ready", "False", exposed.reason, exposed.message)
    return _Verdict("Ready", "True", "Ready", f"{rollout.ready} of {rollout.wanted} pods are in service.")


def _failures(observed: Observed, database: _Verdict, migrated: _Verdict, rollout: Rollout) -> list[Problem]:
    """What keeps the node from becoming as declared until somebody repairs it."""
    found = list(observed.problems)
    if database.status == "False":
        found.append(Problem(database.reason, database.message))
    if migrated.reason in ("MigrationFailed", "SchemaLost"):
        found.append(Problem(migrated.reason, migrated.message))
    if rollout.failure is not None:
        found.append(Problem(*rollout.failure))
    return found


def _degraded(found: list[Problem]) -> _Verdict:
    if not found:
        return _Verdict("Degraded", "False", "AsExpected", "Nothing is wrong.")
    messages = dict.fromkeys(problem.message for problem in found)
    return _Verdict("Degraded", "True", found[0].reason, "\n".join(messages))


def _progressing(gridnode: GridNode, ready: _Verdict, failures: list[Problem]) -> _Verdict:
    if gridnode.spec.paused and not gridnode.deleting:
        return _Verdict("Progressing", "False", "Paused", "spec.paused is set: nothing is changed.")
    if ready.status == "True" or ready.reason == "ScaledToZero":
        return _Verdict("Progressing", "False", "Settled", "Everything is as declared.")
    if failures:
        return _Verdict(
            "Progressing", "False", failures[0].reason, "Can't go on before this is repaired; see Degraded."
        )
    return _Verdict("Progressing", "True", ready.reason, ready.message)


def _conditions(
    previous: Mapping[str, Any], generation: int, verdicts: list[_Verdict], now: datetime
) -> list[Condition]:
    before = {each.get("type"): each for each in previous.get("conditions") or []}
    moment = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [
        Condition(
            type=verdict.type,
            status=verdict.status,
            reason=verdict.reason[:_LONGEST_REASON],
            message=_shortened(verdict.message),
            last_transition_time=_since(before.get(verdict.type), verdict.status) or moment,
            observed_generation=generation,
        )
        for verdict in verdicts
    ]


def _since(before: Mapping[str, Any] | None, status: ConditionStatus) -> str | None:
    return before.get("lastTransitionTime") if before is not None and before.get("status") == status else None


def _shortened(message: str) -> str:
    """Keeps the start, which says what it is about, and the end, where logs tell the reason."""
    if len(message) <= _LONGEST_MESSAGE:
        return message
    head = _LONGEST_MESSAGE // 4
    return f"{message[:head]} … {message[head + 3 - _LONGEST_MESSAGE :]}"


def _revision(gridnode: GridNode, observed: Observed) -> str | None:
    if observed.database is None or observed.database.revision is None:
        return gridnode.status.get("schemaRevision")
    return observed.database.revision or None


def _database(gridnode: GridNode, observed: Observed) -> DatabaseStatus | None:
    if observed.database is not None:
        return DatabaseStatus(observed.database.schema)
    before = (gridnode.status.get("database") or {}).get("schema")
    return DatabaseStatus(before) if before else None


def _previous_models(gridnode: GridNode) -> ModelsStatus | None:
    before = gridnode.status.get("models")
    return msgspec.convert(before, ModelsStatus) if before else None


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    return [_without_none(entry) for entry in value] if isinstance(value, list) else value
