"""Where the worker processes of one pod keep their metrics, so that a scrape of any of them shows all.

prometheus-client decides on import whether it works with several processes, so this module does not import it.
"""

from __future__ import annotations

import os
from pathlib import Path

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def prepare_metrics_directory(directory: Path) -> None:
    """Make an empty directory for metrics, and let this process and its children use it.

    Call it once per pod, in the process that starts the others, before anything imports prometheus-client. Files of
    an earlier run are deleted: process ids repeat when a container restarts, and a new process would go on with the
    numbers of a dead one. The directory must be one that nobody else uses.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for stale in directory.glob("*.db"):
        stale.unlink(missing_ok=True)
    os.environ[_VARIABLE] = str(directory)
