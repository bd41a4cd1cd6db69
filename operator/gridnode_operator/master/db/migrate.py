"""Migrations of the master node's schema: Alembic under a lock."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import OperationalError

from gridnode.db.migrate import alembic_config, lock_schema
from gridnode.db.revision import check_revision, find_revision

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)

#: The revision this code works with; a test keeps it equal to Alembic's newest.
REVISION: Final = "0002"
_PAUSE: Final = 2.0


def upgrade(url: str | URL, *, schema: str | None, connect_timeout: float = 20, patience: float = 0) -> str:
    """Make the schema if there is none, bring it to :data:`REVISION`, and return the revision that it is at.

    Of several callers one migrates; the others wait for it and find nothing left to do. A migration that fails leaves
    the schema as it was. One that is newer and that this release can work with stays, so that a release may be rolled
    back.

    Args:
        patience: Seconds that a database may take to answer, as one that is just being installed does.

    Raises:
        OperationalError: It did not answer in that time.
        WrongRevision: The schema is newer, and this release can't work with it.
    """
    engine = create_engine(make_url(url), connect_args={"connect_timeout": max(2, int(connect_timeout))})
    try:
        _wait_until_it_answers(engine, patience)
        with engine.begin() as connection:
            lock_schema(connection, schema)
            revision = _upgrade(connection)
    finally:
        engine.dispose()
    log.info("the master node's schema is at revision %s", revision)
    return revision


def _upgrade(connection: Connection) -> str:
    from alembic import command
    from alembic.script import ScriptDirectory

    found = find_revision(connection)
    if found is not None and found.revision > REVISION:
        return check_revision(connection, REVISION, "gridnode master --migrate")
    config = _config(connection)
    command.upgrade(config, "head")
    newest = ScriptDirectory.from_config(config).get_revision("head")
    connection.execute(text("ALTER TABLE alembic_version ADD COLUMN IF NOT EXISTS oldest_release varchar(32)"))
    connection.execute(
        text("UPDATE alembic_version SET oldest_release = :release"), {"release": newest.module.oldest_release}
    )
    return REVISION


def _wait_until_it_answers(engine: Engine, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            engine.connect().close()
        except OperationalError as error:
            if time.monotonic() + _PAUSE > deadline:
                raise
            log.warning("waiting for the database: %s", str(error.orig).strip())
            time.sleep(_PAUSE)
        else:
            return


def head_revision() -> str:
    """Alembic's newest revision."""
    from alembic.script import ScriptDirectory

    return str(ScriptDirectory.from_config(_config(None)).get_current_head())


def _config(connection: Connection | None) -> Config:
    return alembic_config(Path(__file__).parent / "migrations", connection)
