"""What people see of a simulation."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from gridnode.errors import InvalidRequest
from gridnode.simulation.evaluation import Evaluation
from gridnode.simulation.fleet import Fleet, Pace
from gridnode.simulation.phone import Session
from gridnode.simulation.pictures import draw_training
from gridnode.simulation.report import as_json, check_picture, draw_accuracy, live_view, summary, watch
from gridnode.simulation.tally import Figures, Tally
from gridnode.simulation.training import LocalUpdate


def figures() -> Figures:
    tally = Tally()
    for number, (checkpoint, accuracy) in enumerate([("a", 0.25), ("b", 0.5), ("c", 0.75)]):
        update = LocalUpdate((), 10, 1.5 - accuracy, accuracy)
        session = Session("reported", True, checkpoint, 10.0 * number, 10.0 * number + 1, update)
        session.bytes_received = 1_250_000
        tally.add(session)
    tally.add(Session("refused", True, "c", 25.0, 26.0, error="the cycle is over"))
    return tally.figures()


def text_of(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_live_view_shows_progress_counts_and_cycles() -> None:
    text = text_of(live_view("20 phones train digits", figures(), cycles=4))

    assert "20 phones train digits" in text
    # Two of four cycles are over; the third runs.
    assert "50 %" in text
    assert "reported 3" in text
    assert "3.8 MB down" in text
    assert "75.0 %" in text


def test_cycles_show_their_checkpoints_scores_where_there_are_any(tmp_path: Path) -> None:
    tally = Tally()
    session = Session("reported", True, "a", 0.0, 1.0, LocalUpdate((), 10, 1.5, 0.5), Evaluation(0.75, 0.8125, 32))
    session.bytes_sent = 2_500_000
    tally.add(session)

    text = text_of(summary(tally.figures(), "finished"))

    assert "0.750, 81.2 %" in text
    assert "2.5" in text
    assert "held-out" not in text_of(summary(figures(), "finished"))
    assert json.loads(json.dumps(as_json(tally.figures(), "finished")))["cycles"][0]["held_out"]["accuracy"] == 0.8125
    draw_training(tmp_path / "training.png", tally.figures().cycles, "title")
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InvalidRequest, match="can't be written"):
        draw_training(tmp_path / "nowhere" / "training.png", tally.figures().cycles, "title")


def test_live_view_believes_who_knows_better() -> None:
    assert "90 %" in text_of(live_view("title", figures(), cycles=4, progress=0.9))


def test_live_view_of_nothing_yet() -> None:
    assert "reported 0" in text_of(live_view("title", Tally().figures(), cycles=None))


def test_summary_tells_the_end_and_the_most_frequent_errors() -> None:
    text = text_of(summary(figures(), "finished"))

    assert "1 × the cycle is over" in text
    assert "the process is finished" in text
    assert "10.0" in text


def test_json_holds_all_figures() -> None:
    result = json.loads(json.dumps(as_json(figures(), "cycles")))

    assert result["end"] == "cycles"
    assert result["outcomes"] == {"refused": 1, "reported": 3}
    assert [cycle["accuracy"] for cycle in result["cycles"]] == [0.25, 0.5, 0.75]


def test_without_a_terminal_each_cycle_is_one_line() -> None:
    class Phone:
        sessions = 0

        def take_part(self, stop: object) -> Session:
            self.sessions += 1
            if self.sessions > 6:
                return Session("finished")
            update = LocalUpdate((), 5, 1.0, 0.5)
            return Session("reported", True, f"{self.sessions // 3}", self.sessions, self.sessions + 0.5, update)

    fleet = Fleet([Phone()], seed=0, pace=Pace(after_report=0.0))  # type: ignore[list-item]
    console = Console(file=io.StringIO(), width=120)
    fleet.start()

    watch(fleet, console, lambda figures: "unused")

    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split(":")[0] for line in lines] == ["cycle 1", "cycle 2", "cycle 3"]
    assert lines[1] == "cycle 2: 3 reports, training loss 1.000, accuracy 50.0 %, 3.0 s"


def test_picture_is_a_png_of_readable_size(tmp_path: Path) -> None:
    path = tmp_path / "accuracy.png"

    draw_accuracy(path, [0, 1, 2], [0.1, 0.6, 0.9], title="Accuracy", what="accuracy on held-out digits")

    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == (1200, 675)


@pytest.mark.parametrize("name", ["", "missing/accuracy.png"])
def test_impossible_picture_is_found_before_the_run(tmp_path: Path, name: str) -> None:
    check_picture(tmp_path / "accuracy.png")

    with pytest.raises(InvalidRequest, match="can't be written"):
        check_picture(tmp_path / name)


def test_picture_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(InvalidRequest, match="matplotlib"):
        check_picture(tmp_path / "accuracy.png")


def test_picture_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="can't be written"):
        draw_accuracy(tmp_path / "missing" / "a.png", [0, 1], [0.1, 0.2], title="t", what="accuracy")
