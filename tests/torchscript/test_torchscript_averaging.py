"""Averaging plans as TorchScript, by PyTorch in the sandbox: exact, and as harmless as op lists."""

from __future__ import annotations

import importlib
import io
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridnode.averaging.hosted_plan import HostedPlan, SandboxLimits, SandboxPool
from gridnode.averaging.layout import ModelLayout
from gridnode.averaging.strategy import AveragingFailed, StoredUpdate
from gridnode.errors import InvalidRequest
from gridnode.plans.plan import parse_plan
from gridnode.plans.variants import plan_variants
from gridnode.protocol.syft_proto import decode_state
from tests.support.recordings import load_run
from tests.support.syft_messages import parse

# PyTorch warns that it will drop TorchScript one day.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

LIMITS = SandboxLimits(memory=512 * 1024**2, seconds=60)
LAYOUT = ModelLayout.of([np.zeros((2, 3), np.float32)])


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    # Each holds PyTorch in memory.
    pool = SandboxPool(maximum=1)
    yield pool
    pool.close()


def torchscript_plan(body: str, inputs: str = "average: List[Tensor], diff: List[Tensor], number: Tensor") -> bytes:
    """A Plan of nothing but TorchScript, whose forward has this body and may count in ``self.calls``."""
    torch: Any = importlib.import_module("torch")
    # A class of its own each time: PyTorch compiles a class once.
    counting: Any = type("Counting", (torch.nn.Module,), {})()
    counting.register_buffer("calls", torch.zeros(1))
    module = torch.jit.script(counting)
    module.define(f"def forward(self, {inputs}):\n" + "".join(f"    {line}\n" for line in body.splitlines()))
    saved = io.BytesIO()
    torch.jit.save(module, saved)
    plan = parse("Plan", b"")
    plan.name = "avg_plan"
    plan.torchscript = saved.getvalue()
    encoded: bytes = plan.SerializeToString()
    return encoded


def average(
    plan: bytes,
    pool: SandboxPool,
    values: tuple[float, ...] = (1, 2, 6),
    *,
    iterative: bool = True,
    limits: SandboxLimits = LIMITS,
    layout: ModelLayout = LAYOUT,
) -> np.ndarray[Any, Any]:
    hosted = HostedPlan(plan, owner="author", iterative=iterative, limits=limits, pool=pool)
    shape = layout.parameters[0].shape
    (averaged,) = hosted.average(
        (StoredUpdate(1, 1.0, [np.full(shape, value, np.float32)]) for value in values), layout
    )
    return averaged


@pytest.mark.parametrize("name", ["tiny-iter", "tiny-iter7", "tiny-param", "tiny-noniter", "syftjs-tiny"])
def test_recorded_run_is_averaged_to_the_bit(name: str, pool: SandboxPool) -> None:
    run = load_run(name)
    iterative = run.hosting.server_config.get("iterative_plan", False)
    layout = ModelLayout.of(decode_state(run.hosting.model).tensors)
    torchscript = plan_variants(run.hosting.averaging_plan).torchscript
    assert not parse_plan(torchscript).has_operations
    plan = HostedPlan(torchscript, owner=name, iterative=iterative, limits=LIMITS, pool=pool)
    checkpoints = [decode_state(checkpoint).tensors for checkpoint in run.checkpoints]

    for before, after, reported in zip(checkpoints, checkpoints[1:], run.diffs, strict=False):
        updates = (StoredUpdate(1, 1.0, list(decode_state(diff).tensors)) for diff in reported)
        for old, new, diff in zip(before, after, plan.average(updates, layout), strict=True):
            np.testing.assert_array_equal(old - diff, new)
    assert run.diffs


def test_check_tries_the_recorded_plan() -> None:
    run = load_run("tiny-iter")
    layout = ModelLayout.of(decode_state(run.hosting.model).tensors)
    plan = plan_variants(run.hosting.averaging_plan).torchscript

    assert HostedPlan.check(plan, layout, iterative=True, max_diffs=3, limits=LIMITS) is None


def test_list_plan_of_any_number_is_tried_for_max_diffs(pool: SandboxPool) -> None:
    plan = torchscript_plan("return [torch.stack([diff[0] for diff in diffs]).mean(0)]", "diffs: List[List[Tensor]]")

    assert HostedPlan.check(plan, LAYOUT, iterative=False, max_diffs=3, limits=LIMITS) == 3
    np.testing.assert_array_equal(average(plan, pool, iterative=False), np.full((2, 3), 3))
    with pytest.raises(InvalidRequest, match=r"averaging_plan: .*server_config\.max_diffs"):
        HostedPlan.check(plan, LAYOUT, iterative=False, max_diffs=None, limits=LIMITS)


