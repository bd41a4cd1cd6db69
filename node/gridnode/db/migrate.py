"""Schema migrations: Alembic under a lock, and the cheap check that ``serve`` makes at start."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.engine import URL, make_url

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)

# The revision this code works with. A test keeps it equal to Alembic's head; importing Alembic to ask for it would
# cost every node a quarter of its start-up time.
REVISION = "0001"

# Any constant will do, as long as every version of the node uses the same.
_LOCK = 0x67726964_6E6F6465


def upgrade(url: str | URL, *, schema: str | None = None, connect_timeout: int = 20) -> str:
    """Bring the schema to :data:`REVISION` and return it.

    Of several callers one migrates and the others wait for it and find nothing left to do. A failed migration leaves
    the schema as it was: PostgreSQL rolls DDL back.
    """
    from alembic import command

    engine = create_engine(make_url(url), connect_args={"connect_timeout": connect_timeout})
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            _use_schema(connection, schema)
            command.upgrade(_config(connection), "head")
    finally:
        engine.dispose()
    log.info("schema is at revision %s", REVISION)
    return REVISION


def current_revision(connection: Connection) -> str | None:
    """The revision the schema is at, or None where nothing has been migrated yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def head_revision() -> str:
    """Alembic's newest revision."""
    from alembic.script import ScriptDirectory

    return str(ScriptDirectory.from_config(_config(None)).get_current_head())


def _config(connection: Connection | None) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def _use_schema(connection: Connection, schema: str | None) -> None:
    if schema is None:
        return
    quoted = connection.dialect.identifier_preparer.quote_identifier(schema)
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {quoted}"))
    connection.execute(text(f"SET LOCAL search_path = {quoted}"))
