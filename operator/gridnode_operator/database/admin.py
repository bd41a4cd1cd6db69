"""What the operator does on the shared server, with the rights of a role that creates roles and is no superuser."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import psycopg2
import psycopg2.errors
import psycopg2.extensions
from psycopg2 import sql

from gridnode_operator.database import changes as plan
from gridnode_operator.database.budget import Budget, read_budget
from gridnode_operator.database.changes import Change
from gridnode_operator.database.errors import DatabaseRefused, DatabaseUnavailable
from gridnode_operator.database.login_check import check_login
from gridnode_operator.database.session import (
    Checkpoint,
    Session,
    Timeouts,
    connection_parameters,
    node_parameters,
    open_session,
)
from gridnode_operator.database.state import State, read_state
from gridnode_operator.database.tenant import Credentials, Ensured, Login, Tenant

_SESSIONS_END: Final = 10.0  # seconds that sessions get to end after they were told to
_LOCK_HOLDERS: Final = """
SELECT a.pid, a.usename FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND a.usename <> current_user
  AND (l.classid::bigint << 32) + l.objid::bigint = {key}
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_SESSIONS: Final = """
SELECT pid, usename FROM pg_stat_activity WHERE usename = ANY({logins}) AND pid <> pg_backend_pid()
"""


class AdminDatabase:
    """The shared server. Each call is a connection of its own, so threads may call at once.

    Every call may be repeated after it was interrupted anywhere, and calls for one tenant wait for each other. All of
    them raise :class:`DatabaseUnavailable` or :class:`DatabaseRefused`.

    Args:
        admin_url: ``postgresql://user:password@host:5432/database?sslmode=…`` of a role with CREATEROLE and CREATE on
            the database, better its owner. PostgreSQL 16 or newer.
        timeouts: In seconds. Aurora resumes from auto-pause in about 15.
        checkpoint: Called with each statement before it is sent; for tests that interrupt.
    """

    def __init__(
        self, admin_url: str, *, timeouts: Timeouts | None = None, checkpoint: Checkpoint | None = None
    ) -> None:
        self._parameters = connection_parameters(admin_url)
        self._timeouts = timeouts or Timeouts()
        self._checkpoint = checkpoint

    def ping(self) -> None:
        """Whether the server answers and accepts writes."""
        with self._session() as session:
            session.execute("SELECT 1")

    def budget(self) -> Budget:
        """Connections of the whole server."""
        with self._session() as session:
            return read_budget(session)

    def ensure(self, tenant: Tenant, known: Login | None = None, *, adopt: bool = False) -> Ensured:
        """Have schema, owner and a login that works. Writes nothing if they are there already.

        Args:
            known: The login in the node's Secret: it is kept, and its password restored if it is not accepted any
                more. Without one, the login gets a fresh password; the one without sessions, so that pods with a
                password that nobody knows any more stay connected.
            adopt: Take the schema over although the GridNode of this name that used it has not released it.
        """
        with self._session() as session:
            state = self._checked(session, tenant, adopt)
            adopted = _is_adoption(state, tenant)
            known = known if known is not None and known.name in tenant.logins else None
            login = known.name if known is not None else _least_used(state, tenant)
            password = self._password(tenant, known)
            is_fresh = known is None or known.password is None
            done: list[str] = []
            if plan.changes_to_have(state, tenant, login) or (is_fresh and password is not None):
                replace = password if is_fresh or login not in state.logins else None
                done += self._have(session, tenant, login, replace, adopt=adopt)
            credentials = self._credentials(login, password)
            check = check_login(self._parameters, credentials, tenant, self._timeouts)
            if check.wrong_password and password is not None:
                done += self._have(session, tenant, login, password, adopt=adopt)
                check = check_login(self._parameters, credentials, tenant, self._timeouts)
            return Ensured(credentials=credentials, changed=tuple(done), adopted=adopted, revision=check.revision)

    def rotate(self, tenant: Tenant, current_login: str) -> Credentials:
        """Have the other login, with a fresh password. The current one goes on working until :meth:`retire`.

        Raises:
            DatabaseUnavailable: also while sessions of the rotation before use that login.
            ValueError: ``current_login`` is not the tenant's.
        """
        login = tenant.other_login(current_login)
        with self._session() as session:
            state = self._checked(session, tenant, adopt=False)
            if login in state.logins and state.logins[login].sessions:
                raise DatabaseUnavailable(f"The login {login} is still in use: the rotation before has not ended.")
            password = self._password(tenant, None)
            self._have(session, tenant, login, password)
            return self._credentials(login, password)

    def retire(self, tenant: Tenant, keep_login: str) -> bool:
        """Drop the other login when no session uses it.

        Returns:
            Whether it is gone.

        Raises:
            ValueError: ``keep_login`` is not the tenant's.
        """
        login = tenant.other_login(keep_login)
        with self._session() as session:
            state = read_state(session, tenant)
            if login not in plan.own_logins(state, tenant):
                return True
            kept = state.logins.get(keep_login)
            if state.logins[login].sessions or kept is None or not kept.can_login or not kept.is_member:
                return False
            with self._locked(session, tenant):
                self._apply(session, [Change("", _sql("ALTER ROLE {} NOLOGIN", login))])
            # A session may have begun since; from now on none can.
            if session.execute(_SESSIONS, logins=[login]):
                with self._locked(session, tenant):
                    self._apply(session, [Change("", _sql("ALTER ROLE {} LOGIN", login))])
                return False
            self._drop_role(session, tenant, lambda state: _drop_login(state, tenant, login))
            return True

    def drop(self, tenant: Tenant) -> tuple[str, ...]:
        """End the tenant's sessions and drop schema and roles, with all models.

        A role stays, unable to log in, while something of another node's names it: no node must be able to keep
        another from being deleted.

        Returns:
            What was done; nothing if nothing of it is this GridNode's, such as what a later one has adopted.
        """
        with self._session() as session:
            done = self._leave(session, tenant, plan.drop_schema)
            done += self._drop_role(session, tenant, lambda state: _drop_owner(state, tenant))
            return tuple(done)

    def release(self, tenant: Tenant) -> tuple[str, ...]:
        """End the tenant's sessions and drop its logins, but keep the schema for a later GridNode of the same name.

        Returns:
            What was done; nothing if nothing of it is this GridNode's, or it was released already.
        """
        with self._session() as session:
            return tuple(self._leave(session, tenant, plan.release_schema))

    def _leave(self, session: Session, tenant: Tenant, step: Callable[[State, Tenant], list[Change]]) -> list[str]:
        """Lock the logins out, end their sessions, do something about the schema, and drop the logins."""
        done = self._change(session, tenant, lambda state: plan.lock_out(state, tenant))
        state = read_state(session, tenant)
        if not _may_leave(state, tenant):
            return done
        logins = plan.own_logins(state, tenant)
        self._end_sessions(session, logins)
        done += self._change(session, tenant, lambda state: step(state, tenant))
        for login in logins:
            done += self._drop_role(session, tenant, lambda state, login=login: _drop_login(state, tenant, login))
        return done

    def _change(self, session: Session, tenant: Tenant, changes: Callable[[State], list[Change]]) -> list[str]:
        """Make changes to what is this GridNode's, if there are any to make."""
        state = read_state(session, tenant)
        if not _may_leave(state, tenant) or not changes(state):
            return []
        with self._locked(session, tenant):
            state = read_state(session, tenant)
            return self._apply(session, changes(state)) if _may_leave(state, tenant) else []

    def _drop_role(self, session: Session, tenant: Tenant, changes: Callable[[State], list[Change]]) -> list[str]:
        try:
            return self._change(session, tenant, changes)
        except (psycopg2.errors.DependentObjectsStillExist, psycopg2.errors.LockNotAvailable):
            return []

    def _checked(self, session: Session, tenant: Tenant, adopt: bool) -> State:
        state = read_state(session, tenant)
        plan.check_server(state.server)
        plan.check_ownership(state, tenant, adopt=adopt)
        return state

    def _have(
        self, session: Session, tenant: Tenant, login: str, password: str | None, *, adopt: bool = False
    ) -> list[str]:
        """Bring everything about ``login`` in order, in one transaction; set its password unless None."""
        with self._locked(session, tenant):
            state = self._checked(session, tenant, adopt)
            changes = plan.changes_to_have(state, tenant, login)
            if password is not None:
                changes.append(plan.set_password(login, _verifier(session, login, password)))
            done = self._apply(session, changes)
            _check_result(state, read_state(session, tenant), tenant, login)
            return done

    def _apply(self, session: Session, changes: Sequence[Change]) -> list[str]:
        """Make changes, and have the rights they need only meanwhile."""
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

    @contextlib.contextmanager
    def _locked(self, session: Session, tenant: Tenant) -> Iterator[None]:
        """A transaction in which nobody else changes this tenant."""
        key = _lock_key(tenant)
        try:
            with session.transaction():
                _take_lock(session, key)
                yield
        except _ChangedByOthers:
            self._evict(session, key)
            raise

    def _evict(self, session: Session, key: int) -> None:
        """End sessions of nodes that hold the lock: all roles of a database share its advisory locks."""
        holders = session.execute(_LOCK_HOLDERS, key=key)
        with contextlib.suppress(psycopg2.errors.InsufficientPrivilege):
            _terminate(session, holders)

    def _end_sessions(self, session: Session, logins: list[str]) -> None:
        deadline = time.monotonic() + _SESSIONS_END
        while logins and (sessions := session.execute(_SESSIONS, logins=logins)):
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(f"Sessions of {', '.join({str(name) for _, name in sessions})} don't end.")
            _terminate(session, sessions)
            time.sleep(0.02)

    def _session(self) -> contextlib.AbstractContextManager[Session]:
        return open_session(self._parameters, self._timeouts, self._checkpoint)

    def _password(self, tenant: Tenant, known: Login | None) -> str | None:
        if tenant.iam:
            return None
        return (known.password if known is not None else None) or secrets.token_urlsafe(32)

    def _credentials(self, login: str, password: str | None) -> Credentials:
        where, how = node_parameters(self._parameters)
        return Credentials(
            login=login,
            password=password,
            host=where.get("host") or where.get("hostaddr"),
            port=where.get("port"),
            database=where["dbname"],
            query=how,
        )


