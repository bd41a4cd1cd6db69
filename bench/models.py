"""The models that the bench hosts, and the bodies its phones send and expect for them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.wire import float_tensors
from bench.workload import Sample, Target, Traffic
from gridnode.protocol import syft_pb2
from gridnode.protocol.syft_proto import decode_state, encode_state

RECORDED = Path(__file__).resolve().parent.parent / "tests" / "data" / "models"

# All phones report the same diff, so that checkpoint n is the hosted model minus (n - 1) diffs, whoever was counted.
_SMALLEST_STEP, _LARGEST_STEP = 0.0005, 0.0015
_SAMPLES_PER_TENSOR = 16


@dataclass(frozen=True, slots=True)
class Model:
    """A model as an author hosts it, and its phones' traffic.

    Attributes:
        state: the hosted parameters as a State.
        diff: what every phone reports, as a State.
        training_plan: as uploaded.
        iterative_plan: the averaging plan ``(average * number + item) / (number + 1)``.
        traffic: files for the load generator.
    """

    kind: str
    state: bytes
    diff: bytes
    training_plan: bytes
    iterative_plan: bytes
    traffic: Traffic

    def hosting(
        self, name: str, server_config: dict[str, Any], *, averaging_plan: bytes | None = None
    ) -> dict[str, Any]:
        """The body of a hosting request."""
        return {
            "model": _text(self.state),
            "plans": {"training_plan": _text(self.training_plan)},
            "protocols": {},
            "averaging_plan": _text(averaging_plan or b""),
            "client_config": client_config(name),
            "server_config": server_config,
        }

    def target(self, name: str) -> Target:
        """The process ``name`` as the load generator sees it."""
        return Target(name=name, version="1.0", traffic=self.kind, client_config=client_config(name))

    def report_body(self) -> bytes:
        """A whole report with ids of the usual length, for what has to be decoded without a server."""
        worker, key = "0" * 8 + "-0000" * 3 + "-" + "0" * 12, "0" * 64
        return f'{{"worker_id":"{worker}","request_key":"{key}","diff":"{_text(self.diff)}"}}'.encode()


def client_config(name: str) -> dict[str, Any]:
    """The client_config that every client family can read."""
    return {"name": name, "version": "1.0", "batch_size": 3, "lr": 0.1, "max_updates": 1}


def recorded_model(kind: str, folder: Path) -> Model:
    """One of the recorded models, 'tiny' or 'mlp'; ``folder`` gets the files for the load generator."""
    return _model(kind, RECORDED / kind, (RECORDED / kind / "state.bin").read_bytes(), folder)


def large_model(parameters: int, folder: Path) -> Model:
    """The MLP with so many hidden units that it has about ``parameters`` parameters."""
    hidden = parameters // (784 + 1 + 10)
    random = np.random.default_rng(1)
    shapes = ((hidden, 784), (hidden,), (10, hidden), (10,))
    state = encode_state([random.normal(0.0, 0.05, shape).astype(np.float32) for shape in shapes])
    return _model("large", RECORDED / "mlp", state, folder)


def _model(kind: str, recorded: Path, state: bytes, folder: Path) -> Model:
    tensors = decode_state(state).tensors
    random = np.random.default_rng(2)
    steps = [_steps(random, tensor.shape) for tensor in tensors]
    diff = encode_state(steps)
    diff_file = folder / f"{kind}.diff.base64"
    diff_file.write_bytes(base64.b64encode(diff))
    # Filled once a node has served them: see Harness.host.
    plans = {variant: str(folder / f"{kind}.plan.{variant}") for variant in ("list", "torchscript")}
    traffic = Traffic(
        diff=str(diff_file),
        plans=plans,
        tensor_bytes=[len(tensor) for tensor in float_tensors(state)],
        samples=_samples(tensors, steps),
    )
    return Model(
        kind=kind,
        state=state,
        diff=diff,
        training_plan=_without_shapes((recorded / "training_plan.uploaded.bin").read_bytes()),
        iterative_plan=(recorded / "avg_plan.iterative.bin").read_bytes(),
        traffic=traffic,
    )


def _without_shapes(plan: bytes) -> bytes:
    """The plan for a model of any width: its operations are, only the shapes it was traced with are not."""
    message = syft_pb2.Plan.FromString(plan)
    for placeholder in message.role.placeholders:
        placeholder.ClearField("expected_shape")
    return message.SerializeToString()


def _steps(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    signs = random.choice((-1.0, 1.0), shape)
    steps: NDArray[np.float32] = (random.uniform(_SMALLEST_STEP, _LARGEST_STEP, shape) * signs).astype(np.float32)
    return steps


def _samples(tensors: tuple[NDArray[Any], ...], steps: list[NDArray[np.float32]]) -> list[Sample]:
    samples = []
    for index, (tensor, step) in enumerate(zip(tensors, steps, strict=True)):
        count = min(_SAMPLES_PER_TENSOR, tensor.size)
        for element in sorted({int(each) for each in np.linspace(0, tensor.size - 1, count)}):
            initial, change = float(tensor.reshape(-1)[element]), float(step.reshape(-1)[element])
            samples.append(Sample(tensor=index, element=element, initial=initial, step=change))
    return samples


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
