"""What a device can ask of the node, the same over HTTP and WebSocket: decoded request in, plain answer out."""

from __future__ import annotations

import logging
import math
import random
import re
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import xxhash

from gridnode.averaging.strategies import Strategies
from gridnode.checkpoints.store import Downloads
from gridnode.cycles.assignment import Accepted, Rejected
from gridnode.cycles.intake import Intake
from gridnode.cycles.patience import too_slow_timeout
from gridnode.cycles.reports import Report
from gridnode.cycles.view import CycleView, CycleViews
from gridnode.errors import InvalidRequest, NotFound, Unauthorized
from gridnode.processes.catalog import Catalog, HostedProcess
from gridnode.protocol import messages
from gridnode.protocol.syft_proto import decode_state
from gridnode.reporting.metrics import RejectionReason
from gridnode.security.request_keys import claimed_cycle_id, cycle_of_request_key, issue_request_key
from gridnode.security.tokens import AskEndpoint, verify_token
from gridnode.waiting import may_wait
from gridnode.workers.identity import is_worker_of, new_worker_id

log = logging.getLogger(__name__)

Answer = dict[str, Any]

_ID = re.compile(r"[0-9]{1,19}")
_LARGEST_ID = 2**63 - 1
#: The variants of get-plan by the names that clients use; any other name means the op list, as it always did.
_VARIANTS = {"torchscript": "torchscript", "tfjs": "tfjs"}


@dataclass(frozen=True, slots=True)
class Pending:
    """An answer that is there once a commit is done: ``finish`` makes it of the commit's outcome."""

    committed: Future[Any]
    finish: Callable[[Any], Answer]

    def wait(self) -> Answer:
        """The answer, or raise what the commit raised."""
        return self.finish(self.committed.result())


