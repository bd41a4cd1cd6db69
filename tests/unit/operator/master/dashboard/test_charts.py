"""Charts as geometry: axes that are round, lines that stay within them, and what is not known left out."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode_operator.master.dashboard.charts import Figure, bar_chart, line_chart, nice_ticks, spark

values = st.floats(-1e100, 1e100, allow_nan=False)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, (1.0, 0.75, 0.5, 0.25, 0.0)),
        (0, 60, (60.0, 40.0, 20.0, 0.0)),
        (0.31, 0.93, (1.0, 0.8, 0.6, 0.4, 0.2)),
        (5, 5, (8.0, 6.0, 4.0, 2.0)),
        (0, 0, (1.0, 0.75, 0.5, 0.25, 0.0)),
        (-3, -1, (-1.0, -1.5, -2.0, -2.5, -3.0)),
    ],
)
def test_axis_is_round(low: float, high: float, ticks: tuple[float, ...]) -> None:
    assert nice_ticks(low, high) == ticks


@given(values, values)
def test_axis_encloses_what_is_drawn_with_few_ticks(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    slack = max(abs(low), abs(high)) * 1e-6
    assert ticks[-1] <= low + slack
    assert ticks[0] >= high - slack
    assert all(math.isfinite(tick) for tick in ticks)


@given(st.lists(st.tuples(values, values, values), min_size=1, max_size=30))
def test_line_and_band_stay_within_the_square(figures: list[tuple[float, float, float]]) -> None:
    chart = line_chart([Figure(at, sorted(each)[1], min(each), max(each)) for at, each in enumerate(figures, 1)])
    assert chart is not None
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", chart.line + chart.band)]
    assert all(-0.01 <= number <= 100.01 for number in numbers)
    assert len(chart.dots) == len(figures)


def test_higher_is_higher() -> None:
    chart = line_chart([Figure(1, 1.0), Figure(2, 2.0)])
    assert chart is not None
    assert chart.dots[1].y < chart.dots[0].y
    assert (chart.dots[0].x, chart.dots[1].x) == (0, 100)
    assert chart.band == ""


def test_band_has_a_gap_where_nobody_told() -> None:
    chart = line_chart([Figure(1, 1, 0, 2), Figure(2, 1, 0, 2), Figure(3, 1), Figure(4, 1, 0, 2), Figure(5, None)])
    assert chart is not None
    assert chart.band.count("M") == 2
    assert len(chart.dots) == 4


def test_nothing_known_is_no_chart() -> None:
    assert line_chart([]) is None
    assert line_chart([Figure(1, None, 1, 2)]) is None
    assert bar_chart([], {"a": []}) is None


def test_single_figure_is_in_the_middle() -> None:
    chart = line_chart([Figure(7, 0.5)])
    assert chart is not None
    assert (chart.dots[0].x, chart.labels) == (50, (7,))


def test_columns_are_stacked() -> None:
    chart = bar_chart([3, 4], {"a": [1, None], "b": [3, 4]})
    assert chart is not None
    assert [(bar.at, bar.series, bar.value) for bar in chart.bars] == [(3, 0, 1), (3, 1, 3), (4, 1, 4)]
    first, second, third = chart.bars
    assert first.y + first.height == pytest.approx(100)
    assert second.y + second.height == pytest.approx(first.y)
    assert second.y == pytest.approx(third.y) == pytest.approx(0)
    assert not chart.is_empty
    empty = bar_chart([1], {"a": [None]})
    assert empty is not None
    assert empty.is_empty


@pytest.mark.parametrize(
    ("first", "last", "labels"),
    [
        (1, 37, (1, 10, 19, 28, 37)),
        (1, 2, (1, 2)),
        (5, 12, (5, 12)),
        (4, 7, (4, 5, 6, 7)),
        (1, 61, (1, 16, 31, 46, 61)),
    ],
)
def test_places_on_the_axis_are_at_even_distances(first: int, last: int, labels: tuple[int, ...]) -> None:
    chart = bar_chart(range(first, last + 1), {"a": [1.0] * (last - first + 1)})
    assert chart is not None
    assert chart.labels == labels


def test_spark() -> None:
    assert spark([]) == ""
    assert spark([0, 0]).startswith("M0 100 ")
    assert "L50.00 4.00 h50.00" in spark([1, 2])
