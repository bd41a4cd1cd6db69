"""Where parameters lie in the buffer of a sum, and which diffs are those of the model."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest

from gridnode.averaging.layout import Array, ModelLayout, is_finite, squared_norm
from gridnode.errors import InvalidRequest

TENSORS: list[Array] = [np.zeros((2, 3), np.float32), np.zeros((), np.int64), np.zeros(5, np.float16)]


def test_buffer_holds_every_parameter_aligned_and_apart() -> None:
    layout = ModelLayout.of([*TENSORS, np.zeros((0, 4), np.float32), np.zeros(3, bool)])
    assert [parameter.offset % 8 for parameter in layout.parameters] == [0] * 5
    assert layout.nbytes == len(layout.zeros())
    buffer = layout.zeros()
    views = layout.views(buffer)
    for number, view in enumerate(views, start=1):
        view[...] = number
    assert [set(view.ravel().tolist()) for view in layout.views(bytes(buffer))] == [{1}, {2}, {3}, set(), {5}]
    assert [view.shape for view in views] == [(2, 3), (), (5,), (0, 4), (3,)]


@pytest.mark.parametrize(
    ("dtype", "sum_dtype"),
    [
        ("float16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
        ("int8", "float64"),
        ("int64", "float64"),
        ("uint8", "float64"),
        ("bool", "float64"),
    ],
)
def test_sums_are_kept_in_a_type_that_holds_them(dtype: str, sum_dtype: str) -> None:
    (parameter,) = ModelLayout.of([np.zeros(3, dtype)]).parameters
    assert (parameter.dtype, parameter.sum_dtype) == (np.dtype(dtype), np.dtype(sum_dtype))


def test_layout_comes_back_from_json() -> None:
    layout = ModelLayout.of(TENSORS)
    assert ModelLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


@pytest.mark.parametrize("size", [0, 1, 55, 57])
def test_buffer_of_another_model_is_refused(size: int) -> None:
    layout = ModelLayout.of(TENSORS)
    assert layout.nbytes == 56
    with pytest.raises(ValueError, match=f"buffer has {size} bytes, the model needs 56"):
        layout.views(bytes(size))


def _with(index: int, tensor: Array) -> list[Array]:
    changed = list(TENSORS)
    changed[index] = tensor
    return changed


def _half(value: float) -> Array:
    return np.array([0, 0, value, 0, 0], np.float16)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([], "the diff has 0 tensors, the model has 3"),
        (TENSORS[:2], "the diff has 2 tensors, the model has 3"),
        ([*TENSORS, TENSORS[0]], "the diff has 4 tensors, the model has 3"),
        (_with(0, np.zeros((3, 2), np.float32)), r"tensor 0 of the diff has shape \[3, 2\], the model has \[2, 3\]"),
        (_with(0, np.zeros(6, np.float32)), r"tensor 0 of the diff has shape \[6\], the model has \[2, 3\]"),
        (_with(1, np.zeros(1, np.int64)), r"tensor 1 of the diff has shape \[1\], the model has \[\]"),
        (_with(0, np.zeros((2, 3), np.float64)), "tensor 0 of the diff is float64, the model has float32"),
        (_with(1, np.zeros((), np.int32)), "tensor 1 of the diff is int32, the model has int64"),
        (_with(2, _half(np.nan)), "tensor 2 of the diff has NaN or infinite values"),
        (_with(2, _half(np.inf)), "tensor 2 of the diff has NaN or infinite values"),
        (_with(2, _half(-np.inf)), "tensor 2 of the diff has NaN or infinite values"),
    ],
)
def test_diff_that_is_not_the_models_is_refused_with_the_place(tensors: list[Array], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        ModelLayout.of(TENSORS).check_diff(tensors)


def test_diff_of_the_model_passes() -> None:
    ModelLayout.of(TENSORS).check_diff(TENSORS)


@pytest.mark.parametrize(
    ("values", "dtype", "finite"),
    [
        ([1, 2], "float32", True),
        ([], "float32", True),
        ([3e38, 3e38], "float32", True),  # their sum is not
        ([65504, 65504], "float16", True),
        ([1.7e308, 1.7e308], "float64", True),
        ([np.inf, -np.inf], "float32", False),
        ([1, np.nan], "float64", False),
        ([127, -128], "int8", True),
        ([True], "bool", True),
    ],
)
def test_finite_means_every_value(values: list[Any], dtype: str, finite: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_finite(np.array(values, dtype)) is finite


def test_norm_is_taken_over_all_tensors() -> None:
    tensors: list[Array] = [np.array([[3.0, 0]], np.float32), np.array(4, np.int8), np.zeros((0, 2), np.float32)]
    assert squared_norm(tensors) == 25


def test_norm_that_is_too_large_is_infinite_and_no_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert squared_norm([np.full(3, 3e38, np.float32)]) == np.inf


@pytest.mark.parametrize(("dtype", "value"), [("float32", 3e38), ("float32", 1e20), ("float64", 1e200)])
def test_diff_that_would_overflow_the_sum_is_refused(dtype: str, value: float) -> None:
    layout = ModelLayout.of([np.zeros(3, dtype)])
    with pytest.raises(InvalidRequest, match="too large to be averaged"):
        layout.check_diff([np.full(3, value, dtype)])
    layout.check_diff([np.full(3, value / 1e3 if value < 1e21 else 1e18, dtype)])


def test_large_half_precision_diff_is_not_too_large() -> None:
    layout = ModelLayout.of([np.zeros(3, np.float16)])
    layout.check_diff([np.full(3, 60_000, np.float16)])
