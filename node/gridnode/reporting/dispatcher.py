"""The loop that brings progress events from the outbox to the master node. One per worker process.

One thread does everything with the database: settle what has been answered and claim what is due, both in one short
transaction. Each claimed event is posted by a thread of its own, at most ``concurrency`` at once, so that a slow answer
holds up its own process's events and no others.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from gridnode.reporting import metrics, outbox
from gridnode.reporting.master import Answer, MasterNode
from gridnode.reporting.outbox import ClaimedEvent

log = logging.getLogger(__name__)

_FIRST_BACKOFF = 1.0
_LONGEST_BACKOFF = 300.0
# A master node that asks for more must not be able to silence a node for good.
_LONGEST_RETRY_AFTER = 3600.0
# What a claim's lease has beyond the longest regular post: for the answer to be settled.
_LEASE_MARGIN = 5.0


class Dispatcher:
    """Posts undelivered events until the master node has accepted them: at least once, and in order per process.

    Args:
        sessions: makes sessions on the node's database; at most one connection is used at once, and none during a post.
        master: where events go.
        poll_interval: seconds between two looks at the outbox, for events that other worker processes wrote.
        concurrency: posts at once.
        lease: seconds after which an event that this process claimed and did not settle is free again; by default what
            the longest post may take. A shorter one leads to events that are posted twice.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        master: MasterNode,
        *,
        poll_interval: float = 1.0,
        concurrency: int = 8,
        lease: float | None = None,
    ) -> None:
        self._sessions = sessions
        self._master = master
        self._poll_interval = poll_interval
        self._concurrency = concurrency
        # The timeout counts once for connecting and once for the answer.
        self._lease = 2 * master.timeout + _LEASE_MARGIN if lease is None else lease

        self._thread: threading.Thread | None = None
        self._stopping = False
        self._stop_deadline = 0.0
        self._wake = threading.Event()
        # Events that are being posted, or whose answer is not in the database yet.
        self._unsettled = 0
        self._answers: deque[tuple[ClaimedEvent, Answer]] = deque()

        self._database_away = False
        self._master_away = False
        self._refusals: dict[int, str] = {}

    def start(self) -> None:
        """Start the loop's thread. Call it in the worker process itself, after any fork."""
        if self._thread is not None:
            raise RuntimeError("the dispatcher has been started already")
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="outbox-dispatcher", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Claim nothing more and give posts under way up to ``timeout`` seconds.

        Those that take longer are left: the event is posted again by another process when its lease ends.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stop_deadline = time.monotonic() + timeout
        self._stopping = True
        self._wake.set()
        thread.join(timeout + 1)

    def notify(self) -> None:
        """Look now instead of at the next poll. Call it when a transaction with an event has been committed."""
        self._wake.set()

    def run_once(self) -> int:
        """Post all events that are due, and those that become due by their delivery; not while the loop's thread runs.

        Returns:
            How many the master node accepted.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database could not be used. Answers are kept for the next call.
        """
        accepted = self._step(claim=True)
        while self._unsettled:
            self._wake.wait()
            self._wake.clear()
            accepted += self._step(claim=True)
        return accepted

    def _run(self) -> None:
        while not self._stopping:
            self._step_safely(claim=True)
            self._wake.wait(self._poll_interval)
            self._wake.clear()
        while self._unsettled and (remaining := self._stop_deadline - time.monotonic()) > 0:
            self._step_safely(claim=False)
            if self._unsettled:
                self._wake.wait(min(remaining, self._poll_interval))
                self._wake.clear()

    def _step_safely(self, *, claim: bool) -> None:
        try:
            self._step(claim=claim)
        except SQLAlchemyError as error:
            if not self._database_away:
                self._database_away = True
                log.warning("progress events wait for the database", extra={"reason": _first_line(error)})
        except Exception:
            # The thread has to outlive any mistake: without it the master node never hears of this process's events.
            log.exception("progress events could not be dispatched, trying again")
        else:
            if self._database_away:
                self._database_away = False
                log.info("progress events reach the database again")

    def _step(self, *, claim: bool) -> int:
        """Settle what has been answered, claim what is due, and start to post it; gives how many were accepted."""
        answered = [self._answers.popleft() for _ in range(len(self._answers))]
        free = self._concurrency - self._unsettled + len(answered) if claim else 0
        if not answered and free <= 0:
            return 0
        try:
            with self._sessions.begin() as session:
                aside = _settle(session, answered)
                claimed = outbox.claim_due(session, limit=free, lease=self._lease) if free > 0 else []
        except BaseException:
            self._answers.extend(answered)
            raise
        self._unsettled += len(claimed) - len(answered)
        for event in claimed:
            threading.Thread(target=self._post, args=(event,), name="outbox-post", daemon=True).start()
        for event, answer in answered:
            metrics.count_progress_post(answer.outcome)
            self._log_change(event, answer)
        for event, answer in aside:
            self._log_set_aside(event, answer)
        return sum(answer.outcome == "accepted" for _, answer in answered)

    def _post(self, event: ClaimedEvent) -> None:
        try:
            answer = self._master.post(event.body)
        except Exception as error:
            log.exception("a progress event could not be posted", extra={"event_id": str(event.event_id)})
            answer = Answer("refused", f"not posted: {type(error).__name__}")
        self._answers.append((event, answer))
        self._wake.set()

    def _log_change(self, event: ClaimedEvent, answer: Answer) -> None:
        """Log what has become different. The master node being away is one line, however many processes wait for it."""
        about = {"process_id": event.process_id, "model": event.body.get("model_id"), "reason": answer.reason}
        if answer.outcome == "unreachable":
            if not self._master_away:
                self._master_away = True
                log.warning(
                    "the master node is unreachable; progress events are kept and tried again",
                    extra={"reason": answer.reason},
                )
            return
        if self._master_away:
            self._master_away = False
            log.info("the master node answers again")
        if answer.outcome == "accepted":
            if self._refusals.pop(event.process_id, None) is not None:
                log.info("the master node accepts a process's progress events again", extra=about)
        elif self._refusals.get(event.process_id) != answer.reason:
            self._refusals[event.process_id] = answer.reason
            log.warning("the master node refuses a process's progress event; it is kept and tried again", extra=about)

    def _log_set_aside(self, event: ClaimedEvent, answer: Answer) -> None:
        # The next event's refusal is news.
        self._refusals.pop(event.process_id, None)
        log.error(
            "the master node called a progress event wrong %d times; it is set aside, and the next ones are sent",
            outbox.REFUSALS,
            extra={
                "process_id": event.process_id,
                "model": event.body.get("model_id"),
                "event_id": str(event.event_id),
                "reason": answer.reason,
            },
        )


