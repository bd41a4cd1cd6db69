"""Which statements bring a tenant from what there is to what should be. Pure: nothing here talks to a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg2 import sql

from gridnode_operator.database.errors import DatabaseRefused
from gridnode_operator.database.state import IAM_ROLE, IDLE_IN_TRANSACTION, Role, Server, State
from gridnode_operator.database.tenant import Note, Tenant


@dataclass(frozen=True, slots=True)
class Change:
    """One statement.

    Attributes:
        what: What it does, for people.
        statement: SQL.
        acting_as: Roles whose rights the administrator needs for it, and has only meanwhile.
    """

    what: str
    statement: sql.Composable
    acting_as: tuple[str, ...] = ()


def note_of(tenant: Tenant, server: Server, *, released: bool = False) -> Note:
    """The note on the tenant's owner role and schema."""
    return Note(
        gridnode=tenant.gridnode, database=server.database, schema=tenant.schema, uid=tenant.uid, released=released
    )


def check_server(server: Server) -> None:
    """Whether the administrator's login can do its work at all.

    Raises:
        DatabaseRefused: it can't; the message holds the statement that helps.
    """
    name = _shown(server.administrator)
    if not server.creates_roles:
        message = f"The login {name} can't create roles. Run: ALTER ROLE {name} CREATEROLE"
        raise DatabaseRefused("NotPermitted", message)
    if not server.creates_schemas:
        grant = f"GRANT CREATE ON DATABASE {_shown(server.database)} TO {name}"
        raise DatabaseRefused("NotPermitted", f"The login {name} can't create schemas. As the owner, run: {grant}")


def check_ownership(state: State, tenant: Tenant, *, adopt: bool = False) -> None:
    """Whether everything there that has one of the tenant's names is the tenant's.

    Args:
        adopt: Also take over what another GridNode of the same name has not released.

    Raises:
        DatabaseRefused: something belongs to another GridNode, or to nobody known.
    """
    if state.schema is not None and state.schema.owner != tenant.owner:
        note = state.schema.owners_note
        whose = f"GridNode {note.gridnode}" if note is not None else f"the role {state.schema.owner}"
        raise DatabaseRefused("SchemaTaken", f"The schema {tenant.schema} belongs to {whose}. Choose another name.")
    for name, role in ((tenant.owner, state.owner), *state.logins.items()):
        if role is not None and not _is_of(role, tenant, state.server):
            raise _role_taken(name, role)
    note = state.owner.note if state.owner is not None else None
    if note is None or note.released or adopt:
        return
    if note.uid != tenant.uid:
        raise DatabaseRefused(
            "SchemaInUse",
            f"The schema {note.schema} is in use by another GridNode {tenant.gridnode}, with the uid {note.uid}, that "
            "was not deleted: perhaps one in another cluster. If it is gone, annotate this one with "
            "gridnode.io/adopt=true: it takes the schema over.",
        )
    if note.schema != tenant.schema:
        message = f"The GridNode has the schema {note.schema} and can't change to {tenant.schema}."
        raise DatabaseRefused("SchemaChanged", message)


def owns_schema(state: State, tenant: Tenant) -> bool:
    """Whether this very GridNode, and no later one of its name, has the schema or had it last."""
    note = state.owner.note if state.owner is not None else None
    return note is not None and (note.gridnode, note.database, note.uid, note.schema) == (
        tenant.gridnode, state.server.database, tenant.uid, tenant.schema,
    )  # fmt: skip


def own_logins(state: State, tenant: Tenant) -> list[str]:
    """Those of the logins that exist and are the tenant's."""
    return [name for name, role in state.logins.items() if _is_of(role, tenant, state.server)]


def changes_to_have(state: State, tenant: Tenant, login: str) -> list[Change]:
    """What is missing or different for ``login`` to work; its password is left out."""
    return [
        *_database_changes(state.server),
        *_owner_changes(state, tenant),
        *_schema_changes(state, tenant),
        *_login_changes(state, tenant, login),
        *(change for name in own_logins(state, tenant) for change in reassign(state, tenant, name)),
    ]


def set_password(login: str, verifier: str) -> Change:
    """Args:
    verifier: Made from the password by the driver, so that the password stands in no log of the server.
    """
    statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(login), sql.Literal(verifier))
    return Change(f"set the password of {login}", statement)


