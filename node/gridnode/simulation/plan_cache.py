"""Compiled training plans, for one runtime."""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from typing import Literal

from gridnode.errors import InvalidRequest
from gridnode.simulation.training import Steps, TrainingPlan

Runtime = Literal["numpy", "torchscript"]


class PlanCache:
    """Compiled plans, shared by all phones because they all download the same few.

    Args:
        runtime: ``numpy`` interprets the op list, as PySyft's; ``torchscript`` runs what apps on phones run.

    Raises:
        InvalidRequest: the runtime is not installed.
    """

    def __init__(self, runtime: Runtime = "numpy") -> None:
        if runtime == "torchscript" and importlib.util.find_spec("torch") is None:
            raise InvalidRequest("the runtime torchscript needs PyTorch: pip install 'gridnode[torch]'")
        self._runtime = runtime
        self._plans: dict[bytes, Steps] = {}
        self._lock = threading.Lock()

    @property
    def variant(self) -> str:
        """Which form of a plan to download."""
        return "list" if self._runtime == "numpy" else "torchscript"

    def get(self, data: bytes) -> Steps:
        """The compiled plan of these bytes."""
        key = hashlib.sha256(data).digest()
        with self._lock:
            if key not in self._plans:
                self._plans[key] = self._compile(data)
            return self._plans[key]

    def _compile(self, data: bytes) -> Steps:
        if self._runtime == "numpy":
            return TrainingPlan.decode(data)
        from gridnode.simulation.torchscript import TorchScriptPlan

        return TorchScriptPlan.decode(data)
