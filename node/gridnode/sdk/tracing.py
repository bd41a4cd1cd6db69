"""Traces a training step into one flat list of ATen calls, with the backward pass in it.

A trace has plain numbers for sizes. The step is traced for two sizes of the batch and the traces are laid side by side:
what differs grows with the batch, or shrinks with it, and is written as such. So a plan works for any batch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functionalize
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from gridnode.sdk.decompositions import Table
from gridnode.sdk.errors import PlanNotBuilt
from gridnode.sdk.graph import Rows, Shape, Size

Step: TypeAlias = Callable[..., tuple[torch.Tensor, ...]]
"""``(X, y, batch_size, lr, params) → (loss, accuracy, *params)``."""

_RANDOM: Final = ("bernoulli", "dropout", "exponential", "multinomial", "normal", "rand", "uniform")
_IGNORED_KEYWORDS: Final = frozenset(("device", "layout", "memory_format", "non_blocking", "pin_memory"))
#: Shares of a batch that a trace can tell apart: its rows are multiples of this many.
_SIZES: Final = (3, 5)


class Ref(NamedTuple):
    """The value of a call or input by its name; ``part`` where it gives several."""

    name: str
    part: int | None = None


@dataclass(frozen=True, slots=True)
class Number:
    """``factor × rows ** power``, where rows is the number of rows in the batch."""

    factor: float | int
    power: int = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """What a call gives: shape and dtype, and the value itself where it is the same whatever goes in."""

    shape: Shape
    dtype: str
    value: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One ATen operator: its name and overload, such as ``add.Tensor``, with Refs and plain values as arguments."""

    name: str
    args: tuple[Any, ...]
    keywords: dict[str, Any]
    result: Ref
    kinds: tuple[Kind, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """Inputs in the order X, y, batch_size, lr and parameters; tensors that are part of the step; calls; outputs."""

    inputs: tuple[tuple[Ref, Kind], ...]
    constants: tuple[tuple[Ref, Kind], ...]
    calls: tuple[Call, ...]
    outputs: tuple[Ref, ...]


def trace_step(
    step: Step,
    example: tuple[torch.Tensor, torch.Tensor],
    parameters: Sequence[torch.Tensor],
    table: Table,
    *,
    multiple: int = 1,
) -> Trace:
    """Trace a step.

    Args:
        example: X and y; only the shapes and dtypes of a row matter, and that the values are allowed.
        table: what takes the place of which operator.
        multiple: what the number of rows must be a multiple of.

    Raises:
        PlanNotBuilt: the step looks at values, draws random numbers, changes its inputs, or depends on the size of the
            batch in a way that is no proportion.
    """
    runs = []
    for rows in (size * multiple for size in _SIZES):
        arguments = (*batch_of(example, rows), torch.tensor(float(rows)), torch.tensor(0.5), list(parameters))
        runs.append(_Run.of(step, arguments, table, rows))
    return _Merger(*runs).merge()


def trace_function(function: Callable[..., Any], inputs: Sequence[torch.Tensor], table: Table) -> Trace:
    """Trace a function of tensors whose sizes are what they are.

    Raises:
        PlanNotBuilt: as :func:`trace_step`.
    """
    run = _Run.of(function, tuple(inputs), table, rows=1)
    return _Merger(run, run).merge()


def batch_of(example: tuple[torch.Tensor, torch.Tensor], rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The example's rows repeated to a batch of another size."""
    X, y = (tensor[torch.arange(rows) % tensor.shape[0]] for tensor in example)  # noqa: N806 - as plans name it
    return X, y


@dataclass(frozen=True, slots=True)
class _Run:
    """One trace and the value of each of its nodes."""

    rows: int
    graph: GraphModule
    values: dict[str, Any]

    @classmethod
    def of(cls, function: Callable[..., Any], arguments: tuple[Any, ...], table: Table, rows: int) -> _Run:
        try:
            # Fused attention would be one operator that only today's PyTorch has.
            with sdpa_kernel(SDPBackend.MATH):
                graph = make_fx(functionalize(function, remove="mutations"), decomposition_table=table)(*arguments)
        except PlanNotBuilt:
            raise
        except Exception as error:
            raise PlanNotBuilt(_why_not_traced(error)) from error
        recorder = _Recorder(graph)
        flat = [tensor for item in arguments for tensor in (item if isinstance(item, list) else [item])]
        recorder.run(*flat, enable_io_processing=False)
        return cls(rows, graph, recorder.values)


class _Recorder(Interpreter):  # type: ignore[misc] # untyped where PyTorch is not installed
    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.values: dict[str, Any] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        self.values[n.name] = value
        return value


def _why_not_traced(error: Exception) -> str:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "get a value out of" in str(error) or "data-dependent" in str(error).lower():
        return (
            "the step looks at a tensor's value (if, float(), .item()), which is not known while a plan is built. "
            "Use torch.where, or decide before the step."
        )
    return f"the step failed on the example batch, {type(error).__name__}: {text}"


def _needed(calls: Sequence[Call], outputs: Sequence[Ref]) -> list[Call]:
    """The calls that an output depends on: what PyTorch computes on the side need not be known to a phone."""
    names = {ref.name for ref in outputs}
    kept = []
    for call in reversed(calls):
        if call.result.name in names:
            kept.append(call)
            names.update(ref.name for ref in _refs((*call.args, *call.keywords.values())))
    return kept[::-1]


def _refs(argument: Any) -> Iterator[Ref]:
    if isinstance(argument, Ref):
        yield argument
    elif isinstance(argument, tuple):
        for item in argument:
            yield from _refs(item)


class _Merger:
    def __init__(self, first: _Run, second: _Run) -> None:
        self._first, self._second = first, second
        self._constants: list[tuple[Ref, Kind]] = []
        self._calls: list[Call] = []
        self._refs: dict[str, Ref] = {}
        self._fixed: set[str] = set()

    def merge(self) -> Trace:
        nodes = [list(run.graph.graph.nodes) for run in (self._first, self._second)]
        if len(nodes[0]) != len(nodes[1]) or any(a.target != b.target for a, b in zip(*nodes, strict=True)):
            raise PlanNotBuilt(
                "the step does something else for another size of the batch. A plan is one list of operations: "
                "write the step without deciding by the size."
            )
        inputs: list[tuple[Ref, Kind]] = []
        outputs: tuple[Ref, ...] = ()
        for a, b in zip(*nodes, strict=True):
            if a.op == "placeholder":
                ref = self._refs[a.name] = Ref(a.name)
                inputs.append((ref, self._kind(self._first.values[a.name], self._second.values[b.name], fixed=False)))
            elif a.op == "output":
                outputs = tuple(self._output(node) for node in a.args[0])
            else:
                self._add(a, b)
        return Trace(tuple(inputs), tuple(self._constants), tuple(_needed(self._calls, outputs)), outputs)

    def _output(self, node: Any) -> Ref:
        if not isinstance(node, Node):
            raise PlanNotBuilt(f"the step gives {node!r} where a tensor is expected: loss * 0, say, is a tensor.")
        return self._refs[node.name]

    def _add(self, a: Node, b: Node) -> None:
        if a.op == "get_attr":
            ref = self._refs[a.name] = Ref(a.name)
            self._fixed.add(a.name)
            value = self._first.values[a.name]
            self._constants.append((ref, self._kind(value, value, fixed=True)))
        elif a.target is operator.getitem:
            self._refs[a.name] = Ref(a.args[0].name, a.args[1])
            if a.args[0].name in self._fixed:
                self._fixed.add(a.name)
        else:
            self._add_call(a, b)

    def _add_call(self, a: Node, b: Node) -> None:
        name = str(a.target).removeprefix("aten.").removesuffix(".default")
        base = name.partition(".")[0]
        if base.startswith(_RANDOM) or base.endswith(("dropout", "rand_like")):
            raise PlanNotBuilt(
                f"the step draws random numbers ({base}): phones of 2020 have no seed for them, and results could "
                "not be compared. Leave dropout out, or call .eval() on it; weight_decay is another regularizer."
            )
        ref = self._refs[a.name] = Ref(a.name)
        if all(node.name in self._fixed for node in a.all_input_nodes):
            self._fixed.add(a.name)
        first, second = (
            value if isinstance(value, tuple | list) else (value,)
            for value in (self._first.values[a.name], self._second.values[b.name])
        )
        fixed = a.name in self._fixed
        kinds = tuple(self._kind(x, y, fixed=fixed) for x, y in zip(first, second, strict=True))
        keywords = {
            key: self._argument(value, b.kwargs[key])
            for key, value in a.kwargs.items()
            if key not in _IGNORED_KEYWORDS and value is not None
        }
        arguments = tuple(self._argument(x, y) for x, y in zip(a.args, b.args, strict=True))
        self._calls.append(Call(name, arguments, keywords, ref, kinds))

    def _kind(self, a: Any, b: Any, *, fixed: bool) -> Kind:
        if not isinstance(a, torch.Tensor):
            return Kind((), "none")
        shape = tuple(self._size(x, y) for x, y in zip(a.shape, b.shape, strict=True))
        same = fixed and a.shape == b.shape and torch.equal(a, b)
        return Kind(shape, str(a.dtype).removeprefix("torch."), a.detach().numpy() if same else None)

    def _size(self, a: int, b: int) -> Size:
        if a == b:
            return a
        share = Fraction(b - a, self._second.rows - self._first.rows)
        if share * self._first.rows != a:
            raise PlanNotBuilt(
                f"a size in the step is {a} for {self._first.rows} rows and {b} for {self._second.rows}: it depends on "
                "the batch in a way that is no proportion, such as rows - 1. Phones' batches differ in size."
            )
        return Rows(share)

    def _argument(self, a: Any, b: Any) -> Any:
        if isinstance(a, Node):
            return self._refs[a.name]
        if isinstance(a, list | tuple):
            return tuple(self._argument(x, y) for x, y in zip(a, b, strict=True))
        if isinstance(a, torch.dtype):
            return str(a).removeprefix("torch.")
        if isinstance(a, float) and a != b:
            return self._number(a, b)
        if isinstance(a, int) and a != b:
            return self._size(a, b)
        return a

    def _number(self, a: float, b: float) -> Number:
        first, second = self._first.rows, self._second.rows
        for power in (-1, 1):
            if np.isclose(a / first**power, b / second**power, rtol=1e-12, atol=0):
                return Number(a / first**power, power)
        raise PlanNotBuilt(
            f"a number in the step is {a} for {first} rows and {b} for {second}: it depends on the batch in a way that "
            "is no proportion. Phones' batches differ in size."
        )