def forbid_login(login: str) -> Change:
    """No session of it can begin any more."""
    return Change(f"locked {login}", _sql("ALTER ROLE {} NOLOGIN", login))


def allow_login(login: str) -> Change:
    """The opposite."""
    return Change(f"unlocked {login}", _sql("ALTER ROLE {} LOGIN", login))


def lock_out(state: State, tenant: Tenant) -> list[Change]:
    """No login of the tenant's may begin a session any more."""
    return [forbid_login(name) for name in own_logins(state, tenant) if state.logins[name].can_login]


def drop_login(state: State, tenant: Tenant, login: str) -> list[Change]:
    """Remove a login; what it owns goes to the owner."""
    dropped = Change(f"dropped {login}", _sql("DROP ROLE {}", login))
    if state.owner is None:
        return [dropped]
    # DROP OWNED also takes back what the login was granted, which would keep it from being dropped.
    leave = _sql("DROP OWNED BY {}", login)
    took_back = Change(f"took back the rights of {login}", leave, (login, tenant.owner))
    return [*reassign(state, tenant, login), took_back, dropped]


def drop_owner(state: State, tenant: Tenant) -> list[Change]:
    """Remove the owner, unless an earlier GridNode of the same name left it another schema."""
    if state.owner is None or state.schema is not None or state.owner.other_schemas or state.owner.elsewhere:
        return []
    leave = _sql("DROP OWNED BY {} CASCADE", tenant.owner)
    return [
        Change(f"took back the rights of {tenant.owner}", leave, (tenant.owner,)),
        Change(f"dropped {tenant.owner}", _sql("DROP ROLE {}", tenant.owner)),
    ]


def drop_schema(state: State, tenant: Tenant) -> list[Change]:
    """Remove the schema with all models."""
    if state.schema is None or state.schema.owner != tenant.owner:
        return _release_owner(state, tenant)
    drop = _sql("DROP SCHEMA {} CASCADE", tenant.schema)
    return [Change(f"dropped schema {tenant.schema}", drop, (tenant.owner,)), *_release_owner(state, tenant)]


def release_schema(state: State, tenant: Tenant) -> list[Change]:
    """Leave the schema behind for a later GridNode of the same name."""
    changes = _release_owner(state, tenant)
    if state.schema is not None and state.schema.owner == tenant.owner:
        changes += _schema_comment(state, tenant, note_of(tenant, state.server, released=True))
    return changes


def reassign(state: State, tenant: Tenant, login: str) -> list[Change]:
    """What a login made under its own name goes to the owner, where the other login reaches it, too."""
    if state.owner is None or not state.logins[login].objects:
        return []
    statement = _sql("REASSIGN OWNED BY {} TO {}", login, tenant.owner)
    return [Change(f"gave what {login} owned to {tenant.owner}", statement, (login, tenant.owner))]


def _database_changes(server: Server) -> Iterator[Change]:
    if server.public_creates:
        yield Change(
            "took the right to create in schema public from PUBLIC",
            sql.SQL("REVOKE CREATE ON SCHEMA public FROM PUBLIC"),
        )
    if server.public_creates_schemas:
        yield Change(
            "took the right to create schemas from PUBLIC",
            _sql("REVOKE CREATE ON DATABASE {} FROM PUBLIC", server.database),
        )


def _owner_changes(state: State, tenant: Tenant) -> Iterator[Change]:
    name, owner, server = tenant.owner, state.owner, state.server
    if owner is None:
        yield Change(f"created role {name}", _sql("CREATE ROLE {} NOLOGIN", name))
    elif owner.can_login:
        yield Change(f"took the right to log in from {name}", _sql("ALTER ROLE {} NOLOGIN", name))
    if owner is not None:
        yield from _attribute_changes(name, owner)
    if owner is None or owner.note != note_of(tenant, server):
        yield _comment_on_role(name, note_of(tenant, server))
    if not (server.public_connects if owner is None else owner.can_connect):
        grant = _sql("GRANT CONNECT ON DATABASE {} TO {}", server.database, name)
        yield Change(f"let {name} connect to {server.database}", grant)


