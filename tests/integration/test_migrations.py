"""Migrations on a real database: the tables are the models', and two callers can't collide."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ProgrammingError

from gridnode.db.migrate import _LOCK, _config, migrations, upgrade
from gridnode.db.models import Base
from gridnode.db.revision import REVISION, SchemaRevision, WrongRevision, check_revision, find_revision
from gridnode.db.session import Database
from tests.support.threads import Background, at_once

pytestmark = pytest.mark.integration


def test_code_and_migrations_agree_on_the_newest_revision() -> None:
    assert migrations()[0].revision == REVISION


def test_every_migration_says_which_releases_it_leaves_working() -> None:
    oldest = [(migration.module.oldest_release, migration.revision) for migration in reversed(migrations())]
    assert all(release <= revision for release, revision in oldest)
    # What one migration broke stays broken in the next.
    assert [release for release, _ in oldest] == sorted(release for release, _ in oldest)


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
        assert find_revision(connection) is None
        connection.execute(text("DROP TABLE protocols"))
    assert upgrade(empty_database_url) == REVISION
    engine.dispose()


def test_migration_waits_for_the_one_that_is_under_way(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    with engine.begin() as connection:
        # Held up at its last step by a table of the same name that is not there yet for others.
        connection.execute(text("CREATE TABLE protocols (mine text)"))
        first = Background(lambda: upgrade(empty_database_url))
        assert not first.is_done(0.5)
        second = Background(lambda: upgrade(empty_database_url))
        assert not second.is_done(0.5)
        connection.rollback()
    assert first.result() == REVISION
    assert second.result() == REVISION
    engine.dispose()


def test_node_that_starts_during_a_migration_does_not_wait_for_it(own_database_url: str) -> None:
    engine = create_engine(own_database_url)
    with engine.begin() as migrating, engine.begin() as starting:
        migrating.execute(text(_LOCK))
        starting.execute(text("SET LOCAL lock_timeout = 100"))
        assert check_revision(starting) == REVISION
    engine.dispose()


@contextmanager
def tenant(url: str, name: str) -> Iterator[str]:
    """A login with a schema of its own, and no right to anything else; its URL."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN"))
        connection.execute(text(f"CREATE SCHEMA {name} AUTHORIZATION {name}"))
        yield make_url(url).set(username=name).render_as_string(hide_password=False)
        connection.execute(text(f"DROP OWNED BY {name}"))
        connection.execute(text(f"DROP ROLE {name}"))
    engine.dispose()


def test_no_other_tenant_of_the_database_can_hold_up_a_migration(empty_database_url: str) -> None:
    keys: list[int] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_rest: object) -> None:
        if "advisory" in statement:
            assert isinstance(parameters, dict)
            keys.extend(parameters.values())

    with tenant(empty_database_url, "mine") as mine, tenant(empty_database_url, "hostile") as hostile:
        event.listen(Engine, "before_cursor_execute", note)
        try:
            upgrade(mine, schema="mine")
        finally:
            event.remove(Engine, "before_cursor_execute", note)
        engine = create_engine(hostile)
        with engine.connect() as connection:
            for key in keys:
                connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
            connection.commit()
            assert Background(lambda: upgrade(mine, schema="mine")).result(5) == REVISION
            with pytest.raises(ProgrammingError, match="permission denied"):
                connection.execute(text("LOCK TABLE mine.alembic_version IN ACCESS SHARE MODE"))
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
        assert find_revision(connection) == SchemaRevision(REVISION, migrations()[0].module.oldest_release)
    engine.dispose()


def test_schema_is_made_and_used_where_one_is_named(empty_database_url: str) -> None:
    upgrade(empty_database_url, schema='odd "name"')
    database = Database(empty_database_url, schema='odd "name"')
    with database.engine.connect() as connection:
        assert check_revision(connection) == REVISION
    database.close()


def test_several_callers_make_the_schema_once(empty_database_url: str) -> None:
    assert at_once([lambda: upgrade(empty_database_url, schema="node")] * 4) == [REVISION] * 4


def pretend(url: str, revision: str, oldest_release: str | None) -> None:
    """Let the schema be at another revision."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE alembic_version SET version_num = :revision, oldest_release = :release"),
            {"revision": revision, "release": oldest_release},
        )
    engine.dispose()


def check(url: str) -> str:
    """What a node does at its start."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return check_revision(connection)
    finally:
        engine.dispose()


def test_empty_database_is_refused_with_what_to_do(empty_database_url: str) -> None:
    with pytest.raises(WrongRevision, match="run `gridnode migrate` first"):
        check(empty_database_url)


def test_older_schema_is_refused_with_what_to_do(own_database_url: str) -> None:
    pretend(own_database_url, "0001", "0001")
    with pytest.raises(WrongRevision, match=f"at 0001, this release needs {REVISION}: run `gridnode migrate`"):
        check(own_database_url)


@pytest.mark.parametrize("oldest_release", ["0001", REVISION])
def test_newer_schema_that_kept_this_release_working_is_served_and_left_as_it_is(
    own_database_url: str, oldest_release: str
) -> None:
    pretend(own_database_url, "9999", oldest_release)
    before = shape(own_database_url)
    assert check(own_database_url) == "9999"
    assert upgrade(own_database_url) == "9999"
    assert check(own_database_url) == "9999"
    assert shape(own_database_url) == before


@pytest.mark.parametrize(
    ("oldest_release", "advice"), [("9998", "run a release of revision 9998 or newer"), (None, "of that revision")]
)
def test_newer_schema_that_broke_with_this_release_is_refused(
    own_database_url: str, oldest_release: str | None, advice: str
) -> None:
    pretend(own_database_url, "9999", oldest_release)
    with pytest.raises(WrongRevision, match=advice):
        check(own_database_url)
    with pytest.raises(WrongRevision, match=advice):
        upgrade(own_database_url)


def test_schema_of_the_first_release_is_brought_to_this_one(empty_database_url: str, database_url: str) -> None:
    engine = create_engine(empty_database_url)
    with engine.begin() as connection:
        command.upgrade(_config(connection), "0001")
    assert find(engine) == SchemaRevision("0001", None)
    assert upgrade(empty_database_url) == REVISION
    assert find(engine) == SchemaRevision(REVISION, migrations()[0].module.oldest_release)
    assert shape(empty_database_url) == shape(database_url)
    engine.dispose()


def find(engine: Engine) -> SchemaRevision | None:
    """What the database says of its schema."""
    with engine.connect() as connection:
        return find_revision(connection)