def _is_adoption(state: State, tenant: Tenant) -> bool:
    note = state.owner.note if state.owner is not None else None
    return state.schema is not None and note is not None and note.uid != tenant.uid


def _check_result(before: State, after: State, tenant: Tenant, login: str) -> None:
    """Whether all is as it should be, before it is committed.

    Raises:
        DatabaseRefused: it is not.
    """
    administrator = after.server.administrator
    if left := plan.changes_to_have(after, tenant, login):
        # PostgreSQL only warns when there is nothing that this role can take back.
        what = "; ".join(change.what for change in left)
        raise DatabaseRefused("NotPermitted", f"The database administrator's login {administrator} may not: {what}.")
    if after.server.uses_iam and not before.server.uses_iam:
        message = f"The login {administrator} would have to use IAM itself, and could not log in any more."
        raise DatabaseRefused("IamForAdministrator", message)


def _least_used(state: State, tenant: Tenant) -> str:
    return min(tenant.logins, key=lambda name: state.logins[name].sessions if name in state.logins else 0)


def _may_leave(state: State, tenant: Tenant) -> bool:
    """An owner that somebody has dropped can't say anything any more; its logins still can."""
    return plan.owns_schema(state, tenant) or (state.owner is None and bool(plan.own_logins(state, tenant)))


