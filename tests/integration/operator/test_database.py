"""Schema and login of each GridNode on a shared server, made by an administrator who is no superuser."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest
from sqlalchemy import make_url

from gridnode.db.migrate import upgrade
from gridnode.db.revision import REVISION
from gridnode.setting_kinds import database_url
from gridnode_operator.database import (
    AdminDatabase,
    Credentials,
    DatabaseRefused,
    DatabaseUnavailable,
    Login,
    Tenant,
    Timeouts,
)
from tests.support.shared_database import SharedDatabase, connect, login_of, run, run_as, wait_until
from tests.support.slow_database import DatabaseProxy

pytestmark = pytest.mark.integration

WHO = "SELECT current_user::text, session_user::text, current_schema()::text"


def node_url(credentials: Credentials) -> str:
    """The URL as the node uses it."""
    return database_url().read(credentials.url)


def owners_of_tables(shared: SharedDatabase, schema: str) -> set[str]:
    rows = shared.execute("SELECT tableowner FROM pg_tables WHERE schemaname = '" + schema + "'")
    return {name for (name,) in rows}


def committed_powers(shared: SharedDatabase) -> list[tuple[object, ...]]:
    """Roles whose rights the administrator has, beyond administering them."""
    return shared.execute(
        "SELECT roleid::regrole::text FROM pg_auth_members WHERE member = '"
        + shared.admin
        + "'::regrole AND (inherit_option OR set_option)"
    )


def test_administrator_is_no_superuser(shared: SharedDatabase) -> None:
    with closing(connect(shared.admin_url)) as connection:
        flags = "rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls"
        assert run(connection, f"SELECT {flags} FROM pg_roles WHERE rolname = current_user") == [
            (False, True, True, False, False)
        ]


def test_new_login_works_in_its_schema(shared: SharedDatabase) -> None:
    tenant = shared.tenant()
    ensured = shared.operator().ensure(tenant)
    assert f"created schema {tenant.schema}" in ensured.changed
    assert not ensured.adopted
    assert ensured.revision == ""
    assert ensured.credentials.login == tenant.logins[0]
    with closing(connect(ensured.credentials)) as connection:
        assert run(connection, WHO) == [(tenant.owner, tenant.logins[0], tenant.schema)]
        run(connection, "CREATE TABLE models (id int)")
    assert owners_of_tables(shared, tenant.schema) == {tenant.owner}


def test_wrong_password_does_not_get_in(shared: SharedDatabase) -> None:
    url = make_url(shared.operator().ensure(shared.tenant()).credentials.url).set(password="guessed")
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        connect(url.render_as_string(hide_password=False))


def test_second_call_writes_nothing(shared: SharedDatabase) -> None:
    operator, tenant = shared.operator(), shared.tenant()
    first = operator.ensure(tenant)
    before = shared.transactions()
    second = operator.ensure(tenant, login_of(first))
    assert shared.transactions() == before
    assert second.changed == ()
    assert second.credentials == first.credentials


def test_administrator_keeps_no_rights_of_nodes(shared: SharedDatabase) -> None:
    shared.operator().ensure(shared.tenant())
    assert committed_powers(shared) == []


DRIFTS: dict[str, tuple[str, str]] = {
    "search path removed": ("ALTER ROLE {a} IN DATABASE {database} RESET search_path", "set search_path"),
    "search path changed": ("ALTER ROLE {a} IN DATABASE {database} SET search_path = public", "set search_path"),
    "role not assumed": ("ALTER ROLE {a} IN DATABASE {database} RESET role", "set role"),
    "other role assumed": ("ALTER ROLE {a} IN DATABASE {database} SET role = {admin}", "set role"),
    "membership missing": ("REVOKE {owner} FROM {a} GRANTED BY {admin}", "a member of"),
    "membership of no use": ("REVOKE SET OPTION FOR {owner} FROM {a} GRANTED BY {admin}", "a member of"),
    "locked out": ("ALTER ROLE {a} NOLOGIN", "log in"),
    "more connections": ("ALTER ROLE {a} CONNECTION LIMIT -1", "log in"),
    "fewer connections": ("ALTER ROLE {a} CONNECTION LIMIT 0", "log in"),
    "login creates roles": ("ALTER ROLE {a} CREATEROLE", "took CREATEROLE"),
    "owner creates databases": ("ALTER ROLE {owner} CREATEDB", "took CREATEDB"),
    "owner logs in": ("ALTER ROLE {owner} LOGIN", "right to log in"),
    "login dropped": ("DROP ROLE {a}", "created role"),
    "schema dropped": ("DROP SCHEMA {schema}", "created schema"),
    "note on schema removed": ("COMMENT ON SCHEMA {schema} IS NULL", "noted on schema"),
    "note on schema forged": (
        'COMMENT ON SCHEMA {schema} IS \'{{"gridnode": "other/one"}}\'',
        "noted on schema",
    ),
    "everybody creates in public": ("GRANT CREATE ON SCHEMA public TO PUBLIC", "took the right to create in"),
    "everybody creates schemas": ("GRANT CREATE ON DATABASE {database} TO PUBLIC", "right to create schemas"),
    "nobody connects": ("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC", "connect to"),
    "password changed": ("ALTER ROLE {a} PASSWORD 'another'", "set the password"),
    "password removed": ("ALTER ROLE {a} PASSWORD NULL", "set the password"),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_what_was_changed_by_hand_is_put_back(shared: SharedDatabase, drift: str) -> None:
    operator, tenant = shared.operator(), shared.tenant(connection_limit=7)
    ensured = operator.ensure(tenant)
    statement, expected = DRIFTS[drift]
    names = {"a": tenant.logins[0], "owner": tenant.owner, "schema": tenant.schema}
    shared.execute(statement.format(**names, database=shared.name, admin=shared.admin))

    repaired = operator.ensure(tenant, login_of(ensured))
    assert any(expected in change for change in repaired.changed), repaired.changed
    assert repaired.credentials == ensured.credentials
    assert operator.ensure(tenant, login_of(ensured)).changed == ()
    assert run_as(repaired.credentials, WHO) == [(tenant.owner, tenant.logins[0], tenant.schema)]
    assert committed_powers(shared) == []


def test_node_that_changed_its_own_login_is_put_right(shared: SharedDatabase) -> None:
    operator, tenant = shared.operator(), shared.tenant()
    ensured = operator.ensure(tenant)
    with closing(connect(ensured.credentials)) as connection:
        run(connection, "CREATE TABLE kept (id int)")
        run(connection, "SET ROLE NONE")
        login, schema = tenant.logins[0], tenant.schema
        run(connection, f"CREATE TABLE {schema}.own (id int)")
        run(connection, f"ALTER ROLE {login} IN DATABASE {shared.name} SET search_path = pg_catalog")
        run(connection, f"ALTER ROLE {login} PASSWORD 'mine'")
    repaired = operator.ensure(tenant, login_of(ensured))
    assert len(repaired.changed) == 3
    assert owners_of_tables(shared, schema) == {tenant.owner}
    assert run_as(repaired.credentials, "TABLE own") == []
    assert operator.ensure(tenant, login_of(ensured)).changed == ()


def test_connection_limit_holds(shared: SharedDatabase) -> None:
    operator, tenant = shared.operator(), shared.tenant(connection_limit=2)
    ensured = operator.ensure(tenant)
    with closing(connect(ensured.credentials)), closing(connect(ensured.credentials)):
        with pytest.raises(psycopg2.OperationalError, match="too many connections"):
            connect(ensured.credentials)
        # The operator's own try is one too many as well, which says nothing about the password.
        assert operator.ensure(tenant, login_of(ensured)).changed == ()


def test_lost_secret_does_not_cut_off_running_pods(shared: SharedDatabase) -> None:
    operator, tenant = shared.operator(), shared.tenant()
    first = operator.ensure(tenant)
    with closing(connect(first.credentials)), closing(connect(first.credentials)):
        second = operator.ensure(tenant)
        assert second.credentials.login == tenant.logins[1]
        run_as(first.credentials, WHO)  # still accepted
        assert not operator.retire(tenant, tenant.logins[1])
    assert run_as(second.credentials, "SELECT current_user::text") == [(tenant.owner,)]


def test_secret_of_a_node_that_was_edited_is_replaced(shared: SharedDatabase) -> None:
    operator, tenant = shared.operator(), shared.tenant()
    ensured = operator.ensure(tenant, Login("postgres", "x"))
    assert ensured.credentials.login == tenant.logins[0]
    assert ensured.credentials.password != "x"


def test_migration_runs_with_the_nodes_login_before_and_after_rotation(shared: SharedDatabase) -> None:
    operator, tenant = shared.operator(), shared.tenant()
    first = operator.ensure(tenant)
    upgrade(node_url(first.credentials))
    assert operator.ensure(tenant, login_of(first)).revision == REVISION
    assert owners_of_tables(shared, tenant.schema) == {tenant.owner}

    second = operator.rotate(tenant, first.credentials.login)
    assert second.login == tenant.logins[1]
    assert second.password != first.credentials.password
    insert = "INSERT INTO plans (process_id, name, operations, torchscript) SELECT 1, '{}', '', '' WHERE false"
    with closing(connect(first.credentials)) as old, closing(connect(second)) as new:
        for connection, name in ((old, "old"), (new, "new")):
            run(connection, insert.format(name))
            run(connection, f"CREATE TABLE of_{name} AS SELECT 1 AS value")
        assert run(old, "TABLE of_new") == run(new, "TABLE of_old") == [(1,)]
        run(new, "ALTER TABLE of_old ADD COLUMN migrated int")  # only an owner may
    upgrade(node_url(second))
    assert owners_of_tables(shared, tenant.schema) == {tenant.owner}
    assert operator.ensure(tenant, login_of(second)).changed == ()


def test_old_login_is_retired_when_its_sessions_have_ended(shared: SharedDatabase) -> None:
    operator, tenant = shared.operator(), shared.tenant()
    first = operator.ensure(tenant).credentials
    second = operator.rotate(tenant, first.login)
    with closing(connect(first)) as old:
        before = shared.transactions()
        assert not operator.retire(tenant, second.login)
        assert shared.transactions() == before
        assert run_as(first, "SELECT 1") == [(1,)]  # pods of before go on connecting
        with pytest.raises(DatabaseUnavailable, match="still in use"):
            operator.rotate(tenant, second.login)
        run(old, "SET ROLE NONE")
        run(old, f"CREATE TABLE {tenant.schema}.own AS SELECT 7 AS value")
    wait_until(lambda: operator.retire(tenant, second.login))
    assert operator.retire(tenant, second.login)
    assert shared.roles_like(tenant) == {tenant.owner, second.login}
    with pytest.raises(psycopg2.OperationalError):
        connect(first)
    assert run_as(second, "TABLE own") == [(7,)]


def test_only_login_is_never_retired(shared: SharedDatabase) -> None:
    operator, tenant = shared.operator(), shared.tenant()
    login = operator.ensure(tenant).credentials.login
    assert not operator.retire(tenant, tenant.other_login(login))
    assert login in shared.roles_like(tenant)


def test_rotation_goes_back_and_forth(shared: SharedDatabase) -> None:
    operator, tenant = shared.operator(), shared.tenant()
    credentials = operator.ensure(tenant).credentials
    passwords = {credentials.password}
    for _ in range(3):
        credentials = operator.rotate(tenant, credentials.login)
        passwords.add(credentials.password)
        assert run_as(credentials, "SELECT current_user::text") == [(tenant.owner,)]
        wait_until(lambda kept=credentials.login: operator.retire(tenant, kept))  # type: ignore[misc]
    assert len(passwords) == 4


def test_drop_leaves_nothing_and_touches_nobody_else(shared: SharedDatabase) -> None:
    operator, tenant, other = shared.operator(), shared.tenant(), shared.tenant("other")
    credentials, others = operator.ensure(tenant).credentials, operator.ensure(other).credentials
    operator.rotate(tenant, credentials.login)
    with closing(connect(credentials)) as connection, closing(connect(others)) as untouched:
        run(connection, "CREATE TABLE models AS SELECT 1 AS id")
        run(connection, "SET ROLE NONE")
        run(connection, "SELECT lo_create(0)")
        run(connection, "BEGIN")
        run(connection, f"LOCK TABLE {tenant.schema}.models")
        assert operator.drop(tenant)
        with pytest.raises(psycopg2.Error):
            run(connection, "SELECT 1")
        assert run(untouched, "SELECT 1") == [(1,)]
    assert shared.roles_like(tenant) == set()
    assert not shared.has_schema(tenant)
    assert shared.execute("SELECT oid FROM pg_largeobject_metadata") == []
    assert operator.drop(tenant) == ()
    assert operator.release(tenant) == ()
    assert shared.has_schema(other)


def test_drop_waits_for_no_lock_for_ever_and_can_be_repeated(shared: SharedDatabase) -> None:
    operator, tenant = shared.operator(), shared.tenant()
    credentials = operator.ensure(tenant).credentials
    run_as(credentials, "CREATE TABLE models (id int)")
    with closing(connect(shared.server.server.url_of(shared.name))) as backup:
        run(backup, "BEGIN")
        run(backup, f"LOCK TABLE {tenant.schema}.models IN ACCESS SHARE MODE")
        with pytest.raises(DatabaseUnavailable, match="lock timeout"):
            operator.drop(tenant)
        assert shared.has_schema(tenant)
    wait_until(lambda: operator.drop(tenant) != ())
    assert shared.roles_like(tenant) == set()


def test_released_schema_is_adopted_by_the_next_gridnode_of_that_name(shared: SharedDatabase) -> None:
    operator, tenant = shared.operator(), shared.tenant()
    credentials = operator.ensure(tenant).credentials
    with closing(connect(credentials)) as connection:
        run(connection, "CREATE TABLE models AS SELECT 42 AS value")
        assert operator.release(tenant)
        with pytest.raises(psycopg2.Error):
            run(connection, "SELECT 1")
    assert shared.roles_like(tenant) == {tenant.owner}
    with pytest.raises(psycopg2.OperationalError):
        connect(credentials)
    assert operator.release(tenant) == ()

    successor = shared.tenant(uid="uid-2")
    adopted = operator.ensure(successor)
    assert adopted.adopted
    assert run_as(adopted.credentials, "TABLE models") == [(42,)]
    again = operator.ensure(successor, login_of(adopted))
    assert (again.adopted, again.changed) == (False, ())
    # What is late to arrive from the deletion of the first one must not harm the second.
    assert operator.release(tenant) == operator.drop(tenant) == ()
    assert operator.retire(tenant, tenant.other_login(adopted.credentials.login))
    assert run_as(adopted.credentials, "TABLE models") == [(42,)]


def test_released_schema_can_still_be_dropped(shared: SharedDatabase) -> None:
    operator, tenant = shared.operator(), shared.tenant()
    operator.ensure(tenant)
    operator.release(tenant)
    assert operator.drop(tenant)
    assert not shared.has_schema(tenant)


def test_another_gridnode_gets_no_foreign_schema(shared: SharedDatabase) -> None:
    operator, tenant = shared.operator(), shared.tenant()
    credentials = operator.ensure(tenant).credentials
    thief = shared.tenant("thief", schema=tenant.schema)
    for _ in ("in use", "released"):
        with pytest.raises(DatabaseRefused, match="belongs to GridNode apps/demo") as refused:
            operator.ensure(thief, adopt=True)
        assert refused.value.reason == "SchemaTaken"
        assert operator.drop(thief) == operator.release(thief) == ()
        assert shared.roles_like(thief) == set()
        operator.release(tenant)
    assert operator.ensure(tenant, login_of(credentials)).credentials == credentials


def test_schema_in_use_by_another_uid_is_adopted_only_on_request(shared: SharedDatabase) -> None:
    operator, tenant, restored = shared.operator(), shared.tenant(), shared.tenant(uid="uid-2")
    first = operator.ensure(tenant)
    with pytest.raises(DatabaseRefused, match="uid-1") as refused:
        operator.ensure(restored)
    assert refused.value.reason == "SchemaInUse"
    with pytest.raises(DatabaseRefused, match="uid-1"):
        operator.rotate(restored, first.credentials.login)
    assert operator.drop(restored) == ()
    assert operator.ensure(restored, login_of(first), adopt=True).adopted


def test_retained_schema_survives_the_drop_of_a_later_one(shared: SharedDatabase) -> None:
    operator = shared.operator()
    old, new = shared.tenant(schema=f"old_{shared.name}"), shared.tenant(uid="uid-2", schema=f"new_{shared.name}")
    run_as(operator.ensure(old).credentials, "CREATE TABLE models AS SELECT 42 AS value")
    operator.release(old)
    assert not operator.ensure(new).adopted
    with pytest.raises(DatabaseRefused, match="can't change"):
        operator.ensure(shared.tenant(uid="uid-2", schema=f"third_{shared.name}"))
    operator.drop(new)
    assert operator.drop(new) == ()
    assert not shared.has_schema(new)
    third = operator.ensure(shared.tenant(uid="uid-3", schema=old.schema))
    assert third.adopted
    assert run_as(third.credentials, "TABLE models") == [(42,)]


@pytest.mark.parametrize("which", ["owner", "login"])
def test_role_of_somebody_else_is_left_alone(shared: SharedDatabase, which: str) -> None:
    operator, tenant = shared.operator(), shared.tenant()
    role = tenant.owner if which == "owner" else tenant.logins[0]
    shared.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'theirs'")
    with pytest.raises(DatabaseRefused, match=role) as refused:
        operator.ensure(tenant)
    assert refused.value.reason == "RoleTaken"
    assert operator.drop(tenant) == ()
    assert shared.roles_like(tenant) == {role}
    shared.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("schema", ["theirs", "public_things"])
def test_schema_of_somebody_else_is_left_alone(shared: SharedDatabase, schema: str) -> None:
    shared.execute(f"CREATE SCHEMA {schema}")
    tenant = shared.tenant(schema=schema)
    with pytest.raises(DatabaseRefused, match="belongs to the role postgres"):
        shared.operator().ensure(tenant)
    assert shared.operator().drop(tenant) == ()
    assert shared.has_schema(tenant)


def test_two_installations_on_one_server_do_not_share_roles(shared: SharedDatabase) -> None:
    tenant = shared.tenant()
    credentials = shared.operator().ensure(tenant).credentials
    with shared.server.database() as second:
        url = make_url(shared.admin_url).set(database=second.name).render_as_string(hide_password=False)
        shared.server.execute("GRANT CREATE ON DATABASE {} TO {}", second.name, shared.admin)
        operator = AdminDatabase(url)
        with pytest.raises(DatabaseRefused, match=f"in database {shared.name}") as refused:
            operator.ensure(tenant)
        assert refused.value.reason == "RoleTaken"
        assert operator.drop(tenant) == operator.release(tenant) == ()
        assert operator.retire(tenant, tenant.logins[1])
    assert run_as(credentials, "SELECT 1") == [(1,)]


def test_passwords_stand_in_no_log(shared: SharedDatabase) -> None:
    operator, tenant = shared.operator(), shared.tenant()
    first = operator.ensure(tenant)
    second = operator.rotate(tenant, first.credentials.login)
    shared.execute(f"ALTER ROLE {first.credentials.login} PASSWORD NULL")
    operator.ensure(tenant, login_of(first))
    log = shared.server.log()
    assert f'ALTER ROLE "{first.credentials.login}" PASSWORD' in log
    for password in (first.credentials.password, second.password):
        assert password is not None
        assert password not in log
        assert password not in repr(first) + repr(second) + repr(login_of(first))


@pytest.fixture
def iam(shared: SharedDatabase) -> SharedDatabase:
    """A database of a server that knows IAM, as RDS does: the administrator may grant the role, and has it not."""
    if not shared.execute("SELECT 1 FROM pg_roles WHERE rolname = 'rds_iam'"):
        shared.execute("CREATE ROLE rds_iam")
    shared.execute("GRANT rds_iam TO {} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE", shared.admin)
    return shared


def has_password(shared: SharedDatabase, login: str) -> bool:
    [[found]] = shared.execute(f"SELECT rolpassword IS NOT NULL FROM pg_authid WHERE rolname = '{login}'")
    return bool(found)


def uses_iam(shared: SharedDatabase, role: str) -> bool:
    [[found]] = shared.execute(f"SELECT pg_has_role('{role}', 'rds_iam', 'USAGE')")
    return bool(found)


def test_iam_login_has_no_password_and_the_administrator_keeps_its_own(iam: SharedDatabase) -> None:
    # Some administrators have this, and would log in by IAM only from now on.
    iam.execute("ALTER ROLE {} SET createrole_self_grant = 'set, inherit'", iam.admin)
    operator, tenant = iam.operator(), iam.tenant(iam=True)
    ensured = operator.ensure(tenant)
    login = ensured.credentials.login
    assert ensured.credentials.password is None
    assert ":@" not in ensured.credentials.url
    assert uses_iam(iam, login)
    assert not has_password(iam, login)
    assert not uses_iam(iam, iam.admin)
    assert committed_powers(iam) == []
    assert operator.ensure(tenant, login_of(ensured)).changed == ()
    rotated = operator.rotate(tenant, login)
    assert uses_iam(iam, rotated.login)
    assert operator.retire(tenant, rotated.login)
    assert operator.drop(tenant)
    assert not uses_iam(iam, iam.admin)


def test_iam_can_be_switched_on_and_off(iam: SharedDatabase) -> None:
    operator, tenant = iam.operator(), iam.tenant()
    first = operator.ensure(tenant)
    login = first.credentials.login
    with closing(connect(first.credentials)):  # in use, so that ending its session needs rights of it
        by_iam = operator.ensure(iam.tenant(iam=True), login_of(first))
        assert (by_iam.credentials.login, by_iam.credentials.password) == (login, None)
        assert uses_iam(iam, login)
        assert not has_password(iam, login)
        back = operator.ensure(tenant, login_of(by_iam))
        assert not uses_iam(iam, login)
        assert run_as(back.credentials, "SELECT 1") == [(1,)]
        operator.ensure(iam.tenant(iam=True), login_of(back))
        assert operator.drop(iam.tenant(iam=True))
    assert not uses_iam(iam, iam.admin)
    assert committed_powers(iam) == []


def test_budget_counts_everybodys_connections(shared: SharedDatabase) -> None:
    operator, tenant = shared.operator(), shared.tenant()
    credentials = operator.ensure(tenant).credentials
    before = operator.budget()
    assert before.max_connections == 200
    assert before.reserved >= 3
    assert before.usable == before.max_connections - before.reserved
    with closing(connect(credentials)), closing(connect(credentials)):
        assert operator.budget().in_use == before.in_use + 2


def test_calls_at_once_wait_for_each_other(shared: SharedDatabase) -> None:
    tenant, known = shared.tenant(), Login(shared.tenant().logins[0], "the same password")
    operator = AdminDatabase(shared.admin_url, timeouts=Timeouts(connect=20, statement=20, lock=20))
    together = threading.Barrier(6)

    def ensure() -> tuple[str, ...]:
        together.wait()
        return operator.ensure(tenant, known).changed

    with ThreadPoolExecutor(6) as pool:
        results = [future.result() for future in [pool.submit(ensure) for _ in range(6)]]
    assert sum(f"created schema {tenant.schema}" in changed for changed in results) == 1
    assert operator.ensure(tenant, known).changed == ()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("ALTER ROLE {} NOCREATEROLE", "ALTER ROLE .* CREATEROLE"),
        ("ALTER DATABASE {0} OWNER TO postgres; REVOKE ALL ON DATABASE {0} FROM {}", "GRANT CREATE ON DATABASE"),
    ],
)
def test_administrator_without_the_rights_is_told_what_to_run(
    shared: SharedDatabase, statement: str, message: str
) -> None:
    for part in statement.split("; "):
        shared.execute(part.replace("{0}", shared.name).format(shared.admin))
    with pytest.raises(DatabaseRefused, match=message) as refused:
        shared.operator().ensure(shared.tenant())
    assert refused.value.reason == "NotPermitted"


def test_nothing_is_made_where_public_can_not_be_closed(shared: SharedDatabase) -> None:
    shared.execute(f"ALTER DATABASE {shared.name} OWNER TO postgres")
    shared.execute(f"GRANT CREATE ON DATABASE {shared.name} TO {shared.admin}")
    shared.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    tenant = shared.tenant()
    with pytest.raises(DatabaseRefused) as refused:
        shared.operator().ensure(tenant)
    assert refused.value.reason == "NotPermitted"
    assert shared.roles_like(tenant) == set()
    # It need not own the database if that is in order.
    shared.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    assert shared.operator().ensure(tenant).changed


def test_wrong_administrators_password_is_refused_without_showing_it(shared: SharedDatabase) -> None:
    url = make_url(shared.admin_url).set(password="an-old-secret").render_as_string(hide_password=False)
    for call in (AdminDatabase(url).ping, AdminDatabase(url).budget):
        with pytest.raises(DatabaseRefused, match="password authentication failed") as refused:
            call()
        assert "an-old-secret" not in refused.value.message


def test_server_that_is_down_is_unavailable(shared: SharedDatabase) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    operator = AdminDatabase(f"postgresql://admin:secret@127.0.0.1:{port}/shared")
    tenant = shared.tenant()
    for call in (operator.ping, lambda: operator.ensure(tenant), lambda: operator.drop(tenant)):
        with pytest.raises(DatabaseUnavailable, match="refused") as unavailable:
            call()
        assert "secret" not in unavailable.value.message


@pytest.mark.parametrize("hangs_at", ["", "CREATE ROLE", "CREATE SCHEMA", "COMMIT"])
def test_server_that_hangs_holds_nobody_for_long(
    shared: SharedDatabase, hangs_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridnode_operator.database.session._GRACE", 0.5)
    tenant = shared.tenant()
    with DatabaseProxy(shared.admin_url) as proxy:
        if not hangs_at:
            proxy.hang()

        def hang(statement: str) -> None:
            if hangs_at and statement.startswith(hangs_at):
                proxy.hang()

        operator = AdminDatabase(proxy.url, timeouts=Timeouts(connect=1, statement=0.5), checkpoint=hang)
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="does not answer in time"):
            operator.ensure(tenant)
        assert time.monotonic() - began < 1 + 0.5 + 0.5 + 2
        proxy.flow()
    ensured = shared.operator().ensure(tenant)
    assert run_as(ensured.credentials, WHO) == [(tenant.owner, tenant.logins[0], tenant.schema)]


def test_ping_is_quiet_when_all_is_well(shared: SharedDatabase) -> None:
    shared.operator().ping()


def test_old_server_is_refused(shared: SharedDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridnode_operator.database.session._OLDEST_VERSION", 990_000)
    with pytest.raises(DatabaseRefused, match=f"is PostgreSQL {shared.server.version};") as refused:
        shared.operator().ping()
    assert refused.value.reason == "ServerTooOld"


HOSTILE_NAMES = [
    'x"; DROP ROLE postgres; --',
    "x'; SELECT pg_sleep(100); --",
    "100%s %(name)s {0} {schema}",
    "back\\slash and\\'quote",
    "UPPER and lower",
    "räksmörgås 数据",
    "a,b,public",
    '""',
    "select",
    "x" * 61,
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_are_only_names(shared: SharedDatabase, name: str) -> None:
    operator = shared.operator()
    base = name[:59]
    tenant = Tenant(
        gridnode=f"apps/{name}", uid=f"uid '{name}'", schema=name, owner=base, logins=(f"{base}_a", f"{base}_b")
    )
    ensured = operator.ensure(tenant)
    assert run_as(ensured.credentials, WHO) == [(base, f"{base}_a", name)]
    assert operator.ensure(tenant, login_of(ensured)).changed == ()
    upgrade(node_url(ensured.credentials))
    assert operator.ensure(tenant, login_of(ensured)).revision == REVISION
    rotated = operator.rotate(tenant, f"{base}_a")
    assert run_as(rotated, WHO) == [(base, f"{base}_b", name)]
    wait_until(lambda: operator.retire(tenant, f"{base}_b"))
    operator.release(tenant)
    operator.ensure(tenant)
    operator.drop(tenant)
    assert shared.roles_like(tenant) == set()
    assert not shared.has_schema(tenant)


def test_known_password_may_be_anything(shared: SharedDatabase) -> None:
    tenant = shared.tenant()
    password = "p'a\"s%s:/@?#[]\\ wörd"
    ensured = shared.operator().ensure(tenant, Login(tenant.logins[0], password))
    assert login_of(ensured).password == password
    assert run_as(ensured.credentials, "SELECT 1") == [(1,)]


def test_superuser_may_be_the_administrator_of_a_private_server(shared: SharedDatabase) -> None:
    operator, tenant = AdminDatabase(shared.server.server.url_of(shared.name)), shared.tenant()
    first = operator.ensure(tenant)
    assert operator.ensure(tenant, login_of(first)).changed == ()
    second = operator.rotate(tenant, first.credentials.login)
    wait_until(lambda: operator.retire(tenant, second.login))
    assert operator.drop(tenant)
    assert shared.roles_like(tenant) == set()


def test_url_of_credentials_is_libpqs_too(shared: SharedDatabase) -> None:
    credentials: Credentials = shared.operator().ensure(shared.tenant()).credentials
    assert credentials.url.startswith("postgresql://")
    assert psycopg2.extensions.parse_dsn(credentials.url)["user"] == credentials.login
