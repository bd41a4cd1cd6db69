"""``gridnode simulate`` against a real node: data of the user's, phones that come and go, and what it reports."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.node import NodeProcess, environment, gridnode
from tests.support.recordings import load_model

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PHONES, CYCLES = 6, 2
MODULE = """
import numpy as np

def digits():
    rng = np.random.default_rng(0)
    labels = np.arange(150) % 10
    pictures = rng.random((150, 784)) / 4
    pictures[np.arange(150), labels] += 3
    return pictures, np.eye(10)[labels], np.arange(150) // 20
"""


def simulate(node: NodeProcess, directory: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    (directory / "own_data.py").write_text(MODULE)
    address = f"http://127.0.0.1:{node.device_port}"
    return subprocess.run(
        gridnode("simulate", "--model", "mlp", "--url", address, "--phones", str(PHONES), *flags),
        env=environment(""),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture
def node(database_url: str, tmp_path: Path) -> NodeProcess:
    return NodeProcess(database_url, tmp_path)


def test_owners_data_train_and_are_reported_by_cycle(node: NodeProcess, tmp_path: Path) -> None:
    picture = tmp_path / "training.png"
    with node:
        model = load_model("mlp").named("mlp", num_cycles=CYCLES, min_diffs=PHONES, max_diffs=PHONES)
        node.management.host(model)
        done = simulate(
            node,
            tmp_path,
            *("--data", "own_data:digits", "--split", "owner", "--availability", "0.5", "--day", "4"),
            *("--speed-spread", "0.5", "--output", "json", "--picture", str(picture), "--time-limit", "150"),
        )

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["end"] == "finished"
    assert [cycle["reports"] for cycle in result["cycles"]] == [PHONES] * CYCLES
    before, after = (cycle["held_out"] for cycle in result["cycles"])
    assert after["loss"] < before["loss"]
    assert sum(cycle["bytes"] for cycle in result["cycles"]) > 2 * CYCLES * PHONES * 1_000_000
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--data", "own_data:digits", "--split", "owner", "--phones", "9"], "8 owners, too few for 9 phones"),
        (["--data", "digits", "--split", "owner"], "don't say whose they are"),
        (["--data", "housing"], "--split iid or unequal"),
        (["--data", "mnist"], "data set 'mnist' is unknown: use digits, digits-8x8, breast-cancer, housing"),
        (["--availability", "0"], "availability is 0.0"),
    ],
)
def test_what_cannot_be_simulated_is_refused_before_any_phone_calls(
    flags: list[str], reason: str, node: NodeProcess, tmp_path: Path
) -> None:
    done = simulate(node, tmp_path, *flags)

    assert done.returncode != 0
    assert reason in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
