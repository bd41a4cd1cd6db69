"""Data for simulated phones, by name: one that comes along, a file, or a function of the user's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnode.simulation.built_in_data import BUILT_IN
from gridnode.simulation.data_sources import Arrays, call_function, read_npz
from gridnode.simulation.errors import InvalidDataset

DIGITS = "digits"
HELD_OUT_FRACTION = 0.2


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs and targets of a training plan, aligned on the first axis; ``owners`` says whose each example is."""

    inputs: NDArray[Any]
    targets: NDArray[Any]
    owners: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, indices: NDArray[np.int64]) -> Examples:
        """The examples at these positions, copied."""
        owners = None if self.owners is None else self.owners[indices]
        return Examples(self.inputs[indices], self.targets[indices], owners)

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
                "y has no classes to split by: it is neither one-hot nor whole numbers. Use --split iid or unequal."
            )
        return np.asarray(flat[:, 0], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples to train on, to be split over phones, and examples that no phone ever sees."""

    name: str
    training: Examples
    held_out: Examples


def load_dataset(source: str, seed: int, held_out_fraction: float = HELD_OUT_FRACTION) -> Dataset:
    """Load a data set and set a part of it aside.

    Args:
        source: a name of :data:`~gridnode.simulation.built_in_data.BUILT_IN`, the path of a ``.npz`` file, or
            ``module:function``.

    Raises:
        InvalidDataset: no such data set, or it does not hold what it should.
    """
    training, held_out = split_held_out(load_examples(source), held_out_fraction, seed)
    return Dataset(Path(source).stem, training, held_out)


def load_examples(source: str) -> Examples:
    """All examples of a data set. float64 becomes float32, other types stay.

    Raises:
        InvalidDataset: as :func:`load_dataset`.
    """
    if source in BUILT_IN:
        return Examples(*BUILT_IN[source]())
    if source.endswith(".npz"):
        return _checked(Path(source).name, read_npz(Path(source)))
    if ":" in source:
        return _checked(source, call_function(source))
    raise InvalidDataset(
        f"data set {source!r} is unknown: use {', '.join(BUILT_IN)}, the path of a .npz file with X and y, or "
        f"module:function."
    )


def split_held_out(examples: Examples, fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Shuffle and divide into training and held-out examples; both have at least one."""
    if not 0 < fraction < 1:
        raise InvalidDataset(f"the held-out fraction is {fraction}; it must lie between 0 and 1.")
    order = np.random.default_rng(seed).permutation(len(examples))
    held_out = min(max(round(len(examples) * fraction), 1), len(examples) - 1)
    return examples.take(order[held_out:]), examples.take(order[:held_out])


def _checked(name: str, arrays: Arrays) -> Examples:
    inputs, targets = arrays[:2]
    for key, array in zip(("X", "y", "owner"), arrays, strict=False):
        if array.ndim < 1 or not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
            raise InvalidDataset(
                f"{name}: {key} must be an array of numbers, not {array.dtype} of {array.ndim} dimensions."
            )
        if not np.isfinite(array).all():
            raise InvalidDataset(f"{name}: {key} holds NaN or infinite values.")
        if len(array) != len(inputs):
            raise InvalidDataset(f"{name}: X has {len(inputs)} examples but {key} has {len(array)}.")
    if len(inputs) < 2:
        raise InvalidDataset(f"{name} has {len(inputs)} examples; at least 2 are needed (one is held out).")
    return Examples(_single_precision(inputs), _single_precision(targets), _owners(name, arrays[2:]))


def _owners(name: str, arrays: Arrays) -> NDArray[np.int64] | None:
    if not arrays:
        return None
    (owners,) = arrays
    if owners.ndim != 1 or not np.issubdtype(owners.dtype, np.integer):
        raise InvalidDataset(f"{name}: owner must be one whole number for each row.")
    return owners.astype(np.int64)


def _single_precision(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype == np.float64 else array
