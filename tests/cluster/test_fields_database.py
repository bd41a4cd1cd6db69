"""The fields of the spec that the database server is told of."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridnode_operator.api import DATABASE_ADMIN_LABEL
from gridnode_operator.desired.names import database_names
from tests.support.cluster import ControlPlane
from tests.support.control_plane.namespaces import create_namespace, delete_namespace
from tests.support.one_gridnode import OneGridNode, one_gridnode
from tests.support.operator_faults import log_in, url_in_secret
from tests.support.operator_process import GROUP_PATH
from tests.support.shared_database import VERSIONS, SharedDatabase, SharedServer

pytestmark = [pytest.mark.cluster]


@pytest.fixture
def demo(control_plane: ControlPlane, namespace: str, shared: SharedDatabase) -> Iterator[OneGridNode]:
    """A GridNode that is not created yet."""
    with one_gridnode(control_plane, namespace, shared, operator_namespace=namespace) as one:
        yield one


def schemas(shared: SharedDatabase) -> list[str]:
    found = shared.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema|public)'")
    return sorted(name for (name,) in found)


def test_schema(demo: OneGridNode, shared: SharedDatabase) -> None:
    """Set at creation for good: neither changed, nor removed, nor added later."""
    demo.create({"database": {"schema": "my-models"}})
    demo.until_ready()
    assert schemas(shared) == ["my-models"]
    assert log_in(url_in_secret(demo.gridnodes), "SELECT current_schema()") == [("my-models",)]
    assert demo.gridnodes.status()["database"] == {"schema": "my-models"}
    path = demo.gridnodes.path(f"{GROUP_PATH}/gridnodes", "demo")
    merge = {"Content-Type": "application/merge-patch+json"}
    for other in ("other", None):
        patch = {"spec": {"database": {"schema": other}}}
        answer = demo.control_plane.request("PATCH", path, patch, headers=merge)
        assert answer.status == 422, answer.body
        assert "can't be changed" in answer.json()["message"]
    removed = demo.control_plane.request("PATCH", path, {"spec": {"database": None}}, headers=merge)
    assert removed.status == 422, removed.body


def test_schema_is_derived_if_absent(demo: OneGridNode, shared: SharedDatabase) -> None:
    demo.create()
    demo.until_ready()
    derived = database_names(demo.gridnodes.namespace, "demo").schema
    assert schemas(shared) == [derived]
    assert demo.gridnodes.status()["database"] == {"schema": derived}
    path = demo.gridnodes.path(f"{GROUP_PATH}/gridnodes", "demo")
    merge = {"Content-Type": "application/merge-patch+json"}
    patch = {"spec": {"database": {"schema": derived}}}
    assert demo.control_plane.request("PATCH", path, patch, headers=merge).status == 422


@pytest.mark.parametrize("last", ["Delete", "Retain", None])
def test_reclaim_policy(demo: OneGridNode, shared: SharedDatabase, last: str | None) -> None:
    """What counts is what it is when the GridNode is deleted; the default is to keep everything."""
    demo.create({"database": {"reclaimPolicy": "Retain" if last == "Delete" else "Delete"}})
    demo.until_ready()
    demo.set_spec({"database": {"reclaimPolicy": last}} if last else {})
    demo.until_ready()
    demo.gridnodes.delete()
    demo.until(lambda: demo.gridnodes.get(f"{GROUP_PATH}/gridnodes", "demo") is None)
    assert len(schemas(shared)) == (0 if last == "Delete" else 1)


def test_admin_secret_ref(demo: OneGridNode, shared: SharedDatabase, shared_server: SharedServer) -> None:
    """Another server; with another GridNode, for a schema doesn't move by itself."""
    labels = {DATABASE_ADMIN_LABEL: "true"}
    with shared_server.database() as second, shared_server.database() as third:
        demo.create_secret("servers", {"second": second.admin_url, "third": third.admin_url}, labels=labels)
        for database, key in ((second, "second"), (third, "third")):
            demo.create({"database": {"adminSecretRef": {"name": "servers", "key": key}, "reclaimPolicy": "Delete"}})
            demo.until_ready()
            assert url_in_secret(demo.gridnodes).partition("?")[0].endswith(f"/{database.name}")
            assert len(schemas(database)) == 1
            assert log_in(url_in_secret(demo.gridnodes), "SELECT current_database()") == [(database.name,)]
            demo.gridnodes.delete()
            demo.until(lambda: demo.gridnodes.get(f"{GROUP_PATH}/gridnodes", "demo") is None and not demo.children())
            assert schemas(database) == []
    assert schemas(shared) == []