class DeviceEndpoints:
    """The device endpoints. Every method may raise the errors of :mod:`gridnode.errors`; the edge maps them.

    On an event loop every method may raise :class:`~gridnode.waiting.WouldWait`, before it has changed anything.
    """

    def __init__(
        self,
        catalog: Catalog,
        intake: Intake,
        views: CycleViews,
        downloads: Downloads,
        strategies: Strategies,
        ask_endpoint: AskEndpoint,
    ) -> None:
        self._catalog = catalog
        self._intake = intake
        self._views = views
        self._downloads = downloads
        self._strategies = strategies
        self._ask_endpoint = ask_endpoint
        # Spreads devices over time; nobody gains by guessing it.
        self._random = random.Random()  # noqa: S311

    def authenticate(self, request: messages.AuthenticateRequest) -> Answer:
        """Give the device a worker id that is good for this process only. Nothing is stored."""
        process = self._catalog.by_name(request.model_name, request.model_version)
        if process is None:
            version = f" {request.model_version}" if request.model_version else ""
            raise Unauthorized(f"no process {request.model_name}{version} is hosted here")
        verify_token(process.authentication, request.auth_token, self._ask)
        return {
            "status": "success",
            "worker_id": new_worker_id(process.secret),
            "requires_speed_test": process.server_config.requires_speed_test,
        }

    def cycle_request(self, request: messages.CycleRequest) -> Answer | Pending:
        """A place in the running cycle, or a rejection with the seconds after which to ask again."""
        process = self._catalog.by_name(request.model, request.version)
        if process is None:
            raise InvalidRequest(f"no process {request.model} {request.version or ''}".rstrip() + " is hosted here")
        if not is_worker_of(process.secret, request.worker_id):
            raise InvalidRequest("worker_id was not given out for this process: authenticate first")
        if not _is_fast_enough(process, request):
            self._intake.count_rejected(process, RejectionReason.TOO_SLOW)
            log.info("worker rejected", extra={"model": process.name, "reason": RejectionReason.TOO_SLOW.value})
            return {"status": "rejected", "timeout": too_slow_timeout(self._random)}
        worker_id = request.worker_id

        def finish(answer: Accepted | Rejected) -> Answer:
            return _answer_cycle_request(process, worker_id, answer)

        return Pending(self._intake.request_cycle(process, uuid.UUID(worker_id)), finish)

    def report(self, request: messages.ReportRequest, encoded: str | memoryview) -> Pending:
        """Check a report completely and count it; the answer is there once that is durable."""
        process, cycle_id = self._holder_of_key(request.worker_id, request.request_key)
        strategy = self._strategies.of(process)
        weight = strategy.weight(request.num_samples)
        content = messages.decode_base64(encoded, "diff")
        layout = process.layout
        # More tensors, or more than twice the model's numbers, is not this model's diff, and not worth reading.
        diff = decode_state(content, maximum_tensors=len(layout.parameters) + 1, maximum_bytes=2 * layout.nbytes + 4096)
        norm = layout.check_diff(diff.tensors)
        # It tells a repeated report from another one, and a device that forges it only cheats itself: a hash that
        # withstands forgers would take twice as long as everything else here.
        digest = xxhash.xxh3_128()
        for tensor in diff.tensors:
            digest.update(tensor.data)
        report = Report(
            worker_id=uuid.UUID(request.worker_id),
            tensors=diff.tensors,
            digest=digest.digest(),
            weight=weight,
            norm=norm,
            num_samples=request.num_samples,
            loss=_finite(request.loss),
            accuracy=_finite(request.accuracy),
        )
        return Pending(self._intake.report(process, cycle_id, report), lambda _: {"status": "success"})

    def get_model(self, query: Mapping[str, str]) -> bytes:
        """The checkpoint of the cycle that the worker was accepted into."""
        process = self._catalog.by_id(_integer(query, "model_id"))
        if process is None:
            raise InvalidRequest("model_id names no model")
        cycle = self._check_download(process, query)
        return self._downloads.checkpoint(process.id, cycle.checkpoint_number)

    def get_plan(self, query: Mapping[str, str]) -> bytes:
        """A training plan in the variant the device asks for."""
        plan_id = _integer(query, "plan_id")
        process = self._catalog.of_plan(plan_id)
        if process is None:
            raise InvalidRequest("plan_id names no plan")
        self._check_download(process, query)
        variant = _VARIANTS.get(query.get("receive_operations_as", ""), "operations")
        try:
            return self._downloads.plan(plan_id, variant)
        except NotFound:
            reason = self._downloads.refusal(plan_id) or f"this plan has no {variant} variant"
            raise InvalidRequest(reason) from None

    def get_protocol(self, query: Mapping[str, str]) -> bytes:
        """A protocol, as it was hosted."""
        protocol_id = _integer(query, "protocol_id")
        process = self._catalog.of_protocol(protocol_id)
        if process is None:
            raise InvalidRequest("protocol_id names no protocol")
        self._check_download(process, query)
        return self._downloads.protocol(protocol_id)

    def _ask(self, url: str, body: dict[str, str]) -> int:
        may_wait()
        return self._ask_endpoint(url, body)

    def _check_download(self, process: HostedProcess, query: Mapping[str, str]) -> CycleView:
        worker_id = query.get("worker_id", "")
        if not is_worker_of(process.secret, worker_id):
            raise InvalidRequest("worker_id was not given out for this process")
        cycle_id = cycle_of_request_key(process.secret, worker_id, query.get("request_key", ""))
        cycle = self._views.get(cycle_id)
        if cycle is None or cycle.process_id != process.id or not cycle.running:
            raise InvalidRequest("the cycle has ended")
        return cycle

    def _holder_of_key(self, worker_id: str, request_key: str) -> tuple[HostedProcess, int]:
        """Process and cycle that the key was issued for, once it has proved to be this worker's."""
        claimed = claimed_cycle_id(request_key)
        cycle = None if claimed is None else self._views.get(claimed)
        process = None if cycle is None else self._catalog.by_id(cycle.process_id)
        if process is None:
            raise Unauthorized("the request_key is not valid for this worker")
        return process, cycle_of_request_key(process.secret, worker_id, request_key)


def _answer_cycle_request(process: HostedProcess, worker_id: str, answer: Accepted | Rejected) -> Answer:
    if isinstance(answer, Rejected):
        log.info("worker rejected", extra={"model": process.name, "reason": answer.reason.value})
        return {"status": "rejected"} if answer.timeout is None else {"status": "rejected", "timeout": answer.timeout}
    return {
        "status": "accepted",
        "request_key": issue_request_key(process.secret, worker_id, answer.cycle_id),
        "version": process.version,
        "model": process.name,
        "plans": process.plans,
        "protocols": process.protocols,
        "client_config": process.client_config,
        "model_id": process.id,
    }


def _is_fast_enough(process: HostedProcess, request: messages.CycleRequest) -> bool:
    config = process.server_config
    for name, value in (("ping", request.ping), ("download", request.download), ("upload", request.upload)):
        if value is not None and value < 0 and name != "ping":
            raise InvalidRequest(f"{name}: expected a number of at least 0")
        if value is None and config.requires_speed_test:
            raise InvalidRequest(f"{name} is missing: this process has a minimum speed")
    return (request.download or 0) >= config.minimum_download_speed and (
        request.upload or 0
    ) >= config.minimum_upload_speed


def _integer(query: Mapping[str, str], name: str) -> int:
    text = query.get(name)
    if text is None:
        raise InvalidRequest(f"{name} is missing")
    if not _ID.fullmatch(text) or int(text) > _LARGEST_ID:
        raise InvalidRequest(f"{name} is not an integer id")
    return int(text)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
