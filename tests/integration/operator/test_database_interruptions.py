"""The operator, or its connection, dies between any two statements: the same call, repeated, comes to the same end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gridnode_operator.database import AdminDatabase, DatabaseUnavailable, Login, Tenant
from tests.support.shared_database import SharedDatabase, login_of, run_as

pytestmark = pytest.mark.integration


class Killed(BaseException):
    """Nothing of the operator's runs after it."""


class Interruption:
    """Interrupts before the statement with a number, if there are as many. Those that only read are not counted.

    Args:
        terminate: ends the operator's sessions as the server would; without it, the operator itself ends.
    """

    def __init__(self, at: int, terminate: Callable[[], object] | None = None) -> None:
        self.at, self.happened = at, False
        self._terminate = terminate
        self._statements = 0

    def __call__(self, statement: str) -> None:
        self._statements += not statement.lstrip().startswith("SELECT") or "pg_terminate_backend" in statement
        if self._statements != self.at or self.happened:
            return
        self.happened = True
        if self._terminate is None:
            raise Killed(statement)
        self._terminate()


KNOWN = "the password in the Secret"


def created(operator: AdminDatabase, tenant: Tenant) -> None:
    operator.ensure(tenant, Login(tenant.logins[0], KNOWN))


def rotated(operator: AdminDatabase, tenant: Tenant) -> None:
    operator.rotate(tenant, tenant.logins[0])


def retired(operator: AdminDatabase, tenant: Tenant) -> None:
    assert operator.retire(tenant, tenant.logins[1])


def dropped(operator: AdminDatabase, tenant: Tenant) -> None:
    operator.drop(tenant)


def released(operator: AdminDatabase, tenant: Tenant) -> None:
    operator.release(tenant)


def nothing(operator: AdminDatabase, tenant: Tenant) -> None:
    """Nothing is there before."""


def with_tables(operator: AdminDatabase, tenant: Tenant) -> None:
    created(operator, tenant)
    credentials = operator.ensure(tenant, Login(tenant.logins[0], KNOWN)).credentials
    run_as(credentials, "CREATE TABLE models AS SELECT 42 AS value")
    run_as(credentials, f"SET ROLE NONE; CREATE TABLE {tenant.schema}.own AS SELECT 7 AS value")


def in_rotation(operator: AdminDatabase, tenant: Tenant) -> None:
    with_tables(operator, tenant)
    rotated(operator, tenant)


def left_behind(operator: AdminDatabase, tenant: Tenant) -> None:
    with_tables(operator, tenant)
    released(operator, tenant)


Step = Callable[[AdminDatabase, Tenant], None]
STEPS: dict[str, tuple[Step, Step]] = {
    "create": (nothing, created),
    "rotate": (with_tables, rotated),
    "retire": (in_rotation, retired),
    "drop": (in_rotation, dropped),
    "release": (in_rotation, released),
    "adopt": (left_behind, created),
}


def catalog(shared: SharedDatabase, tenant: Tenant) -> dict[str, list[tuple[Any, ...]]]:
    """Everything about a tenant, without what differs between tenants."""
    name = tenant.owner
    queries = {
        "roles": """SELECT rolname, rolcanlogin, rolconnlimit, rolcreaterole, shobj_description(oid, 'pg_authid')
                    FROM pg_roles WHERE rolname LIKE '{0}%'""",
        "members": """SELECT roleid::regrole::text, member::regrole::text, admin_option, inherit_option, set_option
                      FROM pg_auth_members WHERE roleid::regrole::text LIKE '{0}%'""",
        "settings": """SELECT setrole::regrole::text, setconfig FROM pg_db_role_setting
                       WHERE setrole::regrole::text LIKE '{0}%'""",
        "schemas": """SELECT nspname, nspowner::regrole::text, obj_description(oid, 'pg_namespace')
                      FROM pg_namespace WHERE nspname LIKE '{0}%'""",
        "tables": "SELECT tablename, tableowner FROM pg_tables WHERE schemaname LIKE '{0}%'",
    }
    return {
        key: sorted(
            tuple(str(value).replace(name, "TENANT").replace(tenant.gridnode, "NAME") for value in row)
            for row in shared.execute(query.replace("{0}", name))
        )
        for key, query in queries.items()
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("step", STEPS)
def test_interrupted_anywhere_it_comes_to_the_same_end(shared: SharedDatabase, step: str) -> None:
    before, act = STEPS[step]
    operator = shared.operator()

    def lose_connection() -> None:
        sessions = f"SELECT pid FROM pg_stat_activity WHERE usename = '{shared.admin}'"
        shared.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM ({sessions}) AS operators")

    undisturbed = shared.tenant("t0")
    before(operator, undisturbed)
    act(operator, undisturbed)
    expected = catalog(shared, undisturbed)

    interruptions = 0
    while True:
        tenant = shared.tenant(f"t{interruptions + 1}")
        before(operator, tenant)
        # The operator is killed or its connection lost by turns, the other way round on the other server.
        lost = (interruptions + shared.server.version // 2) % 2
        interruption = Interruption(interruptions + 1, lose_connection if lost else None)
        try:
            act(shared.operator(checkpoint=interruption), tenant)
        except (Killed, DatabaseUnavailable):
            assert interruption.happened
        if not interruption.happened:
            break
        interruptions += 1
        act(operator, tenant)
        assert catalog(shared, tenant) == expected
        if act is created:
            assert operator.ensure(tenant, Login(tenant.logins[0], KNOWN)).changed == ()
        else:
            operator.drop(tenant)
    assert interruptions >= 8
    assert {tenant for (tenant,) in committed_powers(shared)} == set()


def test_deletion_that_was_begun_can_end_in_any_way(shared: SharedDatabase) -> None:
    operator, interruptions = shared.operator(), 0
    ends = (dropped, released, created)
    while True:
        tenant = shared.tenant(f"t{interruptions}")
        in_rotation(operator, tenant)
        try:
            dropped(shared.operator(checkpoint=Interruption(interruptions + 1)), tenant)
        except Killed:
            interruptions += 1
        else:
            break
        end = ends[(interruptions + shared.server.version // 2) % len(ends)]
        end(operator, tenant)
        if end is created:
            ensured = operator.ensure(tenant, Login(tenant.logins[0], KNOWN))
            assert ensured.changed == ()
            assert login_of(ensured).password == KNOWN
            assert run_as(ensured.credentials, "SELECT current_user::text") == [(tenant.owner,)]
        operator.drop(tenant)
        assert shared.roles_like(tenant) == set()
    assert interruptions > 10


def committed_powers(shared: SharedDatabase) -> list[tuple[Any, ...]]:
    return shared.execute(
        "SELECT roleid::regrole::text FROM pg_auth_members WHERE member = '"
        + shared.admin
        + "'::regrole AND (inherit_option OR set_option)"
    )
