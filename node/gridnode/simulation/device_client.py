"""A device's side of the wire contract, over HTTP and over WebSocket.

Written the way the frozen clients of 2020 behave: downloads and the speed test go over HTTP in both variants, a report
carries plain base64, one request is under way at a time.
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import requests
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from gridnode.errors import InvalidRequest
from gridnode.simulation.contract import (
    Accepted,
    Authentication,
    DeviceError,
    Refused,
    Rejected,
    Speed,
    Transport,
    Unreachable,
    read_authentication,
    read_cycle_answer,
    read_message,
    read_object,
    read_report_answer,
)

CONNECT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 60.0
_DOWNLOAD_CHUNK = 1 << 20
_PINGS = 3
_UPLOAD_SIZES = (64 << 10, 1 << 20, 16 << 20)
# An upload that lasts this many seconds says enough about the speed.
_LONG_ENOUGH = 0.25


@dataclass(slots=True)
class Traffic:
    """Bytes of message bodies, without headers and framing."""

    sent: int = 0
    received: int = 0


class DeviceClient(ABC):
    """One device's connections to a node, closed by leaving the ``with`` block.

    All requests raise :class:`~gridnode.simulation.contract.DeviceError`: Refused, Unreachable or ContractBroken.
    """

    transport: ClassVar[Transport]

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InvalidRequest(f"{url!r} is no address of a node; it looks like http://127.0.0.1:5000")
        # Two of the clients drop any base path.
        self._url = f"{parts.scheme}://{parts.netloc}"
        self.traffic = Traffic()
        self._http = requests.Session()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next request opens them again."""
        self._http.close()

    def authenticate(self, model: str, version: str | None, auth_token: str | None = None) -> Authentication:
        """Become a worker of a process."""
        data: dict[str, Any] = {"model_name": model, "auth_token": auth_token}
        if version is not None:
            data["model_version"] = version
        return read_authentication(self._ask("authenticate", data))

    def request_cycle(self, worker_id: str, model: str, version: str | None, speed: Speed) -> Accepted | Rejected:
        """Ask for a place in the running cycle."""
        data: dict[str, Any] = {
            "worker_id": worker_id,
            "model": model,
            "ping": speed.ping,
            "download": speed.download,
            "upload": speed.upload,
        }
        if version is not None:
            data["version"] = version
        return read_cycle_answer(self._ask("cycle-request", data), worker_id, self.transport)

    def get_model(self, place: Accepted) -> bytes:
        """The cycle's checkpoint, a serialized State."""
        return self._download("get-model", place, model_id=place.model_id)

    def get_plan(self, place: Accepted, plan_id: int, variant: str = "list") -> bytes:
        """A plan with its operations as ``list``, ``torchscript`` or ``tfjs``."""
        return self._download("get-plan", place, plan_id=plan_id, receive_operations_as=variant)

    def get_protocol(self, place: Accepted, protocol_id: int) -> bytes:
        """A protocol as it was hosted."""
        return self._download("get-protocol", place, protocol_id=protocol_id)

    def report(self, place: Accepted, diff: bytes, *, num_samples: int, loss: float, accuracy: float) -> None:
        """Report old - new parameters as a serialized State; returns once the node has acknowledged it."""
        data = {
            "worker_id": place.worker_id,
            "request_key": place.request_key,
            "diff": base64.b64encode(diff).decode("ascii"),
            "num_samples": num_samples,
            "loss": loss,
            "accuracy": accuracy,
        }
        read_report_answer(self._ask("report", data))

    def measure_speed(self, worker_id: str) -> Speed:
        """The speed test: some pings, one download, uploads that grow until one takes long enough to measure."""
        pings = [self._seconds_of("GET", worker_id, is_ping=1) for _ in range(_PINGS)]
        return Speed(1000 * sum(pings) / len(pings), self._download_speed(worker_id), self._upload_speed(worker_id))

    @abstractmethod
    def _ask(self, action: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """Send authenticate, cycle-request or report and give the answer's data."""

    def _download(self, action: str, place: Accepted, **parameters: str | int) -> bytes:
        query = {"worker_id": place.worker_id, "request_key": place.request_key, **parameters}
        return self._request("GET", action, params=query).content

    def _request(self, method: str, action: str, *, data: bytes | None = None, **options: Any) -> requests.Response:
        with _network_errors():
            response = self._http.request(
                method,
                f"{self._url}/model-centric/{action}",
                data=data,
                timeout=(CONNECT_TIMEOUT, ANSWER_TIMEOUT),
                **options,
            )
        self.traffic.sent += len(data or b"")
        if response.status_code != 200:
            raise http_error(action, response)
        if not options.get("stream"):
            self.traffic.received += len(response.content)
        return response

    def _seconds_of(self, method: str, worker_id: str, data: bytes | None = None, **parameters: int) -> float:
        query = {"worker_id": worker_id, "random": secrets.token_hex(16), **parameters}
        start = time.perf_counter()
        self._request(method, "speed-test", params=query, data=data)
        return time.perf_counter() - start

    def _download_speed(self, worker_id: str) -> float:
        query = {"worker_id": worker_id, "random": secrets.token_hex(16)}
        received = 0
        with self._request("GET", "speed-test", params=query, stream=True) as response, _network_errors():
            start = time.perf_counter()
            for chunk in response.iter_content(_DOWNLOAD_CHUNK):
                received += len(chunk)
        self.traffic.received += received
        return _megabits_per_second(received, time.perf_counter() - start)

    def _upload_speed(self, worker_id: str) -> float:
        speed = 0.0
        for size in _UPLOAD_SIZES:
            seconds = self._seconds_of("POST", worker_id, data=secrets.token_bytes(size))
            speed = _megabits_per_second(size, seconds)
            if seconds > _LONG_ENOUGH:
                break
        return speed


class HttpDeviceClient(DeviceClient):
    """All requests over HTTP, as KotlinSyft, SwiftSyft and syft.js with an http address."""

    transport = "http"

    def _ask(self, action: str, data: Mapping[str, Any]) -> dict[str, Any]:
        response = self._request(
            "POST", action, data=json.dumps(data).encode(), headers={"Content-Type": "application/json"}
        )
        return read_object(action, response.content)


class WebSocketDeviceClient(DeviceClient):
    """Requests over one WebSocket, as PySyft and the others with a ws address."""

    transport = "ws"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._socket: ClientConnection | None = None

    def close(self) -> None:
        """Close the WebSocket and the HTTP connections; the next request opens them again."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()
        super().close()

    def _ask(self, action: str, data: Mapping[str, Any]) -> dict[str, Any]:
        message_type = f"model-centric/{action}"
        message = json.dumps({"type": message_type, "data": data})
        try:
            answer = self._exchange(message)
        except Unreachable:
            # A late answer to this message would be taken for the next one's.
            self.close()
            raise
        self.traffic.sent += len(message)
        self.traffic.received += len(answer)
        return read_message(message_type, read_object(action, answer))

    def _exchange(self, message: str) -> str | bytes:
        with _network_errors():
            if self._socket is None:
                address = "ws" + self._url.removeprefix("http") + "/"
                self._socket = connect(
                    address, open_timeout=CONNECT_TIMEOUT, max_size=None, compression=None, proxy=None
                )
            self._socket.send(message)
            return self._socket.recv(timeout=ANSWER_TIMEOUT)


def open_client(url: str, transport: Transport) -> DeviceClient:
    """A client for a node's device address."""
    return HttpDeviceClient(url) if transport == "http" else WebSocketDeviceClient(url)


@contextlib.contextmanager
def _network_errors() -> Iterator[None]:
    try:
        yield
    except (requests.RequestException, WebSocketException, OSError) as error:
        raise Unreachable(f"no answer from the node: {error}") from error


def http_error(action: str, response: requests.Response) -> DeviceError:
    """What an answer other than 200 means to a device."""
    with contextlib.closing(response):
        try:
            message = str(response.json()["error"])
        except (ValueError, KeyError, TypeError, requests.RequestException):
            message = f"{action} answered {response.status_code}"
    if response.status_code == 429 or response.status_code >= 500:
        return Unreachable(message, _retry_after(response))
    return Refused(message, response.status_code)


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    # HTTP also allows a date, which no node sends.
    return float(text) if text.isdecimal() else None


def _megabits_per_second(size: int, seconds: float) -> float:
    return 8 * size / max(seconds, 1e-9) / 1e6
