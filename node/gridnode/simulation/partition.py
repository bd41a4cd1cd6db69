"""Splits of a data set over phones.

Every split gives each example to at most one phone, at least one example to each phone, and is the same for the same
seed. Only a split by owner may leave examples over: those of owners beyond the number of phones. Shards are arrays of
indices into the data set, in no particular order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gridnode.errors import InvalidRequest

Indices = NDArray[np.int64]
Split = Literal["iid", "unequal", "dirichlet", "owner"]

# Standard deviation of the logarithm of a shard's size: at 1.0 the largest of 20 shards is about 40 times the smallest.
SIZE_SPREAD = 1.0
# Long before this a split is as good as IID; near the end of the range of floats the draws overflow.
HIGHEST_ALPHA = 1e6


def split_examples(split: Split, labels: NDArray[np.int64], phones: int, *, alpha: float, seed: int) -> list[Indices]:
    """Split examples over phones by the method's name.

    Args:
        labels: the class of each example, for ``owner`` its owner; the others take only its length.
        alpha: matters to ``dirichlet`` only.
    """
    if split == "iid":
        return split_iid(len(labels), phones, seed)
    if split == "unequal":
        return split_unequal(len(labels), phones, seed)
    if split == "owner":
        return split_by_owner(labels, phones, seed)
    return split_dirichlet(labels, phones, alpha, seed)


def split_iid(examples: int, phones: int, seed: int) -> list[Indices]:
    """Shards of equal size (up to one example), drawn at random."""
    _check(examples, phones)
    return list(np.array_split(np.random.default_rng(seed).permutation(examples), phones))


def split_unequal(examples: int, phones: int, seed: int, spread: float = SIZE_SPREAD) -> list[Indices]:
    """Shards drawn at random whose sizes are log-normal, as with apps that some people use daily and most seldom.

    Args:
        spread: standard deviation of the logarithm of the sizes; 0 gives equal sizes.
    """
    _check(examples, phones)
    if spread < 0:
        raise InvalidRequest(f"spread is {spread}; it is a standard deviation and can't be negative.")
    rng = np.random.default_rng(seed)
    weights = rng.lognormal(mean=0.0, sigma=spread, size=phones)
    # One example each first, so that no phone is left without any.
    sizes = 1 + _apportion(weights / weights.sum(), examples - phones)
    return np.split(rng.permutation(examples), np.cumsum(sizes)[:-1])


def split_by_owner(owners: NDArray[np.int64], phones: int, seed: int) -> list[Indices]:
    """One shard for each owner of examples; of more owners than phones, some at random.

    Raises:
        InvalidRequest: there are fewer owners than phones.
    """
    known = np.unique(owners)
    if phones > len(known):
        raise InvalidRequest(
            f"the data have {len(known)} owners, too few for {phones} phones; use --phones {len(known)}."
        )
    chosen = np.random.default_rng(seed).permutation(known)[:phones]
    return [np.flatnonzero(owners == owner) for owner in chosen]


def split_dirichlet(labels: NDArray[np.int64], phones: int, alpha: float, seed: int) -> list[Indices]:
    """Label skew: each class is dealt to the phones in proportions drawn from a symmetric Dirichlet distribution.

    Sizes come out unequal too. The usual benchmark split of federated learning (Hsu et al. 2019, arXiv:1909.06335).

    Args:
        labels: the class of each example.
        alpha: concentration. 0.1: a phone knows one or two classes; 1: skewed; 100: close to IID.
    """
    _check(len(labels), phones)
    if not 0 < alpha <= HIGHEST_ALPHA:
        raise InvalidRequest(f"alpha is {alpha}; it must be above 0 and at most {HIGHEST_ALPHA:g}.")
    rng = np.random.default_rng(seed)
    parts: list[list[Indices]] = [[] for _ in range(phones)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        sizes = _apportion(rng.dirichlet(np.full(phones, alpha)), len(members))
        for part, indices in zip(parts, np.split(members, np.cumsum(sizes)[:-1]), strict=True):
            part.append(indices)
    return _without_empty([np.concatenate(part) for part in parts])


def _apportion(proportions: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole sizes that add up to ``total`` and lie within 1 of the proportions (largest remainders)."""
    exact = proportions * total
    sizes = np.floor(exact).astype(np.int64)
    missing = total - int(sizes.sum())
    sizes[np.argsort(sizes - exact, kind="stable")[:missing]] += 1
    return sizes


def _without_empty(shards: Sequence[Indices]) -> list[Indices]:
    """Give each empty shard one example of the largest."""
    filled = list(shards)
    for position, shard in enumerate(filled):
        if len(shard) == 0:
            largest = max(range(len(filled)), key=lambda candidate: len(filled[candidate]))
            filled[position], filled[largest] = filled[largest][:1], filled[largest][1:]
    return filled


def _check(examples: int, phones: int) -> None:
    if phones < 1:
        raise InvalidRequest(f"phones is {phones}; at least one is needed.")
    if phones > examples:
        raise InvalidRequest(f"{examples} training examples can't be split over {phones} phones; use fewer.")
