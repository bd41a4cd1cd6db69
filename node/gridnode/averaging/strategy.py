"""How a cycle's reports become one averaged diff: the interface, and the two means.

A strategy says how reports are stored (as sums, or each diff for itself) and turns what was stored into the averaged
diff. It knows nothing of cycles, so clipping, FedAdam or trimmed mean are further classes here and nothing else
changes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gridnode.averaging.layout import Array, ModelLayout
from gridnode.errors import InvalidRequest


class AveragingFailed(Exception):
    """The averaging can't be done; the message is for the author and holds no path or traceback."""


@dataclass(frozen=True, slots=True)
class StoredUpdate:
    """One stored row: the sum of ``reports`` diffs, each times its weight, in the layout's sum dtypes."""

    reports: int
    weight: float
    tensors: list[Array]


class Strategy(ABC):
    """Turns a cycle's stored updates into the averaged diff."""

    #: False: the diffs of a group commit are stored as one sum. True: each diff is stored for itself.
    needs_each_diff: ClassVar[bool] = False

    def weight(self, num_samples: float | None) -> float:
        """Weight of one report.

        Raises:
            InvalidRequest: the strategy needs something the report doesn't hold.
        """
        return 1.0

    @abstractmethod
    def average(self, updates: Iterable[StoredUpdate], layout: ModelLayout) -> list[Array]:
        """The averaged diff, one array per parameter in the sum dtypes.

        Reads the updates one at a time, so that memory stays a small multiple of one model.

        Raises:
            AveragingFailed: it can't be computed; the message says why.
        """


class Mean(Strategy):
    """FedAvg with equal weights: ``((d0 + d1) + …) / n``, summed in the order of arrival.

    Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017.
    """

    def average(self, updates: Iterable[StoredUpdate], layout: ModelLayout) -> list[Array]:
        total, _, weight = add_up(updates)
        for tensor in total:
            # In the sum's own dtype: the recorded checkpoints divide float32 by float32.
            np.divide(tensor, tensor.dtype.type(weight), out=tensor)
        return total


class WeightedMean(Mean):
    """FedAvg as published: each diff weighted by the number of examples it was trained on (``num_samples``)."""

    def weight(self, num_samples: float | None) -> float:
        if num_samples is None:
            raise InvalidRequest("num_samples is missing: this process averages weighted by it")
        return num_samples


def add_up(updates: Iterable[StoredUpdate]) -> tuple[list[Array], int, float]:
    """Sum of all updates, number of reports and total weight.

    Raises:
        AveragingFailed: there is none, or the sum overflowed.
    """
    remaining = iter(updates)
    first = next(remaining, None)
    if first is None:
        raise AveragingFailed("the cycle has no reports")
    total = [np.array(tensor) for tensor in first.tensors]
    reports, weight = first.reports, first.weight
    for update in remaining:
        for tensor, addend in zip(total, update.tensors, strict=True):
            with np.errstate(over="ignore", invalid="ignore"):  # noticed below
                np.add(tensor, addend, out=tensor)
        reports += update.reports
        weight += update.weight
    if not all(np.isfinite(tensor).all() for tensor in total) or not math.isfinite(weight):
        raise AveragingFailed("the sum of the diffs overflows: the diffs are too large to be averaged")
    return total, reports, weight


def apply_diff(tensors: Iterable[Array], averaged: Iterable[Array]) -> Iterator[Array]:
    """New parameters: old minus averaged diff, in the model's dtypes.

    Integers are rounded to the nearest and wrap as they do on the device; a bool changes where more than half of the
    devices report that it did.
    """
    for tensor, diff in zip(tensors, averaged, strict=True):
        if tensor.dtype == np.bool_:
            yield tensor ^ (diff > 0.5)
        elif tensor.dtype.kind in "iu":
            yield tensor - np.rint(diff).astype(np.int64).astype(tensor.dtype)
        else:
            with np.errstate(over="ignore"):
                yield tensor - diff.astype(tensor.dtype, copy=False)


def add_diff(total: list[Array], diff: Iterable[Array], weight: float) -> None:
    """Add one diff, times its weight, to a running sum in place."""
    for tensor, addend in zip(total, diff, strict=True):
        if addend.dtype == np.uint8:
            # A difference of unsigned bytes wraps: 250 means −6.
            addend = addend.view(np.int8)
        with np.errstate(over="ignore", invalid="ignore"):  # noticed by add_up
            weighted = addend if weight == 1.0 else addend * tensor.dtype.type(weight)
            np.add(tensor, weighted, out=tensor)
