"""Become a command that ends with the thread that started it, whatever ended that (Linux; elsewhere it lives on).

    python tether.py PARENT COMMAND [ARGUMENT …]

PARENT is the process id of the starter. A test run that is killed leaves no API server behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Replace this process by the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the starter has ended")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
