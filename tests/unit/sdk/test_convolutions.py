"""Convolutions of operation lists against their definition, loop by loop."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from gridnode.plans.operations import OPERATIONS

Array = np.ndarray[Any, Any]


def slow_convolution(x: Array, w: Array, stride: int, padding: int, dilation: int, groups: int) -> Array:
    padded = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    span = dilation * (w.shape[2] - 1) + 1
    size = [(length - span) // stride + 1 for length in padded.shape[2:]]
    result = np.zeros((len(x), len(w), *size))
    inner, outer = w.shape[1], len(w) // groups
    for row, channel, i, j in itertools.product(*map(range, result.shape)):
        first = channel // outer * inner
        window = padded[
            row,
            first : first + inner,
            i * stride : i * stride + span : dilation,
            j * stride : j * stride + span : dilation,
        ]
        result[row, channel, i, j] = (window * w[channel]).sum()
    return result


CASES = [(1, 0, 1, 1), (2, 1, 1, 1), (1, 2, 2, 1), (2, 1, 2, 2), (3, 0, 1, 2)]


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), CASES)
def test_convolution_is_its_definition(stride: int, padding: int, dilation: int, groups: int) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 4, 9, 7)).astype(np.float32), rng.normal(size=(6, 4 // groups, 3, 3)).astype(np.float32)
    bias = np.arange(6, dtype=np.float32)

    given = OPERATIONS["conv2d"](x, w, bias, [stride, stride], [padding, padding], [dilation, dilation], groups)

    wanted = slow_convolution(x, w, stride, padding, dilation, groups) + bias.reshape(6, 1, 1)
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)
    assert given.dtype == np.float32


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), CASES)
def test_transposed_convolution_is_the_adjoint(stride: int, padding: int, dilation: int, groups: int) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 4, 9, 7)), rng.normal(size=(6, 4 // groups, 3, 3))
    convolved = OPERATIONS["conv2d"](x, w, None, stride, padding, dilation, groups)
    y = rng.normal(size=convolved.shape)
    span = dilation * 2 + 1
    missing = [
        size - ((out - 1) * stride - 2 * padding + span)
        for size, out in zip(x.shape[2:], convolved.shape[2:], strict=True)
    ]

    back = OPERATIONS["conv_transpose2d"](y, w, None, stride, padding, missing, groups, dilation)

    assert back.shape == x.shape
    # <conv(x), y> = <x, conv'(y)>
    assert (convolved * y).sum() == pytest.approx((x * back).sum())


def test_one_dimension_is_two_with_one_of_size_1() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 3, 11)), rng.normal(size=(5, 3, 3))

    given = OPERATIONS["conv1d"](x, w, None, [2], [1], [2])

    wanted = OPERATIONS["conv2d"](x[:, :, None], w[:, :, None], None, [1, 2], [0, 1], [1, 2])[:, :, 0]
    np.testing.assert_allclose(given, wanted)


def test_padding_counts_from_the_last_dimension_and_may_be_negative() -> None:
    x = np.arange(6.0).reshape(2, 3)

    np.testing.assert_array_equal(OPERATIONS["pad"](x, [1, 0], value=9.0), [[9, 0, 1, 2], [9, 3, 4, 5]])
    np.testing.assert_array_equal(OPERATIONS["pad"](x, [-1, 0, 0, 1]), [[1, 2], [4, 5], [0, 0]])
    with pytest.raises(ValueError, match="reflect"):
        OPERATIONS["pad"](x, [1, 1], mode="reflect")


def test_error_function() -> None:
    given = OPERATIONS["erf"](np.array([-1.0, 0.0, 0.5], np.float32))

    np.testing.assert_allclose(given, [-0.8427008, 0, 0.5204999], rtol=1e-6)
    assert given.dtype == np.float32
