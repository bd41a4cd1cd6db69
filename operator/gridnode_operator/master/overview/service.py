"""The environment at a glance: what there is, what trains, and what is stuck and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import DateTime, and_, cast, func, or_, select
from sqlalchemy.orm import Session

from gridnode_operator.master.datasets.service import DatasetView, list_datasets
from gridnode_operator.master.db.models import Dataset, Model
from gridnode_operator.master.finished.service import FinishedView, list_finished
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.models.queries import ModelView, model_views, visible_models
from gridnode_operator.master.nodes.queries import (
    RATE_MINUTES,
    NodeView,
    Patience,
    list_nodes,
    reports_by_minute,
)

TroubleKind = Literal[
    "node_silent", "node_unreachable", "node_degraded", "node_missing", "model_failed", "cycle_late", "model_quiet",
    "checkpoint_not_fetched",
]  # fmt: skip

_MOST_NODES: Final = 1000
_MOST_TROUBLES: Final = 200
_LISTED: Final = 20
_ATTEMPTS_BEFORE_TELLING: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something that somebody should look at.

    Attributes:
        kind: For programs.
        subject: Name of the node, model or dataset.
        what: What is wrong and why, for people.
        advice: What to do about it.
        since: Since when, None if that is not known.
        node: Row of the node concerned; likewise ``model`` and ``dataset``.
    """

    kind: TroubleKind
    subject: str
    what: str
    advice: str
    since: datetime | None = None
    node: int | None = None
    model: int | None = None
    dataset: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The environment, as far as the caller may see it.

    Attributes:
        at: When it was looked at.
        nodes: All nodes.
        active: Models in training; ``paused`` and ``failed`` ones are counted apart.
        registered: Models that somebody announced.
        reports_per_minute: Mean over the last :data:`RATE_MINUTES` whole minutes.
        reports: Reports by minute over the last hour, oldest first.
        troubles: What is stuck, at most 200 of them.
        training: Models that progressed last.
        latest_finished: Models that finished last.
    """

    at: datetime
    nodes: list[NodeView]
    active: int
    paused: int
    failed: int
    finished: int
    registered: int
    datasets: int
    reports_per_minute: float
    reports: list[tuple[datetime, int]]
    troubles: list[Trouble]
    training: list[ModelView]
    latest_finished: list[ModelView]


def environment_overview(session: Session, principal: Principal, patience: Patience) -> Overview:
    """Look at everything; read only."""
    now: datetime = session.execute(select(func.now())).scalar_one()
    nodes = list_nodes(session, principal, patience, limit=_MOST_NODES)
    reports = reports_by_minute(session, principal)
    recent = [count for _, count in reports[-1 - RATE_MINUTES : -1]]
    training = visible_models(principal).where(Model.finished_at.is_(None), Model.deleted_at.is_(None))
    finished = visible_models(principal).where(Model.finished_at.is_not(None), Model.deleted_at.is_(None))
    return Overview(
        at=now,
        nodes=nodes,
        **_counts(session, principal),
        reports_per_minute=sum(recent) / RATE_MINUTES,
        reports=reports,
        troubles=find_troubles(session, principal, patience, nodes),
        training=model_views(session, training.order_by(Model.progressed_at.desc(), Model.id.desc()).limit(_LISTED)),
        latest_finished=model_views(session, finished.order_by(Model.finished_at.desc()).limit(_LISTED)),
    )


def find_troubles(
    session: Session, principal: Principal, patience: Patience, nodes: Sequence[NodeView]
) -> list[Trouble]:
    """What is stuck, nodes first; at most 200."""
    now: datetime = session.execute(select(func.now())).scalar_one()
    found = [trouble for node in nodes for trouble in _node_troubles(node)]
    found += _dataset_troubles(list_datasets(session, principal, limit=_MOST_NODES), now, patience)
    waiting = list_finished(session, principal, state="pending", limit=_MOST_TROUBLES)
    known = {node.node_id for node in nodes if node.known}
    found += [trouble for each in waiting if each.node_id in known for trouble in _checkpoint_troubles(each)]
    silent = {node.id for node in nodes if node.silent}
    found += [
        trouble
        for model in _stuck_models(session, principal, patience, now)
        for trouble in _model_troubles(model, silent=model.node in silent)
    ]
    return found[:_MOST_TROUBLES]


def _counts(session: Session, principal: Principal) -> dict[str, int]:
    is_training = Model.finished_at.is_(None)
    models = select(
        func.count().filter(and_(is_training, Model.state == "active")).label("active"),
        func.count().filter(and_(is_training, Model.state == "paused")).label("paused"),
        func.count().filter(and_(is_training, Model.state == "failed")).label("failed"),
        func.count().filter(Model.finished_at.is_not(None)).label("finished"),
        func.count(Model.dataset_id).label("registered"),
    ).where(Model.deleted_at.is_(None))
    datasets = select(func.count()).select_from(Dataset).where(Dataset.deleted_at.is_(None))
    if not principal.sees_all:
        models = models.join(Dataset, Dataset.id == Model.dataset_id).where(Dataset.owner == principal.owner)
        datasets = datasets.where(Dataset.owner == principal.owner)
    counted = session.execute(models).one()
    return {**counted._mapping, "datasets": session.execute(datasets).scalar_one()}


def _stuck_models(session: Session, principal: Principal, patience: Patience, now: datetime) -> list[ModelView]:
    deadline = cast(func.jsonb_extract_path_text(Model.running, "deadline"), DateTime(timezone=True))
    suspicious = or_(
        Model.state == "failed",
        and_(Model.state == "active", or_(deadline <= now, Model.progressed_at <= now - patience.stuck_after)),
    )
    query = visible_models(principal).where(Model.finished_at.is_(None), Model.deleted_at.is_(None), suspicious)
    views = model_views(session, query.order_by(Model.state.desc(), Model.progressed_at).limit(_MOST_TROUBLES))
    quiet_since = now - patience.stuck_after
    return [view for view in views if view.state == "failed" or view.late or view.progressed_at <= quiet_since]


def _node_troubles(node: NodeView) -> Iterator[Trouble]:
    if node.silent:
        why = f": {node.poll_error}" if node.poll_error else ""
        yield Trouble(
            kind="node_silent", subject=node.node_id, node=node.id, since=node.last_seen_at or node.first_seen_at,
            what=f"nothing has been heard of it{why}",
            advice="Look at its pods and at its log, and whether it reaches this master node.",
        )  # fmt: skip
    elif node.known and node.poll_error:
        yield Trouble(
            kind="node_unreachable", subject=node.node_id, node=node.id, since=node.polled_at,
            what=node.poll_error, advice="Look at its pods, and whether a network policy keeps this master node out.",
        )  # fmt: skip
    for condition in node.conditions:
        is_degraded = condition.get("type") == "Degraded" and condition.get("status") == "True"
        is_unready = condition.get("type") == "Ready" and condition.get("status") == "False"
        if is_degraded or is_unready:
            yield Trouble(
                kind="node_degraded", subject=node.node_id, node=node.id, since=_transition(condition),
                what=str(condition.get("message") or condition.get("reason") or condition.get("type")),
                advice=f"kubectl describe gridnode shows all of it; reason: {condition.get('reason')}.",
            )  # fmt: skip
            return


def _transition(condition: dict[str, object]) -> datetime | None:
    try:
        return datetime.fromisoformat(str(condition.get("lastTransitionTime")))
    except ValueError:
        return None


def _dataset_troubles(datasets: Sequence[DatasetView], now: datetime, patience: Patience) -> Iterator[Trouble]:
    for dataset in datasets:
        asked = dataset.node_requested_at
        if dataset.state == "creating" and asked is not None and asked + patience.silent_after < now:
            yield Trouble(
                kind="node_missing", subject=dataset.name, dataset=dataset.id, node=dataset.node, since=asked,
                what=f"its node {dataset.node_id} is still not ready",
                advice="See the conditions of its GridNode, and whether the operator runs.",
            )  # fmt: skip


def _checkpoint_troubles(finished: FinishedView) -> Iterator[Trouble]:
    if finished.last_error is not None and finished.attempts >= _ATTEMPTS_BEFORE_TELLING:
        yield Trouble(
            kind="checkpoint_not_fetched", subject=f"{finished.name} {finished.version}", model=finished.model,
            since=finished.finished_at, what=f"its final checkpoint could not be fetched: {finished.last_error}",
            advice=f"Tried {finished.attempts} times, and will be again; its node keeps the checkpoint until then.",
        )  # fmt: skip


def _model_troubles(model: ModelView, *, silent: bool) -> Iterator[Trouble]:
    subject = f"{model.name} {model.version}"
    if model.state == "failed":
        yield Trouble(
            kind="model_failed", subject=subject, model=model.id, node=model.node, since=model.progressed_at,
            what=model.failure or "its averaging plan failed",
            advice="All reports are kept. Mend the cause, then: gridnode processes resume.",
        )  # fmt: skip
    elif model.late:
        yield Trouble(
            kind="cycle_late", subject=subject, model=model.id, node=model.node,
            since=None if model.running is None else model.running.deadline,
            what=f"cycle {model.running.number if model.running else ''} {model.waits_for}",
            advice="More devices have to ask for it; or lower min_diffs and min_workers.",
        )  # fmt: skip
    elif not silent:
        yield Trouble(
            kind="model_quiet", subject=subject, model=model.id, node=model.node, since=model.progressed_at,
            what="no device has reported to it" + (f"; cycle {model.waits_for}" if model.waits_for else ""),
            advice="See whether devices ask for it, and what its node answers them.",
        )  # fmt: skip
