"""Migrations of the master node's schema: Alembic under a lock."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import URL, make_url

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)

#: The revision this code works with; a test keeps it equal to Alembic's newest.
REVISION: Final = "0001"

# Another than the nodes': they may migrate at the same time.
_LOCK: Final = 0x67726964_6D617374


def upgrade(url: str | URL, *, schema: str | None, connect_timeout: float = 20) -> str:
    """Make the schema if there is none, bring it to :data:`REVISION` and return that.

    Of several callers one migrates; the others wait for it and find nothing left to do. A migration that fails leaves
    the schema as it was.
    """
    from alembic import command

    engine = create_engine(make_url(url), connect_args={"connect_timeout": max(2, int(connect_timeout))})
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            _use_schema(connection, schema)
            command.upgrade(_config(connection), "head")
    finally:
        engine.dispose()
    log.info("the master node's schema is at revision %s", REVISION)
    return REVISION


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
    # Asked first: CREATE SCHEMA IF NOT EXISTS needs the right to create one even if there is nothing to create.
    if connection.execute(text("SELECT to_regnamespace(:name)"), {"name": quoted}).scalar() is None:
        connection.execute(text(f"CREATE SCHEMA {quoted}"))
    connection.execute(text(f"SET LOCAL search_path = {quoted}"))
