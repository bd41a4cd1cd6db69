"""Which phones can run a plan: a verdict for each runtime, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from gridnode.errors import InvalidRequest
from gridnode.plans.gate.schemas import names, operators
from gridnode.plans.gate.torchscript import problems, read_archive
from gridnode.plans.interpreter import OperationList
from gridnode.plans.plan import InvalidPlan, Plan, parse_plan
from gridnode.plans.variants import plan_variants

_NEWEST_FILE_VERSION: Final = 5
_REASONS_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one runtime can run the plan.

    Attributes:
        target: its name in ``server_config.targets``.
        runtime: the library, and what runs plans in it.
        reasons: why it can't; empty if it can.
    """

    target: str
    runtime: str
    reasons: tuple[str, ...] = ()

    @property
    def runs(self) -> bool:
        """Whether the runtime can run the plan."""
        return not self.reasons

    @property
    def reason(self) -> str:
        """The reasons in one line."""
        shown = "; ".join(self.reasons[:_REASONS_SHOWN])
        more = len(self.reasons) - _REASONS_SHOWN
        return f"{shown}; and {more} more" if more > 0 else shown


@dataclass(frozen=True, slots=True)
class VerdictTable:
    """The verdicts of all runtimes. Prints as a table, in a notebook as HTML."""

    plan: str
    verdicts: tuple[Verdict, ...]

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self.verdicts)

    def __getitem__(self, target: str) -> Verdict:
        return next(verdict for verdict in self.verdicts if verdict.target == target)

    def refused(self, targets: Iterable[str] | None = None) -> tuple[Verdict, ...]:
        """The runtimes that can't run the plan, of these or of all."""
        wanted = None if targets is None else set(targets)
        return tuple(verdict for verdict in self if not verdict.runs and (wanted is None or verdict.target in wanted))

    def __str__(self) -> str:
        widths = (
            max(len(verdict.target) for verdict in self),
            max(len(verdict.runtime) for verdict in self),
        )
        return "\n".join(
            f"{each.target:<{widths[0]}}  {each.runtime:<{widths[1]}}  {_word(each)}  {each.reason}".rstrip()
            for each in self
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{_escaped(verdict.target)}</td><td>{_escaped(verdict.runtime)}</td>"
            f"<td>{_word(verdict).strip()}</td><td>{_escaped(verdict.reason)}</td></tr>"
            for verdict in self
        )
        head = "<tr><th>target</th><th>runtime</th><th>verdict</th><th>reason</th></tr>"
        return f"<table>{head}{rows}</table>"


def _word(verdict: Verdict) -> str:
    return "runs   " if verdict.runs else "refused"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def check_plan(plan: Plan | bytes) -> VerdictTable:
    """Judge a training plan for each runtime that a phone may have.

    Nothing of the plan is run and PyTorch is not needed: the operators of the real runtimes are recorded.

    Raises:
        InvalidPlan: it is no plan.
    """
    parsed = parse_plan(plan) if isinstance(plan, bytes) else plan
    verdicts = tuple(Verdict(target, runtime, tuple(judge(parsed))) for target, (runtime, judge) in _RUNTIMES.items())
    return VerdictTable(parsed.name, verdicts)


def check_targets(targets: Iterable[str], where: str) -> None:
    """Refuse names that are no target.

    Args:
        where: the field or flag that holds them.

    Raises:
        InvalidRequest: names the known ones.
    """
    for target in targets:
        if target not in TARGETS:
            raise InvalidRequest(f"{where}: {target!r} is no phone runtime; there are {', '.join(TARGETS)}")


def require_targets(name: str, plan: bytes, targets: Collection[str]) -> None:
    """Refuse a training plan that one of the targets can't run.

    Raises:
        InvalidPlan: which of them can't, and why.
    """
    if not targets:
        return
    refused = check_plan(plan).refused(targets)
    if refused:
        verdicts = "; ".join(f"{verdict.target} ({verdict.runtime}): {verdict.reason}" for verdict in refused)
        raise InvalidPlan(
            f"plans.{name} can't run on every runtime in server_config.targets: {verdicts}. Change the plan "
            "(`gridnode plan check` tells more), or take these out of targets"
        )


def _libtorch(digit: str) -> Callable[[Plan], list[str]]:
    def judge(plan: Plan) -> list[str]:
        if not plan.torchscript:
            return ["the plan has no TorchScript"]
        try:
            return problems(read_archive(plan.torchscript), operators(digit), _NEWEST_FILE_VERSION)
        except InvalidPlan as error:
            return [error.message]

    return judge


def _syft_js(plan: Plan) -> list[str]:
    try:
        variants = plan_variants(plan.message.SerializeToString())
    except InvalidPlan as error:
        return [error.message]
    if variants.tfjs is None:
        return [variants.tfjs_refusal or "the plan has no operations for TensorFlow.js"]
    commands = [action.command for action in parse_plan(variants.tfjs).message.role.actions]
    return [
        f"TensorFlow.js has no function {command}"
        for command in dict.fromkeys(commands)
        if command.rpartition(".")[2] not in names("tfjs.txt")
    ]


def _pysyft(plan: Plan) -> list[str]:
    if not plan.has_operations:
        return ["the plan has no operation list"]
    found = []
    for action in plan.message.role.actions:
        command = action.command
        name = f"Tensor.{command}" if action.WhichOneof("target") is not None else command
        if name not in names("pytorch.txt"):
            found.append(f"PyTorch 1.4 has no {name}")
    return list(dict.fromkeys(found))


def _simulator(plan: Plan) -> list[str]:
    if not plan.has_operations:
        return ["the plan has no operation list"]
    try:
        OperationList.from_plan(plan)
    except InvalidPlan as error:
        return [error.message]
    return []


_RUNTIMES: Final[dict[str, tuple[str, Callable[[Plan], list[str]]]]] = {
    "swiftsyft-0.1.3": ("iOS, LibTorch 1.6", _libtorch("6")),
    "swiftsyft-0.5": ("iOS, LibTorch 1.7", _libtorch("7")),
    "kotlinsyft": ("Android, LibTorch 1.8", _libtorch("8")),
    "syft.js-0.1.4": ("browser, TensorFlow.js 1.7", _syft_js),
    "pysyft-0.2.9": ("Python, PyTorch 1.4", _pysyft),
    "simulator": ("gridnode simulate, NumPy", _simulator),
}

TARGETS: Final = tuple(_RUNTIMES)
"""What ``server_config.targets`` may name."""
