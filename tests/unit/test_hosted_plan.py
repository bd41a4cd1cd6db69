"""Averaging by a hosted plan: exactly as recorded, and a plan that can't work is refused when it is hosted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from gridnode.averaging import hosted_plan as hosted_plan_module
from gridnode.averaging.hosted_plan import HostedPlan, list_plan_size
from gridnode.averaging.layout import ModelLayout
from gridnode.averaging.sandbox import Sandbox, SandboxLimits
from gridnode.averaging.sandbox_pool import SandboxPool
from gridnode.averaging.strategy import AveragingFailed, StoredUpdate
from gridnode.errors import InvalidRequest, Unavailable
from gridnode.plans.plan import parse_plan
from gridnode.plans.variants import plan_variants
from gridnode.protocol.syft_proto import decode_state
from tests.support.averaging_plans import (
    iterative_plan,
    list_mean_plan,
    memory_bomb_plan,
    one_operation_plan,
    running_mean_plan,
)
from tests.support.plan_builder import Action, Value
from tests.support.recordings import load_model, load_run

pytestmark = pytest.mark.process

LIMITS = SandboxLimits(memory=256 * 1024**2, seconds=20)
Tensor = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    pool = SandboxPool()
    yield pool
    pool.close()


def layout_of(*shapes: tuple[int, ...], dtype: str = "float32") -> ModelLayout:
    return ModelLayout.of([np.zeros(shape, dtype) for shape in shapes])


def check(
    plan: bytes,
    layout: ModelLayout,
    *,
    iterative: bool = True,
    max_diffs: int | None = None,
    limits: SandboxLimits = LIMITS,
) -> int | None:
    return HostedPlan.check(plan, layout, iterative=iterative, max_diffs=max_diffs, limits=limits)


def hosted(plan: bytes, pool: SandboxPool, *, iterative: bool = True) -> HostedPlan:
    return HostedPlan(plan, owner="author", iterative=iterative, limits=LIMITS, pool=pool)


def updates_of(diffs: Sequence[Sequence[Tensor]], layout: ModelLayout) -> list[StoredUpdate]:
    """As reports are stored: in the layout's sum dtypes."""
    return [
        StoredUpdate(1, 1.0, [t.astype(p.sum_dtype) for t, p in zip(diff, layout.parameters, strict=True)])
        for diff in diffs
    ]


@pytest.mark.parametrize("name", ["tiny-iter", "tiny-iter7", "tiny-param", "tiny-noniter", "syftjs-tiny"])
def test_recorded_run_is_averaged_to_the_bit(name: str, pool: SandboxPool) -> None:
    run = load_run(name)
    iterative = run.hosting.server_config.get("iterative_plan", False)
    layout = ModelLayout.of(decode_state(run.hosting.model).tensors)
    check(run.hosting.averaging_plan, layout, iterative=iterative)
    plan = HostedPlan(run.hosting.averaging_plan, owner=name, iterative=iterative, limits=LIMITS, pool=pool)
    checkpoints = [decode_state(checkpoint).tensors for checkpoint in run.checkpoints]

    for before, after, reported in zip(checkpoints, checkpoints[1:], run.diffs, strict=False):
        diffs = [decode_state(diff).tensors for diff in reported]
        averaged = plan.average(iter(updates_of(diffs, layout)), layout)
        for old, new, diff in zip(before, after, averaged, strict=True):
            assert diff.dtype == np.float32
            np.testing.assert_array_equal(old - diff, new)
    assert run.diffs


def test_list_plan_tells_for_how_many_diffs_it_was_traced() -> None:
    run = load_run("tiny-noniter")
    layout = ModelLayout.of(decode_state(run.hosting.model).tensors)

    assert list_plan_size(parse_plan(run.hosting.averaging_plan), 2) == 3
    assert check(run.hosting.averaging_plan, layout, iterative=False) == 3


def test_iterative_plan_has_no_size() -> None:
    assert check(running_mean_plan(1), layout_of((3,)), max_diffs=5) is None


def test_single_diff_is_the_average_and_the_plan_is_not_called(pool: SandboxPool) -> None:
    layout = layout_of((2,))
    diff = np.array([1.5, -2], np.float32)

    (averaged,) = hosted(b"no plan at all", pool).average(updates_of([[diff]], layout), layout)

    np.testing.assert_array_equal(averaged, diff)