def test_plan_of_another_signature_is_refused_at_hosting() -> None:
    plan = torchscript_plan("return [average[0]]", "average: List[Tensor]")

    with pytest.raises(InvalidRequest, match="averaging_plan: tried on zero diffs"):
        HostedPlan.check(plan, LAYOUT, iterative=True, max_diffs=None, limits=LIMITS)


def test_archive_that_is_none_is_refused_at_hosting() -> None:
    plan = parse("Plan", b"")
    plan.torchscript = b"PK\x03\x04 but no archive"

    with pytest.raises(InvalidRequest, match=r"averaging_plan: .*TorchScript can't be loaded") as refusal:
        HostedPlan.check(plan.SerializeToString(), LAYOUT, iterative=True, max_diffs=None, limits=LIMITS)
    assert "/" not in refusal.value.message


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('raise RuntimeError("no average today")', "raised .*no average today"),
        ("return [average[0] + torch.zeros(7)]", "raised RuntimeError: The size of tensor a .* must match"),
        ("return 3", "it gave a int, not tensors"),
        ("return [average[0].to(torch.bfloat16)]", "BFloat16"),
        ("return [average[0].to(torch.complex64)]", "complex64"),
        ("return [torch.zeros(200000, 200000)]", "ran out of memory"),
        ("return [torch.full_like(average[0], float('nan'))]", "NaN"),
    ],
    ids=["raises", "shapes", "number", "bfloat16", "complex", "memory", "nan"],
)
def test_failing_plan_is_quoted_without_path_or_traceback(body: str, reason: str, pool: SandboxPool) -> None:
    with pytest.raises(AveragingFailed, match=reason) as failure:
        average(torchscript_plan(body), pool)

    assert "\n" not in str(failure.value)
    assert "__torch__" not in str(failure.value)
    assert "Traceback" not in str(failure.value)


def test_endless_plan_is_killed_on_time(pool: SandboxPool) -> None:
    plan = torchscript_plan("while True:\n    number = number + 1\nreturn [average[0] * number]")
    limits = SandboxLimits(memory=LIMITS.memory, seconds=1, seconds_per_diff=0)

    with pool.borrow(hosted_for(plan, pool, limits)):
        started = time.monotonic()
    with pytest.raises(AveragingFailed, match="took longer than 1 s"):
        average(plan, pool, limits=limits)

    assert time.monotonic() - started < 10


def hosted_for(plan: bytes, pool: SandboxPool, limits: SandboxLimits) -> Any:
    return HostedPlan(plan, owner="author", iterative=True, limits=limits, pool=pool)._sandboxed(parse_plan(plan))


@pytest.mark.parametrize("shared", [False, True], ids=["read", "write"])
def test_plan_reaches_no_file(shared: bool, pool: SandboxPool) -> None:
    torch: Any = importlib.import_module("torch")
    with tempfile.TemporaryDirectory() as folder:
        # The sandbox is another user, if it is root's: it must not fail for that alone.
        Path(folder).chmod(0o777)
        path = Path(folder) / "file"
        path.write_bytes(b"data")
        path.chmod(0o666)
        assert torch.from_file(str(path), shared=shared, size=4, dtype=torch.uint8).tolist() == list(b"data")
        call = f'torch.from_file("{path}", shared={shared}, size=4, dtype=torch.uint8).sum()'

        with pytest.raises(AveragingFailed, match=r"raised RuntimeError: .*Operation not permitted") as failure:
            average(torchscript_plan(f"return [average[0] + {call}]"), pool)

        assert folder not in str(failure.value)


def test_what_a_plan_prints_is_no_answer(pool: SandboxPool) -> None:
    plan = torchscript_plan(
        'for _ in range(10000):\n    print("0123456789")\nreturn [(average[0] * number + diff[0]) / (number + 1)]'
    )

    np.testing.assert_array_equal(average(plan, pool), np.full((2, 3), 3))


def test_plan_cannot_remember_earlier_cycles(pool: SandboxPool) -> None:
    plan = torchscript_plan("self.calls.add_(1)\nreturn [torch.zeros(2, 3) + self.calls]")

    for _ in range(3):
        np.testing.assert_array_equal(average(plan, pool), np.full((2, 3), 2))


def test_plan_that_forks_gets_no_thread(pool: SandboxPool) -> None:
    plan = torchscript_plan("return [average[0] * 0 + torch.jit._wait(torch.jit._fork(torch.relu, diff[0]))]")

    with pytest.raises(AveragingFailed, match="raised RuntimeError: Operation not permitted"):
        average(plan, pool)


def test_warm_sandbox_needs_no_second_start(pool: SandboxPool) -> None:
    plan = torchscript_plan("return [(average[0] * number + diff[0]) / (number + 1)]")
    average(plan, pool)
    started = time.monotonic()
    average(plan, pool)

    # Importing PyTorch alone takes longer.
    assert time.monotonic() - started < 0.5
