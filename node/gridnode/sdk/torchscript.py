"""Writes a graph as a TorchScript archive that LibTorch 1.6 and later read.

The calls are spelled by the overloads that all these versions have, with no argument that came later. PyTorch compiles
them and writes the archive; what old versions can't read, or nobody should, is then taken out of it.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, Final

import torch

from gridnode.sdk.graph import Argument, Graph, Operation, Value

#: Records that are left out: old LibTorch ends the process over the form of debug_pkl, traced_inputs would hold the
#: example batch, and the others came later.
_STRIPPED_SUFFIXES: Final = (".debug_pkl",)
_STRIPPED_PARTS: Final = ("traced_inputs", "byteorder", ".data", ".format_version", ".storage_alignment")
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def write_torchscript(graph: Graph, parameters: int, *, lists: tuple[int, ...] | None = None) -> bytes:
    """The archive of a graph with the signature ``(X, y, batch_size, lr, List[Tensor]) → (loss, accuracy, *params)``.

    Args:
        parameters: how many of the graph's last inputs are the elements of the list.
        lists: instead, for another signature: the length of each argument that is a list, 0 for a tensor.
    """
    return strip_archive(_compile(graph, (0, 0, 0, 0, parameters) if lists is None else lists))


def strip_archive(archive: bytes) -> bytes:
    """An archive without the records that old runtimes choke on or that would ship the example data."""
    stripped = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(stripped, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            if not _is_stripped(entry.filename):
                name, content = _unnumbered(entry.filename, source.read(entry))
                target.writestr(zipfile.ZipInfo(name, _EPOCH), content)
    return stripped.getvalue()


def _unnumbered(name: str, content: bytes) -> tuple[str, bytes]:
    """A record without the number of the class in this process: the same graph gives the same bytes."""
    if name.endswith((".py", "data.pkl")):
        content = re.sub(rb"\.___torch_mangle_\d+", b"", content)
    return re.sub(r"/___torch_mangle_\d+\.py$", ".py", name), content


def _is_stripped(name: str) -> bool:
    if name.endswith("/.data/version"):
        return False  # from file version 6 on it is here
    return name.endswith(_STRIPPED_SUFFIXES) or any(part in _STRIPPED_PARTS for part in name.split("/")[1:])


def _compile(graph: Graph, lists: tuple[int, ...]) -> bytes:
    # PyTorch says that TorchScript has had its time. Phones of 2020 know nothing else.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.script(_new_module(graph))
        module.define(source_of(graph, lists))
        saved = io.BytesIO()
        torch.jit.save(module, saved)
    return saved.getvalue()


def _new_module(graph: Graph) -> torch.nn.Module:
    # A class of its own each time: PyTorch compiles a class once.
    module: torch.nn.Module = type("TrainingPlan", (torch.nn.Module,), {})()
    for index, array in enumerate(graph.constants.values()):
        module.register_buffer(f"constant_{index}", torch.from_numpy(array.copy()))
    return module.eval()


def source_of(graph: Graph, lists: tuple[int, ...]) -> str:
    """The method ``forward`` in TorchScript."""
    names = {value: f"self.constant_{index}" for index, value in enumerate(graph.constants)}
    arguments, lines, inputs = [], [], iter(graph.inputs)
    for position, length in enumerate(lists):
        arguments.append(f"argument_{position + 1}: {'List[Tensor]' if length else 'Tensor'}")
        if length == 0:
            names[next(inputs)] = f"argument_{position + 1}"
        for index in range(length):
            value = next(inputs)
            names[value] = f"p{value.number}"
            lines.append(f"{names[value]} = argument_{position + 1}[{index}]")
    for operation in graph.operations:
        for result in operation.results:
            names[result] = f"v{result.number}"
        lines.append(f"{', '.join(names[result] for result in operation.results)} = {_call(operation, names)}")
    outputs = [names[output] for output in graph.outputs]
    returned = f"({outputs[0]},)" if len(outputs) == 1 else f"({', '.join(outputs)})"
    lines.append(f"return {returned}")
    return f"def forward(self, {', '.join(arguments)}):\n" + "".join(f"    {line}\n" for line in lines)


def _call(operation: Operation, names: dict[Value, str]) -> str:
    arguments = [_argument(argument, names) for argument in operation.args]
    spelling = _SPELLINGS.get(operation.name)
    return spelling(arguments) if spelling else f"torch.{operation.name}({', '.join(arguments)})"


def _argument(argument: Argument, names: dict[Value, str]) -> str:
    if isinstance(argument, Value):
        return names[argument]
    if isinstance(argument, tuple | list):
        return f"[{', '.join(_argument(item, names) for item in argument)}]"
    if isinstance(argument, float) and argument in (float("inf"), float("-inf")):
        return f'float("{argument}")'
    return repr(argument) if not isinstance(argument, str) else argument


def _method(name: str) -> Callable[[list[str]], str]:
    return lambda arguments: f"{arguments[0]}.{name}({', '.join(arguments[1:])})"


def _function(name: str) -> Callable[[list[str]], str]:
    return lambda arguments: f"torch.{name}({', '.join(arguments)})"


def _native(name: str) -> Callable[[list[str]], str]:
    return lambda arguments: f"torch.ops.aten.{name}({', '.join(arguments)})"


#: Where the call is not ``torch.name(arguments)``.
_SPELLINGS: Final[dict[str, Callable[[list[str]], str]]] = {
    "argmax_dim": _function("argmax"),
    "argmin_dim": _function("argmin"),
    "avg_pool2d": _native("avg_pool2d"),
    "avg_pool2d_backward": _native("avg_pool2d_backward"),
    "constant_pad_nd": _native("constant_pad_nd"),
    "conv1d": _native("conv1d"),
    "conv2d": _native("conv2d"),
    "conv_transpose1d": _native("conv_transpose1d"),
    "conv_transpose2d": _native("conv_transpose2d"),
    "embedding": _native("embedding"),
    "embedding_dense_backward": _native("embedding_dense_backward"),
    "expand": _method("expand"),
    "expand_as": _method("expand_as"),
    "max_dim": _function("max"),
    "max_pool2d_with_indices": _native("max_pool2d_with_indices"),
    "max_pool2d_with_indices_backward": _native("max_pool2d_with_indices_backward"),
    # The names of 2020.
    "maximum": _function("max"),
    "min_dim": _function("min"),
    "minimum": _function("min"),
    "permute": _method("permute"),
    "sum_dim": _function("sum"),
    "to": lambda arguments: f"{arguments[0]}.to(torch.{arguments[1]})",
}


def run_torchscript(archive: bytes, *arguments: Any) -> tuple[torch.Tensor, ...]:
    """Run an archive's forward with the PyTorch that is installed."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        module = torch.jit.load(io.BytesIO(archive), map_location="cpu")
        with torch.jit.optimized_execution(False):
            outputs: tuple[torch.Tensor, ...] = module(*arguments)
    return outputs