@pytest.mark.parametrize(
    ("dtype", "values", "average"),
    [
        ("float16", [1.5, 2.5], 2.0),
        ("float64", [1e300, 3e300], 2e300),
        ("int64", [7, -4], 1.5),
        ("int8", [-100, 50], -25),
        # A difference of unsigned bytes wraps: 250 is −6, stored as such.
        ("uint8", [-6, 3], -1.5),
        ("bool", [1, 0], 0.5),
    ],
)
@pytest.mark.parametrize("shape", [(), (1,), (2, 3)], ids=str)
def test_models_of_other_dtypes_are_averaged(
    dtype: str, values: list[float], average: float, shape: tuple[int, ...], pool: SandboxPool
) -> None:
    layout = layout_of(shape, dtype=dtype)
    sum_dtype = layout.parameters[0].sum_dtype
    updates = [StoredUpdate(1, 1.0, [np.full(shape, value, sum_dtype)]) for value in values]
    plan = running_mean_plan(1)

    check(plan, layout)
    (averaged,) = hosted(plan, pool).average(updates, layout)

    assert averaged.dtype == sum_dtype
    np.testing.assert_array_equal(averaged, np.full(shape, average))


@pytest.mark.parametrize(
    ("plan", "iterative", "message"),
    [
        (b"\xff\xff", True, "not a Plan"),
        (b"", True, "neither operations nor TorchScript"),
        (one_operation_plan("system", "ls"), True, "'system'.*not known"),
        (running_mean_plan(2), True, r"takes 5 inputs, but an iterative plan takes 3: .*1 tensors each"),
        (list_mean_plan(1, 4), True, r"takes 4 inputs.*set server_config\.iterative_plan to false"),
        (one_operation_plan("sum"), True, r"gave shape \[\] for parameter 0, which has \[2, 3\]"),
        (one_operation_plan("to", "torch.float64"), True, "gave float64 for parameter 0, which is float32"),
        (
            iterative_plan([Action("__neg__", Value("diff0"))], [Value("out"), Value("average0")]),
            True,
            "gave 2 tensors, the model has 1 parameters",
        ),
        (one_operation_plan("matmul", np.ones((7, 7), np.float32)), True, "tried on zero diffs.*mismatch"),
    ],
    ids=["garbage", "empty", "unknown", "inputs", "list form", "shape", "dtype", "outputs", "raises"],
)
def test_plan_that_cannot_work_is_refused_by_name(plan: bytes, iterative: bool, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^averaging_plan: .*{message}"):
        check(plan, layout_of((2, 3)), iterative=iterative)


def test_iterative_plan_hosted_as_a_list_is_refused_with_the_way_out() -> None:
    with pytest.raises(InvalidRequest, match=r"takes 5 inputs.*takes 2 for each.*iterative_plan to true"):
        check(running_mean_plan(2), layout_of((2,), (3,)), iterative=False)


def test_plan_too_hungry_for_the_model_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"averaging_plan: tried on zero diffs.*ran out of memory.*256 MiB"):
        check(memory_bomb_plan(), layout_of((100_000, 1)))


def test_list_larger_than_the_limit_is_refused_without_being_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted_plan_module, "Sandbox", None)
    limits = SandboxLimits(list_size=3 * 4000 - 1)

    with pytest.raises(InvalidRequest, match=r"list of 3 diffs, 12000 bytes together; averaging_list_limit is 11999"):
        check(list_mean_plan(1, 3), layout_of((1000,)), iterative=False, limits=limits)


def test_list_as_large_as_the_limit_is_tried() -> None:
    limits = SandboxLimits(list_size=3 * 4000)

    assert check(list_mean_plan(1, 3), layout_of((1000,)), iterative=False, limits=limits) == 3


def test_plan_that_divides_by_a_norm_is_not_refused_for_zero_diffs(pool: SandboxPool) -> None:
    diff, squares, norm = Value("diff0"), Value("squares"), Value("norm")
    plan = iterative_plan(
        [
            Action("__mul__", diff, [diff], returns=[squares]),
            Action("sum", squares, returns=[norm]),
            Action("__truediv__", diff, [norm]),
        ]
    )
    layout = layout_of((2,))

    check(plan, layout)

    zeros = updates_of([[np.zeros(2)]] * 2, layout)
    with pytest.raises(AveragingFailed, match="NaN or infinite values for parameter 0"):
        hosted(plan, pool).average(zeros, layout)


def test_torchscript_alone_needs_the_extra(monkeypatch: pytest.MonkeyPatch, pool: SandboxPool) -> None:
    monkeypatch.setattr(hosted_plan_module, "pytorch_is_installed", lambda: False)
    model = load_model("tiny")
    layout = ModelLayout.of(decode_state(model.model).tensors)
    plan = plan_variants(model.averaging_plan).torchscript

    with pytest.raises(InvalidRequest, match=r"averaging_plan: .*gridnode\[torch\]"):
        check(plan, layout)
    diffs = [[np.zeros(p.shape, np.float32) for p in layout.parameters]] * 2
    with pytest.raises(AveragingFailed, match=r"gridnode\[torch\]"):
        hosted(plan, pool).average(updates_of(diffs, layout), layout)


