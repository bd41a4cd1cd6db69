"""One GridNode can neither read, change nor block another's schema: tried with its own credentials."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg2
import psycopg2.errors
import pytest

from gridnode_operator.database import Credentials, DatabaseUnavailable, Tenant
from tests.support.shared_database import SharedDatabase, connect, login_of, run, run_as, wait_until

pytestmark = pytest.mark.integration

SECRET = "weights of the other app"


@dataclass
class Neighbours:
    """Two GridNodes on one database. The victim holds a secret; the intruder has a session of its own login."""

    victim: Tenant
    victims_credentials: Credentials
    intruder: Tenant
    credentials: Credentials
    intruders: Any


@pytest.fixture(params=["as the owner", "under its own name", "after a rotation"])
def neighbours(request: pytest.FixtureRequest, shared: SharedDatabase) -> Iterator[Neighbours]:
    operator, victim, intruder = shared.operator(), shared.tenant("victim"), shared.tenant("intruder")
    victims_credentials, credentials = operator.ensure(victim).credentials, operator.ensure(intruder).credentials
    if request.param == "after a rotation":
        credentials = operator.rotate(intruder, credentials.login)
    run_as(victims_credentials, f"CREATE TABLE models AS SELECT 1 AS id, '{SECRET}'::text AS value")
    run_as(victims_credentials, "ANALYZE models")
    run_as(victims_credentials, "CREATE FUNCTION peek() RETURNS text LANGUAGE sql AS 'SELECT value FROM models'")
    with closing(connect(credentials)) as intruders:
        if request.param == "under its own name":
            run(intruders, "SET ROLE NONE")
        yield Neighbours(victim, victims_credentials, intruder, credentials, intruders)


FORBIDDEN = {
    "read": "SELECT * FROM {victim}.models",
    "read by a function": "SELECT {victim}.peek()",
    "insert": "INSERT INTO {victim}.models VALUES (2, 'x')",
    "change": "UPDATE {victim}.models SET value = 'x'",
    "delete": "DELETE FROM {victim}.models",
    "truncate": "TRUNCATE {victim}.models",
    "lock": "LOCK TABLE {victim}.models IN ACCESS SHARE MODE",
    "index": "CREATE INDEX ON {victim}.models (id)",
    "alter": "ALTER TABLE {victim}.models ADD COLUMN x int",
    "take": "ALTER TABLE {victim}.models SET SCHEMA {intruder}",
    "refer": "CREATE TABLE {intruder}.child (id int REFERENCES {victim}.models)",
    "create in its schema": "CREATE TABLE {victim}.x (id int)",
    "drop": "DROP SCHEMA {victim} CASCADE",
    "drop table": "DROP TABLE {victim}.models",
    "comment": "COMMENT ON SCHEMA {victim} IS 'mine'",
    "become its owner": "SET ROLE {victim}",
    "become its login": "SET SESSION AUTHORIZATION {victim}_a",
    "join": "GRANT {victim} TO {intruder}",
    "invite": "GRANT {intruder} TO {victim}_a",
    "grant": "GRANT USAGE ON SCHEMA {victim} TO {intruder}",
    "change its password": "ALTER ROLE {victim}_a PASSWORD 'x'",
    "change its settings": "ALTER ROLE {victim}_a SET search_path = {intruder}",
    "note itself as the owner": "COMMENT ON ROLE {intruder} IS '{{}}'",
    "raise its own limit": "ALTER ROLE {intruder}_a CONNECTION LIMIT 1000",
    "create roles": "CREATE ROLE x",
    "create databases": "CREATE DATABASE x",
    "create schemas": "CREATE SCHEMA x",
    "move its schema": "ALTER SCHEMA {intruder} RENAME TO x",
    "create in public": "CREATE TABLE public.x (id int)",
    "create functions in public": "CREATE FUNCTION public.x() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "change everybody's settings": "ALTER DATABASE {database} SET search_path = {intruder}",
    "trigger on everything": "CREATE EVENT TRIGGER x ON ddl_command_start EXECUTE FUNCTION {victim}.peek()",
    "lock the catalog": "LOCK TABLE pg_catalog.pg_class IN ROW SHARE MODE",
    "read passwords": "SELECT * FROM pg_authid",
    "read files": "SELECT pg_read_file('postgresql.conf')",
    "run programs": "COPY (SELECT 1) TO PROGRAM 'true'",
}


def is_refused(connection: Any, statement: str) -> bool:
    """Whether a statement is forbidden; nothing of it stays."""
    in_transaction = not statement.startswith("CREATE DATABASE")
    if in_transaction:
        run(connection, "BEGIN")
    try:
        run(connection, statement)
    except (psycopg2.errors.InsufficientPrivilege, psycopg2.errors.ObjectNotInPrerequisiteState):
        return True
    finally:
        if in_transaction:
            run(connection, "ROLLBACK")
    return False


def test_intruder_is_refused_everything(shared: SharedDatabase, neighbours: Neighbours) -> None:
    names = {"victim": neighbours.victim.owner, "intruder": neighbours.intruder.owner, "database": shared.name}
    allowed = [
        what for what, statement in FORBIDDEN.items() if not is_refused(neighbours.intruders, statement.format(**names))
    ]
    assert allowed == []
    assert run_as(neighbours.victims_credentials, "TABLE models") == [(1, SECRET)]


def test_intruder_does_what_it_wants_with_its_own(neighbours: Neighbours) -> None:
    own = neighbours.intruder.schema
    run(neighbours.intruders, f"CREATE TABLE {own}.models (id int)")
    assert not is_refused(neighbours.intruders, f"INSERT INTO {own}.models VALUES (1)")
    assert not is_refused(neighbours.intruders, f"LOCK TABLE {own}.models")
    assert not is_refused(neighbours.intruders, f"DROP TABLE {own}.models")


def test_intruder_sees_no_values_and_no_statements(neighbours: Neighbours) -> None:
    with closing(connect(neighbours.victims_credentials)) as victims:
        run(victims, f"SELECT '{SECRET}'")
        seen = run(neighbours.intruders, "SELECT * FROM pg_stats WHERE schemaname = '" + neighbours.victim.schema + "'")
        assert seen == []
        statements = run(neighbours.intruders, "SELECT query FROM pg_stat_activity")
        assert not any(SECRET in str(query) for (query,) in statements if "pg_stats" not in str(query))
        [[pid]] = run(victims, "SELECT pg_backend_pid()")
        for function in ("pg_terminate_backend", "pg_cancel_backend"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                run(neighbours.intruders, f"SELECT {function}({pid})")


@pytest.fixture
def quiet_neighbours(shared: SharedDatabase) -> tuple[Tenant, Credentials, Tenant, Credentials]:
    operator, victim, intruder = shared.operator(), shared.tenant("victim"), shared.tenant("intruder")
    return victim, operator.ensure(victim).credentials, intruder, operator.ensure(intruder).credentials


def test_nodes_that_use_up_their_connections_leave_others_theirs(shared: SharedDatabase) -> None:
    operator, greedy, modest = shared.operator(), shared.tenant("greedy", connection_limit=5), shared.tenant("modest")
    greedys, modests = operator.ensure(greedy).credentials, operator.ensure(modest).credentials
    taken = [connect(greedys) for _ in range(5)]
    with pytest.raises(psycopg2.OperationalError, match="too many connections for role"):
        connect(greedys)
    assert run_as(modests, "SELECT 1") == [(1,)]
    for connection in taken:
        connection.close()


def test_node_can_not_keep_the_operator_from_another(
    shared: SharedDatabase, quiet_neighbours: tuple[Tenant, Credentials, Tenant, Credentials]
) -> None:
    victim, victims, _, intruders = quiet_neighbours
    operator = shared.operator()
    keys: list[str] = []

    def learn(statement: str) -> None:
        keys.extend([statement] if "pg_advisory" in statement else [])

    shared.operator(checkpoint=learn).rotate(victim, victims.login)
    with closing(connect(intruders)) as holder:
        run(holder, "BEGIN")
        run(holder, keys[0])
        shared.execute("ALTER ROLE {} CONNECTION LIMIT 1", victims.login)
        with pytest.raises(DatabaseUnavailable):
            operator.ensure(victim, login_of(victims))
        began = time.monotonic()
        assert operator.ensure(victim, login_of(victims)).changed
        assert time.monotonic() - began < 1
        with pytest.raises(psycopg2.Error):
            run(holder, "SELECT 1")


@pytest.mark.parametrize("how", ["grants", "a policy", "an open transaction"])
def test_node_can_not_keep_another_from_being_deleted(
    shared: SharedDatabase, quiet_neighbours: tuple[Tenant, Credentials, Tenant, Credentials], how: str
) -> None:
    victim, victims, intruder, intruders = quiet_neighbours
    operator = shared.operator()
    run_as(victims, "CREATE TABLE models AS SELECT 1 AS id")
    rotated = operator.rotate(victim, victims.login)
    with closing(connect(intruders)) as holder:
        run(holder, "CREATE TABLE trap (id int)")
        if how == "an open transaction":
            run(holder, "BEGIN")
        run(holder, f"GRANT SELECT ON trap TO {victim.owner}, {victim.logins[0]}, {victim.logins[1]}")
        run(holder, f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {victim.logins[0]}")
        if how == "a policy":
            run(holder, f"CREATE POLICY trap ON trap TO {victim.owner}, {victim.logins[0]}")
            run(holder, "BEGIN")
            run(holder, "LOCK TABLE trap")
        wait_until(lambda: operator.retire(victim, rotated.login))
        with pytest.raises(psycopg2.OperationalError):
            connect(victims)
        # The login is as good as new when its turn comes again.
        again = operator.rotate(victim, rotated.login)
        assert run_as(again, "TABLE models") == [(1,)]
        assert operator.drop(victim)
        assert not shared.has_schema(victim)
        for credentials in (again, rotated):
            with pytest.raises(psycopg2.OperationalError):
                connect(credentials)
        assert operator.drop(victim) == ()
        # Nor from being created anew.
        successor = shared.tenant("victim", uid="uid-2")
        assert run_as(operator.ensure(successor).credentials, "SELECT current_user::text") == [(victim.owner,)]
    operator.drop(intruder)
    operator.drop(successor)
    assert shared.roles_like(victim) == set()


def test_open_transaction_of_a_node_does_not_block_another(
    shared: SharedDatabase, quiet_neighbours: tuple[Tenant, Credentials, Tenant, Credentials]
) -> None:
    victim, victims, intruder, intruders = quiet_neighbours
    operator = shared.operator()
    with closing(connect(intruders)) as holder:
        run(holder, "CREATE TABLE models (id int)")
        run(holder, "BEGIN ISOLATION LEVEL SERIALIZABLE")
        run(holder, "LOCK TABLE models")
        run(holder, f"COMMENT ON SCHEMA {intruder.schema} IS 'locked'")
        run(holder, "SELECT * FROM pg_class, pg_namespace, pg_roles LIMIT 1")
        run_as(victims, "CREATE TABLE models AS SELECT 1 AS id")
        run_as(victims, "ALTER TABLE models ADD COLUMN value int")
        rotated = operator.rotate(victim, victims.login)
        assert run_as(rotated, "SELECT id FROM models") == [(1,)]
        assert operator.release(victim)
        assert operator.drop(victim)
