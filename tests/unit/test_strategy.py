"""Means over stored sums: the arithmetic that the recorded trainings show, in each parameter's own type."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from gridnode.averaging.layout import Array, ModelLayout
from gridnode.averaging.strategy import (
    AveragingFailed,
    Mean,
    StoredUpdate,
    WeightedMean,
    add_diff,
    apply_diff,
)
from gridnode.errors import InvalidRequest

TYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]


def stored(
    layout: ModelLayout, diffs: Sequence[Sequence[Array]], weights: Sequence[float] | None = None
) -> StoredUpdate:
    """One row: the sum of some diffs, as a group commit stores it."""
    total = layout.views(layout.zeros())
    used = [1.0] * len(diffs) if weights is None else list(weights)
    for diff, weight in zip(diffs, used, strict=True):
        add_diff(total, diff, weight)
    return StoredUpdate(len(diffs), float(sum(used)), total)


def average(layout: ModelLayout, updates: Sequence[StoredUpdate]) -> list[Array]:
    return Mean().average(iter(updates), layout)


def vector(*values: float, dtype: str = "float32") -> list[Array]:
    return [np.array(values, dtype)]


FLOATS = ModelLayout.of(vector(0, 0))


def test_mean_is_the_sum_of_all_by_their_number() -> None:
    updates = [stored(FLOATS, [vector(1, 0), vector(2, 0)]), stored(FLOATS, [vector(6, 3)])]
    (mean,) = average(FLOATS, updates)
    assert mean.tolist() == [3, 1]


def test_mean_of_float32_is_added_and_divided_in_float32() -> None:
    """Bit by bit as recorded: ``((d0 + d1) + …) / n``."""
    generator = np.random.default_rng(1)
    diffs = [generator.normal(size=1000).astype(np.float32) for _ in range(7)]
    layout = ModelLayout.of([diffs[0]])
    (mean,) = average(layout, [stored(layout, [[diff]]) for diff in diffs])
    expected = diffs[0]
    for diff in diffs[1:]:
        expected = expected + diff
    expected = expected / np.float32(7)
    assert mean.dtype == np.float32
    assert mean.tobytes() == expected.tobytes()


def test_weighted_mean_divides_by_the_sum_of_weights() -> None:
    updates = [stored(FLOATS, [vector(1, 4), vector(5, 4)], [3, 1]), stored(FLOATS, [vector(2, 4)], [0.5])]
    (mean,) = WeightedMean().average(iter(updates), FLOATS)
    np.testing.assert_allclose(mean, [(3 * 1 + 5 + 0.5 * 2) / 4.5, 4], rtol=1e-6)


def test_weight_is_the_number_of_samples_where_it_matters() -> None:
    assert (Mean().weight(None), Mean().weight(7)) == (1, 1)
    assert WeightedMean().weight(7.5) == 7.5
    with pytest.raises(InvalidRequest, match="num_samples is missing"):
        WeightedMean().weight(None)


def test_updates_are_read_one_at_a_time_and_not_changed() -> None:
    first = stored(FLOATS, [vector(1, 2)])
    alive: list[int] = []

    def updates() -> Iterator[StoredUpdate]:
        yield first
        for number in range(3):
            alive.append(number)
            yield stored(FLOATS, [vector(5, 7)])

    Mean().average(updates(), FLOATS)
    assert alive == [0, 1, 2]
    assert first.tensors[0].tolist() == [1, 2]


def test_average_of_nothing_fails() -> None:
    with pytest.raises(AveragingFailed, match="no reports"):
        average(FLOATS, [])


@pytest.mark.parametrize(
    "diffs", [[[3e38], [3e38]], [[3e38], [3e38], [-3e38]], [[-3e38], [-3e38]]], ids=["inf", "inf and back", "-inf"]
)
@pytest.mark.parametrize("together", [True, False])
def test_sum_that_overflows_fails_with_a_reason(diffs: list[list[float]], together: bool) -> None:
    layout = ModelLayout.of(vector(0))
    each = [vector(*diff) for diff in diffs]
    updates = [stored(layout, each)] if together else [stored(layout, [diff]) for diff in each]
    with pytest.raises(AveragingFailed, match="overflows"):
        average(layout, updates)


def test_weights_that_overflow_fail_with_a_reason() -> None:
    tensors = vector(0, 0)
    with pytest.raises(AveragingFailed, match="overflows"):
        average(FLOATS, [StoredUpdate(1, 1e308, tensors), StoredUpdate(1, 1e308, tensors)])


@pytest.mark.parametrize("dtype", TYPES)
def test_average_of_every_type_keeps_shapes(dtype: str) -> None:
    tensors = [np.ones((2, 3), dtype), np.ones((), dtype), np.ones((0, 5), dtype)]
    layout = ModelLayout.of(tensors)
    averaged = average(layout, [stored(layout, [tensors, tensors]), stored(layout, [tensors])])
    following = list(apply_diff(tensors, averaged))
    for tensor, mean, new in zip(tensors, averaged, following, strict=True):
        assert mean.shape == new.shape == tensor.shape
        assert new.dtype == tensor.dtype
        assert (mean == 1).all()
        assert (new == 0).all()


@pytest.mark.parametrize(
    ("dtype", "old", "diff", "new"),
    [
        ("float32", 1.0, 0.25, 0.75),
        ("float16", 1.0, 0.25, 0.75),
        ("float64", 1.0, 1e-15, 1.0 - 1e-15),
        ("int8", 10, 3.4, 7),
        ("int8", 10, 3.6, 6),
        ("int8", 10, 2.5, 8),  # halves go to the even number, as in NumPy and PyTorch
        ("int8", -128, 1.0, 127),  # wraps as on the device
        ("int64", 0, -(2.0**40), 2**40),
        ("uint8", 3, -6.0, 9),
        ("uint8", 250, -6.0, 0),
        ("uint8", 2, 3.0, 255),
        ("bool", True, 0.51, False),
        ("bool", False, 0.51, True),
        ("bool", True, 0.5, True),
        ("bool", False, 0.5, False),
    ],
)
def test_diff_is_taken_off_in_the_models_type(dtype: str, old: Any, diff: float, new: Any) -> None:
    tensor = np.array([old], dtype)
    layout = ModelLayout.of([tensor])
    averaged = [np.array([diff], layout.parameters[0].sum_dtype)]
    (result,) = apply_diff([tensor], averaged)
    assert result.dtype == tensor.dtype
    assert result.tolist() == [np.array(new, dtype).item()]
    assert tensor.tolist() == [np.array(old, dtype).item()]


def test_difference_of_unsigned_bytes_is_signed() -> None:
    layout = ModelLayout.of(vector(0, dtype="uint8"))
    (total,) = stored(layout, [vector(250, dtype="uint8"), vector(6, dtype="uint8")]).tensors
    assert total.tolist() == [0]


def test_sum_of_float16_is_kept_in_float32() -> None:
    layout = ModelLayout.of(vector(0, dtype="float16"))
    row = stored(layout, [vector(1, dtype="float16")] * 4096)
    assert row.tensors[0].tolist() == [4096]
    assert math.isclose(row.weight, 4096)
