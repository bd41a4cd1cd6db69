"""What the operator does on the shared server, with the rights of a role that creates roles and is no superuser."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Callable
from functools import partial

import psycopg2
import psycopg2.errors
import psycopg2.extensions

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
from gridnode_operator.database.transactions import apply, end_sessions, has_sessions, locked

_Step = Callable[[State, Tenant], list[Change]]


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
            return Ensured(
                credentials=credentials, changed=tuple(done), adopted=adopted, revision=check.revision,
                has_other_login=tenant.other_login(login) in state.logins,
            )  # fmt: skip

    def look(self, tenant: Tenant, known: Login) -> str | None:
        """Whether schema and login are as they should be, changing nothing.

        Returns:
            Revision that the schema is at; empty if nothing was migrated yet, None if it could not be read.

        Raises:
            DatabaseRefused: also if something is missing or different.
        """
        with self._session() as session:
            state = self._checked(session, tenant, adopt=False)
            if known.name not in tenant.logins:
                raise DatabaseRefused("NotPrepared", f"The login {known.name} is not one of this GridNode's.")
            login = state.logins.get(known.name)
            if login is not None and login.connection_limit > 0:
                # The limit follows the spec, which may have changed: the login works all the same.
                tenant = dataclasses.replace(tenant, connection_limit=login.connection_limit)
            if missing := plan.changes_to_have(state, tenant, known.name):
                raise DatabaseRefused("NotPrepared", f"Left as it is: {'; '.join(each.what for each in missing)}.")
            check = check_login(self._parameters, self._credentials(known.name, known.password), tenant, self._timeouts)
            if check.wrong_password:
                raise DatabaseRefused("NotPrepared", f"The password of {known.name} is not accepted any more.")
            return check.revision

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
            Whether it is of no use to anybody any more.

        Raises:
            ValueError: ``keep_login`` is not the tenant's.
        """
        login = tenant.other_login(keep_login)
        with self._session() as session:
            state = read_state(session, tenant)
            if not plan.owns_schema(state, tenant) or login not in plan.own_logins(state, tenant):
                return True
            kept = state.logins.get(keep_login)
            if state.logins[login].sessions or kept is None or not kept.can_login or not kept.is_member:
                return False
            if state.logins[login].can_login:
                with locked(session, tenant):
                    apply(session, [plan.forbid_login(login)])
            # A session may have begun since; from now on none can.
            if has_sessions(session, login):
                with locked(session, tenant):
                    apply(session, [plan.allow_login(login)])
                return False
            _drop_role(session, tenant, partial(_drop_login, login))
            return True

    def drop(self, tenant: Tenant) -> tuple[str, ...]:
        """End the tenant's sessions and drop schema and roles, with all models.

        A role stays, unable to log in, while something of another node's names it: no node must be able to keep
        another from being deleted.

        Returns:
            What was done; nothing if nothing of it is this GridNode's, such as what a later one has adopted.
        """
        with self._session() as session:
            done = _leave(session, tenant, plan.drop_schema)
            return (*done, *_drop_role(session, tenant, _drop_owner))

    def release(self, tenant: Tenant) -> tuple[str, ...]:
        """End the tenant's sessions and drop its logins, but keep the schema for a later GridNode of the same name.

        Returns:
            What was done; nothing if nothing of it is this GridNode's, or it was released already.
        """
        with self._session() as session:
            return tuple(_leave(session, tenant, plan.release_schema))

    @property
    def server(self) -> tuple[str, str]:
        """Host and port, to tell servers apart."""
        where = self._parameters.get("host") or self._parameters.get("hostaddr") or ""
        return where, self._parameters.get("port") or "5432"

    def _checked(self, session: Session, tenant: Tenant, adopt: bool) -> State:
        state = read_state(session, tenant)
        plan.check_server(state.server)
        plan.check_ownership(state, tenant, adopt=adopt)
        return state

    def _have(
        self, session: Session, tenant: Tenant, login: str, password: str | None, *, adopt: bool = False
    ) -> list[str]:
        """Bring everything about ``login`` in order, in one transaction; set its password unless None."""
        with locked(session, tenant):
            state = self._checked(session, tenant, adopt)
            changes = plan.changes_to_have(state, tenant, login)
            if password is not None:
                changes.append(plan.set_password(login, _verifier(session, login, password)))
            done = apply(session, changes)
            _check_result(state, read_state(session, tenant), tenant, login)
            return done

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


def _leave(session: Session, tenant: Tenant, step: _Step) -> list[str]:
    """Lock the logins out, end their sessions, do something about the schema, and drop the logins."""
    done = _change(session, tenant, plan.lock_out)
    state = read_state(session, tenant)
    if not _may_leave(state, tenant):
        return done
    logins = plan.own_logins(state, tenant)
    end_sessions(session, logins)
    done += _change(session, tenant, step)
    for login in logins:
        done += _drop_role(session, tenant, partial(_drop_login, login))
    return done


def _change(session: Session, tenant: Tenant, step: _Step) -> list[str]:
    """Make changes to what is this GridNode's, if there are any to make."""
    state = read_state(session, tenant)
    if not _may_leave(state, tenant) or not step(state, tenant):
        return []
    with locked(session, tenant):
        state = read_state(session, tenant)
        return apply(session, step(state, tenant)) if _may_leave(state, tenant) else []


def _drop_role(session: Session, tenant: Tenant, step: _Step) -> list[str]:
    """Drop a role that can't log in, unless something of another node's names it: that could be on purpose."""
    try:
        return _change(session, tenant, step)
    except (psycopg2.errors.DependentObjectsStillExist, psycopg2.errors.LockNotAvailable):
        return []


def _drop_login(login: str, state: State, tenant: Tenant) -> list[Change]:
    """Nothing if somebody let it log in again meanwhile."""
    is_left = login in plan.own_logins(state, tenant) and not state.logins[login].can_login
    return plan.drop_login(state, tenant, login) if is_left else []


def _drop_owner(state: State, tenant: Tenant) -> list[Change]:
    note = state.owner.note if state.owner is not None else None
    return plan.drop_owner(state, tenant) if note is not None and note.released else []


def _verifier(session: Session, login: str, password: str) -> str:
    return str(psycopg2.extensions.encrypt_password(password, login, session.connection, "scram-sha-256"))
