"""Averaging plans that misbehave, run in real sandboxes: each ends in time, with a reason its author can use."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from gridnode.averaging import sandbox as sandbox_module
from gridnode.averaging.frames import Tensor, TensorSpec
from gridnode.averaging.lockdown import Isolation
from gridnode.averaging.plan_runtimes import RuntimeName
from gridnode.averaging.sandbox import (
    AveragingInterrupted,
    InvalidAveragingPlan,
    Sandbox,
    SandboxedPlan,
    SandboxLimits,
)
from gridnode.averaging.strategy import AveragingFailed
from gridnode.errors import Unavailable
from tests.support.averaging_plans import (
    endless_plan,
    list_mean_plan,
    memory_bomb_plan,
    one_operation_plan,
    running_mean_plan,
)

pytestmark = pytest.mark.process

LIMITS = SandboxLimits(memory=256 * 1024**2, seconds=20)
MATRIX = [np.ones((1000, 1000), np.float32)]


def sandbox_for(plan: bytes, limits: SandboxLimits = LIMITS, runtime: RuntimeName = "operations") -> Sandbox:
    return Sandbox(SandboxedPlan("author", plan, runtime, limits))


def accept_all(_specs: Sequence[TensorSpec]) -> None:
    pass


def fold_once(plan: bytes, diff: list[Tensor], limits: SandboxLimits = LIMITS) -> list[Tensor]:
    with closing(sandbox_for(plan, limits)) as sandbox:
        return sandbox.fold([diff, diff], accept_all)


@pytest.fixture(scope="module")
def mean_sandbox() -> Iterator[Sandbox]:
    """A warm sandbox of the plain iterative mean for two parameters."""
    with closing(sandbox_for(running_mean_plan(2))) as sandbox:
        yield sandbox


def random_diffs(count: int) -> list[list[Tensor]]:
    generator = np.random.default_rng(7)
    return [[generator.normal(size=shape).astype(np.float32) for shape in ((3, 4), ())] for _ in range(count)]


def test_iterative_average_is_float32_arithmetic_to_the_bit(mean_sandbox: Sandbox) -> None:
    diffs = random_diffs(9)

    averaged = mean_sandbox.fold(diffs, accept_all)

    expected = diffs[0]
    for number, diff in enumerate(diffs[1:], 1):
        expected = [
            (average * np.float32(number) + tensor) / np.float32(number + 1)
            for average, tensor in zip(expected, diff, strict=True)
        ]
    for given, tensor in zip(averaged, expected, strict=True):
        assert given.dtype == np.float32
        assert given.shape == np.shape(tensor)
        np.testing.assert_array_equal(given, tensor)


def test_list_average_is_the_sum_divided(mean_sandbox: Sandbox) -> None:
    diffs = random_diffs(3)

    with closing(sandbox_for(list_mean_plan(2, 3))) as sandbox:
        averaged = sandbox.run(diffs, accept_all)

    for position, given in enumerate(averaged):
        total = diffs[0][position] + diffs[1][position] + diffs[2][position]
        np.testing.assert_array_equal(given, total / np.float32(3))


def test_jobs_of_one_sandbox_do_not_mix(mean_sandbox: Sandbox) -> None:
    diffs = random_diffs(4)
    first = mean_sandbox.fold(diffs, accept_all)

    def breaking_off() -> Iterator[list[Tensor]]:
        yield from diffs
        raise ConnectionError

    with pytest.raises(ConnectionError):
        mean_sandbox.fold(breaking_off(), accept_all)
    again = mean_sandbox.fold(diffs, accept_all)

    for given, expected in zip(again, first, strict=True):
        np.testing.assert_array_equal(given, expected)


def test_list_that_broke_off_is_not_part_of_the_next_one() -> None:
    diffs = random_diffs(3)

    def breaking_off() -> Iterator[list[Tensor]]:
        yield diffs[0]
        raise ConnectionError

    with closing(sandbox_for(list_mean_plan(2, 3))) as sandbox:
        with pytest.raises(ConnectionError):
            sandbox.run(breaking_off(), accept_all)
        averaged = sandbox.run(diffs, accept_all)

    np.testing.assert_allclose(averaged[0], np.mean([diff[0] for diff in diffs], axis=0), rtol=1e-6)


def test_sandbox_tells_what_it_is_shut_off_from(mean_sandbox: Sandbox) -> None:
    assert mean_sandbox.isolation.network_cut
    assert mean_sandbox.isolation.unprivileged_user


def test_sandbox_that_is_not_shut_off_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox_for(running_mean_plan(1)).close()
    assert "network" not in caplog.text

    monkeypatch.setattr(Isolation, "network_cut", False)
    sandbox_for(running_mean_plan(1)).close()

    assert "can reach the network" in caplog.text


def test_sandbox_is_started_without_the_variables_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDNODE_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    started = []
    start = sandbox_module._starter.start

    def record(command: Sequence[str], environment: dict[str, str]) -> object:
        started.append((command, environment))
        return start(command, environment)

    monkeypatch.setattr(sandbox_module._starter, "start", record)
    sandbox_for(running_mean_plan(1)).close()

    ((command, environment),) = started
    assert "secret" not in repr((command, environment))
    assert set(environment) <= {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LD_LIBRARY_PATH"}


def test_plan_that_raises_is_quoted() -> None:
    with pytest.raises(AveragingFailed, match=r"^the averaging plan failed: action 0 \('matmul'\).*mismatch"):
        fold_once(one_operation_plan("matmul", np.ones((7, 7), np.float32)), [np.ones((2, 3), np.float32)])


def test_unknown_operation_is_named_when_the_plan_is_loaded() -> None:
    with pytest.raises(InvalidAveragingPlan, match=r"'system'.*not known"):
        sandbox_for(one_operation_plan("system", "rm"))


def test_bytes_that_are_no_plan_are_refused() -> None:
    with pytest.raises(InvalidAveragingPlan, match="not a Plan"):
        sandbox_for(b"\xff" * 100)


@pytest.mark.parametrize("rows", [20_000, 300_000], ids=["1.6 GB", "360 GB"])
def test_memory_bomb_fails_with_the_limit_and_harms_nobody(rows: int) -> None:
    with pytest.raises(AveragingFailed, match="ran out of memory: it may use 256 MiB"):
        fold_once(memory_bomb_plan(), [np.ones((rows, 1), np.float32)])


def test_diffs_larger_than_the_memory_fail_in_the_same_way() -> None:
    """The process can't even take the diff, and the node is still writing it."""
    with pytest.raises(AveragingFailed, match="ran out of memory"):
        fold_once(running_mean_plan(1), [np.ones(100_000_000, np.float32)])


