"""What one GridNode has on the database server, and the note that says so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlencode

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from gridnode_operator.database.errors import DatabaseRefused

_LONGEST_NAME: Final = 63  # bytes; PostgreSQL cuts longer ones off, and two could become one
_RESERVED: Final = ("$user", "public", "none", "information_schema", "current_user", "current_role", "session_user")
_MOST_CONNECTIONS: Final = 262_143  # PostgreSQL's own bound of max_connections


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One GridNode as the database server knows it.

    Attributes:
        gridnode: ``namespace/name``, with the installation where several share a server.
        uid: Kubernetes' uid of the resource: another GridNode of the same name has another one.
        schema: Its schema.
        owner: Role without login that owns the schema and everything in it.
        logins: Two login roles, members of the owner; they take turns when the password is changed.
        iam: Whether it logs in with AWS IAM tokens instead of a password.
        connection_limit: Connections that each login may have.

    Raises:
        DatabaseRefused: a name can't be used.
    """

    gridnode: str
    uid: str
    schema: str
    owner: str
    logins: tuple[str, str]
    iam: bool = False
    connection_limit: int = 100

    def __post_init__(self) -> None:
        for name in (self.schema, self.owner, *self.logins):
            _check_name(name)
        if len({self.owner, *self.logins}) != 3:
            raise DatabaseRefused("InvalidName", f"The roles {self.owner}, {self.logins[0]} … must have three names.")
        if not 1 <= self.connection_limit <= _MOST_CONNECTIONS:
            raise DatabaseRefused("InvalidLimit", f"A login can't be limited to {self.connection_limit} connections.")

    def other_login(self, login: str) -> str:
        """The one of the two logins that is not ``login``.

        Raises:
            ValueError: it is neither of them.
        """
        return self.logins[1 - self.logins.index(login)]


@dataclass(frozen=True, slots=True)
class Login:
    """A login role as a Secret has it; without a password for IAM."""

    name: str
    password: str | None = field(default=None, repr=False)

    @classmethod
    def in_url(cls, url: str) -> Login | None:
        """The login in a database URL; None if there is none in it, or it is no URL."""
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            return None
        return cls(parsed.username, parsed.password) if parsed.username else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How a node reaches its schema.

    Attributes:
        password: None for IAM.
        host: Name, address, list of them or directory of a socket; None as in the administrator's URL.
        query: Further parameters of the connection, such as ``sslmode``.
    """

    login: str
    password: str | None = field(repr=False)
    host: str | None
    port: str | None
    database: str
    query: Mapping[str, str]

    @property
    def url(self) -> str:
        """``postgresql://…`` for the node, libpq and SQLAlchemy, with everything but letters and digits encoded."""
        query = dict(self.query)
        user, place = quote(self.login, safe=""), ""
        if self.password is not None:
            user += ":" + quote(self.password, safe="")
        if self.host and ("/" in self.host or "," in self.host):  # a socket's directory, or a list: not before the path
            query |= {"host": self.host, **({"port": self.port} if self.port else {})}
        elif self.host:
            place = (f"[{self.host}]" if ":" in self.host else self.host) + (f":{self.port}" if self.port else "")
        parameters = f"?{urlencode(query, quote_via=quote)}" if query else ""
        return f"postgresql://{user}@{place}/{quote(self.database, safe='')}{parameters}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensured:
    """What :meth:`AdminDatabase.ensure` found and did.

    Attributes:
        credentials: For the node's Secret; those that were known, if they can be used.
        changed: What was not as it should be, for people; empty if nothing was changed.
        adopted: Whether the schema with its models was taken over from an earlier GridNode of the same name.
        revision: Revision that the schema is at; empty if nothing was migrated yet, None if it could not be read.
        has_other_login: Whether there is another login beside it, which pods may use.
    """

    credentials: Credentials
    changed: tuple[str, ...]
    adopted: bool
    revision: str | None
    has_other_login: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """To whom a role or schema belongs: a comment in the catalog, as JSON.

    The one on the owner role decides, because only role administrators can change it. The one on the schema is a copy
    for people and dumps; a node could change that itself.

    Attributes:
        gridnode: See :class:`Tenant`.
        database: Roles are the same in all databases of a server, schemas are not.
        schema: The schema in use; empty in the note of a login.
        uid: Of the GridNode that uses it, or used it before it was released; empty in the note of a login.
        released: Whether that GridNode was deleted and left its schema behind.
    """

    gridnode: str
    database: str
    schema: str = ""
    uid: str = ""
    released: bool = False

    def __str__(self) -> str:
        values = {"gridnode": self.gridnode, "database": self.database}
        if self.schema:
            values |= {"schema": self.schema, "uid": self.uid, "state": "released" if self.released else "in use"}
        return json.dumps(values)

    @classmethod
    def parse(cls, comment: str | None) -> Note | None:
        """The note in a comment, or None if that is something else."""
        try:
            values = json.loads(comment or "")
            return cls(
                gridnode=str(values["gridnode"]),
                database=str(values["database"]),
                schema=str(values.get("schema", "")),
                uid=str(values.get("uid", "")),
                released=values.get("state") == "released",
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None


def _check_name(name: str) -> None:
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        length = 0
    if not 1 <= length <= _LONGEST_NAME or not name.isprintable():
        shown = ascii(name[:_LONGEST_NAME])
        raise DatabaseRefused("InvalidName", f"{shown} is no name of 1 to {_LONGEST_NAME} printable bytes.")
    if name.lower() in _RESERVED or name.lower().startswith(("pg_", "rds_", "rdsadmin")):
        raise DatabaseRefused("InvalidName", f"{name} is a name of the database server's own. Choose another.")
