"""Charts as geometry: what templates draw as SVG. No I/O.

All coordinates are in a square of 100 by 100 that the page stretches to whatever room there is, so a chart fits a
phone and a wide screen, and its labels are text of the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
_LABELS: Final = 5
_GAP: Final = 0.22


@dataclass(frozen=True, slots=True)
class Figure:
    """A value at a place, with the least and the most that went into it."""

    at: int
    mean: float | None
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a line."""

    x: float
    y: float
    at: int
    mean: float
    least: float | None
    most: float | None


@dataclass(frozen=True, slots=True)
class LineChart:
    """A line with a band.

    Attributes:
        line: SVG path of the mean.
        band: SVG path of what lies between least and most; empty if nobody told.
        dots: Of the line.
        ticks: Values of the y axis, the highest first, at even distances.
        labels: Places on the x axis, at even distances.
    """

    line: str
    band: str
    dots: tuple[Dot, ...]
    ticks: tuple[float, ...]
    labels: tuple[int, ...]

    @property
    def last(self) -> Dot:
        """The newest point."""
        return self.dots[-1]


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a column."""

    x: float
    y: float
    width: float
    height: float
    series: int
    at: int
    value: float


@dataclass(frozen=True, slots=True)
class BarChart:
    """Columns of stacked parts.

    Attributes:
        series: Names of the parts, in the order in which they are stacked.
        ticks: Values of the y axis, the highest first, at even distances.
        labels: Places on the x axis, at even distances.
        labels_each: Whether every column has its label.
    """

    bars: tuple[Bar, ...]
    series: tuple[str, ...]
    ticks: tuple[float, ...]
    labels: tuple[int, ...]
    labels_each: bool

    @property
    def is_empty(self) -> bool:
        """Whether all columns are nothing."""
        return not any(bar.value for bar in self.bars)


def line_chart(figures: Sequence[Figure]) -> LineChart | None:
    """A line over the figures that have a mean; None if none has."""
    known = [each for each in figures if each.mean is not None]
    if not known:
        return None
    values = [value for each in known for value in (each.mean, each.least, each.most) if value is not None]
    ticks = nice_ticks(min(values), max(values))
    first, last = known[0].at, known[-1].at
    x = _scale(first, last)
    y = _scale(ticks[-1], ticks[0])
    dots = tuple(
        Dot(x(each.at), 100 - y(each.mean), each.at, each.mean, each.least, each.most)
        for each in known
        if each.mean is not None
    )
    line = " ".join(f"{'M' if not number else 'L'}{dot.x:.2f} {dot.y:.2f}" for number, dot in enumerate(dots))
    band = "".join(_band(run, lambda value: 100 - y(value)) for run in _banded_runs(dots))
    return LineChart(line, band, dots, ticks, _spread(first, last))


def bar_chart(places: Sequence[int], series: Mapping[str, Sequence[float | None]]) -> BarChart | None:
    """Stacked columns, one at each place; None if there is no place.

    Args:
        places: In rising order.
        series: For each part a value at each place; None counts as nothing.
    """
    if not places:
        return None
    sums = [sum(values[index] or 0.0 for values in series.values()) for index in range(len(places))]
    ticks = nice_ticks(0.0, max(sums) or 1.0)
    width = 100 / len(places)
    bars = []
    for index, at in enumerate(places):
        top = 100.0
        for number, values in enumerate(series.values()):
            value = values[index] or 0.0
            height = 100 * value / ticks[0]
            top -= height
            if height:
                bars.append(Bar(index * width + width * _GAP / 2, top, width * (1 - _GAP), height, number, at, value))
    labels = _spread(places[0], places[-1])
    return BarChart(tuple(bars), tuple(series), ticks, labels, list(labels) == list(places))


def spark(values: Sequence[float]) -> str:
    """SVG path of the outline of columns without gaps, for a small chart without axes."""
    if not values:
        return ""
    highest = max(values) or 1.0
    width = 100 / len(values)
    steps = [
        f"L{index * width:.2f} {100 - 96 * value / highest:.2f} h{width:.2f}" for index, value in enumerate(values)
    ]
    return f"M0 100 {' '.join(steps)} V100 Z"


def nice_ticks(low: float, high: float, count: int = 4) -> tuple[float, ...]:
    """Round values at even distances that enclose ``low`` and ``high``, the highest first."""
    if high <= low:
        spread = abs(high) * 0.5 or 1.0
        low, high = (low - spread, high + spread) if low else (0.0, 1.0)
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(step * magnitude for step in _STEPS if step * magnitude >= rough * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    # Multiplied, not added up, so that 0.3 is 0.3; rounded to what the step can tell apart.
    digits = max(0, 1 - math.floor(math.log10(step)))
    return tuple(round(each * step, digits) + 0.0 for each in range(last, first - 1, -1))


def _scale(low: float, high: float) -> Callable[[float], float]:
    # Halved, so that the difference of two huge values is no infinity.
    width = high / 2 - low / 2
    return lambda value: 50.0 if width <= 0 else 100 * (value / 2 - low / 2) / width


def _spread(first: int, last: int) -> tuple[int, ...]:
    """Places at even distances that are whole numbers: both ends, and what divides the way between them."""
    way = last - first
    parts = next((parts for parts in range(min(_LABELS - 1, way), 1, -1) if way % parts == 0), 1)
    return (first,) if way == 0 else tuple(first + way * part // parts for part in range(parts + 1))


def _banded_runs(dots: Sequence[Dot]) -> Iterator[list[Dot]]:
    run: list[Dot] = []
    for dot in dots:
        if dot.least is not None and dot.most is not None:
            run.append(dot)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _band(run: Sequence[Dot], y: Callable[[float], float]) -> str:
    there = [f"{dot.x:.2f} {y(dot.most):.2f}" for dot in run if dot.most is not None]
    back = [f"{dot.x:.2f} {y(dot.least):.2f}" for dot in reversed(run) if dot.least is not None]
    return f"M{' L'.join(there)} L{' L'.join(back)} Z"