def test_endless_plan_is_killed_on_time() -> None:
    sandbox = sandbox_for(endless_plan(), SandboxLimits(seconds=0.5, seconds_per_diff=0.1))
    started = time.monotonic()

    with closing(sandbox), pytest.raises(AveragingFailed, match=r"took longer than 0\.7 s"):
        sandbox.fold([MATRIX, MATRIX], accept_all)

    assert 0.5 <= time.monotonic() - started < 5
    assert not sandbox.alive


def test_waiting_for_diffs_does_not_count_as_the_plans_time() -> None:
    def slowly() -> Iterator[list[Tensor]]:
        for _ in range(4):
            time.sleep(0.5)
            yield [np.ones(3, np.float32)]

    with closing(sandbox_for(running_mean_plan(1), SandboxLimits(seconds=1.5, seconds_per_diff=0))) as sandbox:
        (averaged,) = sandbox.fold(slowly(), accept_all)

    np.testing.assert_array_equal(averaged, np.ones(3))


def test_short_calls_together_are_bounded_too() -> None:
    limits = SandboxLimits(seconds=1.5, seconds_per_diff=0)

    with closing(sandbox_for(endless_plan(5), limits)) as sandbox, pytest.raises(AveragingFailed, match="took longer"):
        sandbox.fold([MATRIX] * 100, accept_all)


