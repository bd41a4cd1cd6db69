"""What needs no server: names, URLs, notes and sums."""

from __future__ import annotations

from typing import Any

import psycopg2.extensions
import pytest
from sqlalchemy import make_url

from gridnode_operator.database import (
    AdminDatabase,
    Credentials,
    DatabaseRefused,
    Login,
    Tenant,
    connection_demand,
)
from gridnode_operator.database.tenant import Note
from gridnode_operator.desired.names import database_names


def tenant(**values: Any) -> Tenant:
    names = {"schema": "s", "owner": "o", "logins": ("o_a", "o_b")}
    return Tenant(gridnode="apps/demo", uid="1", **{**names, **values})


def test_derived_names_are_accepted() -> None:
    names = database_names("n" * 63, "ä.-" * 80)
    made = tenant(schema=names.schema, owner=names.owner, logins=names.logins)
    assert made.other_login(names.logins[0]) == names.logins[1]


@pytest.mark.parametrize(
    "name",
    [
        "", "x" * 64, "ä" * 32, "a\0b", "a\nb", "\x7f", "\ud800", "public", "PUBLIC", "none", "pg_temp", "PG_x",
        "information_schema", "$user", "rds_superuser", "rdsadmin", "current_user",
    ],
)  # fmt: skip
@pytest.mark.parametrize("which", ["schema", "owner", "login"])
def test_names_that_the_server_would_cut_or_take_for_its_own_are_refused(name: str, which: str) -> None:
    values = {"logins": ("o_a", name)} if which == "login" else {which: name}
    with pytest.raises(DatabaseRefused) as refused:
        tenant(**values)
    assert refused.value.reason == "InvalidName"
    assert refused.value.message.isprintable()


@pytest.mark.parametrize("logins", [("o", "o_b"), ("o_a", "o_a")])
def test_roles_must_be_three(logins: tuple[str, str]) -> None:
    with pytest.raises(DatabaseRefused, match="three names"):
        tenant(logins=logins)


@pytest.mark.parametrize("limit", [0, -1, 262_144])
def test_connection_limit_has_bounds(limit: int) -> None:
    with pytest.raises(DatabaseRefused, match="connections"):
        tenant(connection_limit=limit)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mysql://admin:hunter2@host/db",
        "postgresql://admin:hunter2/@host/db@x",
        "postgresql://admin:hunter2@x@host/db",
        "postgresql://admin:hunter2%zz@host/db",
        "postgresql://host/db?password=hunter2",
        "host=x user=admin password=hunter2",
        "postgresql://admin@host/db?hunter2=1",
    ],
)
def test_unusable_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(DatabaseRefused, match="percent-encoded") as refused:
        AdminDatabase(url)
    assert refused.value.reason == "InvalidUrl"
    assert "hunter2" not in repr(refused.value) + str(refused.value.__cause__)


@pytest.mark.parametrize("password", ["simple", "a b+c", "p@:/?#[]%&=\\'\"", "ünïcode", None])
@pytest.mark.parametrize(
    ("host", "port"), [("db.example", "5432"), ("db.example", None), ("::1", "1"), ("/run/pg", "5432"), ("a,b", "1,2")]
)
def test_url_reads_the_same_for_libpq_and_sqlalchemy(password: str | None, host: str, port: str | None) -> None:
    credentials = Credentials(
        login="gn apps/demo", password=password, host=host, port=port, database="my db?", query={"sslmode": "require"}
    )
    assert credentials.url.isascii()
    assert " " not in credentials.url
    for_libpq = psycopg2.extensions.parse_dsn(credentials.url)
    expected = {"user": "gn apps/demo", "host": host, "dbname": "my db?", "sslmode": "require"}
    expected |= {"password": password} if password else {}
    assert for_libpq == expected | ({"port": port} if port else {})
    url = make_url(credentials.url)
    assert (url.username, url.password, url.query["sslmode"]) == ("gn apps/demo", password, "require")
    assert (url.host or url.query["host"]) == host
    assert Login.in_url(credentials.url) == Login("gn apps/demo", password)


@pytest.mark.parametrize("url", ["", "nonsense", "postgresql://host/db", "postgresql://a:b@host:port/db"])
def test_no_login_in_what_is_no_url_with_one(url: str) -> None:
    assert Login.in_url(url) is None


def test_passwords_are_not_shown() -> None:
    credentials = Credentials(login="l", password="hunter2", host="h", port=None, database="d", query={})
    assert "hunter2" not in repr(credentials) + repr(Login("l", "hunter2"))


@pytest.mark.parametrize("released", [True, False])
def test_note_is_read_as_it_was_written(released: bool) -> None:
    note = Note(gridnode="apps/'x\"", database="d", schema="s", uid="1", released=released)
    assert Note.parse(str(note)) == note


@pytest.mark.parametrize("comment", [None, "", "x", "[]", "1", '{"gridnode": "a/b"}', "[" * 100_000, '"gridnode"'])
def test_other_comments_are_no_notes(comment: str | None) -> None:
    assert Note.parse(comment) is None


@pytest.mark.parametrize(
    ("arguments", "demand"),
    [
        ((1, 2, 4), 2 * 2 * 4 + 2),  # a rollout adds a pod; the migration and the operator's check, one each
        ((10, 4, 5, 3), 11 * 4 * 5 + 3 + 1),
        ((0, 2, 4), 2),
    ],
)
def test_connection_demand(arguments: tuple[int, ...], demand: int) -> None:
    assert connection_demand(*arguments) == demand
