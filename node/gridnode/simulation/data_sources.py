"""Data of the user's: a ``.npz`` file, or a function in a module of their own.

Both give arrays of the same length, one row an example: ``X`` and ``y`` exactly as the training plan takes its first
two inputs, and if it is known who an example belongs to, ``owner``: whole numbers, one for each row, by which
``--split owner`` deals them to phones::

    np.savez("data.npz", X=images.reshape(len(images), -1).astype("float32"), y=np.eye(10, dtype="float32")[labels])

A function takes nothing and returns ``(X, y)`` or ``(X, y, owner)``. Nothing of a file is unpickled.
"""

from __future__ import annotations

import importlib
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from gridnode.simulation.errors import InvalidDataset

Arrays = tuple[NDArray[Any], ...]


def read_npz(path: Path) -> Arrays:
    """``X``, ``y`` and, where it is there, ``owner`` of a file.

    Raises:
        InvalidDataset: unreadable, or without X and y.
    """
    try:
        with path.open("rb") as file:
            return _arrays(path.name, np.load(file, allow_pickle=False))
    except FileNotFoundError:
        raise InvalidDataset(f"there is no file {path}.") from None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise InvalidDataset(f"{path.name} is no readable .npz file of plain arrays: {error}") from None


def _arrays(name: str, archive: Any) -> Arrays:
    if not isinstance(archive, NpzFile):
        raise InvalidDataset(f"{name} is no readable .npz file: it holds a single array without a name.")
    missing = {"X", "y"} - set(archive.files)
    if missing:
        present = ", ".join(archive.files) or "none"
        raise InvalidDataset(f"{name} has no array {' and '.join(sorted(missing))}; it has: {present}.")
    return tuple(archive[key] for key in ("X", "y", "owner") if key in archive.files)


def call_function(source: str) -> Arrays:
    """What the function of ``module:function`` returns. The module is looked for in the current directory too.

    Raises:
        InvalidDataset: there is no such function, or it does not return two or three arrays.
    """
    module_name, _, name = source.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module_name), name, None)
    except ModuleNotFoundError as error:
        raise InvalidDataset(f"data set {source}: there is no module {error.name!r}.") from None
    finally:
        sys.path.remove(here)
    if not callable(function):
        raise InvalidDataset(f"data set {source}: {module_name} has no function {name!r}.")
    returned = function()
    if not isinstance(returned, tuple) or len(returned) not in (2, 3):
        raise InvalidDataset(f"data set {source}: the function must return (X, y) or (X, y, owner).")
    return tuple(np.asarray(array) for array in returned)