def test_idle_process_does_not_end_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "_SELF_END_SECONDS", -18.5)

    with closing(sandbox_for(running_mean_plan(1), SandboxLimits(seconds=20, seconds_per_diff=0))) as sandbox:
        sandbox.fold([[np.ones(2)]] * 2, accept_all)
        time.sleep(1.8)
        sandbox.fold([[np.ones(2)]] * 2, accept_all)


def test_process_ends_itself_when_nobody_kills_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left if the node is gone and the kernel doesn't end its children."""
    monkeypatch.setattr(sandbox_module, "_SELF_END_SECONDS", -19.5)

    sandbox = sandbox_for(endless_plan(), SandboxLimits(seconds=20, seconds_per_diff=0))
    started = time.monotonic()

    with closing(sandbox), pytest.raises(AveragingFailed, match="took longer"):
        sandbox.fold([MATRIX, MATRIX], accept_all)

    assert time.monotonic() - started < 5


def test_process_killed_in_the_middle_of_a_job_is_no_fault_of_the_plan() -> None:
    with closing(sandbox_for(endless_plan())) as sandbox:
        killer = threading.Timer(0.3, os.kill, (sandbox.process_id, signal.SIGKILL))
        killer.start()
        with pytest.raises(AveragingInterrupted, match="killed from outside"):
            sandbox.fold([MATRIX, MATRIX], accept_all)
        killer.join()


def test_job_ends_when_another_thread_kills_the_sandbox() -> None:
    with closing(sandbox_for(endless_plan())) as sandbox:
        killer = threading.Timer(0.3, sandbox.kill)
        killer.start()
        with pytest.raises(AveragingInterrupted):
            sandbox.fold([MATRIX, MATRIX], accept_all)
        killer.join()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT], ids=lambda number: number.name)
def test_crash_is_named(number: signal.Signals) -> None:
    with closing(sandbox_for(endless_plan())) as sandbox:
        killer = threading.Timer(0.3, os.kill, (sandbox.process_id, number))
        killer.start()
        with pytest.raises(AveragingFailed, match=f"process ended with {number.name}") as failure:
            sandbox.fold([MATRIX, MATRIX], accept_all)
        killer.join()

    assert not isinstance(failure.value, AveragingInterrupted)


def test_result_is_refused_before_it_is_read() -> None:
    announced: list[TensorSpec] = []

    def refuse(specs: Sequence[TensorSpec]) -> None:
        announced.extend(specs)
        raise AveragingFailed("too many")

    diff = [np.zeros((1000, 1), np.float32)]
    with closing(sandbox_for(memory_bomb_plan())) as sandbox:
        with pytest.raises(AveragingFailed, match="too many"):
            sandbox.fold([diff, diff], refuse)
        assert not sandbox.alive

    assert announced == [TensorSpec((1000, 1000), np.dtype(np.float32))]


def test_process_that_cannot_start_is_no_fault_of_the_plan(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sandbox_module, "_PROGRAM", "import nothing_of_this_name")

    with pytest.raises(Unavailable, match="could not be started") as failure:
        sandbox_for(running_mean_plan(1))

    assert "nothing_of_this_name" in caplog.text
    assert "nothing_of_this_name" not in failure.value.message


def test_sandboxes_leave_no_descriptors_processes_or_threads_behind() -> None:
    def use(plan: bytes, diffs: Iterable[list[Tensor]]) -> int:
        with closing(sandbox_for(plan)) as sandbox:
            with suppress(AveragingFailed):
                sandbox.fold(diffs, accept_all)
            return sandbox.process_id

    use(running_mean_plan(1), [MATRIX] * 2)
    before = (sorted(os.listdir("/proc/self/fd")), threading.active_count())
    used = [
        use(running_mean_plan(1), [MATRIX] * 3),
        use(memory_bomb_plan(), [[np.ones((300_000, 1), np.float32)]] * 2),
        use(one_operation_plan("matmul", np.ones((7, 7), np.float32)), [[np.ones((2, 3), np.float32)]] * 2),
    ]
    with pytest.raises(InvalidAveragingPlan):
        sandbox_for(b"")

    assert (sorted(os.listdir("/proc/self/fd")), threading.active_count()) == before
    assert not any(Path(f"/proc/{process_id}").exists() for process_id in used)
