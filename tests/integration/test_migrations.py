"""Migrations on a real database: the tables are the models', and two callers can't collide."""

from __future__ import annotations

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from gridnode.app import WrongRevision, check_revision
from gridnode.db.migrate import REVISION, current_revision, head_revision, upgrade
from gridnode.db.models import Base
from gridnode.db.session import Database

pytestmark = pytest.mark.integration


def test_code_and_migrations_agree_on_the_newest_revision() -> None:
    assert head_revision() == REVISION


def test_migrated_tables_are_the_models(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_several_callers_migrate_once(empty_database_url: str) -> None:
    failures: list[Exception] = []

    def migrate() -> None:
        try:
            upgrade(empty_database_url)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    engine = create_engine(empty_database_url)
    with engine.connect() as connection:
        assert current_revision(connection) == REVISION
    engine.dispose()


def test_schema_is_made_and_used_where_one_is_named(empty_database_url: str) -> None:
    upgrade(empty_database_url, schema='odd "name"')
    database = Database(empty_database_url, schema='odd "name"')
    check_revision(database)
    database.close()


@pytest.mark.parametrize(
    ("found", "advice"), [(None, "gridnode migrate"), ("0000", "gridnode migrate"), ("9", "newer")]
)
def test_another_revision_is_refused_with_what_to_do(empty_database_url: str, found: str | None, advice: str) -> None:
    database = Database(empty_database_url)
    if found is not None:
        database.transaction(lambda s: s.execute(text("CREATE TABLE alembic_version (version_num text)")))
        database.transaction(lambda s: s.execute(text("INSERT INTO alembic_version VALUES (:found)"), {"found": found}))
    with pytest.raises(WrongRevision, match=advice):
        check_revision(database)
    database.close()
