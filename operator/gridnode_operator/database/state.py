"""What there is of one tenant on the server, read from catalogs that every role may read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gridnode_operator.database.session import Session
from gridnode_operator.database.tenant import Note, Tenant

IAM_ROLE: Final = "rds_iam"
#: A session that was left open in a transaction keeps the whole database from cleaning up.
IDLE_IN_TRANSACTION: Final = "10min"

_SERVER: Final = """
SELECT current_database(), current_user, r.rolsuper OR r.rolcreaterole,
       has_database_privilege(current_database(), 'CREATE'),
       has_database_privilege('public', current_database(), 'CONNECT'),
       has_database_privilege('public', current_database(), 'CREATE'),
       EXISTS (SELECT FROM pg_namespace WHERE nspname = 'public' AND has_schema_privilege('public', oid, 'CREATE')),
       EXISTS (SELECT FROM pg_roles WHERE rolname = {iam}),
       (SELECT COALESCE(bool_or(pg_has_role(i.oid, 'USAGE')), false) FROM pg_roles i WHERE i.rolname = {iam}),
       ARRAY['role=' || {owner}, 'search_path=' || quote_ident({schema}),
             'idle_in_transaction_session_timeout=' || {idle}]
FROM pg_roles r WHERE r.rolname = current_user
"""

_SERVER_FACTS: Final = (
    "database", "administrator", "creates_roles", "creates_schemas", "public_connects", "public_creates_schemas",
    "public_creates", "has_iam", "uses_iam",
)  # fmt: skip

_SCHEMA: Final = """
SELECT o.rolname, obj_description(n.oid, 'pg_namespace'), shobj_description(o.oid, 'pg_authid')
FROM pg_namespace n JOIN pg_roles o ON o.oid = n.nspowner WHERE n.nspname = {schema}
"""

_ROLES: Final = """
SELECT r.rolname, shobj_description(r.oid, 'pg_authid'), r.rolcanlogin, r.rolconnlimit,
       array_remove(ARRAY[CASE WHEN rolsuper THEN 'SUPERUSER' END, CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
                          CASE WHEN rolcreatedb THEN 'CREATEDB' END, CASE WHEN rolreplication THEN 'REPLICATION' END,
                          CASE WHEN rolbypassrls THEN 'BYPASSRLS' END], NULL),
       COALESCE((SELECT s.setconfig FROM pg_db_role_setting s, pg_database d
                 WHERE s.setrole = r.oid AND s.setdatabase = d.oid AND d.datname = current_database()), '{{}}'),
       COALESCE((SELECT pg_has_role(r.oid, o.oid, 'SET') AND pg_has_role(r.oid, o.oid, 'USAGE')
                 FROM pg_roles o WHERE o.rolname = {owner}), false),
       COALESCE((SELECT pg_has_role(r.oid, i.oid, 'MEMBER') FROM pg_roles i WHERE i.rolname = {iam}), false),
       has_database_privilege(r.oid, current_database(), 'CONNECT'),
       (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid),
       (SELECT count(*) FROM pg_namespace n WHERE n.nspowner = r.oid AND n.nspname <> {schema}),
       COUNT(d.*) FILTER (WHERE d.dbid = b.oid AND d.deptype = 'o'),
       COUNT(d.*) FILTER (WHERE d.dbid NOT IN (0, b.oid))
FROM pg_roles r JOIN pg_database b ON b.datname = current_database()
LEFT JOIN pg_shdepend d ON d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid
WHERE r.rolname = ANY({roles})
GROUP BY r.oid, r.rolname, r.rolcanlogin, r.rolconnlimit, rolsuper, rolcreaterole, rolcreatedb, rolreplication,
         rolbypassrls, b.oid
"""


_ROLE_FACTS: Final = (
    "can_login", "connection_limit", "attributes", "settings", "is_member", "uses_iam", "can_connect", "sessions",
    "other_schemas", "objects", "elsewhere",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What does not depend on the tenant, except for ``settings``.

    Attributes:
        administrator: The role of the session.
        creates_roles: Whether it may.
        creates_schemas: Whether it may, in this database.
        public_connects: Whether every role may connect to this database.
        public_creates_schemas: Whether every role may create schemas in it.
        public_creates: Whether every role may create objects in the schema ``public``.
        has_iam: Whether there is the role that makes a login use IAM.
        uses_iam: Whether the administrator has that role itself.
        settings: What a login of the tenant must have set, as the catalog writes it.
    """

    database: str
    administrator: str
    creates_roles: bool
    creates_schemas: bool
    public_connects: bool
    public_creates_schemas: bool
    public_creates: bool
    has_iam: bool
    uses_iam: bool
    settings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A role of the tenant's.

    Attributes:
        attributes: Those of SUPERUSER, CREATEROLE, … that it has and should not.
        settings: Its own in this database, as the catalog writes them.
        is_member: Whether it has the owner's rights and can become the owner.
        uses_iam: Whether it logs in by IAM.
        sessions: How many it has, in any database.
        other_schemas: How many schemas it owns in this database beside the tenant's.
        objects: How many objects it owns in this database.
        elsewhere: How many objects in other databases depend on it.
    """

    note: Note | None
    can_login: bool
    connection_limit: int
    attributes: tuple[str, ...]
    settings: frozenset[str]
    is_member: bool
    uses_iam: bool
    can_connect: bool
    sessions: int
    other_schemas: int
    objects: int
    elsewhere: int


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema: the name of its owner, its comment, and the note on that owner."""

    owner: str
    comment: str | None
    owners_note: Note | None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All there is of a tenant; what is missing is None, or not among the logins."""

    server: Server
    schema: Schema | None
    owner: Role | None
    logins: Mapping[str, Role] = field(default_factory=dict)


def read_state(session: Session, tenant: Tenant) -> State:
    """Read what there is now."""
    [server] = session.execute(
        _SERVER, iam=IAM_ROLE, owner=tenant.owner, schema=tenant.schema, idle=IDLE_IN_TRANSACTION
    )
    *facts, settings = server
    schemas = session.execute(_SCHEMA, schema=tenant.schema)
    names = [tenant.owner, *tenant.logins]
    roles = session.execute(_ROLES, roles=names, owner=tenant.owner, schema=tenant.schema, iam=IAM_ROLE)
    found = {name: _role(*facts) for name, *facts in roles}
    return State(
        server=Server(**dict(zip(_SERVER_FACTS, facts, strict=True)), settings=tuple(settings)),
        schema=Schema(schemas[0][0], schemas[0][1], Note.parse(schemas[0][2])) if schemas else None,
        owner=found.get(tenant.owner),
        logins={name: found[name] for name in tenant.logins if name in found},
    )


def _role(comment: str | None, *facts: Any) -> Role:
    values = dict(zip(_ROLE_FACTS, facts, strict=True))
    values |= {"attributes": tuple(values["attributes"]), "settings": frozenset(values["settings"])}
    return Role(note=Note.parse(comment), **values)
