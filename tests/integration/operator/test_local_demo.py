"""``gridnode demo`` goes through ``gridnode up``, shows that the model learns, and leaves nothing running."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.node import gridnode
from tests.support.up import environment, processes_of, run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def test_demo_trains_and_draws_its_accuracy(tmp_path: Path) -> None:
    data, picture = tmp_path / "data", tmp_path / "accuracy.png"

    done = run("demo", "--cycles", "3", "--phones", "12", "--data", str(data), "--picture", str(picture), seconds=150)

    assert done.returncode == 0, done.stdout + done.stderr
    accuracies = [float(each) for each in re.findall(r"│ +([\d.]+)% │", done.stdout)]
    assert len(accuracies) == 4
    assert accuracies[-1] > accuracies[0] + 20
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "progress 100 % received" in done.stdout
    assert (data / "secrets" / "default" / "demo-database" / "url").is_file()
    assert processes_of(data) == []


def test_interrupted_demo_stops_everything(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = gridnode("demo", "--data", str(data), "--picture", str(tmp_path / "accuracy.png"))
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        while "hosted" not in (line := demo.stdout.readline()):
            assert line, "the demo ended by itself"
        assert processes_of(data) != []
        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read()

    assert (demo.returncode, rest.splitlines()[-1]) == (130, "Stopped; nothing is left running.")
    assert processes_of(data) == []
