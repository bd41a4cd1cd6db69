"""The private PostgreSQL: kept, shared, and found again whatever was killed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2
import pytest

from gridnode.db.embedded import EmbeddedPostgres, EmbeddedPostgresError
from tests.support.postgres import PostgresForTests

pytestmark = pytest.mark.integration


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "node"
    yield directory
    leftover = EmbeddedPostgres(directory)
    if leftover.cluster_dir.exists():
        leftover.start()
        leftover.stop()


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    opened = closing(psycopg2.connect(url.replace("+psycopg2", "")))
    with opened as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def postmaster_of(server: EmbeddedPostgres) -> psutil.Process:
    return psutil.Process(int((server.cluster_dir / "postmaster.pid").read_text().split()[0]))


def has_ended(process: psutil.Process) -> bool:
    # Where nothing reaps orphans, as in many containers, a process that ended stays as a zombie.
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def user_in_another_process(data_dir: Path) -> subprocess.Popen[str]:
    """A process that has started the server there and waits for a line on its standard input."""
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from gridnode.db.embedded import EmbeddedPostgres
        server = EmbeddedPostgres(Path(sys.argv[1]))
        print(server.start(), flush=True)
        sys.stdin.readline()
        """
    )
    command = [sys.executable, "-c", program, str(data_dir)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("postgresql+psycopg2://")
    return process


def test_data_is_kept_between_runs(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        execute(server.url, "CREATE TABLE kept AS SELECT 7 AS value")
    with EmbeddedPostgres(data_dir) as server:
        assert execute(server.url, "SELECT value FROM kept") == [(7,)]


def test_server_ends_with_its_last_user_and_not_before(data_dir: Path) -> None:
    other = user_in_another_process(data_dir)
    with EmbeddedPostgres(data_dir) as server:
        postmaster = postmaster_of(server)
    assert not has_ended(postmaster)

    other.communicate("done\n", timeout=20)

    assert has_ended(postmaster)


def test_server_of_a_killed_user_is_taken_over_and_stopped(data_dir: Path) -> None:
    killed = user_in_another_process(data_dir)
    killed.kill()
    killed.communicate(timeout=20)

    with EmbeddedPostgres(data_dir) as server:
        postmaster = postmaster_of(server)
        assert execute(server.url, "SELECT 1") == [(1,)]

    assert has_ended(postmaster)


def test_server_starts_after_it_was_killed_itself(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        execute(server.url, "CREATE TABLE kept AS SELECT 7 AS value")
        postmaster = postmaster_of(server)
        postmaster.kill()

    with EmbeddedPostgres(data_dir) as server:
        assert execute(server.url, "SELECT value FROM kept") == [(7,)]


def test_left_over_pid_file_of_a_foreign_process_does_not_hinder_a_start(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        lines = (server.cluster_dir / "postmaster.pid").read_text().splitlines()
    # As after a restart of the container: the id is somebody else's now. PostgreSQL forgives ids of other users only.
    foreign = subprocess.Popen(["sleep", "60"], user=server.programs.system_user)
    try:
        (server.cluster_dir / "postmaster.pid").write_text("\n".join([str(foreign.pid), *lines[1:]]) + "\n")
        with EmbeddedPostgres(data_dir) as restarted:
            assert execute(restarted.url, "SELECT 1") == [(1,)]
    finally:
        foreign.kill()
        foreign.wait()


def test_unfinished_cluster_is_made_anew(data_dir: Path) -> None:
    unfinished = data_dir / "postgresql.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")

    with EmbeddedPostgres(data_dir) as server:
        assert execute(server.url, "SELECT 1") == [(1,)]


def test_cluster_of_another_version_is_refused_and_left_alone(data_dir: Path) -> None:
    cluster = data_dir / "postgresql"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("9\n")

    with pytest.raises(EmbeddedPostgresError, match="was made by PostgreSQL 9"):
        EmbeddedPostgres(data_dir).start()

    assert [path.name for path in cluster.iterdir()] == ["PG_VERSION"]
    (cluster / "PG_VERSION").unlink()
    cluster.rmdir()


def test_path_too_long_for_a_socket_works(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / ("deep" * 20) / ("deeper" * 10)) as server:
        assert execute(server.url, "SELECT 1") == [(1,)]


def test_only_the_owner_reaches_the_server(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        assert execute(server.url, "SHOW listen_addresses") == [("",)]
        assert server.cluster_dir.stat().st_mode & 0o077 == 0


def test_server_that_cannot_start_says_why(data_dir: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="no_such_setting"):
        EmbeddedPostgres(data_dir, options={"no_such_setting": "1"}).start()


def test_commit_survives_a_crash(durable_postgres: PostgresForTests) -> None:
    with durable_postgres.database(migrated=False) as url:
        execute(url, "CREATE TABLE kept AS SELECT 7 AS value")
        durable_postgres.crash()
        assert execute(url, "SELECT value FROM kept") == [(7,)]


def test_each_test_has_a_database_of_its_own(postgres: PostgresForTests) -> None:
    with postgres.database(migrated=False) as first, postgres.database(migrated=False) as second:
        execute(first, "CREATE TABLE mine ()")
        assert execute(second, "SELECT tablename FROM pg_tables WHERE tablename = 'mine'") == []


def test_fresh_database_is_migrated(database_url: str) -> None:
    assert execute(database_url, "SELECT count(*) FROM alembic_version") == [(1,)]
