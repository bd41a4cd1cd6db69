"""Says in one line why a sandbox gave no average. All texts of a plan are somebody else's: they are cut and cleaned."""

from __future__ import annotations

import re
import signal
from typing import Final

_LONGEST_REASON: Final = 300
_PATH: Final = re.compile(r"""(?<![\w.])(?:[A-Za-z]:|~|\.{1,2})?(?:[/\\]+[\w.@+~-]+){2,}[/\\]?""")
_TORCHSCRIPT_TRACEBACK: Final = "Traceback of TorchScript"


def one_line(text: str) -> str:
    """A text of a plan's process as one printable line of bounded length, without traceback and paths."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    # PyTorch puts what went wrong below the traceback of the plan, and its own C++ stack below everything else.
    line = lines[-1] if any(_TORCHSCRIPT_TRACEBACK in each for each in lines) else lines[0]
    line = _PATH.sub("…", "".join(character if character.isprintable() else " " for character in line))
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 1] + "…"


def readable_size(size: int) -> str:
    return f"{size / 1024**2:.0f} MiB" if size >= 10 * 1024**2 else f"{size} bytes"


def name_of_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
