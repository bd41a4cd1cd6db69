"""Final checkpoints of finished models: fetched from their nodes, stored, and given to their owners."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from gridnode.db.session import Database
from gridnode.errors import Conflict, GridNodeError, NotFound
from gridnode_operator.master.db.models import Dataset, FinishedModel, Model, Node
from gridnode_operator.master.errors import NodeUnreachable, ProviderFailed, StorageFailed
from gridnode_operator.master.finished.storage import Storage, Stored
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.nodes.management_api import retrieve_checkpoint
from gridnode_operator.master.nodes.provider import NodeProvider

log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 900.0
#: Seconds that one download may take, and within which nobody else tries the same.
_DOWNLOAD_SECONDS: Final = 900.0
_AT_ONCE: Final = 16
_LONGEST_ERROR: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedView:
    """A finished model as lists show it.

    Attributes:
        model: Row of the model.
        state: ``pending`` until it is stored, then ``stored``.
        checkpoint: Number of the stored checkpoint.
        last_error: Why the last attempt failed, None if there was none or it is stored.
    """

    model: int
    name: str
    version: str
    node_id: str
    owner: str | None
    state: str
    checkpoint: int | None
    size: int | None
    sha256: str | None
    attempts: int
    last_error: str | None
    next_attempt_at: datetime | None
    finished_at: datetime | None
    stored_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Due:
    model: int
    name: str
    version: str
    node_id: str
    known: bool
    deleted_at: datetime | None
    attempts: int


class FinishedModels:
    """Fetches final checkpoints until they are stored, and gives them out.

    Args:
        database: The master node's.
        provider: Knows how nodes are managed: no other is ever asked.
        storage: Where they are kept.
        largest: Bytes that one may have.
        changed: Called when one was stored.
    """

    def __init__(
        self,
        database: Database,
        provider: NodeProvider,
        storage: Storage,
        *,
        largest: int,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._provider = provider
        self._storage = storage
        self._largest = largest
        self._changed = changed

    def fetch_due(self) -> int:
        """Try each that is due once; gives how many were stored.

        Raises:
            Unavailable: the database is away.
        """
        due = self._database.transaction(claim_due)
        stored = 0
        for each in due:
            try:
                self._fetch(each)
            except (NodeUnreachable, ProviderFailed, StorageFailed) as error:
                self._failed(each, error)
            else:
                stored += 1
        if stored:
            self._changed()
        return stored

    def open(self, principal: Principal, model_id: int) -> tuple[FinishedView, Iterator[bytes]]:
        """A stored checkpoint: what it is, and its bytes.

        Raises:
            NotFound: there is no finished model that the caller may see.
            Conflict: it is not stored yet.
            StorageFailed: it can't be read.
        """
        view, path = self._database.transaction(
            lambda session: (
                view_finished(session, principal, model_id),
                session.scalar(select(FinishedModel.path).where(FinishedModel.model_id == model_id)),
            )
        )
        if path is None:
            raise Conflict(f"the final checkpoint of {view.name} is not stored yet: {view.last_error or 'soon'}")
        return view, self._storage.read(path)

    def _fetch(self, due: _Due) -> None:
        if not due.known:
            raise ProviderFailed(
                f"node {due.node_id} only reports: it is none of this master node's own, so it is not connected to"
            )
        if due.deleted_at is not None:
            raise NodeUnreachable(f"node {due.node_id} has deleted the model before it could be fetched")
        access = self._provider.management(due.node_id)
        if access is None:
            raise ProviderFailed(f"it is not known how node {due.node_id} is managed")
        with retrieve_checkpoint(
            access, due.name, due.version, "latest", largest=self._largest, seconds=_DOWNLOAD_SECONDS
        ) as download:
            stored = self._storage.write(str(due.model), download.chunks)
        kept = self._database.transaction(
            lambda session: mark_stored(session, due.model, stored, download.number), deadline=30
        )
        if not kept:
            self._storage.delete(stored.path)
        log.info(
            "finished model stored",
            extra={"model": due.name, "version": due.version, "node": due.node_id, "bytes": stored.size},
        )

    def _failed(self, due: _Due, error: GridNodeError) -> None:
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(due.attempts - 1, 10))
        log.info(
            "finished model not fetched yet",
            extra={"model": due.name, "node": due.node_id, "reason": error.message, "again_in": pause},
        )
        self._database.transaction(lambda session: _mark_failed(session, due.model, error.message, pause))
        self._changed()


def claim_due(session: Session) -> list[_Due]:
    """Finished models whose attempt is due; nobody else is given them until a download must have ended."""
    locked = session.scalars(
        select(FinishedModel.model_id)
        .where(FinishedModel.state == "pending", FinishedModel.next_attempt_at <= func.now())
        .order_by(FinishedModel.next_attempt_at)
        .limit(_AT_ONCE)
        .with_for_update(skip_locked=True)
    ).all()
    session.execute(
        update(FinishedModel)
        .where(FinishedModel.model_id.in_(locked))
        .values(
            next_attempt_at=func.now() + timedelta(seconds=_DOWNLOAD_SECONDS + 60),
            attempts=FinishedModel.attempts + 1,
        )
        .execution_options(synchronize_session=False)
    )
    rows = session.execute(
        select(Model.id, Model.name, Model.version, Node.node_id, Node.known, Model.deleted_at, FinishedModel.attempts)
        .join(Node, Node.id == Model.node_id)
        .join(FinishedModel, FinishedModel.model_id == Model.id)
        .where(Model.id.in_(locked))
        .order_by(Model.id)
    )
    return [_Due(*row) for row in rows]


def mark_stored(session: Session, model_id: int, stored: Stored, checkpoint: int) -> bool:
    """Note that a checkpoint is stored; False if another was before."""
    row = session.get(FinishedModel, model_id, with_for_update=True)
    if row is None or row.state == "stored":
        return False
    row.state = "stored"
    row.path, row.sha256, row.size, row.checkpoint = stored.path, stored.sha256, stored.size, checkpoint
    row.last_error = None
    now = session.execute(select(func.now())).scalar_one()
    row.stored_at = now
    model = session.get_one(Model, model_id)
    model.changed_at, model.revision = now, model.revision + 1
    return True


def retry(session: Session, model_id: int) -> None:
    """Have a pending one tried again at once.

    Raises:
        NotFound: there is none that is pending.
    """
    due = (
        update(FinishedModel)
        .where(FinishedModel.model_id == model_id, FinishedModel.state == "pending")
        .values(next_attempt_at=func.now())
        .returning(FinishedModel.model_id)
        .execution_options(synchronize_session=False)
    )
    if session.execute(due).one_or_none() is None:
        raise NotFound(f"no final checkpoint of model {model_id} is waited for")


def view_finished(session: Session, principal: Principal, model_id: int) -> FinishedView:
    """One finished model.

    Raises:
        NotFound: there is none that the caller may see.
    """
    row = session.execute(_visible(principal).where(FinishedModel.model_id == model_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no finished model {model_id}")
    return _view(*row)


def list_finished(
    session: Session, principal: Principal, *, state: str | None = None, after: int = 0, limit: int = 100
) -> list[FinishedView]:
    """Finished models that the caller may see, by row of the model."""
    query = _visible(principal).where(FinishedModel.model_id > after).order_by(FinishedModel.model_id).limit(limit)
    if state is not None:
        query = query.where(FinishedModel.state == state)
    return [_view(*row) for row in session.execute(query)]


def _visible(principal: Principal) -> Select[FinishedModel, Model, str, str | None]:
    query = (
        select(FinishedModel, Model, Node.node_id, Dataset.owner)
        .join(Model, Model.id == FinishedModel.model_id)
        .join(Node, Node.id == Model.node_id)
        .outerjoin(Dataset, Dataset.id == Model.dataset_id)
    )
    return query if principal.sees_all else query.where(Dataset.owner == principal.owner)


def _mark_failed(session: Session, model_id: int, reason: str, pause: float) -> None:
    session.execute(
        update(FinishedModel)
        .where(FinishedModel.model_id == model_id, FinishedModel.state == "pending")
        .values(last_error=reason[:_LONGEST_ERROR], next_attempt_at=func.now() + timedelta(seconds=pause))
        .execution_options(synchronize_session=False)
    )


def _view(finished: FinishedModel, model: Model, node_id: str, owner: str | None) -> FinishedView:
    is_pending = finished.state == "pending"
    return FinishedView(
        model=model.id,
        name=model.name,
        version=model.version,
        node_id=node_id,
        owner=owner,
        state=finished.state,
        checkpoint=finished.checkpoint,
        size=finished.size,
        sha256=finished.sha256,
        attempts=finished.attempts,
        last_error=finished.last_error,
        next_attempt_at=finished.next_attempt_at if is_pending else None,
        finished_at=model.finished_at,
        stored_at=finished.stored_at,
    )
