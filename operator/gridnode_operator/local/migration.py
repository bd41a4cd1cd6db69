"""``gridnode migrate`` as a process, as the migration Job runs it."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from gridnode.db.revision import REVISION
from gridnode.errors import GridNodeError
from gridnode_operator.api import GridNode
from gridnode_operator.desired.context import DesiredContext
from gridnode_operator.local.data_directory import DataDirectory, end_group
from gridnode_operator.local.environment import node_variables, process_environment

_VARIABLES: Final = ("GRIDNODE_DATABASE_URL", "GRIDNODE_LOG_FORMAT")
_WAIT_SECONDS: Final = 30
_LOG_LINES: Final = 5


class MigrationFailed(GridNodeError):
    """The schema was not migrated, and is as it was; the message holds the last lines of the log."""


async def migrate(gridnode: GridNode, context: DesiredContext, data: DataDirectory) -> str:
    """Bring a GridNode's schema to this release; gives its revision.

    Raises:
        MigrationFailed: it did not succeed.
        MissingSecret: see :func:`.environment.node_variables`.
    """
    log_file = data.log_file(gridnode, "migrate")
    variables = node_variables(gridnode, context, data.secrets, *_VARIABLES)
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gridnode", "migrate", "--wait", str(_WAIT_SECONDS),
            env=process_environment(variables), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    data.remember_process(process.pid)
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        # Rolled back by the database.
        end_group(process.pid)
        await process.wait()
        raise
    finally:
        data.forget_process(process.pid)
    if code != 0:
        lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        raise MigrationFailed("the migration failed; it wrote:\n" + "\n".join(lines))
    return REVISION
