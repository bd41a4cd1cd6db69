"""The real syft.js 0.1.4, in Node.js and in Chromium, trains a plan built here on a real node, to the end."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from gridnode.protocol.syft_proto import decode_state
from gridnode.sdk import build_plan
from tests.support.node import NodeProcess
from tests.support.postgres import PostgresForTests
from tests.support.recordings import Hosting
from tests.support.sdk.browser import phone_page
from tests.support.sdk.models import CASES, FOR_BROWSERS, make, train_with_autograd

pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.torch,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),
]

PROGRAM = Path(__file__).parents[1] / "support" / "sdk" / "syft_js_phone.js"
CYCLES, UPDATES, LR = 2, 3, 0.25


@pytest.fixture(scope="module")
def node(postgres: PostgresForTests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with postgres.database() as url, NodeProcess(url, tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture(scope="module")
def modules() -> Path:
    """A folder with syft.js and the TensorFlow.js it was built with, from npm; kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gridnode" / "syftjs-0.1.4"
    if not (base / "complete").exists():
        base.mkdir(parents=True, exist_ok=True)
        (base / "package.json").write_text("{}")
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund"]
        packages = ["@openmined/syft.js@0.1.4", "@tensorflow/tfjs-core@1.7.4"]
        subprocess.run([*install, *packages], cwd=base, check=True)
        (base / "complete").touch()
    return base / "node_modules"


def host(name: str, node: NodeProcess, hosted_as: str) -> tuple[Tensor, Tensor]:
    """Host the case's plan for one phone that has the batch, which is returned."""
    module, (X, y) = make(CASES[name])  # noqa: N806 - as plans name it
    plan = build_plan(module, (X, y), **CASES[name].options)
    client = {"name": hosted_as, "version": "1.0", "batch_size": len(X), "lr": LR, "max_updates": UPDATES}
    node.management.host(
        Hosting(
            model=plan.state,
            plans={"training_plan": plan.data},
            averaging_plan=b"",
            client_config=client,
            server_config={"num_cycles": CYCLES, "min_diffs": 1, "max_diffs": 1, "do_not_reuse_workers_until_cycle": 0},
        )
    )
    return X, y


def check_trained(name: str, node: NodeProcess, hosted_as: str, cycles: list[list[tuple[float, float]]]) -> None:
    """The final checkpoint is what PyTorch gets. One phone with all data: the same as training in one place."""
    assert [len(losses) for losses in cycles] == [UPDATES] * CYCLES
    trained = decode_state(node.management.wait_for_checkpoint(hosted_as, CYCLES + 1)).tensors
    module, batch = make(CASES[name])
    expected = train_with_autograd(CASES[name], module, batch, LR, CYCLES * UPDATES)
    for got, wanted in zip(trained, expected, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-5)
    assert cycles[-1][-1][0] < cycles[0][0][0]


@pytest.mark.parametrize("name", sorted(FOR_BROWSERS))
def test_syft_js_trains_a_built_plan_to_the_end(name: str, node: NodeProcess, modules: Path, tmp_path: Path) -> None:
    X, y = host(name, node, name)  # noqa: N806
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"inputs": X.tolist(), "targets": y.tolist()}))

    done = subprocess.run(
        ["node", PROGRAM, f"http://127.0.0.1:{node.device_port}", name, data],
        env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    check_trained(name, node, name, json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", ["softmax", "bce"])
@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_syft_js_in_a_browser_trains_a_built_plan_to_the_end(
    name: str, scheme: str, node: NodeProcess, modules: Path, tmp_path: Path
) -> None:
    hosted_as = f"{name}-in-chromium-{scheme}"
    X, y = host(name, node, hosted_as)  # noqa: N806

    with phone_page(modules, tmp_path / "page") as page:
        messages: list[str] = []
        page.on("pageerror", lambda error: messages.append(str(error)))
        cycles = page.evaluate(
            "([url, name, data]) => trainToTheEnd(tf, syft.Syft, url, name, data)",
            [f"{scheme}://127.0.0.1:{node.device_port}", hosted_as, {"inputs": X.tolist(), "targets": y.tolist()}],
        )

    assert not messages
    check_trained(name, node, hosted_as, cycles)
