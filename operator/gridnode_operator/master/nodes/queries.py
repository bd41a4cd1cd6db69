"""Nodes as people see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Select, and_, func, select
from sqlalchemy.orm import Session

from gridnode.errors import NotFound
from gridnode_operator.master.db.models import Dataset, Model, Node, ReportCount
from gridnode_operator.master.keys.access import Principal

#: Minutes over which the present rate of reports is the mean.
RATE_MINUTES: Final = 5


@dataclass(frozen=True, slots=True)
class Patience:
    """After how long something is worth telling."""

    silent_after: timedelta
    stuck_after: timedelta

    @classmethod
    def of_seconds(cls, *, silent_after: float, stuck_after: float) -> Patience:
        """From settings."""
        return cls(timedelta(seconds=silent_after), timedelta(seconds=stuck_after))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node as lists and its page show it.

    Attributes:
        id: Of its row.
        node_id: Its name.
        known: Whether the provider has it; if not, it only reports.
        ready: Whether phones can be sent to it.
        conditions: As seen last; see :class:`~gridnode_operator.master.nodes.provider.ObservedNode`.
        polled_at: When its management listener answered last.
        poll_error: Why it did not since, None if it did.
        last_seen_at: The newest sign of it, an event or an answer.
        silent: Whether that is too long ago.
        training: Models in training; ``failed`` ones among them need somebody, ``finished`` ones are done.
        reports_per_minute: Mean over the last :data:`RATE_MINUTES` minutes. 0 for an owner who shares the node.
        datasets: Names of the datasets that own it. All three tell an owner of what is its own only.
    """

    id: int
    node_id: str
    known: bool
    ready: bool
    url: str | None
    conditions: list[dict[str, Any]]
    replicas: int | None
    ready_replicas: int | None
    first_seen_at: datetime
    last_event_at: datetime | None
    observed_at: datetime | None
    polled_at: datetime | None
    poll_error: str | None
    last_seen_at: datetime | None
    silent: bool
    training: int
    failed: int
    finished: int
    reports_per_minute: float
    datasets: list[str]


def list_nodes(
    session: Session, principal: Principal, patience: Patience, *, after: int = 0, limit: int = 100
) -> list[NodeView]:
    """Nodes that the caller may see, in the order in which they were first heard of."""
    query = _visible(principal).where(Node.id > after).order_by(Node.id).limit(limit)
    return _views(session, principal, query, patience)


def view_node(session: Session, principal: Principal, patience: Patience, node: int) -> NodeView:
    """One node by its row.

    Raises:
        NotFound: there is none that the caller may see.
    """
    found = _views(session, principal, _visible(principal).where(Node.id == node), patience)
    if not found:
        raise NotFound(f"there is no node {node}")
    return found[0]


def nodes_by_row(session: Session, patience: Patience, rows: list[int]) -> list[NodeView]:
    """Some nodes, as an admin sees them."""
    return _views(session, Principal("admin"), select(Node).where(Node.id.in_(rows)).order_by(Node.id), patience)


def reports_by_minute(
    session: Session, principal: Principal, *, minutes: int = 60, node: int | None = None
) -> list[tuple[datetime, int]]:
    """Reports counted in each of the last minutes, the present one included; oldest first, without gaps."""
    now: datetime = session.execute(select(func.now())).scalar_one()
    last = now.replace(second=0, microsecond=0)
    first = last - timedelta(minutes=minutes - 1)
    query = (
        select(ReportCount.minute, func.sum(ReportCount.reports))
        .where(ReportCount.minute >= first)
        .group_by(ReportCount.minute)
    )
    if not principal.sees_all:
        query = query.where(ReportCount.node_id.in_(_owned(principal)), ReportCount.node_id.not_in(_shared(principal)))
    if node is not None:
        query = query.where(ReportCount.node_id == node)
    counted = {minute: int(reports) for minute, reports in session.execute(query)}
    return [(minute, counted.get(minute, 0)) for each in range(minutes) if (minute := first + timedelta(minutes=each))]


def _owned(principal: Principal) -> Select[int | None]:
    return select(Dataset.node_id).where(
        Dataset.owner == principal.owner, Dataset.deleted_at.is_(None), Dataset.node_id.is_not(None)
    )


