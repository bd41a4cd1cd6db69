"""Data sets that need no download: arrays X and y, one row an example.

Three come with scikit-learn; the housing prices are made here, after the shape of the California census data of 1990.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridnode.simulation.errors import InvalidDataset

Rows = tuple[NDArray[np.float32], NDArray[np.float32]]

_SIDE: Final = 28
_HOUSES: Final = 20_000
# As the census cut its prices off, in 100 000 dollars.
_HIGHEST_PRICE: Final = 5.0


def digits() -> Rows:
    """1797 handwritten digits (8×8, UCI) enlarged to 28×28.

    Inputs are [n, 784] between 0 and 1, targets one-hot [n, 10].
    """
    pixels, targets = _digits()
    return enlarge(pixels, _SIDE).reshape(len(pixels), _SIDE * _SIDE), targets


def small_digits() -> Rows:
    """The same digits as they are: inputs [n, 64] between 0 and 1, targets one-hot [n, 10]."""
    pixels, targets = _digits()
    return pixels.reshape(len(pixels), -1), targets


def breast_cancer() -> Rows:
    """569 tumours (UCI): 30 measures with mean 0 and deviation 1, targets one-hot [n, 2]: malignant, benign."""
    data = _scikit_learn("load_breast_cancer")
    return _standardized(data.data), np.eye(2, dtype=np.float32)[data.target]


def housing() -> Rows:
    """20 000 districts with their house prices, made by a formula and chance: the same at every call.

    Inputs are [n, 8] with mean 0 and deviation 1: income, age of the houses, rooms, bedrooms, population, people in a
    house, latitude, longitude. Targets are [n, 1], in 100 000 dollars: higher with income and near the coast, with
    noise, and cut off at 5. The best that can be predicted has a mean squared error of about 0.1.
    """
    rng = np.random.default_rng(1990)
    income = rng.lognormal(1.2, 0.45, _HOUSES)
    age = rng.uniform(1, 52, _HOUSES)
    rooms = 3.5 + 0.5 * income + rng.normal(0, 0.6, _HOUSES)
    bedrooms = rooms / rng.normal(5, 0.4, _HOUSES)
    population = rng.lognormal(7.0, 0.7, _HOUSES)
    people = rng.lognormal(1.05, 0.25, _HOUSES)
    latitude = rng.uniform(32.5, 42, _HOUSES)
    # The coast runs from the south-east to the north-west.
    inland = rng.exponential(1.5, _HOUSES)
    longitude = -117.5 - 0.75 * (latitude - 32.5) + inland
    price = 0.42 * income + 1.6 * np.exp(-inland) + 0.006 * age - 0.25 * (people - 2.9) + rng.normal(0, 0.3, _HOUSES)
    inputs = np.stack([income, age, rooms, bedrooms, population, people, latitude, longitude], axis=1)
    return _standardized(inputs), np.clip(price, 0.15, _HIGHEST_PRICE).astype(np.float32)[:, np.newaxis]


BUILT_IN: Final[Mapping[str, Callable[[], Rows]]] = {
    "digits": digits,
    "digits-8x8": small_digits,
    "breast-cancer": breast_cancer,
    "housing": housing,
}


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


def _digits() -> Rows:
    data = _scikit_learn("load_digits")
    pixels: NDArray[np.float32] = data.images.astype(np.float32) / np.float32(16)
    return pixels, np.eye(10, dtype=np.float32)[data.target]


def _scikit_learn(loader: str) -> Any:
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise InvalidDataset("digits and breast-cancer need scikit-learn: pip install 'gridnode[demo]'") from None
    return getattr(datasets, loader)()


def _standardized(inputs: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray((inputs - inputs.mean(axis=0)) / inputs.std(axis=0), dtype=np.float32)