def test_admin_secret_ref_can_be_changed_and_removed(demo: OneGridNode, shared: SharedDatabase, tmp_path: Path) -> None:
    """The node gets an empty schema on the other server, and finds its own again when the field is removed."""
    other_server = SharedServer(tmp_path / "other-server", VERSIONS[-1])
    other_server.start()
    try:
        with other_server.database() as second:
            demo.create_secret("servers", {"second": second.admin_url}, labels={DATABASE_ADMIN_LABEL: "true"})
            demo.create()
            demo.until_ready()
            first_url = url_in_secret(demo.gridnodes)
            demo.set_spec({"database": {"adminSecretRef": {"name": "servers", "key": "second"}}})
            demo.until(lambda: url_in_secret(demo.gridnodes) != first_url)
            demo.until_ready()
            assert len(schemas(second)) == 1
            assert log_in(url_in_secret(demo.gridnodes), "SHOW server_version_num")[0][0][:2] == str(VERSIONS[-1])
            second_url = url_in_secret(demo.gridnodes)
            demo.set_spec({})
            demo.until(lambda: url_in_secret(demo.gridnodes) != second_url)
            demo.until_ready()
            assert log_in(url_in_secret(demo.gridnodes), "SELECT current_database()") == [(shared.name,)]
            assert url_in_secret(demo.gridnodes).partition("@")[2] == first_url.partition("@")[2]
    finally:
        other_server.stop()


def test_other_database_of_the_same_server_is_refused(
    demo: OneGridNode, shared: SharedDatabase, shared_server: SharedServer
) -> None:
    """Roles belong to a server as a whole, and so the node's can't serve a second database; it keeps its first."""
    with shared_server.database() as second:
        demo.create_secret("servers", {"second": second.admin_url}, labels={DATABASE_ADMIN_LABEL: "true"})
        demo.create()
        demo.until_ready()
        url = url_in_secret(demo.gridnodes)
        demo.set_spec({"database": {"adminSecretRef": {"name": "servers", "key": "second"}}})
        demo.until(lambda: demo.condition("DatabaseReady")[1] == "RoleTaken")
        assert url_in_secret(demo.gridnodes) == url
        assert schemas(second) == []
        demo.set_spec({})
        demo.until_ready()
        assert url_in_secret(demo.gridnodes) == url
        assert log_in(url, "SELECT current_database()") == [(shared.name,)]


def test_rotate(demo: OneGridNode) -> None:
    """Every other text is another password, which a running pod's successor gets."""
    demo.create()
    demo.until_ready()
    urls = [url_in_secret(demo.gridnodes)]
    for spec in ({"database": {"rotate": "1"}}, {"database": {"rotate": "2; DROP SCHEMA public"}}, {}):
        before = demo.child("Deployment")
        demo.set_spec(spec)
        demo.until(lambda: url_in_secret(demo.gridnodes) != urls[-1])
        urls.append(url_in_secret(demo.gridnodes))
        demo.until_ready()
        after = demo.child("Deployment")
        assert before is not None
        assert after is not None
        assert after["spec"]["template"]["metadata"] != before["spec"]["template"]["metadata"]
        assert log_in(urls[-1], "SELECT 1") == [(1,)]
        for _ in range(3):
            assert demo.changes() == []
        assert url_in_secret(demo.gridnodes) == urls[-1]
    assert len(set(urls)) == 4


def test_iam_authentication_takes_the_password_away(control_plane: ControlPlane, shared: SharedDatabase) -> None:
    """Where the server has the role for it, as on AWS; without the flag the login has a password again."""
    namespace = create_namespace(control_plane)
    shared.execute("CREATE ROLE rds_iam")
    shared.execute("GRANT rds_iam TO {} WITH ADMIN OPTION, INHERIT FALSE", shared.admin)
    try:
        with one_gridnode(control_plane, namespace, shared, run=lambda environment: None) as one:
            one.create({"database": {"iamAuthentication": True}})
            one.until(lambda: one.child("Deployment") is not None)
            assert ":" not in url_in_secret(one.gridnodes).partition("//")[2].partition("@")[0]
            assert iam_members(shared) == 1
            one.set_spec({})
            one.until(lambda: iam_members(shared) == 0 and one.changes() == [])
            assert log_in(url_in_secret(one.gridnodes), "SELECT 1") == [(1,)]
    finally:
        delete_namespace(control_plane, namespace)
        shared.execute("DROP ROLE rds_iam")


def iam_members(shared: SharedDatabase) -> int:
    """How many of the GridNodes' logins use IAM."""
    query = """SELECT count(*) FROM pg_auth_members m JOIN pg_roles i ON i.oid = m.roleid
               JOIN pg_roles r ON r.oid = m.member WHERE i.rolname = 'rds_iam' AND starts_with(r.rolname, 'gn_')"""
    [[count]] = shared.execute(query)
    return int(count)


def test_admin_secret_must_be_labelled(demo: OneGridNode) -> None:
    """Who may write GridNodes must not have any Secret of the operator's namespace used."""
    demo.create_secret("not-for-gridnodes", {"url": "postgresql://admin:opensesame@127.0.0.1:1/x"})
    demo.create({"database": {"adminSecretRef": {"name": "not-for-gridnodes", "key": "url"}}})
    demo.reconcile()
    status, reason, message = demo.condition("DatabaseReady")
    assert (status, reason) == ("False", "NoAdminSecret")
    assert "opensesame" not in message
    assert not any(base64.b64encode(b"opensesame").decode() in str(each) for each in demo.children().values())


#: Which test is about which field of the spec; :mod:`.test_fields` has all the others.
OF_THE_DATABASE = {
    "database.schema": test_schema,
    "database.reclaimPolicy": test_reclaim_policy,
    "database.adminSecretRef.name": test_admin_secret_ref,
    "database.adminSecretRef.key": test_admin_secret_ref,
    "database.rotate": test_rotate,
}
