"""Phones that train, report, repeat themselves and vanish, while the node's processes are being killed.

A phone retries each request until it gets an answer that decides something, as one with a bad connection does. What
it learns goes into its records: the test compares them with what the node has counted.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tests.support.device import Answer, HttpDevice, Session, report_of
from tests.support.syft_messages import state_of

Fate = Literal["working", "acknowledged", "refused", "unknown", "vanished"]

# Largest absolute value in a diff. Sums of whole numbers are exact in float32 in any order up to 2^24.
LARGEST = 8
# After so many seconds without a deciding answer a phone gives up, and the test fails.
PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Training:
    """A hosted process the phones take part in."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    weighted: bool = False


@dataclass
class Record:
    """One worker that was accepted, and what became of its report.

    ``acknowledged``: some answer said success. ``refused``: the last answer said no, and none said success.
    ``unknown``: it was sent, and the phone vanished before an answer. ``vanished``: it was never sent.
    """

    training: str
    worker_id: str
    diff: tuple[np.ndarray[Any, Any], ...]
    weight: float
    fate: Fate = "working"


@dataclass
class Tally:
    """Figures of a whole run; guarded by ``lock``."""

    sessions: int = 0
    rejected: int = 0
    retried: int = 0
    lost_answers: int = 0
    duplicates: int = 0
    conflicting: int = 0
    unavailable: int = 0
    longest_request: float = 0.0
    longest_decision: float = 0.0
    acknowledged_at: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, **figures: int) -> None:
        with self.lock:
            for name, value in figures.items():
                setattr(self, name, getattr(self, name) + value)

    def longest_stall(self) -> float:
        """The most seconds between two acknowledged reports."""
        moments = sorted(self.acknowledged_at)
        return max((later - earlier for earlier, later in itertools.pairwise(moments)), default=0.0)


class GaveUp(AssertionError):
    """No deciding answer within the phone's patience."""


