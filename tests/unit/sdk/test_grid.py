"""The Grid against a server that answers as the test says: repeats, tokens, and errors that say what to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridnode.sdk import Grid, GridFailed
from gridnode.sdk.plans import BuiltPlan
from gridnode.sdk.progress import Progress, draw_curves

PLAN = BuiltPlan("training_plan", b"plan", {"weight": np.zeros((2, 2), np.float32)}, local_steps=4)


class Scripted(ThreadingHTTPServer):
    """Answers requests one after the other from a list of (status, body, headers); keeps what it was asked."""

    answers: list[tuple[int, Any, dict[str, str]]]
    asked: list[tuple[str, str, str | None]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Scripted

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization")))
        status, body, headers = self.server.answers.pop(0)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - names of the standard library

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted(("127.0.0.1", 0), Handler) as running:
        running.answers, running.asked = [], []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def status(**changed: Any) -> dict[str, Any]:
    process = {"id": 7, "name": "digits", "version": "1.0", "state": "active", "completed_cycles": 1}
    return {**process, "num_cycles": 3, "latest_checkpoint": 2, "cycle": None, **changed}


def test_reading_is_repeated_while_the_node_is_away(server: Scripted) -> None:
    away = (503, {"error": "the database is away"}, {"Retry-After": "0"})
    server.answers = [away, away, (200, {"processes": [status()]}, {})]

    with Grid(server.url, "secret") as grid:
        (process,) = grid.processes()

    assert repr(process) == "<digits 1.0: active, 1 of 3 cycles>"
    assert [token for _, _, token in server.asked] == ["Bearer secret"] * 3


def test_hosting_is_repeated_and_deleting_is_not(server: Scripted) -> None:
    away = (503, {"error": "the database is away"}, {"Retry-After": "0"})
    server.answers = [away, (200, {"status": "success"}, {}), (200, {"processes": [status()]}, {}), away]

    with Grid(server.url) as grid:
        process = grid.host("digits", PLAN, batch_size=8, lr=0.1)
        with pytest.raises(GridFailed, match="the database is away") as failure:
            process.delete()
    assert failure.value.status == 503
    assert [method for method, _, _ in server.asked] == ["POST", "POST", "GET", "DELETE"]


def test_batch_that_the_plan_cannot_cut_is_refused_before_it_is_sent(server: Scripted) -> None:
    with Grid(server.url) as grid, pytest.raises(GridFailed, match=r"batch_size is 6.*in 4 parts: give a multiple"):
        grid.host("digits", PLAN, batch_size=6, lr=0.1)
    assert server.asked == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((401, {"error": "the token is wrong."}, {}), "token is wrong. Give Grid the node's management token"),
        ((413, {"error": "too large."}, {}), "GRIDNODE_HOSTING_LIMIT"),
        ((404, b"<html>", {}), "is no GridNode: it answered 404"),
        ((200, b"<html>", {}), "is no GridNode: '<html>'"),
        ((200, {"processes": []}, {}), "no process digits is hosted at .*; there is nothing"),
    ],
)
def test_errors_say_what_to_do(answer: Any, reason: str, server: Scripted) -> None:
    server.answers = [answer, (200, {"processes": []}, {})]

    with Grid(server.url) as grid, pytest.raises(GridFailed, match=reason):
        grid.process("digits")


def test_nobody_there() -> None:
    with (
        Grid("http://127.0.0.1:9", attempts=1) as grid,
        pytest.raises(GridFailed, match=r"nothing answers .*gridnode serve"),
    ):
        grid.processes()
    with pytest.raises(GridFailed, match="no management address"):
        Grid("node.example.org")


def test_token_comes_from_the_environment_or_a_file(
    server: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    server.answers = [(200, {"processes": []}, {})] * 2
    monkeypatch.setenv("GRIDNODE_MANAGEMENT_URL", server.url)
    monkeypatch.setenv("GRIDNODE_MANAGEMENT_TOKEN_FILE", str(file))
    Grid().processes()
    monkeypatch.setenv("GRIDNODE_MANAGEMENT_TOKEN", "from-the-environment")
    Grid().processes()

    assert [token for _, _, token in server.asked] == ["Bearer from-a-file", "Bearer from-the-environment"]
    monkeypatch.delenv("GRIDNODE_MANAGEMENT_TOKEN")
    monkeypatch.setenv("GRIDNODE_MANAGEMENT_TOKEN_FILE", str(tmp_path / "missing"))
    with pytest.raises(GridFailed, match="TOKEN_FILE can't be read: No such file"):
        Grid()


def test_watching_ends_with_the_training(server: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    running = status(cycle={"reports": 4})
    finished = status(state="finished", completed_cycles=3, latest_checkpoint=2)
    server.answers = [(200, {"processes": [each]}, {}) for each in (running, running, running, finished)]

    with Grid(server.url) as grid:
        progress = grid.watch("digits", every=0.01)

    assert (progress.state, progress.cycles, list(progress.seconds)) == ("finished", 3, [1, 2])
    assert capsys.readouterr().out.splitlines() == [
        "digits 1.0: active, 1 of 3 cycles, 4 reports in this one",
        "digits 1.0: finished, 3 of 3 cycles",
    ]


def test_curves_are_those_of_the_metrics() -> None:
    progress = Progress(metrics={1: {"accuracy": 0.1, "loss": 2.3}, 2: {"accuracy": 0.9, "loss": 0.4}})

    assert progress.curve("accuracy") == ([1, 2], [0.1, 0.9])
    figure = draw_curves(progress)
    assert [axes.get_title() for axes in figure.axes] == ["accuracy", "loss"]
    assert figure.axes[1].lines[0].get_ydata().tolist() == [2.3, 0.4]
