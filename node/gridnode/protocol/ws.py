"""WebSocket at ``/``: the same endpoints, as messages ``{"type", "data", "request_id"?}``.

An idle connection is a coroutine and a few kilobytes. A message is handled in the same thread pool as HTTP requests,
one at a time per connection. Compression is off (server configuration), so a small message can't become a large one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any

import msgspec

from gridnode.errors import GridNodeError, InvalidRequest, TooManyRequests
from gridnode.logs import request_scope
from gridnode.protocol import messages
from gridnode.protocol.answers import DATABASE_SILENT, INTERNAL, status_of
from gridnode.protocol.asgi import Receive, Send
from gridnode.protocol.device import DeviceEndpoints, Pending
from gridnode.protocol.hosting import HostingEndpoints
from gridnode.protocol.messages import Answer
from gridnode.protocol.routes import answer_cycle_request
from gridnode.protocol.wsgi import Scope
from gridnode.reporting import metrics
from gridnode.security.limits import AddressLimiter
from gridnode.security.management_token import Headers

log = logging.getLogger(__name__)

Handler = Callable[[msgspec.Raw], Answer]
#: Raises to refuse a connection; gets the handshake's headers, names in lower case.
CheckAccess = Callable[[Headers], object]

HOST_TRAINING = "model-centric/host-training"
AUTHENTICATE = "model-centric/authenticate"
PING = "socket-ping"
_ALIVE: Answer = {"alive": "True"}
_CLOSE_POLICY_VIOLATION = 1008


def device_handlers(endpoints: DeviceEndpoints) -> dict[str, Handler]:
    """Message types of the device listener."""

    def cycle_request(data: msgspec.Raw) -> Answer:
        answer = _wait(answer_cycle_request(endpoints, bytes(data)))
        if answer["status"] == "rejected":
            # SwiftSyft's WebSocket decoder requires the number even where asking again is pointless.
            answer.setdefault("timeout", 0)
        return answer

    return {
        AUTHENTICATE: lambda data: endpoints.authenticate(messages.decode(data, messages.AuthenticateRequest)),
        "model-centric/cycle-request": cycle_request,
        "model-centric/report": lambda data: endpoints.report(*messages.decode_report(data)).wait(),
    }


def hosting_handlers(hosting: HostingEndpoints) -> dict[str, Handler]:
    """The message type that hosts a process."""
    return {
        HOST_TRAINING: lambda data: hosting.host_hex(messages.decode_object(data)),
    }


class WebSocketEndpoint:
    """Serves the WebSocket connections of one listener."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        executor: Executor,
        limiter: AddressLimiter,
        check_access: CheckAccess | None = None,
        answer_seconds: float | None = None,
    ) -> None:
        self._handlers = handlers
        self._executor = executor
        self._limiter = limiter
        self._check_access = check_access
        self._answer_seconds = answer_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        if scope["path"] not in ("/", "") or not self._is_authorized(scope):
            await send({"type": "websocket.close", "code": _CLOSE_POLICY_VIOLATION})
            return
        await send({"type": "websocket.accept"})
        metrics.websocket_opened()
        address = scope["client"][0] if scope.get("client") else ""
        try:
            while True:
                message = await receive()
                if message["type"] != "websocket.receive":
                    return
                answer = await self._answer(message, address)
                await send({"type": "websocket.send", "text": answer.decode()})
        finally:
            metrics.websocket_closed()

    def _is_authorized(self, scope: Scope) -> bool:
        if self._check_access is None:
            return True
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check_access(headers)
        except GridNodeError:
            return False
        return True

    async def _answer(self, message: Mapping[str, Any], address: str) -> bytes:
        started = time.monotonic()
        raw = message.get("text")
        content = raw.encode("utf-8", "surrogatepass") if raw is not None else bytes(message.get("bytes") or b"")
        loop = asyncio.get_running_loop()
        try:
            self._limiter.admit_request(address)
            async with asyncio.timeout(self._answer_seconds):
                kind, status, answer = await loop.run_in_executor(self._executor, self._handle, content)
        except TooManyRequests as error:
            kind, status, answer = "other", status_of(error), messages.encode({"error": error.message})
        except TimeoutError:
            kind, status, answer = "other", 503, messages.encode({"error": DATABASE_SILENT})
        metrics.observe_request(kind, "websocket", status, time.monotonic() - started, len(content), len(answer))
        return answer

    def _handle(self, content: bytes) -> tuple[str, int, bytes]:
        """Type, status for metrics, and encoded answer; in a thread of the pool."""
        with request_scope():
            try:
                envelope = messages.decode(content, messages.Envelope)
            except InvalidRequest as error:
                return "other", 400, messages.encode({"error": error.message})
            echoed: Answer = {} if envelope.request_id is None else {"request_id": envelope.request_id}
            if envelope.type == PING:
                return PING, 200, messages.encode(_ALIVE | echoed)
            handler = self._handlers.get(envelope.type)
            if handler is None:
                return "other", 400, messages.encode({"error": "unknown message type"} | echoed)
            status, data = _call(handler, envelope.data)
            if envelope.type == AUTHENTICATE and status != 200:
                # KotlinSyft's decoder requires a status, over WebSocket even of an error.
                data = {"status": "rejected"} | data
            answer = {"type": envelope.type, "data": data}
            return envelope.type.rpartition("/")[2], status, messages.encode(answer | echoed)


def _wait(answer: Answer | Pending) -> Answer:
    return answer.wait() if isinstance(answer, Pending) else answer


def _call(handler: Handler, data: msgspec.Raw) -> tuple[int, Answer]:
    try:
        return 200, handler(data)
    except GridNodeError as error:
        log.info("message refused", extra={"status": status_of(error), "reason": error.message})
        return status_of(error), {"error": error.message}
    except Exception:
        log.exception("message failed")
        return 500, {"error": INTERNAL}
