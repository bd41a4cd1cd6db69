"""``gridnode host``, ``processes`` and ``retrieve`` against a real node."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from gridnode.cli import app
from gridnode.errors import GridNodeError
from gridnode.protocol.syft_proto import decode_state
from tests.support.device import HttpDevice, NotAccepted, authenticate, join, report, request_cycle
from tests.support.node import TOKEN, NodeProcess, environment, free_port, gridnode
from tests.support.postgres import PostgresForTests
from tests.support.recordings import DATA, load_run

pytestmark = pytest.mark.integration

MLP = DATA / "models" / "mlp"
TINY = DATA / "models" / "tiny"
HOSTING_LIMIT = 8_000_000


@pytest.fixture(scope="module")
def node(postgres: PostgresForTests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node that all tests of this module share: each hosts processes of its own names."""
    directory = tmp_path_factory.mktemp("node")
    with (
        postgres.database() as url,
        NodeProcess(url, directory, worker_processes=1, hosting_limit=HOSTING_LIMIT, sweep_interval=0.1) as running,
    ):
        yield running


@pytest.fixture
def phone(node: NodeProcess) -> Iterator[HttpDevice]:
    device = HttpDevice(node.device_port)
    yield device
    device.close()


class Terminal:
    """The commands as a person calls them, in the current directory, with the address and token of a node."""

    def __init__(self, node: NodeProcess, directory: Path) -> None:
        self.directory = directory
        self.settings = {
            "GRIDNODE_MANAGEMENT_URL": f"http://127.0.0.1:{node.management_port}",
            "GRIDNODE_MANAGEMENT_TOKEN": TOKEN,
        }

    def run(self, *arguments: str | Path, stdin: str = "", **environ: str) -> Result:
        """Run a command in this process, without a terminal."""
        runner = CliRunner(env={**self.settings, **environ})
        return runner.invoke(app, [str(argument) for argument in arguments], input=stdin, prog_name="gridnode")

    def succeed(self, *arguments: str | Path, stdin: str = "", **environ: str) -> str:
        """What the command prints."""
        done = self.run(*arguments, stdin=stdin, **environ)
        assert done.exit_code == 0, done.exception
        return done.stdout

    def fail(self, *arguments: str | Path, stdin: str = "", **environ: str) -> str:
        """The message of a command that fails as it should: meant for people, and nothing on standard output."""
        done = self.run(*arguments, stdin=stdin, **environ)
        assert isinstance(done.exception, GridNodeError), done.output
        assert done.stdout == ""
        return done.exception.message

    def read(self, *arguments: str) -> Any:
        """The JSON that the command prints."""
        return json.loads(self.succeed(*arguments, "--output", "json"))

    def type(self, arguments: Sequence[str], keys: str) -> tuple[int, str]:
        """Run the command on a real terminal and type; gives the exit code and all that was shown."""
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            gridnode(*arguments), cwd=self.directory, env=self.environ(), stdin=theirs, stdout=theirs, stderr=theirs
        ) as running:
            os.close(theirs)
            os.write(ours, f"{keys}\x04".encode())  # then the end of the input, so that no question waits for ever
            shown = b""
            while chunk := _read_terminal(ours):
                shown += chunk
        os.close(ours)
        return running.returncode, shown.decode()

    def environ(self) -> dict[str, str]:
        """The environment of a command in a process of its own."""
        return {**environment(""), **self.settings, "COLUMNS": "200", "NO_COLOR": "1"}


def _read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError as error:
        if error.errno == errno.EIO:  # the program's side is closed
            return b""
        raise


