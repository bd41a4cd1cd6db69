"""Does training on phones get as far as training in one place? A run that can be repeated.

Hosts three trainings of one small network on a node, one after the other, and trains each by simulated phones that each
have some of scikit-learn's digits:

- label skew: phones know few digits each (Dirichlet, alpha 0.3), weighted mean;
- unequal sizes: some phones have a hundred digits and many have one or two, weighted mean;
- the same phones, plain mean.

All phones report in each cycle, so the result depends on the seed and not on who was faster: only sums of numbers are
rounded in another order, which now and then changes one held-out digit of 359. The dashed line of the picture is
PyTorch training on all digits together. Needs a node, and the extras demo and torch:

    gridnode serve &
    python examples/convergence.py --picture convergence.png
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from gridnode.sdk import Grid, build_plan
from gridnode.simulation.datasets import Dataset, load_dataset
from gridnode.simulation.fleet import Population, build_phones
from gridnode.simulation.partition import split_dirichlet, split_unequal
from gridnode.simulation.phone import Target
from gridnode.simulation.pictures import draw_panels

BATCH_SIZE, LR, UPDATES = 20, 0.5, 20
CENTRAL_LR, CENTRAL_STEPS = 0.2, 2000


def network(seed: int) -> nn.Module:
    """64 pixels, 32 hidden units, 10 digits; the same at every call."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def accuracy(model: nn.Module, data: Dataset) -> float:
    """Share of the held-out digits that a model gets right."""
    with torch.no_grad():
        answers = model(torch.from_numpy(data.held_out.inputs)).argmax(1).numpy()
    return float((answers == data.held_out.labels).mean())


def train_centrally(data: Dataset, seed: int) -> float:
    """PyTorch's own SGD on all training digits in one place."""
    model, rng = network(seed), np.random.default_rng(seed)
    optimizer = torch.optim.SGD(model.parameters(), CENTRAL_LR)
    inputs, labels = torch.from_numpy(data.training.inputs), torch.from_numpy(data.training.labels)
    for _ in range(CENTRAL_STEPS):
        rows = torch.from_numpy(rng.choice(len(labels), BATCH_SIZE, replace=False))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
        optimizer.step()
    return accuracy(model, data)


def train_on_phones(name, parts, strategy, data, args) -> list[float]:
    """Held-out accuracy of the model as hosted and after each cycle, all phones taking part in each."""
    model = network(args.seed)
    plan = build_plan(model, (torch.zeros(4, 64), torch.eye(10)[:4]))
    number, version = len(parts), time.strftime("%Y%m%d-%H%M%S")
    with Grid() as grid:
        process = grid.host(
            name,
            plan,
            version=version,
            batch_size=BATCH_SIZE,
            lr=LR,
            max_updates=UPDATES,
            num_cycles=args.cycles,
            min_diffs=number,
            max_diffs=number,
            aggregation={"strategy": strategy},
        )
        shards = [data.training.take(part) for part in parts]
        phones = build_phones(args.url, Target(name, version), shards, Population(), args.seed)
        curve, stop = [accuracy(model, data)], threading.Event()
        with ThreadPoolExecutor(4) as threads, threadpool_limits(1):
            for cycle in range(1, args.cycles + 1):
                outcomes = {session.outcome for session in threads.map(lambda phone: phone.take_part(stop), phones)}
                if outcomes != {"reported"}:
                    raise SystemExit(f"cycle {cycle} of {name}: phones were answered {', '.join(sorted(outcomes))}")
                while process.refresh().completed_cycles < cycle:
                    time.sleep(0.02)
                model.load_state_dict(process.checkpoint(cycle + 1))
                curve.append(accuracy(model, data))
    return curve


def run(args: argparse.Namespace) -> dict:
    """All trainings, with their curves."""
    data = load_dataset("digits-8x8", args.seed)
    skewed = split_dirichlet(data.training.labels, args.phones, 0.3, args.seed)
    unequal = split_unequal(len(data.training), args.phones, args.seed, spread=2.0)
    return {
        "central": train_centrally(data, args.seed),
        "label skew": train_on_phones("convergence-skew", skewed, "weighted_mean", data, args),
        "unequal, weighted": train_on_phones("convergence-weighted", unequal, "weighted_mean", data, args),
        "unequal, plain": train_on_phones("convergence-plain", unequal, "mean", data, args),
    }


def draw(path: Path, result: dict, phones: int) -> None:
    """Two panels: label skew, and unequal sizes averaged in two ways."""
    cycles = list(range(len(result["label skew"])))
    central = {"all digits in one place": result["central"]}
    left, right = "held-out accuracy, few digits a phone", "held-out accuracy, unequal numbers of digits"
    draw_panels(
        path,
        f"{phones} phones train one network",
        {
            left: {"weighted mean": (cycles, result["label skew"])},
            right: {
                "weighted mean": (cycles, result["unequal, weighted"]),
                "plain mean": (cycles, result["unequal, plain"]),
            },
        },
        levels={left: central, right: central},
        limits=(0.5, 1.0),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=os.environ.get("GRIDNODE_DEVICE_URL", "http://127.0.0.1:5000"))
    parser.add_argument("--phones", type=int, default=100)
    parser.add_argument("--cycles", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", action="store_true", help="print all curves")
    args = parser.parse_args()
    result = run(args)
    if args.picture:
        draw(args.picture, result, args.phones)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{'all digits in one place':26} {result.pop('central'):.1%}")
    for name, curve in result.items():
        print(f"{name:26} {curve[-1]:.1%} after {args.cycles} cycles, {curve[min(5, args.cycles)]:.1%} after 5")


if __name__ == "__main__":
    main()
