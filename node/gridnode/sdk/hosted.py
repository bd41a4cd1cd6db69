"""A hosted process: its state, its checkpoints, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from gridnode.protocol.syft_proto import decode_state
from gridnode.sdk.errors import torch_is_missing
from gridnode.sdk.plans import numbered
from gridnode.sdk.progress import Evaluate, Progress, follow

if TYPE_CHECKING:
    from gridnode.sdk.grid import Grid


class HostedProcess:
    """A process on a node. What it says of itself is as of the last :meth:`refresh`."""

    def __init__(self, grid: Grid, status: Mapping[str, Any], names: tuple[str, ...] = ()) -> None:
        self._grid = grid
        self._names = names
        self.status = dict(status)

    def __repr__(self) -> str:
        return f"<{self.name} {self.version}: {self.state}, {self.completed_cycles} of {self.num_cycles or '∞'} cycles>"

    @property
    def id(self) -> int:
        """Its number on the node."""
        return int(self.status["id"])

    @property
    def name(self) -> str:
        """``client_config.name``."""
        return str(self.status["name"])

    @property
    def version(self) -> str:
        """``client_config.version``."""
        return str(self.status["version"])

    @property
    def state(self) -> str:
        """``active``, ``paused``, ``finished`` or ``failed``."""
        return str(self.status["state"])

    @property
    def completed_cycles(self) -> int:
        """Cycles that have been averaged."""
        return int(self.status["completed_cycles"])

    @property
    def num_cycles(self) -> int:
        """Cycles until it is finished; 0 is without end."""
        return int(self.status["num_cycles"])

    @property
    def ended(self) -> bool:
        """Whether no cycle will follow."""
        return self.state in ("finished", "failed")

    def refresh(self) -> HostedProcess:
        """Ask the node again."""
        fresh = self._grid.process(self.name, self.version)
        self.status = fresh.status
        return self

    def watch(
        self, *, evaluate: Evaluate | None = None, every: float = 1.0, seconds: float | None = None, show: bool = True
    ) -> Progress:
        """Wait for the end of the training and show how it goes: curves in a notebook, lines elsewhere.

        Args:
            evaluate: ``(arrays by parameter name) → {"accuracy": …}``, called for each checkpoint; its numbers are the
                curves.
            every: seconds between two looks.
            seconds: give up after so long.
            show: whether to show anything.
        """
        return follow(self, evaluate=evaluate, every=every, seconds=seconds, show=show)

    def arrays(self, number: int | str = "latest") -> dict[str, NDArray[Any]]:
        """A checkpoint as NumPy arrays by parameter name; 1 is what was hosted.

        Where names are not known they are p0, p1, …
        """
        query = {"name": self.name, "version": self.version, "checkpoint": number}
        tensors = decode_state(self._grid.request("GET", "/model-centric/retrieve-model", params=query).content).tensors
        if len(self._names) == len(tensors):
            return dict(zip(self._names, tensors, strict=True))
        return numbered(tensors)

    def checkpoint(self, number: int | str = "latest") -> dict[str, Any]:
        """A checkpoint as a state dict of PyTorch tensors; 1 is what was hosted.

        A module with buffers or frozen parameters takes it with ``load_state_dict(…, strict=False)``.
        """
        try:
            import torch
        except ModuleNotFoundError:
            raise torch_is_missing() from None
        return {name: torch.from_numpy(array.copy()) for name, array in self.arrays(number).items()}

    def retrieve(self) -> dict[str, Any]:
        """The newest checkpoint as a state dict."""
        return self.checkpoint("latest")

    def pause(self) -> HostedProcess:
        """Let no phone begin until :meth:`resume`."""
        return self._act("pause")

    def resume(self) -> HostedProcess:
        """Let phones begin again."""
        return self._act("resume")

    def finish(self) -> HostedProcess:
        """End the training; the newest checkpoint stays."""
        return self._act("finish")

    def delete(self, *, force: bool = False) -> None:
        """Delete it with all its checkpoints; ``force`` where phones are at work."""
        self._grid.request("DELETE", f"/processes/{self.id}", params={"force": "true"} if force else {})

    def _act(self, action: str) -> HostedProcess:
        self._grid.request("POST", f"/processes/{self.id}/{action}")
        return self.refresh()