def _drop_login(state: State, tenant: Tenant, login: str) -> list[Change]:
    """Nothing if somebody let it log in again meanwhile."""
    is_left = login in plan.own_logins(state, tenant) and not state.logins[login].can_login
    return plan.drop_login(state, tenant, login) if is_left else []


def _drop_owner(state: State, tenant: Tenant) -> list[Change]:
    note = state.owner.note if state.owner is not None else None
    return plan.drop_owner(state, tenant) if note is not None and note.released else []


def _terminate(session: Session, sessions: Iterable[Sequence[object]]) -> None:
    """End sessions of other roles, with rights that are never committed."""
    sessions = list(sessions)
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


class _ChangedByOthers(DatabaseUnavailable):
    pass


def _take_lock(session: Session, key: int) -> None:
    try:
        session.execute("SELECT pg_advisory_xact_lock({key})", key=key)
    except psycopg2.errors.LockNotAvailable:
        raise _ChangedByOthers("Another change of the same schema has not ended yet.") from None


def _lock_key(tenant: Tenant) -> int:
    digest = hashlib.sha256(f"gridnode/{tenant.owner}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _verifier(session: Session, login: str, password: str) -> str:
    return str(psycopg2.extensions.encrypt_password(password, login, session.connection, "scram-sha-256"))


def _sql(template: str, *names: str) -> sql.Composed:
    return sql.SQL(template).format(*map(sql.Identifier, names))
