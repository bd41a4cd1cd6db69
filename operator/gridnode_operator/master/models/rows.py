"""Rows of models, cycles and events in memory, loaded and written many at a time.

Progress events come by the hundred a second, and each changes a model and a cycle. As ORM objects they would cost more
than everything else together, so here they are plain, and a batch is written with one statement for each table: all its
rows as one JSON document, which PostgreSQL takes apart by the columns' types.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Table, TextClause, bindparam, insert, select, text, tuple_
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from gridnode_operator.master.db.models import Base, Cycle, Model

Row = TypeVar("Row", "ModelRow", "CycleRow", "EventRow")

#: A body that is longer, or that PostgreSQL's JSON can't hold, is not kept: what it says has been read from it.
_LONGEST_BODY: Final = 16 * 1024
_NUL: Final = b"\\u0000"
_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]


@dataclass(slots=True, kw_only=True)
class ModelRow:
    """What events change of a model; see :class:`~gridnode_operator.master.db.models.Model`."""

    id: int = 0
    node_id: int
    dataset_id: int | None = None
    name: str
    version: str
    percent: int = 0
    completed_cycles: int = 0
    num_cycles: int | None = None
    state: str = "active"
    failure: str | None = None
    finished_at: datetime | None = None
    deleted_at: datetime | None = None
    loss: float | None = None
    accuracy: float | None = None
    running: dict[str, Any] | None = None
    occurred_at: datetime | None = None
    last_event_at: datetime | None = None
    progressed_at: datetime
    changed_at: datetime
    revision: int = 0


@dataclass(slots=True, kw_only=True)
class CycleRow:
    """A cycle; see :class:`~gridnode_operator.master.db.models.Cycle`."""

    model_id: int
    number: int
    state: str
    started_at: datetime | None = None
    completed_at: datetime | None = None
    seconds: float | None = None
    accepted: int | None = None
    reported: int | None = None
    dropped: int | None = None
    rejected: dict[str, int] | None = None
    loss: float | None = None
    loss_min: float | None = None
    loss_max: float | None = None
    accuracy: float | None = None
    accuracy_min: float | None = None
    accuracy_max: float | None = None


@dataclass(slots=True, kw_only=True)
class EventRow:
    """An event; see :class:`~gridnode_operator.master.db.models.Event`."""

    event_id: uuid.UUID | None
    node_id: int
    model_id: int
    percent: int
    cycle: int | None
    occurred_at: datetime
    received_at: datetime
    applied: bool
    body: msgspec.Raw


def load_models(session: Session, condition: ColumnElement[bool]) -> list[ModelRow]:
    """Models that fulfil a condition, deleted ones too, in the order in which they were made."""
    rows = session.execute(select(*_columns(Model, ModelRow)).where(condition).order_by(Model.id))
    return [ModelRow(**row._mapping) for row in rows]


def load_cycles(session: Session, identities: Iterable[tuple[int, int]]) -> dict[tuple[int, int], CycleRow]:
    """Cycles by model and number, those that there are."""
    wanted = list(identities)
    if not wanted:
        return {}
    rows = session.execute(select(*_columns(Cycle, CycleRow)).where(tuple_(Cycle.model_id, Cycle.number).in_(wanted)))
    return {(row.model_id, row.number): CycleRow(**row._mapping) for row in rows}


def insert_models(session: Session, rows: Sequence[ModelRow]) -> None:
    """Insert models, and give each its id."""
    if not rows:
        return
    values = [{name: value for name, value in _values(row).items() if name != "id"} for row in rows]
    ids = session.scalars(insert(Model).returning(Model.id, sort_by_parameter_order=True), values)
    for row, model_id in zip(rows, ids, strict=True):
        row.id = model_id


def update_models(session: Session, rows: Sequence[ModelRow]) -> None:
    """Write models that are there already."""
    _execute(session, _UPDATE_MODELS, [_values(row) for row in rows])


def upsert_cycles(session: Session, rows: Sequence[CycleRow]) -> None:
    """Write cycles, whether or not they are there already."""
    _execute(session, _UPSERT_CYCLES, [_values(row) for row in rows])


def insert_events(session: Session, rows: Sequence[EventRow]) -> None:
    """Insert events, in their order."""
    _execute(session, _INSERT_EVENTS, [_values(row) for row in rows])


def body_to_keep(body: object) -> msgspec.Raw:
    """An event's body as the database can hold it; an empty object if it can't."""
    encoded = msgspec.json.encode(body)
    is_kept = len(encoded) <= _LONGEST_BODY and _NUL not in encoded
    return msgspec.Raw(encoded if is_kept else b"{}")


def _execute(session: Session, statement: TextClause, rows: list[dict[str, Any]]) -> None:
    if rows:
        session.execute(statement, {"rows": msgspec.json.encode(rows).decode()})


def _values(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _NAMES[type(row)]}


def _columns(table: type[Base], row: type[Row]) -> list[Any]:
    return [getattr(table, name) for name in _NAMES[row]]


_NAMES: Final[dict[type[Any], tuple[str, ...]]] = {
    row: tuple(each.name for each in fields(row)) for row in (ModelRow, CycleRow, EventRow)
}


def _source(table: Table, names: Sequence[str]) -> str:
    """The rows of the parameter as a table of the columns' types."""
    columns = ", ".join(f"{name} {table.columns[name].type.compile(_DIALECT)}" for name in names)
    return f"jsonb_to_recordset(CAST(:rows AS jsonb)) AS given({columns})"


def _statement(sql: str) -> TextClause:
    # Made of the names of our own columns alone.
    return text(sql).bindparams(bindparam("rows"))


def _update_models() -> TextClause:
    names = _NAMES[ModelRow]
    changes = ", ".join(f"{name} = given.{name}" for name in names if name != "id")
    source = _source(Base.metadata.tables["models"], names)
    return _statement(f"UPDATE models SET {changes} FROM {source} WHERE models.id = given.id")  # noqa: S608


def _upsert_cycles() -> TextClause:
    names = _NAMES[CycleRow]
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in ("model_id", "number"))
    source = _source(Base.metadata.tables["cycles"], names)
    listed = ", ".join(names)
    return _statement(
        f"INSERT INTO cycles ({listed}) SELECT {listed} FROM {source} "  # noqa: S608
        f"ON CONFLICT (model_id, number) DO UPDATE SET {changes}"
    )


def _insert_events() -> TextClause:
    names = _NAMES[EventRow]
    listed = ", ".join(names)
    source = _source(Base.metadata.tables["events"], names)
    return _statement(f"INSERT INTO events ({listed}) SELECT {listed} FROM {source}")  # noqa: S608


_UPDATE_MODELS: Final = _update_models()
_UPSERT_CYCLES: Final = _upsert_cycles()
_INSERT_EVENTS: Final = _insert_events()
