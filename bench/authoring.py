"""The bench of authoring: ``python -m bench.authoring`` builds plans and trains simulated phones.

Needs the extra torch. Times of building and training are CPU seconds of one thread, so that other work on the machine
does not count; the last table is of a real node, a real database and ``gridnode simulate`` on this machine, and is
theirs together. Exit code 0 whatever the figures, 1 if phones did not train to the end.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits
from torch import nn

from bench.usage import MemoryPeak, machine_cpu_seconds
from gridnode.plans.variants import plan_variants
from gridnode.sdk import BuiltPlan, Grid, build_plan
from gridnode.simulation.datasets import Examples
from gridnode.simulation.plan_cache import PlanCache
from gridnode.simulation.training import ClientConfig, train
from tests.support.node import TOKEN, NodeProcess
from tests.support.postgres import PostgresForTests

#: As in the demo: 20 steps with 20 examples each.
LOCAL = ClientConfig(batch_size=20, lr=0.1, max_updates=20)
_DATA = "digits-8x8"


@dataclass(frozen=True, slots=True)
class Model:
    """A model with the shape of a row of its input."""

    name: str
    make: Callable[[], nn.Module]
    row: tuple[int, ...]
    classes: int = 10

    def plan(self) -> BuiltPlan:
        """Its training plan."""
        torch.manual_seed(0)
        return build_plan(self.make(), (torch.randn(4, *self.row), torch.eye(self.classes)[:4]))


MODELS = (
    Model("MLP 64-32-10", lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), (64,)),
    Model("MLP 784-392-10", lambda: nn.Sequential(nn.Linear(784, 392), nn.ReLU(), nn.Linear(392, 10)), (784,)),
    Model(
        "CNN 8-16 channels, 28×28",
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(784, 10)),
        ),
        (1, 28, 28),
    ),
    Model(
        "transformer layer, 8 × 32",
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True), nn.Flatten(), nn.Linear(256, 10)
        ),
        (8, 32),
    ),
)
#: Those that phones train here.
TRAINED = MODELS[:3]


def main() -> None:
    """Measure all of it and show the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.authoring", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="CPU seconds of each training (default 10)")
    parser.add_argument("--phones", type=int, default=1000, help="simulated phones beside a real node (default 1000)")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    # PyTorch warns that it will drop TorchScript one day.
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with threadpool_limits(1):
        built = [measure_building(model) for model in MODELS]
        trained = [measure_training(model, options.seconds) for model in TRAINED]
    fleets = [measure_fleet(phones) for phones in (options.phones // 10, options.phones)]
    if options.output == "json":
        print(json.dumps({"building": built, "training": trained, "fleets": fleets}, indent=2))
    else:
        console = Console()
        console.print(_table("Building a plan", built))
        console.print(_table("Phones trained per second and core, without the network", trained))
        console.print(_table("gridnode simulate beside a real node, on this machine", fleets))


def measure_building(model: Model) -> dict[str, Any]:
    """Seconds to build a plan, with all its variants compared; the best of three, since the first one warms up."""
    times = []
    for _ in range(3):
        started = time.process_time()
        plan = model.plan()
        times.append(time.process_time() - started)
    return {
        "model": model.name,
        "CPU seconds": round(min(times), 2),
        "bytes": len(plan.data),
        "without": ", ".join(plan.left_out) or "-",
    }


def measure_training(model: Model, seconds: float) -> dict[str, Any]:
    """Phones that one core trains in a second: by both runtimes of the simulator, and by PyTorch's own means."""
    plan = model.plan()
    rng = np.random.default_rng(0)
    shard = Examples(
        rng.random((70, *model.row), dtype=np.float32), np.eye(10, dtype=np.float32)[rng.integers(10, size=70)]
    )
    parameters = list(plan.parameters.values())
    interpreted = PlanCache("numpy").get(plan_variants(plan.data).list) if "list" not in plan.left_out else None
    compiled = PlanCache("torchscript").get(plan.data)
    module = model.make()

    def simulated(steps: Any) -> Callable[[], object]:
        return lambda: train(steps, parameters, shard, LOCAL, rng)

    eager = _rate(lambda: train_eagerly(module, parameters, shard, rng), seconds)
    numpy = None if interpreted is None else _rate(simulated(interpreted), seconds)
    torchscript = _rate(simulated(compiled), seconds)
    return {
        "model": model.name,
        "NumPy": "-" if numpy is None else round(numpy, 1),
        "TorchScript": round(torchscript, 1),
        "eager PyTorch": round(eager, 1),
        "best / eager": f"{max(numpy or 0.0, torchscript) / eager:.1f}",
    }


def train_eagerly(
    module: nn.Module, parameters: Sequence[NDArray[Any]], shard: Examples, rng: np.random.Generator
) -> list[NDArray[Any]]:
    """The reference: one phone in ordinary PyTorch, with a module, autograd and an optimizer of its own."""
    own = copy.deepcopy(module)
    with torch.no_grad():
        for parameter, array in zip(own.parameters(), parameters, strict=True):
            parameter.copy_(torch.from_numpy(array))
    optimizer = torch.optim.SGD(own.parameters(), LOCAL.lr)
    inputs, targets = torch.from_numpy(shard.inputs), torch.from_numpy(shard.targets)
    for _ in range(LOCAL.max_updates):
        rows = torch.from_numpy(rng.permutation(len(shard))[: LOCAL.batch_size])
        optimizer.zero_grad()
        outputs = own(inputs[rows])
        loss = nn.functional.cross_entropy(outputs, targets[rows])
        (outputs.argmax(1) == targets[rows].argmax(1)).float().mean().item()
        loss.backward()
        optimizer.step()
        loss.item()
    return [old - new.detach().numpy() for old, new in zip(parameters, own.parameters(), strict=True)]


def _rate(work: Callable[[], object], seconds: float) -> float:
    """How often it is done in a CPU second."""
    work()
    started, count = time.process_time(), 0
    while (spent := time.process_time() - started) < seconds:
        work()
        count += 1
    return count / spent


def measure_fleet(phones: int) -> dict[str, Any]:
    """Four cycles of half of the phones each, which have digits of their own, beside a real node.

    Raises:
        SystemExit: the simulation did not end well.
    """
    plan, reports = MODELS[0].plan(), phones // 2
    with tempfile.TemporaryDirectory(prefix="gridnode-bench-") as directory:
        postgres = PostgresForTests(Path(directory) / "postgres", durable=True)
        postgres.start()
        try:
            with postgres.database() as url, NodeProcess(url, Path(directory)) as node:
                with Grid(f"http://127.0.0.1:{node.management_port}", TOKEN) as grid:
                    grid.host(
                        "bench",
                        plan,
                        batch_size=LOCAL.batch_size,
                        lr=0.5,
                        max_updates=LOCAL.max_updates,
                        num_cycles=4,
                        min_diffs=reports,
                        max_diffs=reports,
                    )
                return _run_fleet(node, phones)
        finally:
            postgres.stop()


def _run_fleet(node: NodeProcess, phones: int) -> dict[str, Any]:
    address = f"http://127.0.0.1:{node.device_port}"
    command = [sys.executable, "-m", "gridnode", "simulate", "--model", "bench", "--url", address, "--output", "json"]
    command += ["--phones", str(phones), "--data", _DATA, "--pause", "2", "--time-limit", "1200"]
    busy, started = machine_cpu_seconds(), time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with process, MemoryPeak(process.pid) as peak:
        output, _ = process.communicate()
    busy, elapsed = machine_cpu_seconds() - busy, time.monotonic() - started
    result = json.loads(output) if process.returncode == 0 else {}
    if result.get("end") != "finished":
        raise SystemExit(f"the simulation of {phones} phones ended with {result.get('end') or process.returncode}")
    reported = result["outcomes"]["reported"]
    return {
        "phones": phones,
        "reports": reported,
        "reports/s": round(reported / result["seconds"], 1),
        "peak memory, MB": round(peak.bytes / 1e6),
        "cores in use": round(busy / elapsed, 1),
    }


def _table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in rows[0]:
        table.add_column(name, justify="left" if name in ("model", "without") else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table


if __name__ == "__main__":
    main()
