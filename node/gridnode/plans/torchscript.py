"""What the node can tell of a TorchScript archive without PyTorch: that it is one, and what it unpacks to."""

from __future__ import annotations

import io
import zipfile
from typing import Final

from gridnode.plans.plan import InvalidPlan

#: PyTorch stores without compression, so an archive unpacks to about its own size.
_LARGEST_GROWTH: Final = 4
_ALLOWANCE: Final = 1024 * 1024


def check_archive(data: bytes) -> None:
    """Refuse what is no archive, or one that would fill a phone's memory.

    Raises:
        InvalidPlan: it is no zip archive, or unpacks to far more than its size.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError):
        raise InvalidPlan("torchscript is not a TorchScript archive") from None
    if unpacked > _LARGEST_GROWTH * len(data) + _ALLOWANCE:
        raise InvalidPlan(f"torchscript has {len(data)} bytes and unpacks to {unpacked}: phones can't load that")
