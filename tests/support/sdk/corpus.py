"""Many small graphs over the operators of today's PyTorch, each as an archive that PyTorch writes.

One for each operator that can be called with a few plain arguments, and chains of several. So the gate and the
old runtimes can be asked the same about each, whether they know the operator, know it in another form, or never heard
of it.
"""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gridnode.sdk.torchscript import strip_archive

SIGNATURE = "x: Tensor, y: Tensor, i: Tensor, b: Tensor"
# What they give depends on chance, memory or the build.
_UNREPEATABLE = (
    *(
        "bernoulli",
        "cauchy",
        "cudnn",
        "dropout",
        "eig",
        "empty",
        "exponential",
        "fbgemm",
        "fft",
        "from_file",
        "geometric",
    ),
    *("geqrf", "lobpcg", "lstsq", "miopen", "mkldnn", "multinomial", "nested", "normal", "orgqr", "ormqr", "pinverse"),
    *(
        "poisson",
        "q_",
        "qr",
        "quantize",
        "rand",
        "record_stream",
        "resize",
        "rrelu",
        "set_data",
        "sparse",
        "stft",
        "svd",
    ),
    *("sym_", "uniform"),
)
# Of other kinds of tensors than plans have, or right or wrong by the values that go in. log_sigmoid_forward's second
# output is for its own backward only, and each version has its own.
_LEFT_OUT = (
    *("angle", "choose_qparams", "dequantize", "linalg", "log_sigmoid_", "mvlgamma", "real", "special_multigammaln"),
    "to_dense",
)
_FILLERS: dict[str, tuple[str, ...]] = {
    "Tensor": ("x", "y"),
    "Scalar": ("0.5", "1.5"),
    "number": ("0.5", "1.5"),
    "int": ("1", "0"),
    "SymInt": ("1", "0"),
    "float": ("0.5", "0.25"),
    "bool": ("False", "True"),
    "List[int]": ("[1]", "[0]"),
    "List[SymInt]": ("[1]", "[0]"),
    "List[Tensor]": ("[x, y]", "[y, x]"),
}


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph's source and archive, and what it gives for :func:`inputs`."""

    source: str
    archive: bytes
    outputs: tuple[np.ndarray[Any, Any], ...]


def inputs() -> list[torch.Tensor]:
    """Two matrices of positive numbers, one of indices and one of bools."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(3, 3, generator=generator) * 0.8 + 0.1 for _ in range(2))
    return [x, y, torch.tensor([[0, 1, 2], [2, 0, 1], [1, 2, 0]]), torch.tensor([[True, False, True]] * 3)]


def make_corpus(chains: int) -> list[Graph]:
    """All graphs of one operator, and some of several."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        single = [graph for source in _single_calls() if (graph := _build(source)) is not None]
        return single + list(_chains(single, chains))


def _single_calls() -> Iterator[str]:
    for name in sorted({schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("aten::")}):
        operator = name.removeprefix("aten::")
        # Those that start so are PyTorch's own affair.
        if operator.startswith(("_", *_LEFT_OUT)) or operator.endswith("_"):
            continue
        if any(operator.startswith(part) or f"_{part}" in operator for part in _UNREPEATABLE):
            continue
        yield from dict.fromkeys(_calls_of(name, operator))


def _calls_of(name: str, operator: str) -> Iterator[str]:
    for schema in torch._C._jit_get_schemas_for_operator(name):
        types = {str(returned.type) for returned in schema.returns}
        if types != {"Tensor"} or any(argument.is_out for argument in schema.arguments):
            continue
        required = [argument for argument in schema.arguments if not argument.has_default_value()]
        if not required or str(required[0].type) not in ("Tensor", "List[Tensor]"):
            continue
        for choice in (0, 1):
            arguments = _arguments(required, choice)
            if arguments is None:
                continue
            if operator in ("all", "any"):
                # Of other tensors than bools today's PyTorch alone tells it.
                arguments = arguments.replace("x", "b").replace("y", "b")
            if "pool1d" in operator:
                arguments = arguments.replace("x", "x.unsqueeze(0)").replace("y", "y.unsqueeze(0)")
            yield f"torch.ops.aten.{operator}({arguments})"


def _arguments(required: Sequence[Any], choice: int) -> str | None:
    parts = []
    for index, argument in enumerate(required):
        fillers = _FILLERS.get(str(argument.type))
        if str(argument.type) == "Tensor" and argument.name in ("index", "indices"):
            fillers = ("i",)
        if str(argument.type) == "Tensor" and argument.name in ("mask", "condition"):
            fillers = ("b",)
        if fillers is None:
            return None
        filler = (
            fillers[(index + choice) % len(fillers)]
            if str(argument.type) == "Tensor"
            else fillers[choice % len(fillers)]
        )
        parts.append(f"{argument.name}={filler}" if argument.kwarg_only else filler)
    return ", ".join(parts)


def _build(expression: str) -> Graph | None:
    """The graph of an expression; None if today's PyTorch does not compute it."""
    try:
        module = torch.jit.script(type("Graph", (torch.nn.Module,), {})())
        module.define(f"def forward(self, {SIGNATURE}):\n    return {expression}\n")
        outputs = module(*inputs())
        saved = io.BytesIO()
        torch.jit.save(module, saved)
    except (RuntimeError, ValueError, NotImplementedError, IndexError, TypeError):
        return None
    tensors = outputs if isinstance(outputs, tuple | list) else (outputs,)
    if not all(
        isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided and tensor.dtype in _DTYPES
        for tensor in tensors
    ):
        return None
    return Graph(
        expression, strip_archive(saved.getvalue()), tuple(tensor.detach().resolve_neg().numpy() for tensor in tensors)
    )


_DTYPES = (torch.float32, torch.int64, torch.bool)


def _chains(single: Sequence[Graph], count: int) -> Iterator[Graph]:
    """Calls put into each other, of operators that keep shape and dtype."""
    usable = [
        graph.source
        for graph in single
        if len(graph.outputs) == 1 and graph.outputs[0].shape == (3, 3) and graph.outputs[0].dtype == np.float32
    ]
    choose = random.Random(0)
    made = 0
    while made < count:
        expression = "x"
        for source in choose.choices(usable, k=choose.randint(2, 5)):
            head, _, arguments = source.partition("(")
            expression = f"{head}({arguments.replace('x', expression, 1)}" if "x" in arguments else f"{source}"
        graph = _build(expression)
        if graph is not None:
            made += 1
            yield graph
