"""Models as people see them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args

from sqlalchemy import ColumnElement, Select, and_, func, select
from sqlalchemy.orm import Session

from gridnode.errors import InvalidRequest, NotFound
from gridnode_operator.master.db.models import Dataset, Model, Node
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.models.running import RunningCycle, read_running_cycle

ModelState = Literal["active", "paused", "failed", "finished", "deleted"]
MODEL_STATES: Final = get_args(ModelState)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """A model as lists show it.

    Attributes:
        id: Of its row.
        node: Row of its node.
        registered: Whether somebody has announced it for a dataset; else it was only heard of.
        num_cycles: Cycles in all; 0 is without end, None is not known.
        loss: Mean over devices in the cycle that was completed last; likewise ``accuracy``.
        running: The running cycle as seen last.
        waits_for: What that waits for, for people; None if none runs.
        late: Whether its deadline is past although it can't end.
    """

    id: int
    node: int
    node_id: str
    dataset: int | None
    dataset_name: str | None
    owner: str | None
    registered: bool
    name: str
    version: str
    state: ModelState
    failure: str | None
    percent: int
    completed_cycles: int
    num_cycles: int | None
    loss: float | None
    accuracy: float | None
    running: RunningCycle | None
    waits_for: str | None
    late: bool
    created_at: datetime
    last_event_at: datetime | None
    progressed_at: datetime
    finished_at: datetime | None
    deleted_at: datetime | None
    changed_at: datetime
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDetail:
    """A model with its configuration; None where nobody has told."""

    model: ModelView
    client_config: dict[str, Any] | None
    server_config: dict[str, Any] | None


def list_models(
    session: Session,
    principal: Principal,
    *,
    state: str | None = None,
    node: int | None = None,
    dataset: int | None = None,
    name: str | None = None,
    contains: str | None = None,
    after: int = 0,
    limit: int = 100,
) -> list[ModelView]:
    """Models that the caller may see, in the order in which they were first heard of.

    Args:
        session: Read only.
        principal: Whoever asks.
        state: One of :data:`MODEL_STATES`; None is all but deleted ones.
        node: Row of a node.
        dataset: Row of a dataset.
        name: The whole name.
        contains: A part of the name, in upper or lower case.
        after: Only rows after this one (the last of the page before).
        limit: Entries at most.

    Raises:
        InvalidRequest: there is no such state.
    """
    query = visible_models(principal).where(Model.id > after, in_state(state)).order_by(Model.id).limit(limit)
    if node is not None:
        query = query.where(Model.node_id == node)
    if dataset is not None:
        query = query.where(Model.dataset_id == dataset)
    if name is not None:
        query = query.where(Model.name == name)
    if contains is not None:
        query = query.where(Model.name.icontains(contains, autoescape=True))
    return model_views(session, query)


def view_model(session: Session, principal: Principal, model_id: int) -> ModelDetail:
    """One model by its row.

    Raises:
        NotFound: there is none that the caller may see.
    """
    now = session.execute(select(func.now())).scalar_one()
    row = session.execute(visible_models(principal).where(Model.id == model_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no model {model_id}")
    return ModelDetail(
        model=_view(*row, now), client_config=row.Model.client_config, server_config=row.Model.server_config
    )


def visible_models(principal: Principal) -> Select[Model, str, Dataset]:
    """Models that the caller may see, each with the name of its node and its dataset."""
    query = (
        select(Model, Node.node_id, Dataset)
        .join(Node, Node.id == Model.node_id)
        .outerjoin(Dataset, Dataset.id == Model.dataset_id)
    )
    return query if principal.sees_all else query.where(Dataset.owner == principal.owner)


def model_views(session: Session, query: Select[Model, str, Dataset]) -> list[ModelView]:
    """The views of what a query made by :func:`visible_models` gives."""
    now = session.execute(select(func.now())).scalar_one()
    return [_view(*row, now) for row in session.execute(query)]


def in_state(state: str | None) -> ColumnElement[bool]:
    """The condition that a model is in a state; None is all but deleted.

    Raises:
        InvalidRequest: there is no such state.
    """
    is_live = Model.deleted_at.is_(None)
    match state:
        case None:
            return is_live
        case "deleted":
            return Model.deleted_at.is_not(None)
        case "finished":
            return and_(is_live, Model.finished_at.is_not(None))
        case "active" | "paused" | "failed":
            return and_(is_live, Model.finished_at.is_(None), Model.state == state)
    raise InvalidRequest(f"state must be one of {', '.join(MODEL_STATES)}")


def _state(model: Model) -> ModelState:
    if model.deleted_at is not None:
        return "deleted"
    if model.finished_at is not None:
        return "finished"
    return "paused" if model.state == "paused" else "failed" if model.state == "failed" else "active"


def _view(model: Model, node_id: str, dataset: Dataset | None, now: datetime) -> ModelView:
    running = read_running_cycle(model.running)
    return ModelView(
        id=model.id,
        node=model.node_id,
        node_id=node_id,
        dataset=model.dataset_id,
        dataset_name=None if dataset is None else dataset.name,
        owner=None if dataset is None else dataset.owner,
        registered=dataset is not None,
        name=model.name,
        version=model.version,
        state=_state(model),
        failure=model.failure,
        percent=model.percent,
        completed_cycles=model.completed_cycles,
        num_cycles=model.num_cycles,
        loss=model.loss,
        accuracy=model.accuracy,
        running=running,
        waits_for=None if running is None else running.waits_for(now),
        late=running is not None and running.is_late(now),
        created_at=model.created_at,
        last_event_at=model.last_event_at,
        progressed_at=model.progressed_at,
        finished_at=model.finished_at,
        deleted_at=model.deleted_at,
        changed_at=model.changed_at,
        revision=model.revision,
    )
