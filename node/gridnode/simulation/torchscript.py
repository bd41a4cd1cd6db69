"""A training plan run as apps on phones run it: its TorchScript, by PyTorch. Needs the extra torch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gridnode.plans.plan import parse_plan
from gridnode.simulation.datasets import Examples
from gridnode.simulation.training import Step, Tensor, UnusablePlan, read_outputs


class TorchScriptPlan:
    """A plan of the signature ``(X, y, batch_size, lr, List[Tensor]) → (loss, accuracy, *params)``."""

    def __init__(self, module: Any) -> None:
        self._module = module

    @classmethod
    def decode(cls, data: bytes) -> TorchScriptPlan:
        """Load the TorchScript of a serialized Plan (the variant ``torchscript`` of get-plan).

        Raises:
            UnusablePlan: there is none, or PyTorch can't load it.
        """
        archive = parse_plan(data).torchscript
        if not archive:
            raise UnusablePlan("the plan has no TorchScript; use --runtime numpy.")
        # Phones share the cores already.
        torch.set_num_threads(1)
        with warnings.catch_warnings():
            # PyTorch says that TorchScript has had its time. Phones of 2020 know nothing else.
            warnings.simplefilter("ignore")
            try:
                return cls(torch.jit.load(io.BytesIO(archive), map_location="cpu"))
            except RuntimeError as error:
                raise UnusablePlan(f"PyTorch can't load the plan's TorchScript: {_first_line(error)}") from None

    def step(self, batch: Examples, lr: float, parameters: Sequence[Tensor]) -> Step:
        """See :meth:`gridnode.simulation.training.Steps.step`."""
        scalars = torch.tensor(float(len(batch))), torch.tensor(lr)
        data = _tensor(batch.inputs), _tensor(batch.targets)
        try:
            # Without the profiling of the first runs, which only pays for larger models.
            with torch.no_grad(), torch.jit.optimized_execution(False):
                outputs = self._module(*data, *scalars, [_tensor(array) for array in parameters])
        except RuntimeError as error:
            raise UnusablePlan(f"the plan's TorchScript failed on this data: {_first_line(error)}") from None
        if not isinstance(outputs, tuple) or not all(isinstance(output, torch.Tensor) for output in outputs):
            raise UnusablePlan("the plan's TorchScript does not give a tuple of tensors.")
        return read_outputs([output.numpy() for output in outputs], len(parameters))


def _tensor(array: Tensor) -> torch.Tensor:
    # Without a copy, unless the memory is read-only: PyTorch knows no such tensors.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _first_line(error: RuntimeError) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
