"""Who wakes up when, when it ends, and what is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from gridnode.errors import InvalidRequest
from gridnode.simulation.availability import Availability
from gridnode.simulation.contract import Refused
from gridnode.simulation.evaluation import Evaluation
from gridnode.simulation.fleet import Fleet, Limits, Pace, Population, build_phones
from gridnode.simulation.phone import Session, Target
from gridnode.simulation.tally import Tally
from gridnode.simulation.training import LocalUpdate
from tests.support.mlp import some_digits

QUICK = Pace(after_report=0.0, after_dropout=0.0, after_failure=0.01, at_least=0.001)


def reported(checkpoint: str = "one", *, at: float = 0.0, samples: int = 1, loss: float = 1.0, **more: Any) -> Session:
    update = LocalUpdate(diff=(), num_samples=samples, loss=loss, accuracy=more.pop("accuracy", 0.5))
    return Session("reported", True, checkpoint, at, at + 0.5, update, **more)


@dataclass
class ScriptedPhone:
    """Counts its sessions and answers them by a function of their number (from 1)."""

    answer: Callable[[int], Session]
    times: list[float] = field(default_factory=list)
    awake: int = 0
    most_awake: int = 0

    def take_part(self, stop: threading.Event) -> Session:
        self.awake += 1
        self.most_awake = max(self.most_awake, self.awake)
        self.times.append(time.monotonic())
        try:
            return self.answer(len(self.times))
        finally:
            self.awake -= 1


def finishing_after(sessions: int) -> Callable[[int], Session]:
    return lambda number: reported() if number <= sessions else Session("finished")


def fleet(*phones: ScriptedPhone, **options: Any) -> Fleet:
    return Fleet(phones, seed=0, **{"pace": QUICK, "concurrency": 4, **options})  # type: ignore[arg-type]


def test_fleet_ends_when_the_process_is_finished() -> None:
    phones = [ScriptedPhone(finishing_after(5)) for _ in range(3)]
    running = fleet(*phones)

    figures = running.run()

    assert running.end == "finished"
    assert figures.outcomes["reported"] >= 5
    assert figures.outcomes["finished"] >= 1


def test_every_phone_takes_part_and_never_twice_at_the_same_time() -> None:
    def slowly(number: int) -> Session:
        time.sleep(0.002)
        return finishing_after(20)(number)

    phones = [ScriptedPhone(slowly) for _ in range(6)]

    fleet(*phones).run()

    assert min(len(phone.times) for phone in phones) >= 1
    assert max(phone.most_awake for phone in phones) == 1


def test_concurrency_bounds_the_sessions_at_the_same_time() -> None:
    lock, gate, awake, most, ended = threading.Lock(), threading.Barrier(3), [0], [0], threading.Semaphore(0)

    def together(number: int) -> Session:
        with lock:
            awake[0] += 1
            most[0] = max(most[0], awake[0])
        # Only passes if three sessions run at once.
        gate.wait(20)
        with lock:
            awake[0] -= 1
        ended.release()
        return Session("rejected", retry_after=3600)

    running = fleet(*[ScriptedPhone(together) for _ in range(6)], concurrency=3)
    running.start()
    for _ in range(6):
        assert ended.acquire(timeout=20)
    running.stop()

    assert running.wait(5)
    assert most == [3]


def test_timeout_of_a_rejection_is_honoured() -> None:
    def rejected_once(number: int) -> Session:
        return Session("rejected", retry_after=1) if number == 1 else Session("finished")

    phone = ScriptedPhone(rejected_once)

    fleet(phone).run()

    first, second = phone.times
    assert 1.0 <= second - first < 2.0


def test_unanswered_sessions_back_off_until_the_limit() -> None:
    phone = ScriptedPhone(lambda number: Session("unreachable", error="gone"))
    running = fleet(phone, limits=Limits(unreachable=0.2))

    figures = running.run()

    assert running.end == "unreachable"
    assert figures.errors == {"gone": figures.outcomes["unreachable"]}
    # At the first pause of 0.01 s it would be some twenty.
    assert 2 <= len(phone.times) <= 7


def test_answer_ends_the_time_without_one() -> None:
    def mostly_gone(number: int) -> Session:
        if number == 15:
            return Session("finished")
        return reported() if number % 3 == 0 else Session("unreachable")

    phone = ScriptedPhone(mostly_gone)
    running = fleet(phone, limits=Limits(unreachable=0.5), pace=Pace(0.0, 0.0, after_failure=0.05, at_least=0.001))

    running.run()

    assert running.end == "finished"
    assert phone.times[-1] - phone.times[0] > 0.5


def test_retry_after_of_a_busy_node_is_honoured() -> None:
    def busy_once(number: int) -> Session:
        return Session("unreachable", retry_after=0.4) if number == 1 else Session("finished")

    phone = ScriptedPhone(busy_once)

    fleet(phone).run()

    assert phone.times[1] - phone.times[0] >= 0.4


def test_cycles_are_limited() -> None:
    running = fleet(ScriptedPhone(lambda number: reported(f"checkpoint-{number // 3}")), limits=Limits(cycles=2))

    figures = running.run()

    assert running.end == "cycles"
    assert [cycle.checkpoint for cycle in figures.cycles][:2] == ["checkpoint-0", "checkpoint-1"]
    assert len(figures.cycles) == 3


def test_time_is_limited_even_if_all_phones_sleep() -> None:
    running = fleet(ScriptedPhone(lambda number: Session("rejected", retry_after=3600)), limits=Limits(seconds=0.3))

    start = time.monotonic()
    running.run()

    assert running.end == "time"
    assert 0.3 <= time.monotonic() - start < 5.0


def test_stop_ends_it_at_once() -> None:
    phone = ScriptedPhone(lambda number: Session("rejected", retry_after=3600))
    running = fleet(phone)
    running.start()

    assert not running.wait(0.05)
    running.stop()

    assert running.wait(5.0)
    assert running.end == "stopped"


def test_error_that_no_phone_can_help_is_raised() -> None:
    def unknown(number: int) -> Session:
        raise Refused("no such process", 401)

    with pytest.raises(Refused, match="no such process"):
        fleet(ScriptedPhone(unknown), ScriptedPhone(unknown)).run()


def test_defect_in_a_thread_is_raised_not_swallowed() -> None:
    def broken(number: int) -> Session:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fleet(ScriptedPhone(broken)).run()


def test_error_over_websocket_is_transient_once_the_node_has_let_a_phone_in() -> None:
    def sometimes(number: int) -> Session:
        if number == 2:
            raise Refused("the database is away")
        return reported() if number < 4 else Session("finished")

    running = fleet(ScriptedPhone(sometimes))

    assert running.run().outcomes == {"finished": 1, "reported": 2, "unreachable": 1}


def test_error_over_websocket_is_final_before_that() -> None:
    def refused(number: int) -> Session:
        raise Refused("no such process")

    with pytest.raises(Refused):
        fleet(ScriptedPhone(refused)).run()


def test_fleet_without_phones_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at least one phone"):
        fleet()


def test_population_decides_transport_and_slow_phones() -> None:
    shards = [some_digits(1) for _ in range(10)]
    population = Population(transport="mixed", dropout=0.2, slow_fraction=0.3, slow_factor=4.0)

    phones = build_phones("http://node.test", Target("digits"), shards, population, seed=1)

    assert [phone.connect().transport for phone in phones] == ["http", "ws"] * 5
    assert sorted(phone.behaviour.slowness for phone in phones) == [1.0] * 7 + [4.0] * 3
    assert {phone.behaviour.dropout for phone in phones} == {0.2}
    again = build_phones("http://node.test", Target("digits"), shards, population, seed=1)
    assert [phone.behaviour for phone in phones] == [phone.behaviour for phone in again]
    assert len({phone.rng.integers(2**62) for phone in phones}) == 10


def test_speeds_spread_from_this_machines_to_much_slower() -> None:
    shards = [some_digits(1) for _ in range(400)]

    def slowness(spread: float) -> list[float]:
        phones = build_phones("http://node.test", Target("digits"), shards, Population(speed_spread=spread), seed=1)
        return sorted(phone.behaviour.slowness for phone in phones)

    assert set(slowness(0.0)) == {1.0}
    spread = slowness(1.0)
    assert 1.0 <= spread[0] < 1.05
    # |z| is above 1.96 for one in twenty.
    assert spread[380] == pytest.approx(7.1, rel=0.25)


def test_phone_is_there_for_its_share_of_the_day() -> None:
    availability = Availability(share=0.25, day=8.0, phones=50, seed=2)
    moments = np.arange(0.0, 80.0, 0.1)

    for number in range(50):
        waits = np.array([availability.wait(number, moment) for moment in moments])
        assert (waits == 0).mean() == pytest.approx(0.25, abs=0.02)
        assert waits.max() == pytest.approx(6.0, abs=0.1)
        # Who waits so long is there then, and not earlier.
        later = moments[0] + waits[0]
        assert availability.wait(number, later + 1e-6) == 0
        assert waits[0] == 0 or availability.wait(number, later - 0.01) > 0
    begins = [availability.wait(number, 0.0) for number in range(50)]
    assert len(set(begins)) > 30
    assert begins == [Availability(0.25, 8.0, 50, seed=2).wait(number, 0.0) for number in range(50)]


def test_phones_sleep_until_they_are_there() -> None:
    availability = Availability(share=0.2, day=1.5, phones=4, seed=1)
    phones = [ScriptedPhone(lambda number: Session("rejected", retry_after=3600)) for _ in range(4)]
    running = fleet(*phones, availability=availability, limits=Limits(seconds=1.6))

    running.run()

    waits = [availability.wait(number, 0.0) for number in range(4)]
    assert max(waits) > 0.5
    for phone, wait in zip(phones, waits, strict=True):
        assert phone.times[0] - running.tally.started_at >= wait - 0.01


@pytest.mark.parametrize(("share", "day"), [(0.0, 1.0), (1.5, 1.0), (0.5, 0.0)])
def test_impossible_availability_is_refused(share: float, day: float) -> None:
    with pytest.raises(InvalidRequest):
        Availability(share, day, phones=1, seed=0)


@pytest.mark.parametrize(
    "population", [Population(slow_fraction=1.5), Population(dropout=2.0), Population(speed_spread=-1)]
)
def test_impossible_population_is_refused(population: Population) -> None:
    with pytest.raises(InvalidRequest):
        build_phones("http://node.test", Target("digits"), [some_digits(1)], population, seed=1)


def test_tally_weights_cycles_by_samples_and_orders_them_by_first_download() -> None:
    tally = Tally()
    for session in (
        reported("second", at=20.0, samples=1, loss=8.0, accuracy=1.0),
        reported("first", at=11.0, samples=30, loss=1.0, accuracy=0.2),
        reported("first", at=10.0, samples=10, loss=2.0, accuracy=0.6),
        Session("refused", True, "second", 19.0, 22.0, error="the cycle is over"),
    ):
        tally.add(session)

    first, second = tally.figures().cycles

    assert (first.number, first.checkpoint, first.reports, first.samples) == (1, "first", 2, 40)
    assert first.loss == pytest.approx(1.25)
    assert first.accuracy == pytest.approx(0.3)
    assert first.seconds == pytest.approx(9.0)
    assert (second.number, second.checkpoint, second.reports) == (2, "second", 1)
    # The last cycle lasts from its first download to its last report.
    assert second.seconds == pytest.approx(1.5)


def test_tally_adds_up_what_sessions_tell() -> None:
    tally = Tally()
    tally.add(reported(duplicates=1, bytes_sent=10, bytes_received=20))
    tally.add(Session("dropped", accepted=True, bytes_sent=1, bytes_received=2))
    tally.add(Session("rejected", retry_after=3, error="full"))
    tally.add(Session("rejected", retry_after=3, error="full"))

    figures = tally.figures()

    assert figures.outcomes == {"dropped": 1, "rejected": 2, "reported": 1}
    assert figures.sessions == 4
    assert (figures.accepted, figures.duplicates) == (2, 1)
    assert (figures.bytes_sent, figures.bytes_received) == (11, 22)
    assert figures.errors == {"full": 2}
    assert tally.cycles_seen == 1


def test_tally_keeps_the_scores_and_the_bytes_of_a_cycle() -> None:
    tally = Tally()
    scores = Evaluation(0.5, 0.9, 100)
    tally.add(reported("one", evaluation=scores, bytes_sent=3, bytes_received=4))
    tally.add(reported("one", bytes_sent=1))
    tally.add(reported("two"))

    first, second = tally.figures().cycles

    assert (first.held_out, first.bytes) == (scores, 8)
    assert (second.held_out, second.bytes) == (None, 0)


def test_cycle_without_a_report_has_no_loss() -> None:
    tally = Tally()
    tally.add(Session("refused", True, "one", 5.0, 6.0))

    (cycle,) = tally.figures().cycles

    assert (cycle.reports, cycle.loss, cycle.accuracy, cycle.seconds) == (0, None, None, 0.0)
