"""Migrations on a real database: the tables are the models', and two callers can't collide."""

from __future__ import annotations

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlalchemy.exc import ProgrammingError

from gridnode.app import WrongRevision, check_revision
from gridnode.db.migrate import _LOCK, REVISION, current_revision, head_revision, upgrade
from gridnode.db.models import Base
from gridnode.db.session import Database
from tests.support.threads import Background

pytestmark = pytest.mark.integration


def test_code_and_migrations_agree_on_the_newest_revision() -> None:
    assert head_revision() == REVISION


def test_migrated_tables_are_the_models(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


# Alembic compares neither conditions of indexes nor checks nor what a foreign key does on deletion.
_SHAPE = """
    SELECT 'column', table_name, column_name, data_type, is_nullable, column_default, identity_generation
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
    UNION ALL
    SELECT 'index', tablename, indexname, indexdef, NULL, NULL, NULL
        FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
    UNION ALL
    SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), NULL, NULL, NULL
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid <> 0
        AND conrelid::regclass::text <> 'alembic_version'
    ORDER BY 1, 2, 3
"""


def shape(url: str) -> list[tuple[object, ...]]:
    """Columns, indexes and constraints of a database."""
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(text(_SHAPE))]
    engine.dispose()
    return rows


def test_migrated_tables_are_the_models_to_the_last_constraint(database_url: str, empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    Base.metadata.create_all(engine)
    engine.dispose()
    migrated, modelled = shape(database_url), shape(empty_database_url)
    assert migrated == modelled
    assert {row[1] for row in migrated} == set(Base.metadata.tables)


def test_migrating_again_keeps_everything(own_database_url: str) -> None:
    engine = create_engine(own_database_url)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO update_sums (cycle_id, reports, weight, value) VALUES (1, 1, 1, 'x')"))
    before = shape(own_database_url)
    assert upgrade(own_database_url) == REVISION
    assert shape(own_database_url) == before
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM update_sums")) == 1
    engine.dispose()


def test_migration_that_fails_leaves_the_schema_as_it_was(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    with engine.begin() as connection:
        # The last table that the first migration makes.
        connection.execute(text("CREATE TABLE protocols (mine text)"))
    before = shape(empty_database_url)
    with pytest.raises(ProgrammingError, match="already exists"):
        upgrade(empty_database_url)
    assert shape(empty_database_url) == before
    with engine.begin() as connection:
        assert current_revision(connection) is None
        connection.execute(text("DROP TABLE protocols"))
    assert upgrade(empty_database_url) == REVISION
    engine.dispose()


def test_migration_waits_for_the_one_that_is_under_way(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        waiting = Background(lambda: upgrade(empty_database_url))
        assert not waiting.is_done(0.5)
        assert current_revision(connection) is None
    assert waiting.result() == REVISION
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