@pytest.fixture
def terminal(node: NodeProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.chdir(tmp_path)
    return Terminal(node, tmp_path)


def hosting(name: str, *, version: str = "1.0", model: Path = TINY, **server_config: Any) -> list[str]:
    """The arguments of ``gridnode host`` for a recorded model."""
    client = {"name": name, "version": version, "batch_size": 3, "lr": 0.1, "max_updates": 1}
    return [
        "host", "--model", str(model / "state.bin"), "--plan", f"training_plan={model / 'training_plan.uploaded.bin'}",
        "--client-config", json.dumps(client), "--server-config", json.dumps(server_config),
    ]  # fmt: skip


# --- host


def test_host_uploads_everything_and_says_what_to_do_next(terminal: Terminal, phone: HttpDevice) -> None:
    (terminal.directory / "client.json").write_text(
        '{"name": "overridden", "version": "1.0", "batch_size": 3, "lr": 0.1, "max_updates": 1}'
    )
    (terminal.directory / "server.json").write_text('{"max_diffs": 2, "iterative_plan": true}')
    shown = terminal.succeed(
        "host", "--model", TINY / "state.bin", "--plan", f"training_plan={TINY / 'training_plan.uploaded.bin'}",
        "--plan", f'the "other" plän={TINY / "training_plan.uploaded.bin"}',
        "--protocol", f"protocol={TINY / 'state.npz'}", "--averaging-plan", TINY / "avg_plan.iterative.bin",
        "--client-config", "client.json", "--server-config", "server.json", "--name", "all parts", "--version", "2.0",
    )  # fmt: skip
    assert re.match(r"Hosted all parts 2\.0 as process \d+: a model, 2 training plans, an averaging plan\.\n", shown)
    assert "gridnode simulate --model 'all parts' --version 2.0 --phones 10\n" in shown
    assert "gridnode processes show 'all parts' 2.0\n" in shown

    session = join(phone, "all parts", "2.0")
    assert session.plans.keys() == {"training_plan", 'the "other" plän'}
    query = {"worker_id": session.worker_id, "request_key": session.request_key}
    protocol = phone.get("get-protocol", {**query, "protocol_id": session.protocols["protocol"]})
    assert protocol.body == (TINY / "state.npz").read_bytes()
    assert phone.get("get-model", {**query, "model_id": session.model_id}).body == (TINY / "state.bin").read_bytes()
    assert session.accepted["client_config"]["batch_size"] == 3
    process = terminal.read("processes", "show", "all parts")
    assert process["server_config"] == {"max_diffs": 2, "iterative_plan": True}


def test_host_reads_a_config_from_standard_input_and_prints_json(terminal: Terminal) -> None:
    arguments = [*hosting("from-stdin"), "--output", "json"]
    arguments[arguments.index("--server-config") + 1] = "-"
    hosted = json.loads(terminal.succeed(*arguments, stdin='{"num_cycles": 7}'))
    assert (hosted["name"], hosted["version"], hosted["status"]) == ("from-stdin", "1.0", "success")
    process = terminal.read("processes", "show", "from-stdin")
    assert (process["id"], process["num_cycles"]) == (hosted["process_id"], 7)


def test_host_refuses_a_hosted_version_before_the_upload(terminal: Terminal) -> None:
    terminal.succeed(*hosting("twice"))
    # Far too large to be accepted: the refusal is about the name, so nothing of it was sent.
    (terminal.directory / "large.bin").write_bytes(bytes(2 * HOSTING_LIMIT))
    arguments = hosting("twice")
    arguments[arguments.index("--model") + 1] = "large.bin"
    position = arguments.index("--client-config") + 1
    arguments[position] = arguments[position].replace("0.1", "0.5")
    message = terminal.fail(*arguments)
    assert message.startswith("twice 1.0 is hosted already: choose another --version")
    assert message.endswith("`gridnode processes delete twice 1.0`.")
    terminal.succeed(*hosting("twice", version="1.1"))


def test_host_sent_again_gives_the_same_process(terminal: Terminal) -> None:
    first = json.loads(terminal.succeed(*hosting("again"), "--output", "json"))
    assert json.loads(terminal.succeed(*hosting("again"), "--output", "json")) == first
    message = terminal.fail(*hosting("again", max_diffs=2))
    assert message.startswith("again 1.0 is hosted already, with other contents: ")


def test_host_tells_what_the_node_refuses(terminal: Terminal) -> None:
    message = terminal.fail(*hosting("refused", max_dffs=3))
    assert message == "server_config.max_dffs is not a key this node knows; did you mean max_diffs?"
    (terminal.directory / "large.bin").write_bytes(bytes(2 * HOSTING_LIMIT))
    arguments = hosting("refused")
    arguments[arguments.index("--model") + 1] = "large.bin"
    assert terminal.fail(*arguments).endswith("Its operator can raise GRIDNODE_HOSTING_LIMIT.")
    assert terminal.fail("processes", "show", "refused").startswith("no process refused is hosted here")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--client-config", "missing.json", "--client-config missing.json can't be read: No such file or directory"),
        ("--client-config", "-", "--client-config is not JSON: Expecting value: line 1 column 1 (char 0)"),
        ("--server-config", '{"max_diffs": NaN}', "--server-config is not JSON: NaN is no JSON number"),
        ("--plan", "plan.bin", "--plan plan.bin: give it a name, as in --plan training_plan=plan.bin"),
        ("--plan", "x=missing.bin", "--plan x=missing.bin: there is no file 'missing.bin'"),
    ],
)
def test_host_says_what_is_wrong_with_its_arguments(terminal: Terminal, option: str, value: str, message: str) -> None:
    arguments = hosting("wrong")
    arguments[arguments.index(option) + 1] = value
    assert terminal.fail(*arguments) == message