def test_list_plan_gets_exactly_as_many_diffs_as_it_takes(pool: SandboxPool) -> None:
    layout = layout_of((2,))
    plan = hosted(list_mean_plan(1, 3), pool, iterative=False)
    updates = updates_of([[np.full(2, number)] for number in (1, 2, 6)], layout)

    for number in (1, 2):
        with pytest.raises(AveragingFailed, match=f"traced for exactly 3 diffs, the cycle has {number}"):
            plan.average(updates[:number], layout)
    (averaged,) = plan.average(updates, layout)

    np.testing.assert_array_equal(averaged, [3, 3])


def test_diffs_are_read_one_at_a_time(pool: SandboxPool) -> None:
    layout = layout_of((1000,))
    alive = 0
    most = 0

    class Counted(np.ndarray[Any, Any]):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def updates() -> Iterator[StoredUpdate]:
        nonlocal alive, most
        for number in range(20):
            tensor = np.full(1000, number, np.float32).view(Counted)
            alive += 1
            most = max(most, alive)
            yield StoredUpdate(1, 1.0, [tensor])

    (averaged,) = hosted(running_mean_plan(1), pool).average(updates(), layout)

    np.testing.assert_allclose(averaged, 9.5)
    assert most <= 4


@pytest.mark.parametrize("iterative", [True, False], ids=["iterative", "list"])
@pytest.mark.parametrize("plan", [b"\xff\xff", running_mean_plan(2), one_operation_plan("system")])
def test_stored_plan_that_cannot_be_used_any_more_fails_the_averaging(
    plan: bytes, iterative: bool, pool: SandboxPool
) -> None:
    layout = layout_of((2,), (3,), (4,))

    with pytest.raises(AveragingFailed, match="averaging plan"):
        hosted(plan, pool, iterative=iterative).average(
            updates_of([[np.ones(n) for n in (2, 3, 4)]] * 2, layout), layout
        )


def test_cycle_without_reports_cannot_be_averaged(pool: SandboxPool) -> None:
    with pytest.raises(AveragingFailed, match="no reports"):
        hosted(running_mean_plan(1), pool).average([], layout_of((2,)))


def test_sum_of_several_diffs_is_refused(pool: SandboxPool) -> None:
    update = StoredUpdate(2, 2.0, [np.zeros(2, np.float32)])

    with pytest.raises(AveragingFailed, match="sum of 2 diffs"):
        hosted(running_mean_plan(1), pool).average([update] * 2, layout_of((2,)))


def interrupted_once(pool: SandboxPool, plan: HostedPlan, layout: ModelLayout) -> None:
    """Average while the sandbox is killed in the middle."""

    def updates() -> Iterator[StoredUpdate]:
        yield from updates_of([[np.zeros(2)]] * 2, layout)
        (sandbox,) = pool._lent
        os.kill(sandbox.process_id, signal.SIGKILL)
        yield from updates_of([[np.zeros(2)]], layout)

    plan.average(updates(), layout)


def test_averaging_killed_from_outside_is_tried_again_a_few_times() -> None:
    layout = layout_of((2,))
    pool = SandboxPool()
    plan = hosted(running_mean_plan(1), pool)
    try:
        for _ in range(2):
            with pytest.raises(Unavailable, match="killed from outside"):
                interrupted_once(pool, plan, layout)
        with pytest.raises(AveragingFailed, match="3 times in a row"):
            interrupted_once(pool, plan, layout)
        # The author resumes the process.
        with pytest.raises(Unavailable):
            interrupted_once(pool, plan, layout)
        (averaged,) = plan.average(updates_of([[np.ones(2)]] * 2, layout), layout)
    finally:
        pool.close()

    np.testing.assert_array_equal(averaged, [1, 1])


def test_node_that_shuts_down_never_blames_the_plan() -> None:
    layout = layout_of((2,))
    pool = SandboxPool()
    plan = hosted(running_mean_plan(1), pool)

    def updates() -> Iterator[StoredUpdate]:
        yield from updates_of([[np.zeros(2)]] * 2, layout)
        pool.close()
        yield from updates_of([[np.zeros(2)]], layout)

    for _ in range(2):
        with pytest.raises(Unavailable):
            interrupted_once(pool, plan, layout)
    # A third time would be the plan's fault if the node itself were not the cause.
    with pytest.raises(Unavailable, match="killed from outside"):
        plan.average(updates(), layout)
    with pytest.raises(Unavailable, match="shutting down"):
        plan.average(updates(), layout)


def test_checking_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Sandbox] = []

    class Recorded(Sandbox):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            started.append(self)

    monkeypatch.setattr(hosted_plan_module, "Sandbox", Recorded)
    check(running_mean_plan(1), layout_of((2,)))
    with pytest.raises(InvalidRequest):
        check(one_operation_plan("sum"), layout_of((2,)))

    assert [sandbox.alive for sandbox in started] == [False, False]