def retry_delay(attempts: int, retry_after: float | None = None) -> float:
    """Seconds until the next attempt: exponential with full jitter, or what the master node asked for if it is longer.

    Args:
        attempts: attempts made so far, at least 1.
        retry_after: seconds from a Retry-After header.
    """
    ceiling = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2.0 ** min(attempts - 1, 30))
    delay = random.uniform(0, ceiling)  # noqa: S311 - spreads load, guards nothing
    return max(delay, min(retry_after or 0.0, _LONGEST_RETRY_AFTER))


def _settle(session: Session, answered: list[tuple[ClaimedEvent, Answer]]) -> list[tuple[ClaimedEvent, Answer]]:
    """Write down what became of posts; gives those whose event was set aside."""
    accepted = [event for event, answer in answered if answer.outcome == "accepted"]
    if accepted:
        outbox.mark_accepted(session, accepted)
    aside = []
    for event, answer in answered:
        if answer.outcome == "accepted":
            continue
        retry_in = retry_delay(event.attempts, answer.retry_after)
        if answer.outcome != "invalid":
            outbox.mark_failed(session, event, error=answer.reason, retry_in=retry_in)
        elif outbox.mark_invalid(session, event, error=answer.reason, retry_in=retry_in):
            aside.append((event, answer))
    return aside


def _first_line(error: SQLAlchemyError) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
