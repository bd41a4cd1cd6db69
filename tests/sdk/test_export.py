"""The finished model in the forms that others read."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gridnode.sdk import (
    ExtraMissing,
    PlanNotBuilt,
    build_plan,
    export_executorch,
    export_onnx,
    export_torchscript,
    load_into,
)
from tests.support.sdk.models import CASES, make

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


def test_checkpoint_goes_back_into_the_module() -> None:
    module, batch = make(CASES["batch-norm-eval"])
    plan = build_plan(module, batch)
    changed = {name: torch.from_numpy(array) + 1 for name, array in plan.parameters.items()}

    loaded = load_into(make(CASES["batch-norm-eval"])[0], changed)

    for name, parameter in loaded.named_parameters():
        torch.testing.assert_close(parameter.detach(), changed[name])
    with pytest.raises(PlanNotBuilt, match="not of this module: p0"):
        load_into(module, {"p0": torch.zeros(1)})


def test_torchscript_predicts_as_the_module(tmp_path: Path) -> None:
    module, (X, _) = make(CASES["cnn"])  # noqa: N806 - as plans name it
    export_torchscript(module, X, tmp_path / "model.pt")

    torch.testing.assert_close(torch.jit.load(str(tmp_path / "model.pt"))(X[:2]), module(X[:2]))


def test_onnx_predicts_as_the_module_for_any_number_of_rows(tmp_path: Path) -> None:
    reference: Any = importlib.import_module("onnx.reference")
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    export_onnx(module, torch.randn(2, 6), tmp_path / "model.onnx")

    X = torch.randn(5, 6)  # noqa: N806 - as plans name it
    session = reference.ReferenceEvaluator(str(tmp_path / "model.onnx"))
    (given,) = session.run(None, {session.input_names[0]: X.numpy()})
    np.testing.assert_allclose(given, module(X).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_executorch_predicts_as_the_module(tmp_path: Path) -> None:
    runtime: Any = importlib.import_module("executorch.runtime")
    module, (X, _) = make(CASES["cnn"])  # noqa: N806 - as plans name it
    export_executorch(module, X, tmp_path / "model.pte")

    program = runtime.Runtime.get().load_program(tmp_path / "model.pte")
    (given,) = program.load_method("forward").execute([X])
    torch.testing.assert_close(given, module(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("export", "needed"), [(export_executorch, "pip install executorch"), (export_onnx, "pip install onnx onnxscript")]
)
def test_missing_package_is_named(export: Any, needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ExtraMissing, match=needed):
        export(nn.Linear(2, 2), torch.zeros(1, 2), tmp_path / "model")
    assert not list(tmp_path.iterdir())
