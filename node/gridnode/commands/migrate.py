"""``gridnode migrate``: bring the database's schema to this release."""

from __future__ import annotations

import logging
import time

import typer
from sqlalchemy.exc import OperationalError

from gridnode.commands.setting_flags import with_settings
from gridnode.db.iam import IamTokens
from gridnode.db.migrate import upgrade
from gridnode.db.session import reason_of
from gridnode.errors import GridNodeError
from gridnode.settings import Settings, check_database

log = logging.getLogger(__name__)


class MigrationFailed(GridNodeError):
    """The schema could not be migrated; it is as it was."""


@with_settings(
    "database_schema",
    "database_iam_authentication",
    "database_connect_timeout",
    "data_dir",
    "log_format",
    "log_level",
)
def migrate(settings: Settings, wait: float = typer.Option(60, help="Seconds to wait for the database.")) -> None:
    """Bring the database's schema to this release. Safe to run several times, and from several places at once.

    Old nodes keep serving while it runs.

    Examples:

        GRIDNODE_DATABASE_URL=postgresql+psycopg2://node@db/grid gridnode migrate

        gridnode migrate --wait 300
    """
    check_database(settings)
    if settings.database_url is None:
        from gridnode.db.embedded import EmbeddedPostgres

        with EmbeddedPostgres(settings.data_dir) as embedded:
            revision = upgrade(embedded.url)
    else:
        revision = _upgrade(settings.database_url, settings, wait)
    typer.echo(f"The schema is at revision {revision}.")


def _upgrade(url: str, settings: Settings, wait: float) -> str:
    limit = time.monotonic() + wait
    iam = IamTokens() if settings.database_iam_authentication else None
    while True:
        try:
            return upgrade(
                url,
                schema=settings.database_schema,
                connect_timeout=int(settings.database_connect_timeout),
                iam=iam,
            )
        except OperationalError as error:
            if time.monotonic() > limit:
                raise MigrationFailed(f"the database can't be reached: {reason_of(error)}") from error
            log.warning("waiting for the database", extra={"reason": reason_of(error)})
            time.sleep(1)
