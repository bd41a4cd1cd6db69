"""Which schema this release needs, and which newer ones it can serve all the same."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, inspect, text

from gridnode.errors import GridNodeError

# The revision this code works with. A test keeps it equal to Alembic's head; importing Alembic to ask for it would
# cost every node a quarter of its start-up time.
REVISION = "0003"


class WrongRevision(GridNodeError):
    """This release can't work with the database's schema."""


@dataclass(frozen=True, slots=True)
class SchemaRevision:
    """What the database says of its schema.

    Attributes:
        revision: of the newest migration that has run.
        oldest_release: ``REVISION`` of the oldest release that can work with it; None where no migration has said so.
    """

    revision: str
    oldest_release: str | None


def find_revision(connection: Connection) -> SchemaRevision | None:
    """The revision the schema is at, or None where nothing has been migrated yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    # By way of JSON, so that a table that never got the column gives NULL.
    row = connection.execute(
        text("SELECT version_num, to_jsonb(alembic_version) ->> 'oldest_release' FROM alembic_version")
    ).one_or_none()
    return None if row is None else SchemaRevision(*row)


def check_revision(connection: Connection, needed: str = REVISION, migrate: str = "gridnode migrate") -> str:
    """Refuse a schema that this release can't work with: an older one, or a newer one that broke with it.

    Args:
        needed: The revision that this release's code works with.
        migrate: The command that brings the schema to it.

    Returns:
        The revision of the schema: this release's, or a newer one.

    Raises:
        WrongRevision: with what to do.
    """
    found = find_revision(connection)
    if found is None:
        raise WrongRevision(f"the database has no schema yet: run `{migrate}` first")
    if found.revision < needed:
        raise WrongRevision(
            f"the database's schema is at {found.revision}, this release needs {needed}: run `{migrate}`"
        )
    if found.revision > needed and (found.oldest_release is None or found.oldest_release > needed):
        served = "of that revision" if found.oldest_release is None else f"of revision {found.oldest_release} or newer"
        raise WrongRevision(
            f"the database's schema is at {found.revision}, which this release (revision {needed}) can't serve: "
            f"run a release {served}"
        )
    return found.revision
