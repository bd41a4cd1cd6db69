"""The commands of the pages in docs/ give the output that is shown there, and its programs do what they are for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.node import ROOT, NodeProcess, environment

pytestmark = pytest.mark.integration

#: What is another one in every run, by what it is replaced with.
CHANGING = {
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00": "<moment>",
    r"date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT": "date: <moment>",
    r"x-request-id: [0-9a-f]{16}": "x-request-id: <id>",
    r"\b[0-9a-f]{64}\b": "<request key>",
    r"  +": "  ",  # a table is as wide as this machine's paths
}
TOOLS = """
curl() {{ '{python}' -P '{root}/tests/support/curl.py' "$@"; }}
python3() {{ '{python}' "$@"; }}
gridnode() {{ '{python}' -m gridnode "$@"; }}
"""

Shell = Callable[[str], str]


@pytest.fixture
def shell(database_url: str, tmp_path: Path) -> Iterator[Shell]:
    """Runs a block in the root of the checkout, with a fresh node at the addresses that the pages name."""
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    node = NodeProcess(database_url, tmp_path, management_token="", worker_processes=1)

    def run(block: str) -> str:
        script = TOOLS.format(python=sys.executable, root=ROOT) + block.replace(".venv/bin/gridnode", "gridnode")
        for default, port in (("5000", node.device_port), ("5050", node.management_port)):
            script = script.replace(f"127.0.0.1:{default}", f"127.0.0.1:{port}")
        environ = environment("", management_url=f"http://127.0.0.1:{node.management_port}") | {"COLUMNS": "200"}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with node:
        yield run


def blocks(page: str) -> list[tuple[str, str]]:
    """The commands of a page that are followed by their output, with it."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"```sh\n((?:(?!```).)*?)```\n\n```(?:json|text)\n(.*?)```", text, re.DOTALL)


def without_what_changes(text: str) -> str:
    for pattern, name in CHANGING.items():
        text = re.sub(pattern, name, text)
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


def check(shell: Shell, examples: list[tuple[str, str]]) -> None:
    for command, output in examples:
        assert without_what_changes(shell(command)) == without_what_changes(output), command


def test_api_answers_as_its_page_says(shell: Shell) -> None:
    examples = blocks("api.md")
    assert len(examples) >= 10
    check(shell, examples)


def test_configuration_and_first_steps_of_a_phone_are_as_shown(shell: Shell) -> None:
    examples = blocks("configuration.md")
    assert len(examples) >= 3
    check(shell, examples)
    # The process that the page of configuration hosts; the list of processes is of a node that has been at work.
    (phone,) = [example for example in blocks("cycles.md") if "cycle-request" in example[0]]
    check(shell, [phone])


def test_plan_put_together_from_pygrids_parts_is_hosted_for_all_phones(shell: Shell, tmp_path: Path) -> None:
    """PyGrid's database holds a plan's variants apart, as it served them."""
    model = ROOT / "tests" / "data" / "models" / "mlp"
    for part in ("list", "torchscript"):
        shutil.copy(model / f"training_plan.served.{part}.bin", tmp_path / f"{part}.bin")
    page = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    [program] = re.findall(r"<<'END'\n(.*?)^ *END$", page, re.DOTALL | re.MULTILINE)
    said = shell(
        f"python3 - <<'END'\n{textwrap.dedent(program)}END\n"
        "gridnode host --model tests/data/models/mlp/state.bin --plan training_plan=training_plan.bin "
        """--client-config '{"name": "moved", "version": "1.0", "batch_size": 32, "lr": 0.1, "max_updates": 1}' """
        """--server-config '{"targets": ["swiftsyft-0.1.3", "swiftsyft-0.5", "kotlinsyft", "syft.js-0.1.4"]}'"""
    )
    assert "Hosted moved 1.0" in said
