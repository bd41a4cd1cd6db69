"""What a model author uses: plans built from today's PyTorch, and a node's management from a notebook.

Importing this package needs no PyTorch; building plans does (``pip install 'gridnode[torch]'``).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gridnode.sdk.averaging import build_averaging_plan, clipped_mean, mean, weighted_mean
    from gridnode.sdk.building import build_plan
    from gridnode.sdk.connection import GridFailed
    from gridnode.sdk.errors import ExtraMissing, PlanNotBuilt
    from gridnode.sdk.export import export_executorch, export_onnx, export_torchscript, load_into
    from gridnode.sdk.gate import Verdict, VerdictTable, check_plan
    from gridnode.sdk.grid import Grid
    from gridnode.sdk.hosted import HostedProcess
    from gridnode.sdk.master import Master, MasterDataset
    from gridnode.sdk.optimizers import SGD
    from gridnode.sdk.plans import BuiltAveragingPlan, BuiltPlan
    from gridnode.sdk.progress import Progress

_MODULES = {
    "SGD": "optimizers",
    "BuiltAveragingPlan": "plans",
    "BuiltPlan": "plans",
    "ExtraMissing": "errors",
    "Grid": "grid",
    "GridFailed": "connection",
    "HostedProcess": "hosted",
    "Master": "master",
    "MasterDataset": "master",
    "PlanNotBuilt": "errors",
    "Progress": "progress",
    "Verdict": "gate",
    "VerdictTable": "gate",
    "build_averaging_plan": "averaging",
    "build_plan": "building",
    "check_plan": "gate",
    "clipped_mean": "averaging",
    "export_executorch": "export",
    "export_onnx": "export",
    "export_torchscript": "export",
    "load_into": "export",
    "mean": "averaging",
    "weighted_mean": "averaging",
}
_NEEDING_TORCH = frozenset(("averaging", "building", "export"))

__all__ = [
    "SGD",
    "BuiltAveragingPlan",
    "BuiltPlan",
    "ExtraMissing",
    "Grid",
    "GridFailed",
    "HostedProcess",
    "Master",
    "MasterDataset",
    "PlanNotBuilt",
    "Progress",
    "Verdict",
    "VerdictTable",
    "build_averaging_plan",
    "build_plan",
    "check_plan",
    "clipped_mean",
    "export_executorch",
    "export_onnx",
    "export_torchscript",
    "load_into",
    "mean",
    "weighted_mean",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES[name]
    try:
        return getattr(importlib.import_module(f"gridnode.sdk.{module}"), name)
    except ModuleNotFoundError as error:
        if module in _NEEDING_TORCH and error.name == "torch":
            from gridnode.sdk.errors import torch_is_missing

            raise torch_is_missing() from None
        raise


def __dir__() -> list[str]:
    return sorted(__all__)
