"""The convergence study in a small form: a real node, and fewer phones and cycles than in the documented run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.node import ROOT, TOKEN, NodeProcess

pytestmark = [
    pytest.mark.torch,
    pytest.mark.integration,
    pytest.mark.timeout(900),
]


def test_phones_get_nearly_as_far_as_training_in_one_place(database_url: str, tmp_path: Path) -> None:
    picture = tmp_path / "convergence.png"
    with NodeProcess(database_url, tmp_path) as node:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "node"),
            "GRIDNODE_MANAGEMENT_URL": f"http://127.0.0.1:{node.management_port}",
            "GRIDNODE_MANAGEMENT_TOKEN": TOKEN,
            "GRIDNODE_DEVICE_URL": f"http://127.0.0.1:{node.device_port}",
        }
        program = [sys.executable, "-W", "ignore", str(ROOT / "examples" / "convergence.py")]
        done = subprocess.run(
            [*program, "--phones", "30", "--cycles", "8", "--json", "--picture", str(picture)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]

    result = json.loads(done.stdout)
    assert result["central"] > 0.95
    skewed, weighted, plain = (result[name] for name in ("label skew", "unequal, weighted", "unequal, plain"))
    for curve in (skewed, weighted, plain):
        assert len(curve) == 9
        assert curve[0] < 0.25
    assert skewed[-1] > result["central"] - 0.07
    assert weighted[-1] > result["central"] - 0.05
    # Over all cycles: by the last one both have come far.
    assert sum(weighted) / 9 > sum(plain) / 9 + 0.02
    assert picture.read_bytes().startswith(b"\x89PNG")
