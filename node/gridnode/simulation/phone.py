"""One simulated phone: a shard of data, a way of behaving, and sessions with a node."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from gridnode.errors import InvalidRequest
from gridnode.protocol.syft_proto import decode_state, encode_state
from gridnode.simulation.contract import NOT_MEASURED, Accepted, Refused, Rejected, Speed, Unreachable
from gridnode.simulation.datasets import Examples
from gridnode.simulation.device_client import DeviceClient
from gridnode.simulation.evaluation import Evaluation, Scoreboard
from gridnode.simulation.plan_cache import PlanCache
from gridnode.simulation.training import ClientConfig, LocalUpdate, UnusablePlan, train

TRAINING_PLAN = "training_plan"
_REPORT_ATTEMPTS = 5
_FIRST_PAUSE = 0.5

Outcome = Literal["reported", "dropped", "refused", "rejected", "finished", "unreachable"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a phone differs from a perfect one.

    Attributes:
        dropout: probability that it vanishes after being accepted into a cycle.
        slowness: factor on the time of its local training; 1 is this machine's speed.
        duplicate_report: probability that it sends its report a second time, as after a lost answer.
    """

    dropout: float = 0.0
    slowness: float = 1.0
    duplicate_report: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dropout", "duplicate_report"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidRequest(f"{name} is {getattr(self, name)}; a probability lies between 0 and 1.")
        if not self.slowness >= 1:
            raise InvalidRequest(f"slowness is {self.slowness}; it is a factor of at least 1.")


@dataclass(frozen=True, slots=True)
class Target:
    """What the phones train; ``version`` None is the newest."""

    model: str
    version: str | None = None
    auth_token: str | None = None


@dataclass(slots=True)
class Session:
    """What came of one wake-up of a phone.

    ``refused`` means that the phone had a place but the node refused a download or its report, mostly because the cycle
    had ended by then. Times are of :func:`time.monotonic`; ``checkpoint`` identifies the downloaded parameters, and
    ``evaluation`` scores them on held-out examples, if this was the session that had to.
    """

    outcome: Outcome = "unreachable"
    accepted: bool = False
    checkpoint: str | None = None
    downloaded_at: float = 0.0
    ended_at: float = 0.0
    update: LocalUpdate | None = None
    evaluation: Evaluation | None = None
    duplicates: int = 0
    retry_after: float | None = None
    error: str | None = None
    bytes_sent: int = 0
    bytes_received: int = 0


@dataclass(slots=True)
class Phone:
    """A device with its own data. Not thread-safe: one session at a time."""

    number: int
    shard: Examples
    target: Target
    connect: Callable[[], DeviceClient]
    plans: PlanCache
    rng: np.random.Generator
    behaviour: Behaviour = field(default_factory=Behaviour)
    scoreboard: Scoreboard | None = None
    # Real clients keep their worker id and ask again with it.
    _worker_id: str | None = None
    _speed: Speed = NOT_MEASURED

    def take_part(self, stop: threading.Event) -> Session:
        """Wake up once: authenticate if needed, ask for a place, and train and report if there is one.

        Args:
            stop: ends waits early; a report already computed is still sent once.

        Raises:
            Refused: the node does not let this phone in at all (no such process, bad token).
            ContractBroken: the node answered what clients can't read.
            UnusablePlan: the hosted process can't be trained with this data.
        """
        session = Session()
        with self.connect() as device:
            try:
                self._run(device, session, stop)
            except Unreachable as unreachable:
                session.outcome = "unreachable"
                session.error, session.retry_after = unreachable.message, unreachable.retry_after
            session.bytes_sent, session.bytes_received = device.traffic.sent, device.traffic.received
        session.ended_at = time.monotonic()
        return session

    def _run(self, device: DeviceClient, session: Session, stop: threading.Event) -> None:
        answer = self._ask_for_place(device)
        if isinstance(answer, Rejected):
            session.outcome = "finished" if answer.retry_after is None else "rejected"
            session.retry_after = answer.retry_after
            return
        session.accepted = True
        if self.rng.random() < self.behaviour.dropout:
            session.outcome = "dropped"
            return
        try:
            self._train_and_report(device, answer, session, stop)
        except Refused as refused:
            session.outcome, session.error = "refused", refused.message

    def _ask_for_place(self, device: DeviceClient) -> Accepted | Rejected:
        if self._worker_id is not None:
            try:
                return device.request_cycle(self._worker_id, self.target.model, self.target.version, self._speed)
            except Refused:
                # The node no longer knows this worker; a new one is a few milliseconds away.
                self._worker_id = None
        target = self.target
        authentication = device.authenticate(target.model, target.version, target.auth_token)
        if authentication.requires_speed_test:
            self._speed = device.measure_speed(authentication.worker_id)
        self._worker_id = authentication.worker_id
        return device.request_cycle(self._worker_id, target.model, target.version, self._speed)

    def _train_and_report(self, device: DeviceClient, place: Accepted, session: Session, stop: threading.Event) -> None:
        checkpoint = device.get_model(place)
        session.downloaded_at = time.monotonic()
        session.checkpoint = hashlib.sha256(checkpoint).hexdigest()
        plan = self.plans.get(device.get_plan(place, _training_plan_id(place), self.plans.variant))
        config = ClientConfig.from_answer(place.client_config)
        parameters = decode_state(checkpoint).tensors
        if self.scoreboard is not None:
            session.evaluation = self.scoreboard.score(session.checkpoint, plan, parameters, config.batch_size)

        start = time.monotonic()
        update = train(plan, parameters, self.shard, config, self.rng)
        stop.wait((self.behaviour.slowness - 1) * (time.monotonic() - start))

        session.update = update
        _report(device, place, update, stop)
        session.outcome = "reported"
        if self.rng.random() < self.behaviour.duplicate_report:
            session.duplicates = 1
            try:
                _report(device, place, update, stop)
            except (Refused, Unreachable) as error:
                # The first one counts all the same.
                session.error = f"repeated report: {error.message}"


def _training_plan_id(place: Accepted) -> int:
    if TRAINING_PLAN in place.plans:
        return place.plans[TRAINING_PLAN]
    if len(place.plans) == 1:
        return next(iter(place.plans.values()))
    raise UnusablePlan(f"which plan trains? There is no {TRAINING_PLAN!r} among: {', '.join(place.plans) or 'none'}.")


def _report(device: DeviceClient, place: Accepted, update: LocalUpdate, stop: threading.Event) -> None:
    """Report, and again after a while if no answer came: the node counts repeated reports once."""
    diff = encode_state(update.diff)
    pause = _FIRST_PAUSE
    for attempt in range(1, _REPORT_ATTEMPTS + 1):
        try:
            device.report(place, diff, num_samples=update.num_samples, loss=update.loss, accuracy=update.accuracy)
            return
        except Unreachable as unreachable:
            if attempt == _REPORT_ATTEMPTS or stop.wait(unreachable.retry_after or pause):
                raise
            pause *= 2
