"""Progress events into the database: each counted once, many in one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from gridnode_operator.master.datasets.registered import datasets_of
from gridnode_operator.master.db.models import Dataset, Event, Model, Node, RegisteredModel
from gridnode_operator.master.finished.expected import expect_final_checkpoint
from gridnode_operator.master.models.events import ProgressEvent
from gridnode_operator.master.models.progress import advance, cycle_of, take_figures
from gridnode_operator.master.models.rows import (
    CycleRow,
    EventRow,
    ModelRow,
    body_to_keep,
    insert_events,
    insert_models,
    load_cycles,
    load_models,
    update_models,
    upsert_cycles,
)
from gridnode_operator.master.nodes.rows import count_reports, lock_nodes

#: Stands for nodes that do not say who they are.
UNNAMED: Final = "unnamed"
#: Version of models whose node does not name one: what clients of 2020 ask for.
DEFAULT_VERSION: Final = "1.0"

_Identity = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of an event: ``repeated`` ones were there before, and change nothing."""

    repeated: bool
    applied: bool


def ingest(session: Session, events: Sequence[ProgressEvent]) -> list[Ingested]:
    """Take events in the order given, each once; one transaction, which the caller commits.

    The rows of all nodes concerned are locked throughout, in one order everywhere, so events of a node are taken one
    after the other whichever replica of the master node they come to.
    """
    now: datetime = session.execute(select(func.now())).scalar_one()
    events = _with_nodes(session, events)
    nodes = lock_nodes(session, {event.node_id for event in events if event.node_id}, heard_at=now)
    repeated = _repeated(session, events)
    fresh = [event for event, again in zip(events, repeated, strict=True) if not again]
    work = _Work(session, nodes, now)
    work.load(fresh)
    applied = {id(event): work.take(event) for event in fresh}
    work.write()
    return [
        Ingested(repeated=again, applied=applied.get(id(event), False))
        for event, again in zip(events, repeated, strict=True)
    ]


