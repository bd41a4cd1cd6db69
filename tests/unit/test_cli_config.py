"""The command line: what ``--help`` costs, how errors look, and ``gridnode config``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gridnode import __version__
from gridnode.cli import COMMANDS, app

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
HEAVY = {"alembic", "flask", "matplotlib", "numpy", "psycopg2", "requests", "sklearn", "sqlalchemy", "uvicorn"}


def gridnode(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRIDNODE_")}
    return subprocess.run(
        [sys.executable, "-m", "gridnode", *arguments],
        env={**inherited, "PYTHONPATH": str(ROOT / "node"), "NO_COLOR": "1", "COLUMNS": "200", **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def rows(*arguments: str, **environ: str) -> dict[str, dict[str, str]]:
    done = gridnode("config", "--output", "json", *arguments, **environ)
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)}


def test_version_is_printed() -> None:
    assert gridnode("--version").stdout == f"gridnode {__version__}\n"


def test_help_lists_all_commands_with_what_they_do() -> None:
    done = gridnode("--help")
    assert done.returncode == 0
    for name, command in COMMANDS.items():
        assert f"{name} " in done.stdout
        assert command.summary in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"], prog_name="gridnode")
    assert shown.exit_code == 0, shown.output
    assert f"gridnode {name}" in shown.output.partition("Example")[2]


@pytest.mark.parametrize("arguments", [["--help"], ["config"], ["config", "--help"]])
def test_quick_commands_import_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from gridnode.cli import main\n"
        f"sys.argv = ['gridnode', *{arguments!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    pass\n"
        f"print(sorted({HEAVY!r} & sys.modules.keys()), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT / "node")},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == "[]\n"
    assert done.stdout


def test_unknown_command_suggests_a_close_one() -> None:
    done = gridnode("confg")
    assert done.returncode == 2
    assert "Did you mean 'config'?" in done.stderr


def test_config_shows_values_and_sources(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("opensesame\n")
    shown = rows(
        "--device-port", "8080", "--legacy-hosting",
        GRIDNODE_MASTER_KEY_FILE=str(tmp_path / "key"), GRIDNODE_LOG_LEVEL="warning",
    )  # fmt: skip
    assert (shown["device_port"]["value"], shown["device_port"]["source"]) == ("8080", "flag")
    assert (shown["legacy_hosting"]["value"], shown["legacy_hosting"]["source"]) == ("true", "flag")
    assert (shown["log_level"]["value"], shown["log_level"]["source"]) == ("warning", "environment")
    assert (shown["master_key"]["value"], shown["master_key"]["source"]) == ("***", "file")
    assert (shown["management_port"]["value"], shown["management_port"]["source"]) == ("5050", "default")


def test_config_table_has_a_line_for_each_setting_when_piped() -> None:
    done = gridnode("config", GRIDNODE_DATABASE_URL="postgresql://node:opensesame@db/nodes")
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert lines.keys() == {"variable", *(row["variable"] for row in rows().values())}
    assert "postgresql+psycopg2://node:***@db/nodes" in lines["GRIDNODE_DATABASE_URL"]
    assert "environment" in lines["GRIDNODE_DATABASE_URL"]


def test_value_is_not_taken_for_markup() -> None:
    assert "[bold]x[/bold]" in gridnode("config", GRIDNODE_NODE_ID="[bold]x[/bold]").stdout


def test_secrets_have_no_flags() -> None:
    shown = gridnode("config", "--help").stdout
    assert "--device-port" in shown
    assert "--no-legacy-hosting" in shown
    for secret in ("--database-url", "--management-token", "--master-key"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [(["--device-port", "x"], {}), ([], {"GRIDNODE_DEVICE_PORT": "x"})],
)
def test_bad_setting_is_one_clear_line(arguments: list[str], environ: dict[str, str]) -> None:
    done = gridnode("config", *arguments, **environ)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "is 'x'; accepted is a port from 1 to 65535" in line


def test_odd_variable_is_warned_of_on_standard_error() -> None:
    done = gridnode("config", "--output", "json", GRIDNODE_DEVICE_PRT="1")
    assert json.loads(done.stdout)
    assert json.loads(done.stderr)["level"] == "warning"
    assert "GRIDNODE_DEVICE_PORT" in done.stderr


def test_first_process_of_a_container_ends_when_it_is_told_to() -> None:
    as_first = "import os; os.getpid = lambda: 1; from gridnode.cli import main; main()"
    nowhere = {
        "GRIDNODE_DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:1/nothing",
        "GRIDNODE_LOG_FORMAT": "text",
    }
    with subprocess.Popen(
        [sys.executable, "-c", as_first, "migrate"], env={**os.environ, **nowhere}, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "waiting for the database" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        # Without a handler it would be minus 15 here, and nothing at all in a container.
        assert process.wait(10) == 128 + signal.SIGTERM
