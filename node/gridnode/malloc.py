"""How glibc's allocator treats memory that is freed: see mallopt(3). Other C libraries are left as they are."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Final

# From malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def give_back_free_memory() -> None:
    """Give free pages back to the kernel, also those between others; takes some milliseconds. See malloc_trim(3)."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MallocSettings:
    """What to change; None leaves a setting alone.

    Attributes:
        trim_threshold: Free bytes at the top of the heap up to which they are kept.
        mmap_threshold: Bytes from which a buffer gets pages of its own, which are given back when it is freed.
        arenas: Pools that threads share; each keeps freed memory of its own.
    """

    trim_threshold: int | None = None
    mmap_threshold: int | None = None
    arenas: int | None = None

    def apply(self) -> None:
        """Apply them to this process."""
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is None:
            return
        values = {
            _M_TRIM_THRESHOLD: self.trim_threshold,
            _M_MMAP_THRESHOLD: self.mmap_threshold,
            _M_ARENA_MAX: self.arenas,
        }
        for parameter, value in values.items():
            if value is not None:
                mallopt(parameter, value)
