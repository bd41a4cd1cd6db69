"""What can compute a hosted averaging plan: the op list with NumPy, or the TorchScript with PyTorch.

Both are used inside a sandbox only. PyTorch is imported only by a sandbox whose plan needs it.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

from gridnode.averaging.frames import Tensor
from gridnode.errors import InvalidRequest
from gridnode.plans.interpreter import OperationList
from gridnode.plans.plan import parse_plan

RuntimeName = Literal["operations", "torchscript"]


class Runtime(Protocol):
    """Computes one plan. ``number`` is how many diffs are already averaged."""

    def load(self, plan: bytes) -> None:
        """Take the plan to compute. Raises :class:`gridnode.errors.InvalidRequest` if it can't be."""

    def begin(self) -> None:
        """Forget whatever earlier calls may have left in the plan."""

    def fold(self, average: list[Tensor], diff: list[Tensor], number: int) -> list[Tensor]:
        """Call an iterative plan."""

    def run(self, diffs: list[list[Tensor]]) -> list[Tensor]:
        """Call a list-form plan."""


def load_runtime(name: RuntimeName) -> Runtime:
    """Import all that the runtime will need: afterwards the process may be locked down."""
    return TorchScriptRuntime() if name == "torchscript" else OperationsRuntime()


def pytorch_is_installed() -> bool:
    return importlib.util.find_spec("torch") is not None


class OperationsRuntime:
    """The plan's list of operations, by this node's own interpreter."""

    _operations: OperationList

    def load(self, plan: bytes) -> None:
        self._operations = OperationList.from_plan(parse_plan(plan))

    def begin(self) -> None:
        pass  # operations have no state

    def fold(self, average: list[Tensor], diff: list[Tensor], number: int) -> list[Tensor]:
        return self._operations.run([*average, *diff, _number_tensor(number)])

    def run(self, diffs: list[list[Tensor]]) -> list[Tensor]:
        return self._operations.run([tensor for diff in diffs for tensor in diff])


class TorchScriptRuntime:
    """The plan's TorchScript: ``(List[Tensor], List[Tensor], Tensor)``, or ``(List[List[Tensor]])`` in list form."""

    _torchscript: bytes
    _module: Any

    def __init__(self) -> None:
        # Its types are known only where it is installed, and partly.
        self._torch: Any = importlib.import_module("torch")
        # The plan's process may start no thread; and one thread adds in one order only.
        self._torch.set_num_threads(1)
        self._use_once()

    def load(self, plan: bytes) -> None:
        self._torchscript = parse_plan(plan).torchscript
        try:
            self.begin()
        except RuntimeError as error:
            raise InvalidRequest(f"its TorchScript can't be loaded: {error}") from error

    def begin(self) -> None:
        # A module may keep things in its attributes; what a cycle's average is must not depend on cycles before.
        self._module = self._torch.jit.load(io.BytesIO(self._torchscript), map_location="cpu")

    def fold(self, average: list[Tensor], diff: list[Tensor], number: int) -> list[Tensor]:
        return self._call(self._tensors(average), self._tensors(diff), self._torch.from_numpy(_number_tensor(number)))

    def run(self, diffs: list[list[Tensor]]) -> list[Tensor]:
        return self._call([self._tensors(diff) for diff in diffs])

    def _call(self, *arguments: Any) -> list[Tensor]:
        # Optimizing costs more than it gains in the few calls of a cycle, and may change the order of the arithmetic.
        with self._torch.no_grad(), self._torch.jit.optimized_execution(False):
            result = self._module(*arguments)
        tensors = [result] if isinstance(result, self._torch.Tensor) else result
        if not isinstance(tensors, tuple | list):
            raise TypeError(f"it gave a {type(result).__name__}, not tensors")
        return [self._array(tensor) for tensor in tensors]

    def _array(self, tensor: Any) -> Tensor:
        if not isinstance(tensor, self._torch.Tensor):
            raise TypeError(f"it gave a {type(tensor).__name__} among the tensors")
        array: Tensor = tensor.detach().contiguous().numpy()
        return array

    def _tensors(self, arrays: Sequence[Tensor]) -> list[Any]:
        return [self._torch.from_numpy(array) for array in arrays]

    def _use_once(self) -> None:
        """Let PyTorch load and look up, now that it may read files, what it does at first use only."""

        def add(tensor: Any) -> Any:
            return tensor + tensor.matmul(tensor).sum()

        example = self._torch.ones(2, 2)
        saved = io.BytesIO()
        self._torch.jit.save(self._torch.jit.trace(add, example), saved)
        saved.seek(0)
        self._module = self._torch.jit.load(saved)
        self._call(example)


def _number_tensor(number: int) -> Tensor:
    # A vector of one int64, as the historical node passed it.
    return np.array([number], np.int64)
