"""Splits of a data set over phones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gridnode.errors import InvalidRequest
from gridnode.simulation.partition import (
    Indices,
    split_by_owner,
    split_dirichlet,
    split_examples,
    split_iid,
    split_unequal,
)


def labels(examples: int, classes: int = 10) -> NDArray[np.int64]:
    return np.arange(examples, dtype=np.int64) % classes


def label_skew(shards: list[Indices], classes_of: NDArray[np.int64]) -> float:
    """Mean over the phones of the share that a phone's most frequent class has in its shard."""
    return float(np.mean([np.bincount(classes_of[shard]).max() / len(shard) for shard in shards]))


@given(
    split=st.sampled_from(["iid", "unequal", "dirichlet"]),
    phones=st.integers(1, 40),
    extra=st.integers(0, 200),
    classes=st.integers(1, 12),
    alpha=st.sampled_from([5e-324, 1e-9, 0.01, 0.5, 1.0, 100.0, 1e6]),
    seed=st.integers(0, 2**32),
)
def test_each_example_is_used_by_exactly_one_phone_and_no_phone_is_without(
    split: str, phones: int, extra: int, classes: int, alpha: float, seed: int
) -> None:
    examples = phones + extra

    shards = split_examples(split, labels(examples, classes), phones, alpha=alpha, seed=seed)  # type: ignore[arg-type]

    assert len(shards) == phones
    assert min(len(shard) for shard in shards) >= 1
    assert sorted(np.concatenate(shards).tolist()) == list(range(examples))


@pytest.mark.parametrize("split", ["iid", "unequal", "dirichlet"])
def test_same_seed_gives_the_same_split_and_another_seed_another(split: str) -> None:
    first, again, other = (
        split_examples(split, labels(500), 7, alpha=0.5, seed=seed)  # type: ignore[arg-type]
        for seed in (3, 3, 4)
    )

    assert [shard.tolist() for shard in first] == [shard.tolist() for shard in again]
    assert [shard.tolist() for shard in first] != [shard.tolist() for shard in other]


def test_iid_shards_have_equal_sizes_and_all_classes() -> None:
    shards = split_iid(1003, 5, seed=1)

    assert sorted(len(shard) for shard in shards) == [200, 200, 201, 201, 201]
    assert label_skew(shards, labels(1003)) < 0.2


def test_unequal_shards_differ_in_size_but_not_in_classes() -> None:
    shards = split_unequal(20_000, 20, seed=1)

    sizes = [len(shard) for shard in shards]
    assert max(sizes) > 5 * min(sizes)
    assert label_skew(shards, labels(20_000)) < 0.2


def test_unequal_shards_without_spread_are_equal() -> None:
    assert {len(shard) for shard in split_unequal(600, 20, seed=1, spread=0.0)} == {30}


def test_dirichlet_skews_labels_the_more_the_smaller_alpha_is() -> None:
    classes_of = labels(20_000)

    strong, medium, none = (
        label_skew(split_dirichlet(classes_of, 20, alpha, seed=1), classes_of) for alpha in (0.1, 1, 1000)
    )

    assert strong > 0.6
    assert 0.2 < medium < strong
    assert none < 0.15


def test_dirichlet_follows_the_drawn_proportions() -> None:
    """With one class the shard sizes are the Dirichlet proportions themselves, up to rounding."""
    shards = split_dirichlet(np.zeros(10_000, dtype=np.int64), 4, alpha=2.0, seed=9)

    rng = np.random.default_rng(9)
    rng.permutation(10_000)
    expected = 10_000 * rng.dirichlet(np.full(4, 2.0))
    assert np.abs(np.array([len(shard) for shard in shards]) - expected).max() < 1


def test_split_by_owner_gives_each_phone_the_examples_of_one_owner() -> None:
    owners = np.array([5, 9, 5, 7, 9, 5])

    shards = split_by_owner(owners, 3, seed=0)

    assert sorted(shard.tolist() for shard in shards) == [[0, 2, 5], [1, 4], [3]]
    assert len(split_by_owner(owners, 2, seed=0)) == 2
    with pytest.raises(InvalidRequest, match="3 owners, too few for 4 phones"):
        split_by_owner(owners, 4, seed=0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), 1e7, float("inf")])
def test_impossible_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(InvalidRequest, match="alpha is"):
        split_dirichlet(labels(100), 5, alpha, seed=0)


@pytest.mark.parametrize("phones", [0, 101])
def test_impossible_number_of_phones_is_refused(phones: int) -> None:
    with pytest.raises(InvalidRequest, match="phones"):
        split_iid(100, phones, seed=0)


def test_negative_spread_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="spread is"):
        split_unequal(100, 5, seed=0, spread=-1.0)
