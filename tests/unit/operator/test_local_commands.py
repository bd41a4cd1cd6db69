"""`gridnode up` and `gridnode down` before anything is started: what they need, and how they refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.up import environment, run

pytestmark = pytest.mark.process


def without(missing: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command where modules are not installed."""
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({missing!r}))\n"
        "from gridnode.cli import main\n"
        f"sys.argv = ['gridnode', *{list(arguments)!r}]\n"
        "main()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )


def test_up_needs_nothing_of_kubernetes() -> None:
    done = without(["kopf", "kubernetes"], "up", "--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert "gridnode up -f examples/gridnode.yaml" in done.stdout


@pytest.mark.parametrize("missing", ["yaml", "psutil", "gridnode_operator"])
def test_what_is_not_installed_is_named_with_the_extra_that_brings_it(missing: str) -> None:
    done = without([missing], "up", "-f", "none.yaml")

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: `gridnode up` needs {missing}, which is not installed. Run: pip install 'gridnode[up]'"
    ]


def test_other_commands_work_without_the_operator() -> None:
    assert without(["gridnode_operator", "yaml"], "config").returncode == 0


def test_file_that_can_not_be_used_is_one_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("kind: Pod\n")
    data = tmp_path / "data"

    done = run("up", "-f", str(tmp_path / "grid.yaml"), "--data", str(data))

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: {tmp_path}/grid.yaml, document 1: kind is 'Pod'; without a cluster there is only GridNode"
    ]
    assert not data.exists()


def test_down_where_nothing_runs_says_so_and_makes_nothing(tmp_path: Path) -> None:
    done = run("down", "--data", str(tmp_path / "data"))

    assert (done.returncode, done.stdout) == (0, f"Nothing runs with the data in {tmp_path}/data.\n")
    assert not (tmp_path / "data").exists()


def test_data_are_deleted_only_if_somebody_says_so(tmp_path: Path) -> None:
    (tmp_path / "data" / "logs").mkdir(parents=True)

    refused = run("down", "--data", str(tmp_path / "data"), "--delete")
    assert refused.returncode == 1
    assert "Nobody is there to answer: say --yes." in refused.stderr
    assert (tmp_path / "data" / "logs").is_dir()

    assert run("down", "--data", str(tmp_path / "data"), "--delete", "--yes").returncode == 0
    assert not (tmp_path / "data").exists()
