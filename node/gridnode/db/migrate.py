"""Schema migrations: Alembic under a lock of the schema's own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError

from gridnode.db.iam import IamTokens, log_in_by_iam
from gridnode.db.revision import REVISION, check_revision, find_revision

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script

log = logging.getLogger(__name__)

# As Alembic would make it, which only looks whether it is there.
_MAKE_VERSION_TABLE = """
    CREATE TABLE IF NOT EXISTS alembic_version (
        version_num varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY)
    """
# A lock that only the schema's own roles can take: nodes of several tenants share a database, and an advisory lock
# could be held by any of them. Nodes that read the revision at their start don't wait for it.
_LOCK = "LOCK TABLE alembic_version IN SHARE ROW EXCLUSIVE MODE"
# What PostgreSQL says to the slower of two that create the same schema or table: sometimes that it is there, sometimes
# that it is twice in a catalog.
_EXISTS = ("42P06", "42P07", "23505")


def upgrade(
    url: str | URL, *, schema: str | None = None, connect_timeout: int = 20, iam: IamTokens | None = None
) -> str:
    """Bring the schema to :data:`~gridnode.db.revision.REVISION`, and return the revision that it is at.

    Of several callers one migrates and the others wait for it and find nothing left to do. A failed migration leaves
    the schema as it was: PostgreSQL rolls DDL back. A schema that is newer and that this release can serve stays.

    A migration takes the time it takes: unlike the node's own connections, this one has no statement_timeout.

    Args:
        url: of the database.
        schema: that holds the tables, made where it is missing; None for the first of the login's search_path.
        connect_timeout: seconds.
        iam: makes the password; None to use the URL's.

    Raises:
        WrongRevision: the schema is newer, and this release can't serve it.
    """
    engine = create_engine(make_url(url), connect_args={"connect_timeout": connect_timeout})
    if iam is not None:
        log_in_by_iam(engine, iam)
    try:
        with engine.begin() as connection:
            lock_schema(connection, schema)
            return _upgrade(connection)
    finally:
        engine.dispose()


def lock_schema(connection: Connection, schema: str | None) -> None:
    """Work in a schema, made where it is missing, and be the only one to migrate it until the transaction ends.

    Args:
        connection: in a transaction.
        schema: None for the first of the login's search_path.
    """
    _use_schema(connection, schema)
    _make_unless_there(connection, _MAKE_VERSION_TABLE)
    connection.execute(text(_LOCK))


def _upgrade(connection: Connection) -> str:
    from alembic import command

    found = find_revision(connection)
    if found is not None and found.revision > REVISION:
        check_revision(connection)
        log.info("schema is at revision %s, which is newer than %s and stays", found.revision, REVISION)
        return found.revision
    command.upgrade(_config(connection), "head")
    connection.execute(
        text("UPDATE alembic_version SET oldest_release = :release"), {"release": migrations()[0].module.oldest_release}
    )
    log.info("schema is at revision %s", REVISION)
    return REVISION


def migrations() -> list[Script]:
    """All migrations, the newest first.

    Besides what Alembic asks for, the module of each has ``oldest_release``: the revision of the oldest release that
    can work with the schema it makes.
    """
    from alembic.script import ScriptDirectory

    return list(ScriptDirectory.from_config(_config(None)).walk_revisions())


def alembic_config(scripts: Path, connection: Connection | None) -> Config:
    """Alembic's configuration for the migrations in a folder; without a connection only to look at them."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(scripts))
    config.attributes["connection"] = connection
    return config


def _config(connection: Connection | None) -> Config:
    return alembic_config(Path(__file__).parent / "migrations", connection)


def _use_schema(connection: Connection, schema: str | None) -> None:
    if schema is None:
        return
    quoted = connection.dialect.identifier_preparer.quote_identifier(schema)
    # Whether it is there is asked first: creating it needs a right on the database, which a tenant does not have.
    if connection.scalar(text("SELECT to_regnamespace(:schema) IS NULL"), {"schema": quoted}):
        _make_unless_there(connection, f"CREATE SCHEMA IF NOT EXISTS {quoted}")
    connection.execute(text(f"SET LOCAL search_path = {quoted}"))


def _make_unless_there(connection: Connection, statement: str) -> None:
    """Create something that another caller may just be creating; waits for the other."""
    try:
        with connection.begin_nested():
            connection.execute(text(statement))
    except (IntegrityError, ProgrammingError) as error:
        if getattr(error.orig, "pgcode", None) not in _EXISTS:
            raise
