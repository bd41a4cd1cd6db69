"""A phone as the load generator plays it: whole sessions over one connection, every answer checked."""

from __future__ import annotations

import json
import re
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.wire import Connection, Lost, float_tensors, get, post
from bench.workload import Result, Target, Traffic

_WORKER: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_ACCEPTED: Final = {
    "status", "request_key", "version", "model", "plans", "protocols", "client_config", "model_id",
}  # fmt: skip
_LATE_STEPS: Final = ("get-model", "get-plan", "report")
_WORKER_LENGTH: Final = 36
_KEY_LENGTH: Final = 64
_REPORT_LENGTH: Final = len('{"worker_id":"","request_key":"","diff":""}') + _WORKER_LENGTH + _KEY_LENGTH


class Wrong(Exception):
    """An answer that the contract does not allow here."""

    def __init__(self, step: str, detail: str) -> None:
        super().__init__(detail)
        self.step = step


class Late(Exception):
    """The cycle was closed before this session was through."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What an accepted phone holds."""

    worker: bytes
    key: bytes
    model: int
    plan: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """A cycle request that was rejected; ``timeout`` in seconds, None when the process is finished."""

    timeout: int | None


class Bodies:
    """A model's bodies, loaded once and shared by all connections of the process that forks them."""

    def __init__(self, traffic: Traffic) -> None:
        self.diff = Path(traffic.diff).read_bytes()
        self.plans = {variant: Path(path).read_bytes() for variant, path in traffic.plans.items()}
        self.tensor_bytes = traffic.tensor_bytes
        self.samples = traffic.samples
        self.reference = max(traffic.samples, key=lambda sample: abs(sample.step))
        self.report_head = post("/model-centric/report", _REPORT_LENGTH + len(self.diff))

    def checkpoint_of(self, state: memoryview) -> int:
        """Which checkpoint a download is, counted from 0.

        Raises:
            ValueError: it is none of them.
        """
        tensors = float_tensors(state)
        if [len(tensor) for tensor in tensors] != self.tensor_bytes:
            raise ValueError(f"tensors of {[len(tensor) for tensor in tensors]} bytes, expected {self.tensor_bytes}")
        values = [struct.unpack_from("<f", tensors[each.tensor], 4 * each.element)[0] for each in self.samples]
        reference = values[self.samples.index(self.reference)]
        number: int = round((self.reference.initial - reference) / self.reference.step)
        for sample, value in zip(self.samples, values, strict=True):
            expected = sample.initial - number * sample.step
            # float32 sums of equal diffs: half a unit in the last place for each checkpoint and each addition.
            allowed = 2e-7 * (number + 4) * (abs(expected) + abs(sample.initial) + abs(sample.step))
            if number < 0 or abs(value - expected) > allowed:
                raise ValueError(f"{value} at {sample.tensor}/{sample.element}, {expected} in checkpoint {number}")
        return number


class Requests:
    """The requests to one process, made in advance but for ids."""

    def __init__(self, target: Target, bodies: Bodies) -> None:
        self.target = target
        self.bodies = bodies
        authenticate = json.dumps({"model_name": target.name, "model_version": target.version}).encode()
        self.authenticate = post("/model-centric/authenticate", len(authenticate)) + authenticate
        head = b'{"worker_id":"'
        tail = json.dumps(
            {"model": target.name, "version": target.version, "ping": 8, "download": 46.0, "upload": 23.0}
        ).encode()
        tail = b'",' + tail[1:]
        self.cycle_request = post("/model-centric/cycle-request", len(head) + _WORKER_LENGTH + len(tail)) + head
        self.cycle_request_tail = tail


