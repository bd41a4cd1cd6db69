"""Data for simulated phones: scikit-learn's digits, or a file of the user's.

A data set file is a ``.npz`` with two arrays of the same length: ``X`` and ``y``, exactly what the training plan takes
as its first two inputs, one row an example. To be split by label, ``y`` must be one-hot or hold whole class numbers::

    np.savez("data.npz", X=images.reshape(len(images), -1).astype("float32"), y=np.eye(10, dtype="float32")[labels])

float64 becomes float32, other types stay. Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from gridnode.errors import InvalidRequest

DIGITS = "digits"
HELD_OUT_FRACTION = 0.2
_SIDE = 28


class InvalidDataset(InvalidRequest):
    """The data can't be used; the message says why and what is expected."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs and targets of a training plan, aligned on the first axis."""

    inputs: NDArray[Any]
    targets: NDArray[Any]

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, indices: NDArray[np.int64]) -> Examples:
        """The examples at these positions, copied."""
        return Examples(self.inputs[indices], self.targets[indices])

    @property
    def positions(self) -> NDArray[np.int64]:
        """0, 1, … for splits that don't look at the targets."""
        return np.arange(len(self), dtype=np.int64)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each example, for splits by label.

        Raises:
            InvalidDataset: the targets are neither one-hot nor whole numbers.
        """
        if self.targets.ndim == 2 and self.targets.shape[1] > 1:
            return np.asarray(self.targets.argmax(axis=1), dtype=np.int64)
        flat = self.targets.reshape(len(self.targets), -1)
        if flat.shape[1] != 1 or not (flat == np.floor(flat)).all():
            raise InvalidDataset(
                "y has no classes to split by: it is neither one-hot nor whole numbers. Use --split iid."
            )
        return np.asarray(flat[:, 0], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples to train on, to be split over phones, and examples that no phone ever sees."""

    name: str
    training: Examples
    held_out: Examples


def load_dataset(source: str, seed: int, held_out_fraction: float = HELD_OUT_FRACTION) -> Dataset:
    """Load ``"digits"`` or a ``.npz`` file and set a part of it aside.

    Raises:
        InvalidDataset: no such data set, or the file does not hold what it should.
    """
    if source == DIGITS:
        examples = load_digits()
    elif source.endswith(".npz"):
        examples = load_npz(Path(source))
    else:
        raise InvalidDataset(f"data set {source!r} is unknown: use '{DIGITS}' or the path of a .npz file with X and y.")
    training, held_out = split_held_out(examples, held_out_fraction, seed)
    return Dataset(Path(source).stem, training, held_out)


def load_digits() -> Examples:
    """1797 handwritten digits (8×8, UCI) enlarged to 28×28.

    Inputs are [n, 784] float32 between 0 and 1, targets one-hot [n, 10] float32.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise InvalidDataset("the data set 'digits' needs scikit-learn: pip install 'gridnode[demo]'") from None
    digits = datasets.load_digits()
    pixels: NDArray[np.float32] = digits.images.astype(np.float32) / np.float32(16)
    inputs = enlarge(pixels, _SIDE).reshape(len(pixels), _SIDE * _SIDE)
    return Examples(inputs, np.eye(10, dtype=np.float32)[digits.target])


def enlarge(images: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Bilinear interpolation of square images [n, s, s] to [n, side, side], within the input's range of values."""
    weights = _interpolation(images.shape[1], side)
    return np.clip(weights @ images @ weights.T, images.min(), images.max())


def _interpolation(source: int, target: int) -> NDArray[np.float32]:
    """Matrix [target, source] that interpolates linearly between pixel centres and repeats the border."""
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    left = np.floor(position).astype(np.int64)
    right = np.minimum(left + 1, source - 1)
    share = position - left
    weights = np.zeros((target, source), dtype=np.float32)
    np.add.at(weights, (np.arange(target), left), 1 - share)
    np.add.at(weights, (np.arange(target), right), share)
    return weights


def load_npz(path: Path) -> Examples:
    """Read a data set file (see the module's text).

    Raises:
        InvalidDataset: unreadable, no arrays ``X`` and ``y``, or they don't fit together.
    """
    try:
        with path.open("rb") as file:
            inputs, targets = _arrays(path.name, np.load(file, allow_pickle=False))
    except FileNotFoundError:
        raise InvalidDataset(f"there is no file {path}.") from None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise InvalidDataset(f"{path.name} is no readable .npz file of plain arrays: {error}") from None
    _check(path.name, inputs, targets)
    return Examples(_single_precision(inputs), _single_precision(targets))


def _arrays(name: str, archive: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    if not isinstance(archive, NpzFile):
        raise InvalidDataset(f"{name} is no readable .npz file: it holds a single array without a name.")
    missing = {"X", "y"} - set(archive.files)
    if missing:
        present = ", ".join(archive.files) or "none"
        raise InvalidDataset(f"{name} has no array {' and '.join(sorted(missing))}; it has: {present}.")
    return archive["X"], archive["y"]


def split_held_out(examples: Examples, fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Shuffle and divide into training and held-out examples; both have at least one."""
    if not 0 < fraction < 1:
        raise InvalidDataset(f"the held-out fraction is {fraction}; it must lie between 0 and 1.")
    order = np.random.default_rng(seed).permutation(len(examples))
    held_out = min(max(round(len(examples) * fraction), 1), len(examples) - 1)
    return examples.take(order[held_out:]), examples.take(order[:held_out])


def _check(name: str, inputs: NDArray[Any], targets: NDArray[Any]) -> None:
    for key, array in (("X", inputs), ("y", targets)):
        if array.ndim < 1 or not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
            raise InvalidDataset(
                f"{name}: {key} must be an array of numbers, not {array.dtype} of {array.ndim} dimensions."
            )
        if not np.isfinite(array).all():
            raise InvalidDataset(f"{name}: {key} holds NaN or infinite values.")
    if len(inputs) != len(targets):
        raise InvalidDataset(f"{name}: X has {len(inputs)} examples but y has {len(targets)}.")
    if len(inputs) < 2:
        raise InvalidDataset(f"{name} has {len(inputs)} examples; at least 2 are needed (one is held out).")


def _single_precision(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype == np.float64 else array
