"""The package without PyTorch: it is imported, says what is missing, and the commands work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gridnode.sdk
from gridnode.commands.plan import app
from tests.support.plan_builder import Action, Value, plan_of
from tests.support.recordings import DATA

PLAN = DATA / "models" / "tiny" / "training_plan.uploaded.bin"
RUNNER = CliRunner()

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import gridnode.sdk as sdk
assert {"build_plan", "Grid", "check_plan"} <= set(dir(sdk))
print(sdk.check_plan(sys.argv[1]).refused(), sdk.SGD().momentum, sdk.Grid("http://127.0.0.1:1").url)
try:
    sdk.build_plan
except sdk.ExtraMissing as error:
    print(error.message)
"""


@pytest.mark.process
def test_package_is_imported_without_pytorch() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, PLAN], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "() 0.0 http://127.0.0.1:1",
        "building plans needs PyTorch: pip install 'gridnode[torch]'",
    ]


def test_all_names_are_there() -> None:
    assert set(gridnode.sdk.__all__) == set(gridnode.sdk._MODULES)
    with pytest.raises(AttributeError, match="no attribute 'build_plant'"):
        _ = gridnode.sdk.build_plant


def test_check_prints_the_table_and_succeeds() -> None:
    done = RUNNER.invoke(app, ["check", str(PLAN)])

    assert done.exit_code == 0, done.output
    assert "kotlinsyft" in done.output
    assert "refused" not in done.output


def test_check_fails_where_a_target_cannot_run_it(tmp_path: Path) -> None:
    file = tmp_path / "plan.bin"
    file.write_bytes(plan_of([Action("relu", Value("in"))]))

    targets = ["--target", "kotlinsyft", "--target", "simulator"]
    done = RUNNER.invoke(app, ["check", str(file), "--output", "json", *targets])
    assert done.exit_code == 1
    verdicts = json.loads(done.stdout)["verdicts"]
    assert [(each["target"], each["runs"]) for each in verdicts] == [
        ("kotlinsyft", False),
        ("simulator", True),
    ]
    assert verdicts[0]["reasons"] == ["the plan has no TorchScript"]
    assert RUNNER.invoke(app, ["check", str(file), "--target", "simulator"]).exit_code == 0


def test_show_prints_each_variant() -> None:
    done = RUNNER.invoke(app, ["show", str(PLAN)])

    assert done.exit_code == 0, done.output
    assert "# list\ndef training_plan(arg_1, arg_2, arg_3, arg_4, arg_5, arg_6):\n" in done.output
    assert "torch.matmul(argument_1, torch.t(_0))" in done.output
    assert "tf.matMul(arg_1, " in done.output
    only = RUNNER.invoke(app, ["show", str(PLAN), "--variant", "tfjs"]).output
    assert "# list" not in only
    assert "# tfjs" in only


def test_build_says_what_a_script_must_leave(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("nothing = 1\n")

    done = RUNNER.invoke(app, ["build", str(script), "--out", str(tmp_path / "plan.bin")])
    assert done.exit_code == 1
    assert "leaves no plan: end it with `plan = build_plan(…)`" in str(done.exception)
    assert not (tmp_path / "plan.bin").exists()
