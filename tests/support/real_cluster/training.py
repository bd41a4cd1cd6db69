"""Phones that train without end while a test breaks things, and what must be true of their reports afterwards."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Self
from urllib.parse import quote, urlsplit

import numpy as np

from tests.support.chart import NAMESPACE, RELEASE
from tests.support.exactly_once import assert_checkpoints_are_recomputable, assert_counted_are_acknowledged
from tests.support.fleet import Phone, Tally, Training, start_all
from tests.support.ledger import Ledger, read_ledger
from tests.support.node import Management
from tests.support.real_cluster.release import GridNodeUnderTest
from tests.support.real_cluster.target import wait_for
from tests.support.recordings import Hosting, load_model
from tests.support.syft_messages import state_of

PHONES = 16
REPORTS_PER_CYCLE = 8
_SHAPES = ((2, 4), (2,))


class EndlessTraining:
    """A model that phones outside of the cluster train until told to stop.

    Diffs are whole numbers, so every checkpoint can be computed again to the last bit.
    """

    def __init__(self, gridnode: GridNodeUnderTest, model: str) -> None:
        self._gridnode = gridnode
        self._training = Training(model, _SHAPES)
        self._tally = Tally()
        self._stopping = threading.Event()
        self._phones: list[Phone] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        zeros = state_of([np.zeros(shape, np.float32) for shape in _SHAPES])
        tiny = load_model("tiny")
        plain = Hosting(zeros, tiny.plans, b"", tiny.client_config, {**tiny.server_config, "iterative_plan": False})
        hosting = plain.named(
            self._training.name, max_workers=12, num_cycles=None, assignment_lease=5,
            min_diffs=REPORTS_PER_CYCLE, max_diffs=REPORTS_PER_CYCLE,
        )  # fmt: skip
        with self._management() as management:
            management.host(hosting)
        address = urlsplit(self._gridnode.url)
        assert address.hostname is not None
        assert address.port is not None
        self._phones = [
            Phone([address.port], [self._training], self._tally, self._stopping, seed, address.hostname)
            for seed in range(PHONES)
        ]
        self._threads = start_all(self._phones)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(150)

    def wait_for_reports(self, number: int = 3 * REPORTS_PER_CYCLE, seconds: float = 120.0) -> None:
        """Wait until so many more reports have been acknowledged."""
        before = len(self._tally.acknowledged_at)

        def enough() -> bool:
            assert self._tally.errors == []
            return len(self._tally.acknowledged_at) >= before + number

        wait_for(f"{number} more reports are acknowledged", enough, seconds, 0.1)

    def check(self) -> Ledger:
        """Let the phones finish what they have begun, and hold the node's books against theirs.

        Raises:
            AssertionError: A report was lost, counted twice, or counted though it was refused.
        """
        self.__exit__()
        assert self._tally.errors == []
        ledger = self._quiet_ledger()
        records = {record.worker_id: record for phone in self._phones for record in phone.records}
        assert_counted_are_acknowledged(ledger, records, REPORTS_PER_CYCLE)
        with self._management() as management:
            assert_checkpoints_are_recomputable(management, self._training, ledger, records, exact=True)
        return ledger

    def longest_stall(self) -> float:
        """The most seconds between two acknowledged reports."""
        return self._tally.longest_stall()

    def ledger(self) -> Ledger:
        """The node's books, read in its database."""
        release = self._gridnode.release
        name = f"{self._gridnode.namespace}_{self._gridnode.name}".replace("-", "_")
        [schema] = release.sql(f"SELECT nspname FROM pg_namespace WHERE nspname LIKE 'gn\\_{name}\\_%'")
        password = quote(release.secret(f"{RELEASE}-database", "superuser-password", NAMESPACE))
        with release.target.forwarded(f"{RELEASE}-database", NAMESPACE, 5432) as url:
            server = urlsplit(url).netloc
            return read_ledger(
                f"postgresql://postgres:{password}@{server}/gridnode?options=-csearch_path%3D{schema}",
                self._training.name,
            )

    def _quiet_ledger(self) -> Ledger:
        deadline = time.monotonic() + 90
        while True:
            ledger = self.ledger()
            running = ledger.cycles[-1]
            if running.reports < REPORTS_PER_CYCLE and ledger.undelivered_events == 0:
                return ledger
            assert time.monotonic() < deadline, f"a cycle or events are left: {ledger}"
            time.sleep(1)

    @contextlib.contextmanager
    def _management(self) -> Iterator[Management]:
        gridnode = self._gridnode
        token = gridnode.release.secret(f"{gridnode.name}-management", "token", gridnode.namespace)
        with gridnode.target.forwarded(f"{gridnode.name}-management", gridnode.namespace, 5050) as url:
            port = urlsplit(url).port
            assert port is not None
            yield Management(port, token)