def _shared(principal: Principal) -> Select[int | None]:
    """Nodes that train for other owners, too: what is counted for the whole node says something of those."""
    return select(Dataset.node_id).where(
        Dataset.owner != principal.owner, Dataset.deleted_at.is_(None), Dataset.node_id.is_not(None)
    )


def _visible(principal: Principal) -> Select[Node]:
    query = select(Node)
    return query if principal.sees_all else query.where(Node.id.in_(_owned(principal)))


def _views(session: Session, principal: Principal, query: Select[Node], patience: Patience) -> list[NodeView]:
    now: datetime = session.execute(select(func.now())).scalar_one()
    nodes = list(session.scalars(query))
    rows = [node.id for node in nodes]
    counts = _model_counts(session, principal, rows)
    rates = _rates(session, principal, rows, now)
    datasets = _dataset_names(session, principal, rows)
    return [
        _view(node, counts.get(node.id, {}), rates.get(node.id, 0.0), datasets.get(node.id, []), patience, now)
        for node in nodes
    ]


def _model_counts(session: Session, principal: Principal, nodes: list[int]) -> dict[int, dict[str, int]]:
    is_training = Model.finished_at.is_(None)
    query = (
        select(
            Model.node_id,
            func.count().filter(is_training).label("training"),
            func.count().filter(and_(is_training, Model.state == "failed")).label("failed"),
            func.count().filter(Model.finished_at.is_not(None)).label("finished"),
        )
        .where(Model.node_id.in_(nodes), Model.deleted_at.is_(None))
        .group_by(Model.node_id)
    )
    if not principal.sees_all:
        query = query.join(Dataset, Dataset.id == Model.dataset_id).where(Dataset.owner == principal.owner)
    return {
        row.node_id: {"training": row.training, "failed": row.failed, "finished": row.finished}
        for row in session.execute(query)
    }


def _rates(session: Session, principal: Principal, nodes: list[int], now: datetime) -> dict[int, float]:
    this_minute = now.replace(second=0, microsecond=0)
    query = (
        select(ReportCount.node_id, func.sum(ReportCount.reports))
        .where(
            ReportCount.node_id.in_(nodes),
            ReportCount.minute >= this_minute - timedelta(minutes=RATE_MINUTES),
            ReportCount.minute < this_minute,
        )
        .group_by(ReportCount.node_id)
    )
    if not principal.sees_all:
        query = query.where(ReportCount.node_id.not_in(_shared(principal)))
    return {node: int(reports) / RATE_MINUTES for node, reports in session.execute(query)}


def _dataset_names(session: Session, principal: Principal, nodes: list[int]) -> dict[int, list[str]]:
    query = (
        select(Dataset.node_id, Dataset.name)
        .where(Dataset.node_id.in_(nodes), Dataset.deleted_at.is_(None))
        .order_by(Dataset.id)
    )
    if not principal.sees_all:
        query = query.where(Dataset.owner == principal.owner)
    names: dict[int, list[str]] = {}
    for node, name in session.execute(query):
        names.setdefault(node or 0, []).append(name)
    return names


def _view(
    node: Node,
    counts: Mapping[str, int],
    rate: float,
    datasets: list[str],
    patience: Patience,
    now: datetime,
) -> NodeView:
    signs = [sign for sign in (node.last_event_at, node.polled_at) if sign is not None]
    last_seen = max(signs, default=None)
    # A node that only reports, and has nothing to train, has nothing to report either.
    is_expected = node.known or counts.get("training", 0) > 0
    return NodeView(
        id=node.id,
        node_id=node.node_id,
        known=node.known,
        ready=node.ready,
        url=node.url,
        conditions=node.conditions,
        replicas=node.replicas,
        ready_replicas=node.ready_replicas,
        first_seen_at=node.first_seen_at,
        last_event_at=node.last_event_at,
        observed_at=node.observed_at,
        polled_at=node.polled_at,
        poll_error=node.poll_error,
        last_seen_at=last_seen,
        silent=is_expected and (last_seen or node.first_seen_at) + patience.silent_after < now,
        training=counts.get("training", 0),
        failed=counts.get("failed", 0),
        finished=counts.get("finished", 0),
        reports_per_minute=rate,
        datasets=datasets,
    )
