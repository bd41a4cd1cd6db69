"""What a node's database says about its cycles, read directly: the tests' second opinion on the API's answers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg2


@dataclass(frozen=True, slots=True)
class CycleRow:
    """One cycle; ``reported`` are the workers whose report is counted."""

    number: int
    state: str
    reports: int
    accepted: int
    weight: float
    reported: frozenset[str]


@dataclass(frozen=True, slots=True)
class Ledger:
    """All of one process."""

    state: str
    completed_cycles: int
    cycles: tuple[CycleRow, ...]
    checkpoints: tuple[int, ...]
    undelivered_events: int


def read_ledger(database_url: str, name: str) -> Ledger:
    """The rows of the process of this name, in one consistent snapshot.

    Raises:
        KeyError: there is no such process.
    """
    with closing(_connect(database_url)) as connection:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with connection.cursor() as cursor:
            cursor.execute("SELECT id, state, completed_cycles FROM processes WHERE name = %s", (name,))
            row = cursor.fetchone()
            if row is None:
                raise KeyError(name)
            process_id, state, completed = row
            return Ledger(
                state,
                completed,
                tuple(_cycles(cursor, process_id)),
                tuple(_column(cursor, "SELECT number FROM checkpoints WHERE process_id = %s ORDER BY 1", process_id)),
                len(
                    _column(cursor, "SELECT id FROM outbox WHERE process_id = %s AND delivered_at IS NULL", process_id)
                ),
            )


def counters(database_url: str) -> Mapping[str, Any]:
    """Every number and state that a bad request must not change, over all processes of a node."""
    queries = {
        "processes": "SELECT name, version, state, completed_cycles FROM processes ORDER BY 1, 2",
        "cycles": "SELECT id, state, reports, weight FROM cycles ORDER BY id",
        "reported": "SELECT cycle_id, count(*) FROM assignments WHERE state = 'reported' GROUP BY 1 ORDER BY 1",
        "update sums": "SELECT cycle_id, sum(reports), sum(weight) FROM update_sums GROUP BY 1 ORDER BY 1",
        "checkpoints": "SELECT process_id, number FROM checkpoints ORDER BY 1, 2",
        "plans": "SELECT count(*) FROM plans",
    }
    with closing(_connect(database_url)) as connection, connection.cursor() as cursor:
        found = {}
        for what, query in queries.items():
            cursor.execute(query)
            found[what] = cursor.fetchall()
        return found


def _connect(database_url: str) -> Any:
    # SQLAlchemy names its driver in the URL.
    return psycopg2.connect(database_url.replace("+psycopg2", ""))


def _cycles(cursor: Any, process_id: int) -> list[CycleRow]:
    cursor.execute(
        "SELECT c.number, c.state, c.reports, c.accepted, c.weight,"
        "  coalesce(array_agg(a.worker_id::text) FILTER (WHERE a.state = 'reported'), '{}')"
        " FROM cycles c LEFT JOIN assignments a ON a.cycle_id = c.id"
        " WHERE c.process_id = %s GROUP BY c.id ORDER BY c.number",
        (process_id,),
    )
    return [
        CycleRow(number, state, reports, accepted, weight, frozenset(str(uuid.UUID(each)) for each in workers))
        for number, state, reports, accepted, weight, workers in cursor.fetchall()
    ]


def _column(cursor: Any, query: str, process_id: int) -> list[int]:
    cursor.execute(query, (process_id,))
    return [row[0] for row in cursor.fetchall()]