class _Work:
    """One batch's rows in memory: loaded with a few statements, changed event by event, written with a few."""

    def __init__(self, session: Session, nodes: dict[str, int], now: datetime) -> None:
        self._session = session
        self._nodes = nodes
        self._now = now
        self._models: dict[_Identity, ModelRow] = {}
        self._deleted: dict[_Identity, ModelRow] = {}
        self._cycles: dict[tuple[int, int], CycleRow] = {}
        self._changed_models: dict[int, ModelRow] = {}
        self._changed_cycles: dict[tuple[int, int], CycleRow] = {}
        self._events: list[EventRow] = []
        self._reports: dict[int, int] = defaultdict(int)
        self._finished: list[int] = []
        self._versions: dict[tuple[int, str], str] = {}

    def load(self, events: Sequence[ProgressEvent]) -> None:
        """Load, or make, the rows that events are about."""
        if not events:
            return
        self._find_versions(events)
        wanted = {self._identity(event) for event in events}
        for model in load_models(self._session, tuple_(Model.node_id, Model.name, Model.version).in_(wanted)):
            place = self._models if model.deleted_at is None else self._deleted
            place[model.node_id, model.name, model.version] = model
        self._make_models(events)
        self._load_cycles(events)

    def take(self, event: ProgressEvent) -> bool:
        """Apply one event; gives whether it changed anything."""
        model = self._model_for(event)
        was_finished = model.finished_at is not None
        applied = advance(model, event, self._now)
        model.last_event_at = self._now
        self._changed_models[model.id] = model
        if model.deleted_at is None or applied:
            self._take_cycle(model, event)
        if model.finished_at is not None and not was_finished and not event.deleted:
            self._finished.append(model.id)
        self._events.append(
            EventRow(
                event_id=event.event_id,
                node_id=model.node_id,
                model_id=model.id,
                percent=event.percent,
                cycle=event.cycle,
                occurred_at=event.occurred_at,
                received_at=self._now,
                applied=applied,
                body=body_to_keep(event.body),
            )
        )
        return applied

    def write(self) -> None:
        """Send what has changed."""
        update_models(self._session, list(self._changed_models.values()))
        upsert_cycles(self._session, list(self._changed_cycles.values()))
        insert_events(self._session, self._events)
        count_reports(self._session, self._reports, self._now)
        expect_final_checkpoint(self._session, self._finished)

    def _identity(self, event: ProgressEvent) -> _Identity:
        node = self._nodes[event.node_id or UNNAMED]
        return node, event.model, event.version or self._versions.get((node, event.model), DEFAULT_VERSION)

    def _find_versions(self, events: Sequence[ProgressEvent]) -> None:
        """For events without a version: that of the model of this name which was heard of last."""
        names = {(self._nodes[event.node_id or UNNAMED], event.model) for event in events if event.version is None}
        if not names:
            return
        rows = self._session.execute(
            select(Model.node_id, Model.name, Model.version)
            .where(tuple_(Model.node_id, Model.name).in_(names), Model.deleted_at.is_(None))
            .order_by(Model.id)
        )
        self._versions = {(node, name): version for node, name, version in rows}

    def _make_models(self, events: Sequence[ProgressEvent]) -> None:
        missing = {
            identity: event
            for event in events
            if (identity := self._identity(event)) not in self._models and not self._is_of_deleted(identity, event)
        }
        if not missing:
            return
        datasets = datasets_of(self._session, {(node, name) for node, name, _ in missing})
        made = {identity: self._new_model(identity, datasets.get(identity[:2])) for identity in sorted(missing)}
        insert_models(self._session, list(made.values()))
        self._models |= made

    def _new_model(self, identity: _Identity, dataset: int | None) -> ModelRow:
        node, name, version = identity
        return ModelRow(
            node_id=node,
            name=name,
            version=version,
            dataset_id=dataset,
            progressed_at=self._now,
            changed_at=self._now,
        )

    def _is_of_deleted(self, identity: _Identity, event: ProgressEvent) -> bool:
        """Whether an event is a late one of a model that was deleted, and not of one hosted again since."""
        deleted = self._deleted.get(identity)
        return deleted is not None and deleted.deleted_at is not None and event.occurred_at <= deleted.deleted_at

    def _model_for(self, event: ProgressEvent) -> ModelRow:
        identity = self._identity(event)
        model = self._models.get(identity)
        if model is not None and model.deleted_at is not None:
            # Deleted within this batch.
            self._deleted[identity] = model
        if self._is_of_deleted(identity, event):
            return self._deleted[identity]
        if model is None or model.deleted_at is not None:
            # Hosted again; the row that is deleted must be so in the database before another can have its name.
            update_models(self._session, list(self._changed_models.values()))
            model = self._new_model(identity, None if model is None else model.dataset_id)
            insert_models(self._session, [model])
            self._models[identity] = model
        return model

    def _load_cycles(self, events: Sequence[ProgressEvent]) -> None:
        wanted = set()
        for event in events:
            model = self._models.get(self._identity(event))
            if model is not None:
                numbers = {event.cycle, event.figures.number, None if event.cycle is None else event.cycle + 1}
                wanted |= {(model.id, number) for number in numbers if number}
        self._cycles = load_cycles(self._session, wanted)

    def _take_cycle(self, model: ModelRow, event: ProgressEvent) -> None:
        told = cycle_of(event, self._cycles.get((model.id, event.cycle or 0)))
        if told is None:
            return
        number, end = told
        cycle = self._cycles.get((model.id, number))
        if cycle is None:
            cycle = CycleRow(model_id=model.id, number=number, state=end)
            self._cycles[model.id, number] = cycle
        self._changed_cycles[model.id, number] = cycle
        self._reports[model.node_id] += take_figures(cycle, event.figures, end=end, ended_at=event.occurred_at)


def _with_nodes(session: Session, events: Sequence[ProgressEvent]) -> list[ProgressEvent]:
    """Events with a node each: those that name none are taken to be of the one node that trains such a model."""
    nameless = {event.model for event in events if event.node_id is None}
    if not nameless:
        return list(events)
    rows = session.execute(
        select(RegisteredModel.name, func.min(Node.node_id))
        .join(Dataset, Dataset.id == RegisteredModel.dataset_id)
        .join(Node, Node.id == Dataset.node_id)
        .where(RegisteredModel.name.in_(nameless), Dataset.deleted_at.is_(None))
        .group_by(RegisteredModel.name)
        .having(func.count(Node.id.distinct()) == 1)
    )
    found = dict(row for row in rows)
    return [
        event if event.node_id is not None else replace(event, node_id=found.get(event.model, UNNAMED))
        for event in events
    ]


def _repeated(session: Session, events: Sequence[ProgressEvent]) -> list[bool]:
    """Which events were there before, in the database or earlier in the batch."""
    ids = {event.event_id for event in events if event.event_id is not None}
    seen = set(session.scalars(select(Event.event_id).where(Event.event_id.in_(ids)))) if ids else set()
    repeated = []
    for event in events:
        repeated.append(event.event_id is not None and event.event_id in seen)
        if event.event_id is not None:
            seen.add(event.event_id)
    return repeated