def test_host_refuses_a_config_that_is_no_object_and_standard_input_for_both(terminal: Terminal) -> None:
    (terminal.directory / "list.json").write_text("[]")
    arguments = hosting("wrong")
    arguments[arguments.index("--server-config") + 1] = "list.json"
    assert terminal.fail(*arguments) == "--server-config list.json is not a JSON object, such as {...}"
    arguments[arguments.index("--server-config") + 1] = arguments[arguments.index("--client-config") + 1] = "-"
    assert "only one of" in terminal.fail(*arguments, stdin="{}")
    twice = [*hosting("wrong"), "--plan", f"training_plan={TINY / 'state.bin'}"]
    assert terminal.fail(*twice) == "--plan training_plan is given twice: names must differ"


def test_large_upload_and_download_show_their_progress_on_a_terminal(terminal: Terminal) -> None:
    code, shown = terminal.type(hosting("with-bar", model=MLP), "")
    assert code == 0
    assert re.search(r"uploading state\.bin .+/1\.\d MB", shown)
    assert "the node checks it" in shown
    code, shown = terminal.type(["retrieve", "with-bar"], "")
    assert code == 0
    assert re.search(r"checkpoint 1 of with-bar .+/1\.2 MB", shown)
    assert "uploading" not in terminal.run(*hosting("without-bar", model=MLP)).stderr


# --- processes


def test_empty_list_says_how_to_begin(postgres: PostgresForTests, tmp_path: Path) -> None:
    with postgres.database() as url, NodeProcess(url, tmp_path, worker_processes=1) as empty:
        assert "gridnode host --help" in Terminal(empty, tmp_path).succeed("processes")


def test_processes_alone_lists_with_progress_and_what_is_waited_for(
    terminal: Terminal, phone: HttpDevice, node: NodeProcess
) -> None:
    run = load_run("tiny-hardcoded")
    terminal.succeed(*hosting("listed", num_cycles=4, min_diffs=1, max_diffs=2, cycle_length=3600))
    for diff in run.diffs[0][:2]:
        assert report(phone, join(phone, "listed"), diff) == {"status": "success"}
    node.management.wait_for_checkpoint("listed", 2)
    assert report(phone, join(phone, "listed"), run.diffs[0][0]) == {"status": "success"}
    join(phone, "listed")

    (line,) = [line for line in terminal.succeed("processes").splitlines() if line.startswith("listed ")]
    cells = re.split(r" {2,}", line.strip())
    assert cells[:7] == ["listed", "1.0", "active", "██░░░░░░░░ 25 %", "1 of 4", "1 of 1 to 2", "1"]
    assert re.fullmatch(r"1 more report, or the deadline in 59 min \d+ s", cells[7])

    listed = terminal.read("processes", "list")
    assert [process["id"] for process in listed] == sorted(process["id"] for process in listed)
    (process,) = [process for process in listed if process["name"] == "listed"]
    assert (process["progress"], process["latest_checkpoint"], process["cycle"]["working"]) == (25, 2, 1)


