"""The schema: what the migrations make is what the code works with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from gridnode.db.migrate import lock_schema
from gridnode.db.revision import WrongRevision
from gridnode_operator.master.db.migrate import REVISION, head_revision, upgrade
from gridnode_operator.master.db.models import Base
from gridnode_operator.master.settings import DEFAULT_SCHEMA

pytestmark = pytest.mark.integration


def test_migrations_make_the_models_tables(master_url: str) -> None:
    engine = create_engine(master_url)
    with engine.connect() as connection:
        connection.execute(text(f"SET search_path = {DEFAULT_SCHEMA}"))
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_revision_is_the_newest() -> None:
    assert head_revision() == REVISION


def test_several_may_migrate_at_once(empty_database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: upgrade(empty_database_url, schema=DEFAULT_SCHEMA), range(4)))
    assert done == [REVISION] * 4


def test_migrating_waits_for_nobody_who_migrates_another_schema(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as another:
            lock_schema(another, "first")
            assert upgrade(empty_database_url, schema="second") == REVISION
            waiting = pool.submit(upgrade, empty_database_url, schema="first")
            with pytest.raises(TimeoutError):
                waiting.result(0.5)
        assert waiting.result(30) == REVISION
    engine.dispose()


@pytest.mark.parametrize(
    ("oldest_release", "refusal"), [(REVISION, None), ("9998", "9998 or newer"), (None, "of that")]
)
def test_newer_schema_stays_and_is_served_if_it_can_be(
    master_url: str, oldest_release: str | None, refusal: str | None
) -> None:
    upgrade(master_url, schema=DEFAULT_SCHEMA)
    engine = create_engine(master_url)
    table = f"{DEFAULT_SCHEMA}.alembic_version"
    with engine.begin() as connection:
        assert connection.scalar(text(f"SELECT oldest_release FROM {table}")) == "0001"
        connection.execute(
            text(f"UPDATE {table} SET version_num = '9999', oldest_release = :release"), {"release": oldest_release}
        )
    if refusal is None:
        assert upgrade(master_url, schema=DEFAULT_SCHEMA) == "9999"
    else:
        with pytest.raises(WrongRevision, match=refusal):
            upgrade(master_url, schema=DEFAULT_SCHEMA)
    with engine.connect() as connection:
        assert connection.scalar(text(f"SELECT version_num FROM {table}")) == "9999"
    engine.dispose()


def test_everything_is_in_the_schema_of_its_own(master_url: str) -> None:
    engine = create_engine(master_url)
    assert inspect(engine).get_table_names(schema="public") == []
    assert set(Base.metadata.tables) < set(inspect(engine).get_table_names(schema=DEFAULT_SCHEMA))
    engine.dispose()


def test_role_without_the_right_to_create_schemas_may_migrate_its_own(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE ROLE narrow LOGIN"))
        connection.execute(text("CREATE SCHEMA narrow AUTHORIZATION narrow"))
    try:
        upgrade(empty_database_url.replace("postgres@", "narrow@"), schema="narrow")
        assert inspect(engine).has_table("events", schema="narrow")
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP OWNED BY narrow"))
            connection.execute(text("DROP ROLE narrow"))
        engine.dispose()
