"""Averaging plans as a client of PySyft would upload them, written by hand: sane ones and hostile ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.support.plan_builder import Action, Value, plan_of

NUMBER = Value("number")


def values(name: str, count: int) -> list[Value]:
    """``count`` placeholders, named ``name0`` and so on (eight characters at most)."""
    return [Value(f"{name}{position}") for position in range(count)]


def running_mean_plan(parameters: int) -> bytes:
    """Iterative: ``(average * number + diff) / (number + 1)``, as in the recorded trainings."""
    averages, diffs, outputs = values("average", parameters), values("diff", parameters), values("out", parameters)
    products, totals = values("product", parameters), values("total", parameters)
    actions = [Action("__add__", NUMBER, [1], returns=[Value("count")])]
    for average, diff, product, total, output in zip(averages, diffs, products, totals, outputs, strict=True):
        actions += [
            Action("__mul__", average, [NUMBER], returns=[product]),
            Action("__add__", product, [diff], returns=[total]),
            Action("__truediv__", total, [Value("count")], returns=[output]),
        ]
    return plan_of(actions, [*averages, *diffs, NUMBER], outputs)


def list_mean_plan(parameters: int, diffs: int) -> bytes:
    """List form: the mean of an exact number of diffs."""
    inputs = [values(f"d{number}.", parameters) for number in range(diffs)]
    outputs = values("out", parameters)
    actions = []
    for position, output in enumerate(outputs):
        total = inputs[0][position]
        for number in range(1, diffs):
            following = Value(f"t{number}.{position}")
            actions.append(Action("__add__", total, [inputs[number][position]], returns=[following]))
            total = following
        actions.append(Action("__truediv__", total, [diffs], returns=[output]))
    return plan_of(actions, [value for diff in inputs for value in diff], outputs)


def iterative_plan(actions: Sequence[Action], outputs: Sequence[Value] = (Value("out"),)) -> bytes:
    """Iterative, for a model of one parameter: any actions on ``average0``, ``diff0`` and ``number``."""
    return plan_of(actions, [Value("average0"), Value("diff0"), NUMBER], outputs)


def one_operation_plan(command: str, *args: Any) -> bytes:
    """Iterative, for a model of one parameter: gives one operation of the average."""
    return iterative_plan([Action(command, Value("average0"), args)])


def endless_plan(multiplications: int = 5000) -> bytes:
    """Iterative, for a model of one matrix of 1000 × 1000: multiplies it with itself, by default for minutes."""
    average, power = Value("average0"), Value("power")
    actions = [Action("__add__", average, [average], returns=[power])]
    actions += [Action("matmul", power, [average], returns=[power])] * multiplications
    return iterative_plan([*actions, Action("__add__", power, [average])])


def memory_bomb_plan() -> bytes:
    """Iterative, for a model of one column of n numbers: wants n · n of them at once."""
    average, row = Value("average0"), Value("row")
    return iterative_plan([Action("t", average, returns=[row]), Action("__add__", average, [row])])