def test_show_tells_everything_of_one_process(terminal: Terminal) -> None:
    terminal.succeed(*hosting("shown", num_cycles=3, min_diffs=2, authentication={"secret": "not to be shown"}))
    shown = terminal.succeed("processes", "show", "shown", "1.0")
    facts = dict(re.findall(r"^(\w[\w ]*?) {2,}(.*?) *$", shown, re.MULTILINE))
    assert facts["process"] == "shown 1.0"
    assert facts["state"] == "active"
    assert facts["completed cycles"] == "0 of 3"
    assert facts["running cycle"] == "1, open"
    assert facts["deadline"] == "none"
    assert facts["reports"] == "0 of 2"
    assert facts["waiting for"] == "2 more reports"
    assert '"num_cycles": 3' in shown
    assert "not to be shown" not in shown


def test_pause_sends_phones_away_until_resume(terminal: Terminal, phone: HttpDevice) -> None:
    terminal.succeed(*hosting("paused", max_diffs=5))
    join(phone, "paused")
    shown = terminal.succeed("processes", "pause", "paused")
    assert shown.startswith("paused 1.0 is paused. Devices at work, which may still report: 1.")
    worker_id = authenticate(phone, "paused")
    with pytest.raises(NotAccepted, match="rejected"):
        request_cycle(phone, worker_id, "paused")
    assert "you to resume it" in terminal.succeed("processes", "show", "paused")
    assert terminal.succeed("processes", "resume", "paused") == "paused 1.0 is active.\n"
    request_cycle(phone, worker_id, "paused")


def test_finish_averages_a_cycle_that_has_enough_reports(
    terminal: Terminal, phone: HttpDevice, node: NodeProcess
) -> None:
    run = load_run("tiny-hardcoded")
    terminal.succeed(*hosting("finished", num_cycles=9, min_diffs=1, max_diffs=5))
    report(phone, join(phone, "finished"), run.diffs[0][0])
    shown = terminal.succeed("processes", "finish", "finished")
    assert shown == "finished 1.0 is finished as soon as its running cycle is averaged.\n"
    node.management.wait_for_checkpoint("finished", 2)
    assert terminal.read("processes", "show", "finished")["state"] == "finished"
    assert terminal.succeed("processes", "finish", "finished") == "finished 1.0 is finished already.\n"
    assert terminal.fail("processes", "pause", "finished") == "the process is finished, it can't become paused"


def test_finish_drops_too_few_reports(terminal: Terminal, phone: HttpDevice) -> None:
    run = load_run("tiny-hardcoded")
    terminal.succeed(*hosting("dropped", num_cycles=9, min_diffs=2, max_diffs=5))
    report(phone, join(phone, "dropped"), run.diffs[0][0])
    code, shown = terminal.type(["processes", "finish", "dropped"], "n\n")
    assert code == 1
    assert "Finish dropped 1.0 after 0 cycles, for good?" in shown
    assert terminal.read("processes", "show", "dropped")["state"] == "active"
    shown = terminal.succeed("processes", "finish", "dropped")
    assert shown == "dropped 1.0 is finished. Reports of the running cycle dropped: 1.\n"
    assert terminal.read("processes", "show", "dropped")["state"] == "finished"


def test_delete_needs_force_once_devices_have_reported(terminal: Terminal, phone: HttpDevice) -> None:
    terminal.succeed(*hosting("deleted", max_diffs=5))
    report(phone, join(phone, "deleted"), load_run("tiny-hardcoded").diffs[0][0])
    assert "delete it with force" in terminal.fail("processes", "delete", "deleted")
    assert terminal.succeed("processes", "delete", "deleted", "1.0", "--force") == "deleted 1.0 is deleted.\n"
    assert terminal.fail("processes", "show", "deleted").startswith("no process deleted is hosted here")


