"""The parts of the demo that need no node."""

from __future__ import annotations

import contextlib
import signal
from typing import Any

import pytest

from gridnode.commands.demo import _Interrupts
from gridnode.processes.schema import parse_client_config, parse_server_config
from gridnode.simulation.demonstration import Demonstration, DemonstrationFailed, Plot, Result, Score, check_rise
from gridnode.simulation.evaluation import Evaluation
from gridnode.simulation.fleet import Fleet
from gridnode.simulation.phone import Session
from gridnode.simulation.tally import Tally


@pytest.mark.parametrize("plot", [Plot(), Plot(phones=12, cycles=1), Plot(phones=1000, cycles=100)])
def test_configuration_is_one_that_a_node_accepts(plot: Plot) -> None:
    config, _ = parse_server_config(plot.server_config)

    assert config.num_cycles == plot.cycles
    assert config.closing_diffs == plot.diffs
    assert config.max_workers is not None
    assert plot.diffs < config.max_workers <= plot.phones
    assert parse_client_config(plot.client_config).version == "1.0"


def test_demonstration_has_a_shard_for_each_phone_and_the_recorded_model() -> None:
    demonstration = Demonstration(Plot(phones=13))

    assert len(demonstration.shards) == 13
    assert sum(len(shard) for shard in demonstration.shards) == len(demonstration.dataset.training)
    assert demonstration.parameter_count == 784 * 392 + 392 + 392 * 10 + 10


def result(*accuracies: float) -> Result:
    scores = [Score(cycle, Evaluation(1.0, accuracy, 10), None) for cycle, accuracy in enumerate(accuracies)]
    return Result(scores, Tally().figures())


def test_risen_accuracy_passes() -> None:
    check_rise(result(0.1, 0.5, 0.9))


@pytest.mark.parametrize("accuracies", [(0.1, 0.1), (0.1, 0.9, 0.2), (0.5, 0.1)])
def test_accuracy_that_did_not_rise_is_an_error(accuracies: tuple[float, ...]) -> None:
    with pytest.raises(DemonstrationFailed, match="did not rise"):
        check_rise(result(*accuracies))


class OneSession:
    """A phone that ends its fleet with one session."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def take_part(self, stop: Any) -> Session:
        return self.session


def test_training_that_stopped_early_is_an_error() -> None:
    fleet = Fleet([OneSession(Session("rejected", retry_after=60, error="full"))], seed=0)  # type: ignore[list-item]
    fleet.start()
    fleet.stop("time")
    fleet.wait()

    with pytest.raises(DemonstrationFailed, match=r"\(time\): 0 of 10 cycles"):
        Demonstration(Plot()).check_finished(fleet, lambda _: 100)


def test_progress_that_never_arrives_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridnode.simulation.demonstration._PROGRESS_TIMEOUT", 0.05)
    fleet = Fleet([OneSession(Session("finished"))], seed=0)  # type: ignore[list-item]
    fleet.run()

    with pytest.raises(DemonstrationFailed, match="heard only of 90 %"):
        Demonstration(Plot()).check_finished(fleet, lambda _: 90)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_interrupts_once_and_is_ignored_while_stopping(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stopped: list[str] = []

    def run() -> None:
        with _Interrupts().raised(), contextlib.ExitStack() as running:
            running.callback(stopped.append, "node")
            running.callback(signal.raise_signal, number)
            signal.raise_signal(number)

    with pytest.raises(KeyboardInterrupt):
        run()

    assert stopped == ["node"]
    assert signal.getsignal(number) == before


def test_held_signal_interrupts_after_the_block() -> None:
    interrupts = _Interrupts()
    started: list[str] = []

    def run() -> None:
        with interrupts.raised(), interrupts.held():
            signal.raise_signal(signal.SIGINT)
            started.append("database")

    with pytest.raises(KeyboardInterrupt):
        run()

    assert started == ["database"]


def test_without_a_signal_nothing_is_raised() -> None:
    interrupts = _Interrupts()

    with interrupts.raised(), interrupts.held():
        pass