class Phone:
    """One phone: session after session until told to stop.

    Args:
        ports: device ports of the replicas.
        trainings: what it may take part in.
        tally: shared by all phones.
        stopping: no new session once it is set.
        seed: decides everything the phone does on purpose.
        host: address of the replicas.
    """

    def __init__(
        self,
        ports: Sequence[int],
        trainings: Sequence[Training],
        tally: Tally,
        stopping: threading.Event,
        seed: int,
        host: str = "127.0.0.1",
    ) -> None:
        self._ports = ports
        self._host = host
        self._trainings = trainings
        self._tally = tally
        self._stopping = stopping
        self._random = random.Random(seed)
        self._device: HttpDevice | None = None
        self.records: list[Record] = []

    def run(self) -> None:
        """Work until told to stop; errors go to the tally."""
        try:
            while not self._stopping.is_set():
                self._session(self._random.choice(self._trainings))
        except Exception as error:
            with self._tally.lock:
                self._tally.errors.append(f"{type(error).__name__}: {error}")
        finally:
            self._disconnect()

    def _session(self, training: Training) -> None:
        self._tally.add(sessions=1)
        session = self._join(training)
        if session is None:
            self._tally.add(rejected=1)
            # The timeout it was told may be an hour; the test has a minute.
            self._stopping.wait(self._random.uniform(0.05, 0.3))
            return
        diff = tuple(
            np.array([self._random.randint(-LARGEST, LARGEST) for _ in range(int(np.prod(shape)))], np.float32).reshape(
                shape
            )
            for shape in training.shapes
        )
        weight = float(self._random.choice([1, 2, 4, 8])) if training.weighted else 1.0
        record = Record(training.name, session.worker_id, diff, weight)
        self.records.append(record)
        self._finish(
            record, report_of(session, state_of(diff), **({"num_samples": weight} if training.weighted else {}))
        )

    def _join(self, training: Training) -> Session | None:
        asked = {"model_name": training.name, "model_version": "1.0"}
        worker = self._decided("authenticate", asked)
        if worker.status != 200:
            raise AssertionError(f"authenticate: {worker.status} {worker.body!r}")
        worker_id = worker.json()["worker_id"]
        request = {
            "worker_id": worker_id,
            "model": training.name,
            "version": "1.0",
            "ping": 1,
            "download": 1,
            "upload": 1,
        }
        answer = self._decided("cycle-request", request).json()
        if answer["status"] != "accepted":
            if "error" in answer:
                raise AssertionError(f"cycle-request: {answer}")
            return None
        return Session(
            worker_id, answer["request_key"], answer["model_id"], answer["plans"], answer["protocols"], answer
        )

    def _finish(self, record: Record, body: dict[str, Any]) -> None:
        """Report, in one of the ways in which phones report."""
        luck = self._random.random()
        if luck < 0.04:
            record.fate = "vanished"
            return
        if luck < 0.10:
            record.fate = "unknown"
            self._send_and_vanish(body)
            return
        if luck < 0.22:
            # The answer is lost on purpose; the retry below must find out what became of the report.
            self._send_and_vanish(body)
            self._tally.add(lost_answers=1)
        elif luck < 0.34:
            self._report_twice_at_once(record, body)
        self._settle(record, body)
        if record.fate == "acknowledged" and self._random.random() < 0.2:
            self._tally.add(duplicates=1)
            again = self._decided("report", body)
            if again.status != 200:
                raise AssertionError(f"a repeated report was answered {again.status}: {again.body!r}")
        if record.fate == "acknowledged" and self._random.random() < 0.05:
            self._tally.add(conflicting=1)
            other = {**body, "diff": report_of_zeros(record, body)}
            if any(tensor.any() for tensor in record.diff) and self._decided("report", other).status == 200:
                raise AssertionError("another diff under a used key was answered success")

    def _settle(self, record: Record, body: dict[str, Any]) -> None:
        answer = self._decided("report", body)
        if answer.status == 200:
            self._acknowledge(record)
        elif record.fate == "acknowledged":
            raise AssertionError(f"acknowledged, then refused: {answer.status} {answer.body!r}")
        elif answer.status != 409:
            # The only reason for refusing a good report is that its cycle is over.
            raise AssertionError(f"a good report was answered {answer.status}: {answer.body!r}")
        else:
            record.fate = "refused"

    def _acknowledge(self, record: Record) -> None:
        record.fate = "acknowledged"
        with self._tally.lock:
            self._tally.acknowledged_at.append(time.monotonic())

    def _report_twice_at_once(self, record: Record, body: dict[str, Any]) -> None:
        """The same report over two connections at the same moment, to whichever replicas."""
        self._tally.add(duplicates=1)
        answers: list[int] = []

        def send() -> None:
            device = HttpDevice(self._random.choice(self._ports), host=self._host, timeout=30)
            try:
                answers.append(device.post("report", body).status)
            except (OSError, http.client.HTTPException):
                answers.append(0)
            finally:
                device.close()

        senders = [threading.Thread(target=send) for _ in range(2)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        if 200 in answers:
            self._acknowledge(record)

    def _send_and_vanish(self, body: dict[str, Any]) -> None:
        """Send a report and go away: before, within or after the moment it is counted."""
        content = json.dumps(body).encode()
        head = (
            "POST /model-centric/report HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        try:
            with socket.create_connection((self._host, self._random.choice(self._ports)), timeout=10) as connection:
                connection.sendall(head.encode() + content)
                time.sleep(self._random.choice([0, 0.001, 0.01, 0.05]))
        except OSError:
            return

    def _decided(self, event: str, body: dict[str, Any]) -> Answer:
        """The first answer that decides something: no 5xx, no 429.

        Raises:
            GaveUp: there was none in time.
        """
        started = time.monotonic()
        tries = 0
        while (waited := time.monotonic() - started) < PATIENCE:
            asked = time.monotonic()
            answer = self._ask(event, body)
            took = time.monotonic() - asked
            with self._tally.lock:
                self._tally.longest_request = max(self._tally.longest_request, took)
            if answer is not None and answer.status < 500 and answer.status != 429:
                with self._tally.lock:
                    self._tally.longest_decision = max(self._tally.longest_decision, time.monotonic() - started)
                return answer
            if answer is not None and answer.status == 500:
                raise AssertionError(f"{event}: {answer.status} {answer.body!r}")
            self._tally.add(retried=1, unavailable=int(answer is not None))
            tries += 1
            time.sleep(self._random.uniform(0.02, min(0.5, 0.05 * 2**tries)))
        raise GaveUp(f"{event}: no deciding answer within {waited:.0f} s")

    def _ask(self, event: str, body: dict[str, Any]) -> Answer | None:
        """One try at one replica; None if there was no answer."""
        if self._device is None or self._random.random() < 0.1:
            self._disconnect()
            self._device = HttpDevice(self._random.choice(self._ports), host=self._host, timeout=30)
        try:
            return self._device.post(event, body)
        except (OSError, http.client.HTTPException):
            self._disconnect()
            return None

    def _disconnect(self) -> None:
        if self._device is not None:
            self._device.close()
            self._device = None


def report_of_zeros(record: Record, body: dict[str, Any]) -> str:
    """The base64 of a diff of zeros of the same shapes."""
    session = Session(body["worker_id"], body["request_key"], 0, {}, {}, {})
    zeros: str = report_of(session, state_of([0 * tensor for tensor in record.diff]))["diff"]
    return zeros


def start_all(phones: Sequence[Phone]) -> list[threading.Thread]:
    """Run each phone in a thread of its own."""
    threads = [threading.Thread(target=phone.run, daemon=True) for phone in phones]
    for thread in threads:
        thread.start()
    return threads