def test_delete_asks_on_a_terminal(terminal: Terminal) -> None:
    terminal.succeed(*hosting("asked"))
    code, shown = terminal.type(["processes", "delete", "asked"], "n\n")
    assert code == 1
    assert "Delete asked 1.0, active, latest checkpoint 1, for good? [y/N]" in shown
    assert terminal.read("processes", "show", "asked")["state"] == "active"
    code, shown = terminal.type(["processes", "delete", "asked", "--yes"], "")
    assert (code, "[y/N]" in shown) == (0, False)
    terminal.succeed(*hosting("asked"))
    code, shown = terminal.type(["processes", "delete", "asked"], "y\n")
    assert code == 0
    assert "asked 1.0 is deleted." in shown


def test_version_must_be_said_where_several_are_hosted(terminal: Terminal) -> None:
    for version in ("1.0", "1.1"):
        terminal.succeed(*hosting("several", version=version))
    message = terminal.fail("processes", "pause", "several")
    assert message == "several is hosted in several versions: say which of 1.0, 1.1."
    terminal.succeed("processes", "pause", "several", "1.0")
    states = {process["version"]: process["state"] for process in _named(terminal, "several")}
    assert states == {"1.0": "paused", "1.1": "active"}


# --- retrieve


def test_retrieve_saves_the_state_or_arrays(terminal: Terminal) -> None:
    terminal.succeed(*hosting("saved", model=MLP))
    assert terminal.succeed("retrieve", "saved") == "Saved checkpoint 1 of saved 1.0 to saved-1.0-1.bin.\n"
    state = (MLP / "state.bin").read_bytes()
    assert (terminal.directory / "saved-1.0-1.bin").read_bytes() == state
    shown = terminal.succeed("retrieve", "saved", "--version", "1.0", "--checkpoint", "latest", "--out", "saved.npz")
    assert "p0 float32[392, 784], p1 float32[392], p2 float32[10, 392], p3 float32[10]" in shown
    with np.load(terminal.directory / "saved.npz") as arrays:
        assert arrays.files == ["p0", "p1", "p2", "p3"]
        for array, tensor in zip(arrays.values(), decode_state(state).tensors, strict=True):
            np.testing.assert_array_equal(array, tensor, strict=True)
    piped = subprocess.run(
        gridnode("retrieve", "saved", "--out", "-"), env=terminal.environ(), capture_output=True, timeout=60, check=True
    )
    assert piped.stdout == state
    assert sorted(path.name for path in terminal.directory.iterdir()) == ["saved-1.0-1.bin", "saved.npz"]


def test_retrieve_takes_the_newest_version(terminal: Terminal) -> None:
    terminal.succeed(*hosting("newest", model=MLP))
    terminal.succeed(*hosting("newest", version="0.9"))
    assert terminal.succeed("retrieve", "newest") == "Saved checkpoint 1 of newest 0.9 to newest-0.9-1.bin.\n"
    assert (terminal.directory / "newest-0.9-1.bin").read_bytes() == (TINY / "state.bin").read_bytes()


def test_retrieve_overwrites_only_when_told_to(terminal: Terminal) -> None:
    terminal.succeed(*hosting("kept"))
    target = terminal.directory / "kept.bin"
    target.write_text("precious")
    for arguments in (["--out", "kept.bin"], ["--out", "kept.bin", "--checkpoint", "1"]):
        assert "--force-overwrite" in terminal.fail("retrieve", "kept", *arguments)
    assert target.read_text() == "precious"
    terminal.succeed("retrieve", "kept", "--out", "kept.bin", "--force-overwrite")
    assert target.read_bytes() == (TINY / "state.bin").read_bytes()
    terminal.succeed("retrieve", "kept")
    assert "--force-overwrite" in terminal.fail("retrieve", "kept")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "99"], "there is no checkpoint 99 of this process"),
        (["--checkpoint", "first"], "checkpoint must be a number from 1 on, or 'latest'"),
        (["--version", "9.9"], "no process lost 9.9 is hosted here: `gridnode processes` lists them."),
        (["--out", "nowhere/lost.bin"], "nowhere/lost.bin can't be written: No such file or directory."),
        (["--out", "."], ". is a directory: name a file in it."),
    ],
)
def test_retrieve_that_fails_leaves_nothing_behind(terminal: Terminal, arguments: list[str], message: str) -> None:
    if not _named(terminal, "lost"):
        terminal.succeed(*hosting("lost"))
    assert terminal.fail("retrieve", "lost", *arguments) == message
    assert list(terminal.directory.iterdir()) == []


