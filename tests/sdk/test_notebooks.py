"""The notebooks in examples/ run from top to bottom against a real node."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import ROOT, TOKEN, NodeProcess

pytestmark = [
    pytest.mark.torch,
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),
]

Execute = Callable[[Path], list[Any]]

INSPECTION = "04-inspecting-a-plan"
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.fixture
def execute(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Execute]:
    """Runs a notebook of examples/ beside a node and gives its cells with their outputs."""
    nbformat: Any = importlib.import_module("nbformat")
    nbclient: Any = importlib.import_module("nbclient")

    def run(path: Path) -> list[Any]:
        notebook = nbformat.read(path, as_version=4)
        nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
        return list(notebook.cells)

    with NodeProcess(database_url, tmp_path) as node:
        monkeypatch.setenv("PYTHONPATH", str(ROOT / "node"))
        monkeypatch.setenv("GRIDNODE_MANAGEMENT_URL", f"http://127.0.0.1:{node.management_port}")
        monkeypatch.setenv("GRIDNODE_MANAGEMENT_TOKEN", TOKEN)
        monkeypatch.setenv("GRIDNODE_DEVICE_URL", f"http://127.0.0.1:{node.device_port}")
        yield run


def printed(cell: Any) -> str:
    """What a cell wrote, and what it showed, with the tags of tables."""
    shown = [output.get("data", {}) for output in cell.outputs]
    tables = [data.get("text/html", data.get("text/plain", "")) for data in shown]
    return "".join([*(output.get("text", "") for output in cell.outputs), *tables])


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem != INSPECTION], ids=lambda path: path.stem)
def test_notebook_trains_its_model(path: Path, execute: Execute) -> None:
    shown = re.findall(r"held-out accuracy: ([\d.]+)% before, ([\d.]+)% after 5 cycles", printed(execute(path)[-1]))

    assert shown
    assert float(shown[-1][1]) > 80 > float(shown[-1][0]) + 40
    # Where there are several trainings, one of them shows what goes wrong without the others' care.
    assert len(shown) == 1 or float(shown[0][1]) < 60


def test_notebook_inspects_a_plan(execute: Execute) -> None:
    cells = [cell for cell in execute(ROOT / "examples" / f"{INSPECTION}.ipynb") if cell.cell_type == "code"]

    outputs = "\n".join(printed(cell) for cell in cells)
    difference = re.search(r"largest difference of any parameter: ([\d.e+-]+)", outputs)
    assert difference is not None
    assert float(difference[1]) < 1e-6
    assert "def forward(" in outputs
    assert "True" not in printed(cells[4]).splitlines()  # the example batch is not in the plan
    good, bad = cells[6], cells[7]
    assert printed(good).count("runs") >= 6
    assert printed(bad).count("refused") >= 4
    assert "kotlinsyft" in printed(cells[-1])


def test_notebooks_are_kept_without_outputs() -> None:
    assert len(NOTEBOOKS) == 4
    for path in NOTEBOOKS:
        assert '"outputs": [\n' not in path.read_text(encoding="utf-8"), path.name
