"""The master node's connections: those of a node, in a schema of their own."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL

from gridnode.db.session import Database


def make_database(
    url: str | URL, *, schema: str | None, pool_size: int, connect_timeout: float, deadline: float
) -> Database:
    """A pool on the master node's schema.

    Args:
        url: SQLAlchemy URL with the psycopg2 driver.
        schema: Schema to work in; None where the role has a search_path of its own.
        pool_size: Connections at most.
        connect_timeout: Seconds to wait for one connection.
        deadline: Seconds after which a request is told to come back; no statement runs longer.
    """
    database = Database(
        url,
        pool_size=pool_size,
        connect_timeout=connect_timeout,
        deadline=deadline,
        schema=schema,
        statement_timeout=deadline,
    )

    @event.listens_for(database.engine, "connect")
    def _in_utc(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
        connection.commit()

    return database