def test_retrieve_writes_no_bytes_to_a_terminal(terminal: Terminal) -> None:
    terminal.succeed(*hosting("bytes"))
    code, shown = terminal.type(["retrieve", "bytes", "--out", "-"], "")
    assert (code, "send it to a file or a pipe" in shown) == (1, True)


# --- address and token


def test_token_is_told_of_where_it_is_missing_or_wrong(terminal: Terminal) -> None:
    missing = terminal.fail("processes", GRIDNODE_MANAGEMENT_TOKEN="")
    assert "Set GRIDNODE_MANAGEMENT_TOKEN to the node's token" in missing
    wrong = terminal.fail("retrieve", "any", GRIDNODE_MANAGEMENT_TOKEN="another-token-of-this-length")
    assert "is not the one of http://127.0.0.1:" in wrong
    assert "another-token" not in wrong
    for arguments in (hosting("any"), ["processes", "delete", "any"]):
        assert "Set GRIDNODE_MANAGEMENT_TOKEN" in terminal.fail(*arguments, GRIDNODE_MANAGEMENT_TOKEN="")


def test_token_may_come_from_a_file(terminal: Terminal) -> None:
    (terminal.directory / "token").write_text(f"{TOKEN}\n")
    terminal.succeed("processes", GRIDNODE_MANAGEMENT_TOKEN="", GRIDNODE_MANAGEMENT_TOKEN_FILE="token")


def test_password_of_netrc_does_not_replace_the_token(terminal: Terminal) -> None:
    (terminal.directory / "netrc").write_text("default login nobody password nothing\n")
    (terminal.directory / "netrc").chmod(0o600)
    terminal.succeed("processes", NETRC=str(terminal.directory / "netrc"))


def test_proxy_is_not_asked_for_this_machine(terminal: Terminal) -> None:
    proxy = f"http://127.0.0.1:{free_port()}"
    terminal.succeed("processes", http_proxy=proxy, no_proxy="")


def test_address_may_stand_before_the_subcommand_and_wins_over_the_environment(
    terminal: Terminal, node: NodeProcess
) -> None:
    address = f"http://127.0.0.1:{node.management_port}/"
    elsewhere = f"http://127.0.0.1:{free_port()}"
    terminal.succeed("processes", "--management-url", address, "list", GRIDNODE_MANAGEMENT_URL=elsewhere)
    terminal.succeed("processes", "list", "--management-url", address, GRIDNODE_MANAGEMENT_URL=elsewhere)
    shown = terminal.succeed(*hosting("addressed"), "--management-url", address, GRIDNODE_MANAGEMENT_URL=elsewhere)
    assert f"gridnode processes show addressed 1.0 --management-url {address}\n" in shown
    terminal.succeed("processes", "--management-url", address, "pause", "addressed", GRIDNODE_MANAGEMENT_URL=elsewhere)
    assert f"nothing answers at {elsewhere}" in terminal.fail("processes", "list", GRIDNODE_MANAGEMENT_URL=elsewhere)


def test_errors_say_what_to_do_where_no_node_answers(terminal: Terminal, node: NodeProcess) -> None:
    nobody = terminal.fail("processes", "--management-url", f"http://127.0.0.1:{free_port()}")
    assert "(connection refused)" in nobody
    assert "`gridnode serve`" in nobody
    phones = terminal.fail("retrieve", "any", "--management-url", f"http://127.0.0.1:{node.device_port}")
    assert "is it the address for phones?" in phones
    assert "is no management address" in terminal.fail("processes", "--management-url", "localhost")
    tls = terminal.fail("processes", "--management-url", f"https://127.0.0.1:{node.management_port}")
    assert "A node itself speaks http" in tls


def _named(terminal: Terminal, name: str) -> list[dict[str, Any]]:
    return [process for process in terminal.read("processes", "list") if process["name"] == name]
