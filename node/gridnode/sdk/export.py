"""The finished model in the forms that others read."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gridnode.sdk.errors import ExtraMissing, PlanNotBuilt


def load_into(module: torch.nn.Module, state: Mapping[str, Any]) -> torch.nn.Module:
    """Put a checkpoint's parameters into a module; buffers and frozen parameters stay.

    Raises:
        PlanNotBuilt: the checkpoint is of another module.
    """
    missing, unexpected = module.load_state_dict(dict(state), strict=False)
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad and name in missing]
    if unexpected or trained:
        named = ", ".join([*unexpected, *trained][:3])
        raise PlanNotBuilt(f"the checkpoint is not of this module: {named} is in one of them only.")
    return module


def export_torchscript(module: torch.nn.Module, example: torch.Tensor, path: str | Path) -> None:
    """Write a module's forward as TorchScript, for apps that predict."""
    # PyTorch says that TorchScript has had its time. Apps of 2020 know nothing else.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.jit.trace(module.eval(), example).save(str(path))


def export_onnx(module: torch.nn.Module, example: torch.Tensor, path: str | Path) -> None:
    """Write a module's forward as ONNX; the number of rows stays open.

    Raises:
        ExtraMissing: the packages onnx and onnxscript are not installed.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExtraMissing(f"ONNX needs {' and '.join(missing)}: pip install onnx onnxscript")
    rows = torch.export.Dim("rows")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (example,),
            str(path),
            dynamo=True,
            dynamic_shapes=({0: rows},),
            verbose=False,
            external_data=False,
        )


def export_executorch(module: torch.nn.Module, example: torch.Tensor, path: str | Path) -> None:
    """Write a module's forward as an ExecuTorch program (.pte), for apps of today that predict on phones.

    It takes as many rows as the example has, and runs on CPUs by XNNPACK where that knows the operators.

    Raises:
        ExtraMissing: the package executorch is not installed.
    """
    if importlib.util.find_spec("executorch") is None:
        raise ExtraMissing("ExecuTorch needs its package: pip install executorch")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(module.eval(), (example,))
        program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    Path(path).write_bytes(program.buffer)
