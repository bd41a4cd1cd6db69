"""Whether a node's login works, tried as the node does it: the server shows no password to anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import psycopg2
from psycopg2 import sql

from gridnode_operator.database.errors import DatabaseError, is_wrong_password
from gridnode_operator.database.session import Session, Timeouts, connect, node_parameters
from gridnode_operator.database.tenant import Credentials, Tenant

# A node can make its own session slow, but not the operator.
_STATEMENT: Final = 5.0
_LOCK: Final = 1.0
_LONGEST_REVISION: Final = 64


@dataclass(frozen=True, slots=True)
class LoginCheck:
    """What trying it has shown.

    Attributes:
        wrong_password: Whether the server says so. Another failure, such as too many connections or a network that is
            closed to the operator, says nothing about the login.
        revision: Revision of the schema; empty if nothing was migrated, None if it could not be read.
    """

    wrong_password: bool = False
    revision: str | None = None


def check_login(
    parameters: Mapping[str, str], credentials: Credentials, tenant: Tenant, timeouts: Timeouts
) -> LoginCheck:
    """Log in as the node and read the revision of its schema. With IAM there is nothing to log in with.

    Args:
        parameters: Of the administrator's connection.
    """
    if credentials.password is None:
        return LoginCheck()
    where, how = node_parameters(parameters)
    own = {**where, **how, "user": credentials.login, "password": credentials.password}
    try:
        connection = connect(own, Timeouts(timeouts.connect, _STATEMENT, _LOCK))
    except psycopg2.Error as error:
        return LoginCheck(wrong_password=is_wrong_password(error))
    except DatabaseError:
        return LoginCheck()
    try:
        return LoginCheck(revision=_revision(Session(connection, _STATEMENT, None), tenant.schema))
    except (psycopg2.Error, DatabaseError):
        return LoginCheck()
    finally:
        connection.close()


def _revision(session: Session, schema: str) -> str:
    table = sql.Identifier(schema, "alembic_version")
    [[exists]] = session.execute("SELECT to_regclass({name}) IS NOT NULL", name=table.as_string(session.connection))
    if not exists:
        return ""
    rows = session.execute(
        sql.SQL("SELECT left(version_num, {}) FROM {} LIMIT 1").format(sql.Literal(_LONGEST_REVISION), table)
    )
    return str(rows[0][0]) if rows else ""
