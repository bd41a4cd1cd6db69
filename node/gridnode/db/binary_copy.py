"""Large values in and out of PostgreSQL in the binary COPY format.

psycopg2 sends and receives bytea as hex text, which costs two to eight times as much CPU as COPY ... WITH BINARY.
Format: https://www.postgresql.org/docs/current/sql-copy.html (section "Binary Format").
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import psycopg2
from psycopg2 import sql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

_SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + struct.pack("!ii", 0, 0)
_TRAILER = struct.pack("!h", -1)
_CHUNK = 1 << 20

Field = int | float | bytes | bytearray | memoryview


def insert_row(session: Session, table: str, row: dict[str, Field]) -> None:
    """Insert one row; ints go to bigint, floats to double precision, buffers to bytea columns."""
    statement = sql.SQL("COPY {} ({}) FROM STDIN WITH BINARY").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, row))
    )
    parts: list[bytes | bytearray | memoryview] = [_SIGNATURE + struct.pack("!h", len(row))]
    for value in row.values():
        parts.extend(_encode(value))
    parts.append(_TRAILER)
    _copy(session, statement, _Reader(parts))


def read_value(session: Session, table: str, column: str, key: dict[str, int]) -> bytes | None:
    """Read one bytea value by its integer key columns; None when there is no such row or the value is NULL."""
    condition = sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(int(value))) for name, value in key.items()
    )
    statement = sql.SQL("COPY (SELECT {} FROM {} WHERE {} LIMIT 1) TO STDOUT WITH BINARY").format(
        sql.Identifier(column), sql.Identifier(table), condition
    )
    sink = _Writer()
    _copy(session, statement, sink)
    return sink.value()


def _copy(session: Session, statement: sql.Composed, file: _Reader | _Writer) -> None:
    connection = session.connection()
    dialect: Any = connection.dialect
    cursor: Any = connection.connection.cursor()
    with cursor:
        try:
            cursor.copy_expert(statement, file, _CHUNK)
        except psycopg2.Error as error:
            # As if SQLAlchemy had run the statement: callers meet one kind of error, the pool no broken connection.
            broken = dialect.is_disconnect(error, connection.connection, cursor)
            if broken:
                connection.invalidate(error)
            raise DBAPIError.instance(
                "COPY", None, error, psycopg2.Error, connection_invalidated=broken, dialect=dialect
            ) from error


def _encode(value: Field) -> list[bytes | bytearray | memoryview]:
    if isinstance(value, int):
        return [struct.pack("!iq", 8, value)]
    if isinstance(value, float):
        return [struct.pack("!id", 8, value)]
    view = memoryview(value).cast("B")
    return [struct.pack("!i", len(view)), view]


class _Reader:
    """The file object that ``copy_expert`` reads from, over buffers that are never joined."""

    def __init__(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        self._parts = [memoryview(part) for part in parts]
        self._part = 0
        self._offset = 0

    def read(self, size: int) -> bytes:
        while self._part < len(self._parts):
            piece = self._parts[self._part][self._offset : self._offset + size]
            if len(piece):
                self._offset += len(piece)
                return bytes(piece)
            self._part += 1
            self._offset = 0
        return b""


class _Writer:
    """The file object that ``copy_expert`` writes to; the server sends header, row and trailer as separate messages."""

    def __init__(self) -> None:
        self._received: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._received.append(data)
        return len(data)

    def value(self) -> bytes | None:
        # PostgreSQL sends header and first row in one message; joining would copy a whole model for nothing.
        stream = self._received[0] if len(self._received[0]) > len(_SIGNATURE) else b"".join(self._received)
        start = len(_SIGNATURE)
        (columns,) = struct.unpack_from("!h", stream, start)
        if columns == -1:
            return None
        (length,) = struct.unpack_from("!i", stream, start + 2)
        return None if length == -1 else stream[start + 6 : start + 6 + length]
