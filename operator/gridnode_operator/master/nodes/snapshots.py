"""What a node's management listener says of its processes, into the rows of its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, func, select, update
from sqlalchemy.orm import Session

from gridnode_operator.master.datasets.registered import datasets_of
from gridnode_operator.master.db.models import Model
from gridnode_operator.master.finished.expected import expect_final_checkpoint
from gridnode_operator.master.models.events import STATES
from gridnode_operator.master.models.progress import finish, touch
from gridnode_operator.master.models.rows import (
    CycleRow,
    ModelRow,
    insert_models,
    load_cycles,
    load_models,
    update_models,
    upsert_cycles,
)
from gridnode_operator.master.models.running import read_running_cycle
from gridnode_operator.master.models.values import count, moment, text
from gridnode_operator.master.nodes.rows import count_reports, lock_nodes
from gridnode_operator.master.texts import LONGEST_NAME, is_storable

_LONGEST_FAILURE = 4000


def take_snapshot(session: Session, node_id: str, processes: Sequence[Mapping[str, Any]]) -> bool:
    """Take a node's list of processes; one transaction, which the caller commits.

    Says what events don't: the configuration, and what the running cycle has so far. Never makes progress smaller, and
    writes only what has changed.

    Returns:
        Whether anything has.
    """
    now: datetime = session.execute(select(func.now())).scalar_one()
    node = lock_nodes(session, [node_id])[node_id]
    rows = load_models(session, and_(Model.node_id == node, Model.deleted_at.is_(None)))
    models = {(model.name, model.version): model for model in rows}
    named = [process for process in processes if _is_named(process)]
    _make_missing(session, node, named, models, now)
    changed, finished = [], []
    for process in named:
        model = models.get((process["name"], process["version"]))
        if model is None:
            continue
        was_finished = model.finished_at is not None
        if _take_process(model, process, now):
            changed.append(model)
        if model.finished_at is not None and not was_finished:
            finished.append(model.id)
    # Before the models are written: it moves the time of their progress.
    count_reports(session, {node: _take_running(session, changed, now)}, now)
    update_models(session, changed)
    _take_configurations(session, node, {model.id: key for key, model in models.items()}, named)
    expect_final_checkpoint(session, finished)
    return bool(changed)


def _is_named(process: Mapping[str, Any]) -> bool:
    return all(
        isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and is_storable(name)
        for name in (process.get("name"), process.get("version"))
    )


def _make_missing(
    session: Session,
    node: int,
    processes: Sequence[Mapping[str, Any]],
    models: dict[tuple[str, str], ModelRow],
    now: datetime,
) -> None:
    identities = {(process["name"], process["version"]): process for process in processes}
    missing = [identity for identity in identities if identity not in models]
    if not missing:
        return
    datasets = datasets_of(session, {(node, name) for name, _ in missing})
    deleted_rows = session.execute(
        select(Model.name, Model.version, func.max(Model.deleted_at))
        .where(Model.node_id == node, Model.deleted_at.is_not(None))
        .group_by(Model.name, Model.version)
    )
    deleted = {(name, version): at for name, version, at in deleted_rows}
    made = {}
    for name, version in missing:
        hosted_at = moment(identities[name, version].get("created_at"))
        gone_at = deleted.get((name, version))
        if gone_at is not None and (hosted_at is None or hosted_at <= gone_at):
            continue  # a list from before the deletion that was heard of already
        made[name, version] = ModelRow(
            node_id=node,
            name=name,
            version=version,
            dataset_id=datasets.get((node, name)),
            progressed_at=now,
            changed_at=now,
        )
    insert_models(session, list(made.values()))
    models |= made


def _take_process(model: ModelRow, process: Mapping[str, Any], now: datetime) -> bool:
    before = _facts(model)
    completed = count(process.get("completed_cycles")) or 0
    if completed > model.completed_cycles:
        model.completed_cycles = completed
        model.progressed_at = now
    model.percent = max(model.percent, min(100, count(process.get("progress")) or 0))
    model.num_cycles = count(process.get("num_cycles"))
    state = process.get("state")
    if state == "finished" and model.finished_at is None:
        finish(model, moment(process.get("finished_at")) or now)
    elif model.finished_at is None and completed >= model.completed_cycles:
        if state in STATES:
            model.state = str(state)
            model.failure = text(process.get("failure"), _LONGEST_FAILURE)
        server_config = process.get("server_config")
        minimum = server_config.get("min_workers") if isinstance(server_config, dict) else None
        running = read_running_cycle(process.get("cycle"), min_workers=minimum)
        model.running = None if running is None else running.to_json()
    changed = _facts(model) != before
    if changed:
        touch(model, now)
    return changed


def _facts(model: ModelRow) -> tuple[Any, ...]:
    return (
        model.completed_cycles, model.percent, model.num_cycles, model.state, model.failure, model.finished_at,
        model.running,
    )  # fmt: skip


def _take_running(session: Session, models: Sequence[ModelRow], now: datetime) -> int:
    """Keep the rows of running cycles; gives the reports that nobody had counted before."""
    running = {
        (model.id, cycle.number): (model, cycle)
        for model in models
        if (cycle := read_running_cycle(model.running)) is not None and cycle.number > model.completed_cycles
    }
    rows = load_cycles(session, running)
    reports = 0
    for key, (model, cycle) in running.items():
        row = rows.setdefault(key, CycleRow(model_id=model.id, number=cycle.number, state="running"))
        if row.state != "running":
            continue
        new = max(0, (cycle.reports or 0) - (row.reported or 0))
        reports += new
        row.started_at = cycle.started_at or row.started_at
        row.accepted = row.accepted if cycle.accepted is None else cycle.accepted
        row.reported = row.reported if cycle.reports is None else max(cycle.reports, row.reported or 0)
        if new:
            model.progressed_at = now
    upsert_cycles(session, list(rows.values()))
    return reports


def _take_configurations(
    session: Session, node: int, models: Mapping[int, tuple[str, str]], processes: Sequence[Mapping[str, Any]]
) -> None:
    """Keep configurations that have changed, which is once a model."""
    told = {(process["name"], process["version"]): process for process in processes}
    kept = session.execute(
        select(Model.id, Model.client_config, Model.server_config).where(
            Model.node_id == node, Model.deleted_at.is_(None)
        )
    ).all()
    for model_id, client_config, server_config in kept:
        process = told.get(models.get(model_id, ("", "")))
        if process is None:
            continue
        given = {
            name: process[name]
            for name, known in (("client_config", client_config), ("server_config", server_config))
            if isinstance(process.get(name), dict) and process[name] != known
        }
        if given:
            session.execute(
                update(Model).where(Model.id == model_id).values(**given).execution_options(synchronize_session=False)
            )
