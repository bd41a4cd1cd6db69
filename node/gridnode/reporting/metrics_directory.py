"""Where the worker processes of one pod keep their metrics, so that a scrape of any of them shows all.

prometheus-client decides when it is imported whether it works with several processes, so it is not imported here.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX = "gridnode-metrics-"


@contextmanager
def metrics_directory() -> Iterator[Path]:
    """Make a directory for metrics that this process and its children use, and delete it in the end.

    Call it in the process that starts the others, before anything imports :mod:`gridnode.reporting.metrics`. The
    directory is new: process ids repeat when a container restarts, and a new process would go on with the numbers of a
    dead one.
    """
    _delete_leftovers(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as directory:
        os.environ[_VARIABLE] = directory
        yield Path(directory)


def _delete_leftovers(parent: Path) -> None:
    """Delete the directories of processes that were killed."""
    for directory in parent.glob(f"{_PREFIX}*-*"):
        owner = directory.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and (int(owner) == os.getpid() or not _is_alive(int(owner))):
            shutil.rmtree(directory, ignore_errors=True)


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
