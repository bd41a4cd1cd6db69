"""How changes are made: one caller at a time for each tenant, with rights that nobody else ever sees."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import Final

import psycopg2
import psycopg2.errors
from psycopg2 import sql

from gridnode_operator.database.changes import Change
from gridnode_operator.database.errors import DatabaseUnavailable
from gridnode_operator.database.session import Row, Session
from gridnode_operator.database.tenant import Tenant

_SESSIONS_END: Final = 10.0  # seconds that sessions get to end after they were told to
_LOCK_USERS: Final = """
SELECT a.pid, a.usename FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND a.usename <> current_user
  AND (l.classid::bigint << 32) + l.objid::bigint = {key}
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_SESSIONS: Final = "SELECT pid, usename FROM pg_stat_activity WHERE usename = ANY({logins}) AND pid <> pg_backend_pid()"


class ChangedByOthers(DatabaseUnavailable):
    """Somebody else is changing the same tenant."""


@contextlib.contextmanager
def locked(session: Session, tenant: Tenant) -> Iterator[None]:
    """A transaction in which nobody else changes this tenant.

    Raises:
        DatabaseUnavailable: somebody else did, for the whole lock timeout.
    """
    key = _lock_key(tenant)
    try:
        with session.transaction():
            _take_lock(session, key)
            yield
    except ChangedByOthers:
        # All roles of a database share its advisory locks: a node that holds this one has no business there.
        with contextlib.suppress(psycopg2.errors.InsufficientPrivilege):
            _terminate(session, session.execute(_LOCK_USERS, key=key))
        raise


def apply(session: Session, changes: Sequence[Change]) -> list[str]:
    """Make changes, in a transaction, and have the rights they need only within it.

    A member of a role that logs in by IAM must do so, too: no membership of a login may ever be committed.

    Returns:
        What was done.
    """
    granted: list[str] = []
    for change in changes:
        for role in change.acting_as:
            if role not in granted and not _acts_as(session, role):
                session.execute(_sql("GRANT {} TO CURRENT_USER WITH INHERIT TRUE, SET TRUE", role))
                granted.append(role)
        session.execute(change.statement)
    if granted:
        kept = session.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY({names})", names=granted)
        for (role,) in kept:
            session.execute(_sql("REVOKE {} FROM CURRENT_USER", role))
    return [change.what for change in changes]


def has_sessions(session: Session, login: str) -> bool:
    """Whether a login is used by anybody now."""
    return bool(session.execute(_SESSIONS, logins=[login]))


def end_sessions(session: Session, logins: list[str]) -> None:
    """End all sessions of logins that can begin no new ones.

    Raises:
        DatabaseUnavailable: they don't end.
    """
    deadline = time.monotonic() + _SESSIONS_END
    while logins and (sessions := session.execute(_SESSIONS, logins=logins)):
        if time.monotonic() > deadline:
            raise DatabaseUnavailable(f"Sessions of {', '.join({str(name) for _, name in sessions})} don't end.")
        _terminate(session, sessions)
        time.sleep(0.02)


def _terminate(session: Session, sessions: Sequence[Row]) -> None:
    """End sessions of other roles, in a transaction of which nothing is committed."""
    if not sessions:
        return
    with session.rolled_back():
        for role in {str(name) for _, name in sessions}:
            if not _acts_as(session, role):
                session.execute(_sql("GRANT {} TO CURRENT_USER WITH INHERIT TRUE", role))
        for pid, _ in sessions:
            session.execute("SELECT pg_terminate_backend({pid})", pid=pid)


def _acts_as(session: Session, role: str) -> bool:
    statement = "SELECT pg_has_role({role}, 'USAGE') AND pg_has_role({role}, 'SET')"
    return bool(session.execute(statement, role=role)[0][0])


def _take_lock(session: Session, key: int) -> None:
    try:
        session.execute("SELECT pg_advisory_xact_lock({key})", key=key)
    except psycopg2.errors.LockNotAvailable:
        raise ChangedByOthers("Another change of the same schema has not ended yet.") from None


def _lock_key(tenant: Tenant) -> int:
    digest = hashlib.sha256(f"gridnode/{tenant.owner}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _sql(template: str, *names: str) -> sql.Composed:
    return sql.SQL(template).format(*map(sql.Identifier, names))
