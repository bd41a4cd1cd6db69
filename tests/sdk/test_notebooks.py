"""The notebooks in examples/ run from top to bottom against a real node."""

from __future__ import annotations

import importlib
import re
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

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_trains_its_model(
    path: Path, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat: Any = importlib.import_module("nbformat")
    nbclient: Any = importlib.import_module("nbclient")
    with NodeProcess(database_url, tmp_path) as node:
        monkeypatch.setenv("PYTHONPATH", str(ROOT / "node"))
        monkeypatch.setenv("GRIDNODE_MANAGEMENT_URL", f"http://127.0.0.1:{node.management_port}")
        monkeypatch.setenv("GRIDNODE_MANAGEMENT_TOKEN", TOKEN)
        monkeypatch.setenv("GRIDNODE_DEVICE_URL", f"http://127.0.0.1:{node.device_port}")
        notebook = nbformat.read(path, as_version=4)
        nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()

    last = "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
    shown = re.search(r"held-out accuracy: ([\d.]+)% before, ([\d.]+)% after 5 cycles", last)
    assert shown is not None, last
    assert float(shown[2]) > 80 > float(shown[1]) + 40


def test_notebooks_are_kept_without_outputs() -> None:
    assert len(NOTEBOOKS) >= 2
    for path in NOTEBOOKS:
        assert '"outputs": [\n' not in path.read_text(encoding="utf-8"), path.name