class Phone:
    """Sessions over one connection.

    Args:
        result: where latencies, counts and errors go.
        measured: the first and last moment (``perf_counter``) at which a finished request is measured.
    """

    def __init__(
        self, connection: Connection, result: Result, measured: tuple[float, float], late_is_expected: bool
    ) -> None:
        self._connection = connection
        self._result = result
        self._measured = measured
        self._late_is_expected = late_is_expected
        self._sessions = 0
        self._checkpoints: dict[str, int] = {}
        self._model: dict[str, bytes] = {}

    def session(self, requests: Requests) -> Rejection | None:
        """One whole session; errors and late ones are counted, a rejection is returned."""
        started = time.perf_counter()
        try:
            assignment = self.assign(requests)
            if isinstance(assignment, Rejection):
                return assignment
            self._download(requests, assignment)
            self.report(requests, assignment)
            self._record("session", started)
        except Late:
            self._result.late += 1
        except Wrong as error:
            self._result.error(error.step, str(error))
        except Lost as error:
            self._result.error("lost", str(error))
        return None

    def assign(self, requests: Requests) -> Assignment | Rejection:
        """Authenticate and ask for a cycle.

        Raises:
            Lost, Wrong: no or a wrong answer.
        """
        answer = self._json("authenticate", requests.authenticate)
        worker = answer.get("worker_id")
        if answer != {"status": "success", "worker_id": worker, "requires_speed_test": False}:
            raise Wrong("authenticate", repr(answer))
        if not isinstance(worker, str) or not _WORKER.fullmatch(worker):
            raise Wrong("authenticate", f"worker_id {worker!r}")
        encoded = worker.encode()
        answer = self._json("cycle-request", requests.cycle_request, encoded, requests.cycle_request_tail)
        if answer.get("status") == "rejected":
            return self._rejection(answer)
        target = requests.target
        if (
            answer.keys() != _ACCEPTED
            or answer["status"] != "accepted"
            or (answer["model"], answer["version"]) != (target.name, target.version)
            or answer["client_config"] != target.client_config
            or not _KEY.fullmatch(str(answer["request_key"]))
            or type(answer["model_id"]) is not int
            or list(map(type, answer["plans"].values())) != [int]
        ):
            raise Wrong("cycle-request", repr(answer))
        (plan,) = answer["plans"].values()
        return Assignment(encoded, answer["request_key"].encode(), answer["model_id"], plan)

    def report(self, requests: Requests, assignment: Assignment) -> None:
        """Report the diff.

        Raises:
            Late: the cycle is over.
            Lost, Wrong: no or a wrong answer.
        """
        answer = self._json(
            "report",
            requests.bodies.report_head,
            b'{"worker_id":"%b","request_key":"%b","diff":"' % (assignment.worker, assignment.key),
            requests.bodies.diff,
            b'"}',
        )
        if answer != {"status": "success"}:
            raise Wrong("report", repr(answer))
        name = requests.target.name
        self._result.acknowledged[name] = self._result.acknowledged.get(name, 0) + 1

    def _download(self, requests: Requests, assignment: Assignment) -> None:
        ids = b"?worker_id=%b&request_key=%b" % (assignment.worker, assignment.key)
        path = (b"/model-centric/get-model%b&model_id=%d" % (ids, assignment.model)).decode()
        self._check_model(requests, self._ask("get-model", get(path)))
        # Alternately, as the two families of phones ask.
        variant = ("list", "torchscript")[self._sessions % 2]
        self._sessions += 1
        path = (b"/model-centric/get-plan%b&plan_id=%d" % (ids, assignment.plan)).decode()
        plan = self._ask("get-plan", get(f"{path}&receive_operations_as={variant}"))
        if plan != requests.bodies.plans[variant]:
            raise Wrong("get-plan", f"{len(plan)} bytes that are not the {variant} variant")

    def _check_model(self, requests: Requests, model: memoryview) -> None:
        name = requests.target.name
        if model == self._model.get(name, b""):
            return
        try:
            checkpoint = requests.bodies.checkpoint_of(model)
        except (ValueError, struct.error) as error:
            raise Wrong("get-model", f"{len(model)} bytes: {error}") from error
        if checkpoint < self._checkpoints.get(name, 0):
            raise Wrong("get-model", f"checkpoint {checkpoint} after {self._checkpoints[name]}")
        self._checkpoints[name] = checkpoint
        # Only the newest: a connection that serves a thousand processes must not keep a thousand models.
        self._model = {name: bytes(model)}

    def _rejection(self, answer: dict[str, Any]) -> Rejection:
        timeout = answer.get("timeout")
        if answer.keys() - {"status", "timeout"} or not (timeout is None or type(timeout) is int):
            raise Wrong("cycle-request", repr(answer))
        if timeout is not None:
            self._result.rejected += 1
            self._result.rejection_timeouts.append(timeout)
        return Rejection(timeout)

    def _json(self, step: str, *parts: bytes) -> dict[str, Any]:
        body = self._ask(step, *parts)
        try:
            answer = json.loads(bytes(body))
        except ValueError as error:
            raise Wrong(step, f"no JSON: {bytes(body[:100])!r}") from error
        if not isinstance(answer, dict):
            raise Wrong(step, f"no object: {answer!r}")
        return answer

    def _ask(self, step: str, *parts: bytes) -> memoryview:
        started = time.perf_counter()
        status, body = self._connection.request(*parts)
        if status == 200:
            self._record(step, started)
            return body
        text = bytes(body[:300]).decode("utf-8", "replace")
        if self._late_is_expected and step in _LATE_STEPS and 400 <= status < 500 and "cycle" in text:
            raise Late
        raise Wrong(step, f"{status} {text}")

    def _record(self, step: str, started: float) -> None:
        now = time.perf_counter()
        if self._measured[0] <= now <= self._measured[1]:
            self._result.latencies[step].append(now - started)
