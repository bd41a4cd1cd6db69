"""Averaging by the plan that a model's author hosted.

Two forms, both PySyft's. An *iterative* plan folds one diff at a time into the average: ``plan(average, diff, number)``
with the parameters of each, and how many diffs are averaged already; the first diff is the first average. A *list-form*
plan takes the parameters of all diffs at once, and is traced for an exact number of them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import ClassVar, Final, NoReturn

import numpy as np

from gridnode.averaging.frames import Tensor, TensorSpec
from gridnode.averaging.layout import Array, ModelLayout, Parameter, is_finite
from gridnode.averaging.plan_runtimes import RuntimeName, pytorch_is_installed
from gridnode.averaging.sandbox import AveragingInterrupted, InvalidAveragingPlan, Sandbox, SandboxedPlan, SandboxLimits
from gridnode.averaging.sandbox_pool import SandboxPool
from gridnode.averaging.sandbox_reasons import readable_size
from gridnode.averaging.strategy import AveragingFailed, StoredUpdate, Strategy
from gridnode.errors import InvalidRequest, Unavailable
from gridnode.plans.plan import Plan, parse_plan

__all__ = ["HostedPlan", "SandboxLimits", "SandboxPool", "list_plan_size"]

_CHECK_WAIT_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 5.0
_MOST_INTERRUPTIONS: Final = 3

log = logging.getLogger(__name__)

# Each check may take the memory of a sandbox.
_checks = threading.BoundedSemaphore(2)


class HostedPlan(Strategy):
    """Averages with a hosted plan, in a sandbox.

    Args:
        plan: the Plan message.
        owner: whose plan it is, for example the process's id; nobody else gets the same sandbox.
        iterative: the plan's form.
        limits: what it may use.
        pool: where the sandbox is borrowed.
    """

    needs_each_diff: ClassVar[bool] = True

    def __init__(self, plan: bytes, *, owner: str, iterative: bool, limits: SandboxLimits, pool: SandboxPool) -> None:
        self._plan = plan
        self._owner = owner
        self._iterative = iterative
        self._limits = limits
        self._pool = pool
        self._interruptions = 0

    def average(self, updates: Iterable[StoredUpdate], layout: ModelLayout) -> list[Array]:
        """The averaged diff, one array per parameter in the sum dtypes.

        Memory stays a small multiple of one model here; a list-form plan's process holds all diffs.

        Raises:
            AveragingFailed: the plan failed, passed a limit, or gave other shapes, dtypes, NaN or infinite values;
                or its process was killed from outside several times in a row.
            Unavailable: no process could be started for it, or it was killed from outside: try again.
        """
        diffs = (_diff(update, layout) for update in updates)
        try:
            averaged = self._fold(diffs, layout) if self._iterative else self._run(diffs, layout)
        except AveragingInterrupted as error:
            self._bear_interruption(error)
        except InvalidRequest as error:
            # It could be used when it was hosted: by another release, or with PyTorch.
            raise AveragingFailed(f"the averaging plan can't be used: {error.message}") from None
        self._interruptions = 0
        for position, tensor in enumerate(averaged):
            if not is_finite(tensor):
                raise AveragingFailed(f"the averaging plan gave NaN or infinite values for parameter {position}")
        return [
            tensor.astype(parameter.sum_dtype, copy=False)
            for tensor, parameter in zip(averaged, layout.parameters, strict=True)
        ]

    @staticmethod
    def check(
        plan: bytes, layout: ModelLayout, *, iterative: bool, max_diffs: int | None, limits: SandboxLimits
    ) -> int | None:
        """Try a plan on zero diffs of a model.

        Args:
            plan: the Plan message.
            layout: the model's parameters.
            iterative: the plan's form.
            max_diffs: for how many diffs a list-form plan is tried if it doesn't tell for how many it was traced.
            limits: what it may use.

        Returns:
            The number of diffs that a list-form plan takes; None for an iterative one.

        Raises:
            InvalidRequest: names ``averaging_plan`` and what is wrong with it.
            Unavailable: it could not be tried now.
        """
        try:
            parsed = parse_plan(plan)
            runtime = _choose_runtime(parsed)
            number = _check_inputs(parsed, len(layout.parameters), iterative, max_diffs)
            if number is not None:
                _check_list_size(number, layout, limits)
        except InvalidRequest as error:
            raise InvalidRequest(f"averaging_plan: {error.message}") from None
        _try_on_zeros(SandboxedPlan("", plan, runtime, limits), layout, number)
        return number

    def _bear_interruption(self, error: AveragingInterrupted) -> NoReturn:
        """Ask for another try, except when the plan's process is killed again and again.

        A node that shuts down kills it, and so does a machine short of memory: neither says anything of the plan.
        """
        self._interruptions += 1
        if not self._pool.closed:
            log.warning("%s", error, extra={"interruptions": self._interruptions})
            if self._interruptions >= _MOST_INTERRUPTIONS:
                self._interruptions = 0
                raise AveragingFailed(
                    f"{error}, {_MOST_INTERRUPTIONS} times in a row: the machine may have too little memory for it"
                ) from None
        raise Unavailable(str(error), _RETRY_SECONDS) from None

    def _fold(self, diffs: Iterator[list[Tensor]], layout: ModelLayout) -> list[Tensor]:
        first = next(diffs, None)
        if first is None:
            raise AveragingFailed("the cycle has no reports")
        second = next(diffs, None)
        if second is None:
            return first
        with self._pool.borrow(self._sandboxed(parse_plan(self._plan))) as sandbox:
            return sandbox.fold(chain([first, second], diffs), lambda specs: _check_average(specs, layout))

    def _run(self, diffs: Iterator[list[Tensor]], layout: ModelLayout) -> list[Tensor]:
        plan = parse_plan(self._plan)
        expected = list_plan_size(plan, len(layout.parameters)) if plan.input_count else None

        def counted() -> Iterator[list[Tensor]]:
            number = 0
            for diff in diffs:
                number += 1
                yield diff
            if expected is not None and number != expected:
                raise AveragingFailed(
                    f"the averaging plan was traced for exactly {expected} diffs, the cycle has {number}"
                )

        with self._pool.borrow(self._sandboxed(plan)) as sandbox:
            return sandbox.run(counted(), lambda specs: _check_average(specs, layout))

    def _sandboxed(self, plan: Plan) -> SandboxedPlan:
        return SandboxedPlan(self._owner, self._plan, _choose_runtime(plan), self._limits)


def list_plan_size(plan: Plan, parameter_count: int) -> int:
    """The number of diffs that a list-form plan was traced for.

    Raises:
        InvalidRequest: its inputs are not those of a whole number of diffs.
    """
    number, rest = divmod(plan.input_count, parameter_count)
    if rest or not number:
        iterative = plan.input_count == _iterative_inputs(parameter_count)
        hint = " It looks like an iterative plan: set server_config.iterative_plan to true." if iterative else ""
        raise InvalidRequest(
            f"it takes {plan.input_count} inputs, but a plan for a list of diffs takes {parameter_count} for each, "
            f"one per parameter of the model.{hint}"
        )
    return number


def _iterative_inputs(parameter_count: int) -> int:
    return 2 * parameter_count + 1


def _choose_runtime(plan: Plan) -> RuntimeName:
    if plan.has_operations:
        return "operations"
    if not pytorch_is_installed():
        raise InvalidRequest(
            "it has TorchScript only, and this node has no PyTorch to run it. "
            "Install gridnode[torch] on the node, or upload the plan with its list of operations."
        )
    return "torchscript"


def _check_inputs(plan: Plan, parameter_count: int, iterative: bool, max_diffs: int | None) -> int | None:
    """The number of diffs that a list-form plan takes, None for an iterative one; raises if it has other inputs."""
    # A plan of TorchScript alone need not list its inputs: then trying it shows whether they are right.
    told = plan.input_count > 0
    if not iterative:
        if not told and max_diffs is None:
            raise InvalidRequest("it takes the list of all diffs, so server_config.max_diffs must tell their number")
        return list_plan_size(plan, parameter_count) if told else max_diffs
    expected = _iterative_inputs(parameter_count)
    if told and plan.input_count != expected:
        many = plan.input_count % parameter_count == 0
        hint = " It looks like a plan for a list of diffs: set server_config.iterative_plan to false." if many else ""
        raise InvalidRequest(
            f"it takes {plan.input_count} inputs, but an iterative plan takes {expected}: the average and the diff, "
            f"{parameter_count} tensors each, and the number of diffs averaged before.{hint}"
        )
    return None


def _check_list_size(number: int, layout: ModelLayout, limits: SandboxLimits) -> None:
    size = number * sum(parameter.size * _diff_dtype(parameter).itemsize for parameter in layout.parameters)
    if size > limits.list_size:
        raise InvalidRequest(
            f"it takes a list of {number} diffs, {readable_size(size)} together; averaging_list_limit is "
            f"{readable_size(limits.list_size)}. Trace it for fewer diffs, or write it as an iterative plan."
        )


def _try_on_zeros(plan: SandboxedPlan, layout: ModelLayout, number: int | None) -> None:
    zeros = [np.zeros(parameter.shape, _diff_dtype(parameter)) for parameter in layout.parameters]

    def accept(specs: Sequence[TensorSpec]) -> None:
        _check_average(specs, layout)

    if not _checks.acquire(timeout=_CHECK_WAIT_SECONDS):
        raise Unavailable("other averaging plans are being tried: ask again", _RETRY_SECONDS)
    try:
        sandbox = Sandbox(plan)
        try:
            # The values are not looked at: a plan that divides by a norm rightly gives NaN for zeros.
            if number is None:
                sandbox.fold(repeat(zeros, 2), accept)
            else:
                sandbox.run(repeat(zeros, number), accept)
        finally:
            sandbox.close()
    except AveragingInterrupted as error:
        raise Unavailable(f"averaging_plan could not be tried: {error}", _RETRY_SECONDS) from None
    except InvalidAveragingPlan as error:
        raise InvalidRequest(f"averaging_plan: {error}") from None
    except AveragingFailed as error:
        raise InvalidRequest(f"averaging_plan: tried on zero diffs of the model's shapes, {error}") from None
    finally:
        _checks.release()


def _check_average(specs: Sequence[TensorSpec], layout: ModelLayout) -> None:
    if len(specs) != len(layout.parameters):
        raise AveragingFailed(
            f"the averaging plan gave {len(specs)} tensors, the model has {len(layout.parameters)} parameters"
        )
    for position, (spec, parameter) in enumerate(zip(specs, layout.parameters, strict=True)):
        if spec.shape != parameter.shape:
            raise AveragingFailed(
                f"the averaging plan gave shape {list(spec.shape)} for parameter {position}, "
                f"which has {list(parameter.shape)}"
            )
        # An average of integers is no integer, and is rounded only when it is applied.
        if parameter.dtype.kind == "f" and spec.dtype != parameter.dtype:
            raise AveragingFailed(
                f"the averaging plan gave {spec.dtype} for parameter {position}, which is {parameter.dtype}"
            )


def _diff(update: StoredUpdate, layout: ModelLayout) -> list[Tensor]:
    """A stored update as the one diff it is, in the dtypes in which it was reported."""
    if update.reports != 1:
        raise AveragingFailed(
            f"a stored sum of {update.reports} diffs can't be taken apart: the process was hosted without a plan"
        )
    return [
        tensor.astype(_diff_dtype(parameter), copy=False)
        for tensor, parameter in zip(update.tensors, layout.parameters, strict=True)
    ]


def _diff_dtype(parameter: Parameter) -> np.dtype[np.generic]:
    # A difference of unsigned bytes is negative as often as not.
    return np.dtype(np.int8) if parameter.dtype == np.uint8 else parameter.dtype