def _schema_changes(state: State, tenant: Tenant) -> Iterator[Change]:
    if state.schema is None:
        create = _sql("CREATE SCHEMA {} AUTHORIZATION {}", tenant.schema, tenant.owner)
        yield Change(f"created schema {tenant.schema}", create, (tenant.owner,))
    yield from _schema_comment(state, tenant, note_of(tenant, state.server))


def _login_changes(state: State, tenant: Tenant, name: str) -> Iterator[Change]:
    login, server = state.logins.get(name), state.server
    limit = sql.Literal(tenant.connection_limit)
    if login is None:
        create = sql.SQL("CREATE ROLE {} LOGIN CONNECTION LIMIT {}").format(sql.Identifier(name), limit)
        yield Change(f"created role {name}", create)
        yield _comment_on_role(name, Note(gridnode=tenant.gridnode, database=server.database))
    else:
        yield from _attribute_changes(name, login)
        if not login.can_login or login.connection_limit != tenant.connection_limit:
            alter = sql.SQL("ALTER ROLE {} LOGIN CONNECTION LIMIT {}").format(sql.Identifier(name), limit)
            yield Change(f"let {name} log in, {tenant.connection_limit} times at once", alter)
    if login is None or not login.is_member:
        grant = _sql("GRANT {} TO {} WITH INHERIT TRUE, SET TRUE", tenant.owner, name)
        yield Change(f"made {name} a member of {tenant.owner}", grant)
    # Sessions become the owner by themselves: whatever either login creates belongs to the owner.
    values = ("role", tenant.owner), ("search_path", tenant.schema), _IDLE
    for (setting, value), wanted in zip(values, server.settings, strict=True):
        if login is None or wanted not in login.settings:
            alter = sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} = {}").format(
                *map(sql.Identifier, (name, server.database, setting)), sql.Literal(value)
            )
            yield Change(f"set {setting} of {name}", alter)
    yield from _iam_changes(server, tenant, name, uses_iam=login is not None and login.uses_iam)


_IDLE = ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION)


def _iam_changes(server: Server, tenant: Tenant, name: str, *, uses_iam: bool) -> Iterator[Change]:
    if tenant.iam and server.has_iam and not uses_iam:
        yield Change(f"took the password from {name}", _sql("ALTER ROLE {} PASSWORD NULL", name))
        yield Change(f"let {name} log in by IAM", _sql("GRANT {} TO {}", IAM_ROLE, name))
    if not tenant.iam and uses_iam:
        yield Change(f"no longer let {name} log in by IAM", _sql("REVOKE {} FROM {}", IAM_ROLE, name))


def _attribute_changes(name: str, role: Role) -> Iterator[Change]:
    for attribute in role.attributes:
        yield Change(f"took {attribute} from {name}", _sql("ALTER ROLE {} NO", name) + sql.SQL(attribute))


def _release_owner(state: State, tenant: Tenant) -> list[Change]:
    note = note_of(tenant, state.server, released=True)
    if state.owner is None or state.owner.note == note:
        return []
    return [_comment_on_role(tenant.owner, note)]


def _schema_comment(state: State, tenant: Tenant, note: Note) -> list[Change]:
    if state.schema is not None and state.schema.comment == str(note):
        return []
    statement = _sql("COMMENT ON SCHEMA {} IS ", tenant.schema) + sql.Literal(str(note))
    return [Change(f"noted on schema {tenant.schema} whose it is", statement, (tenant.owner,))]


def _comment_on_role(name: str, note: Note) -> Change:
    statement = _sql("COMMENT ON ROLE {} IS ", name) + sql.Literal(str(note))
    return Change(f"noted on role {name} whose it is", statement)


def _is_of(role: Role, tenant: Tenant, server: Server) -> bool:
    note = role.note
    return note is not None and (note.gridnode, note.database) == (tenant.gridnode, server.database)


def _role_taken(name: str, role: Role) -> DatabaseRefused:
    if role.note is None:
        return DatabaseRefused(
            "RoleTaken", f"There is a role {name} already, and its comment does not say that it is this GridNode's."
        )
    return DatabaseRefused(
        "RoleTaken",
        f"The role {name} belongs to GridNode {role.note.gridnode} in database {role.note.database}. Installations "
        "that share a server need a name each.",
    )


def _sql(template: str, *names: str) -> sql.Composed:
    return sql.SQL(template).format(*map(sql.Identifier, names))


def _shown(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
