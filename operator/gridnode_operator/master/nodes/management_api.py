"""A node's management listener as the master node uses it: its processes, and a checkpoint.

The address comes from the provider. Redirects are not followed, answers are bounded in size and time, and nothing of
this machine's own (proxies, ~/.netrc) is used.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import requests

from gridnode_operator.master.errors import NodeUnreachable
from gridnode_operator.master.nodes.provider import ManagementAccess

_CONNECT_TIMEOUT: Final = 3.0
_ANSWER_TIMEOUT: Final = 10.0
_LARGEST_LIST: Final = 32 * 1024 * 1024
_CHUNK: Final = 1 << 18
_PAGE: Final = 1000
_OK: Final = 200


@dataclass(frozen=True, slots=True)
class Download:
    """A checkpoint on its way."""

    number: int
    chunks: Iterator[bytes]


def list_processes(access: ManagementAccess, *, seconds: float = 20.0) -> list[dict[str, Any]]:
    """All processes of a node, as its ``GET /processes`` gives them.

    Raises:
        NodeUnreachable: it did not answer in time, or not with a list.
    """
    deadline = time.monotonic() + seconds
    found: list[dict[str, Any]] = []
    after = 0
    while True:
        query = {"after": str(after), "limit": str(_PAGE)}
        with _get(access, "/processes", query) as response:
            page = _processes(_content(response, _LARGEST_LIST, deadline))
        found += page
        if len(page) < _PAGE:
            return found
        after = max(int(process["id"]) for process in page)


@contextmanager
def retrieve_checkpoint(
    access: ManagementAccess, name: str, version: str, checkpoint: str, *, largest: int, seconds: float
) -> Iterator[Download]:
    """A checkpoint of a process by number or ``latest``; its pieces can be read while the block runs.

    Raises:
        NodeUnreachable: it is not there, larger than ``largest`` bytes, or did not come within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    query = {"name": name, "version": version, "checkpoint": checkpoint}
    with _get(access, "/model-centric/retrieve-model", query) as response:
        number = response.headers.get("X-Checkpoint", "")
        if not number.isascii() or not number.isdigit():
            raise NodeUnreachable("what answers is no node: it names no checkpoint")
        yield Download(int(number), _chunks(response, largest, deadline))


@contextmanager
def _get(access: ManagementAccess, path: str, query: Mapping[str, str]) -> Iterator[requests.Response]:
    # What the block itself raises is none of the node's: only the calls of requests are translated.
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Accept-Encoding": "identity"}
        if access.token is not None:
            headers["Authorization"] = f"Bearer {access.token}"
        with _translated():
            response = session.get(
                access.url + path,
                params=dict(query),
                headers=headers,
                timeout=(_CONNECT_TIMEOUT, _ANSWER_TIMEOUT),
                allow_redirects=False,
                stream=True,
            )
        with response:
            if response.status_code != _OK:
                raise NodeUnreachable(f"its management listener answers {response.status_code}")
            yield response


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except requests.Timeout:
        raise NodeUnreachable("its management listener does not answer in time") from None
    except (requests.RequestException, OSError) as error:
        raise NodeUnreachable(f"its management listener can't be reached ({type(error).__name__})") from None


def _chunks(response: requests.Response, largest: int, deadline: float) -> Iterator[bytes]:
    received = 0
    pieces = response.iter_content(_CHUNK)
    while True:
        with _translated():
            chunk = next(pieces, None)
        if chunk is None:
            break
        received += len(chunk)
        if received > largest:
            raise NodeUnreachable(f"its answer is larger than {largest} bytes")
        if time.monotonic() > deadline:
            raise NodeUnreachable("its answer does not come in time")
        yield chunk
    declared = response.headers.get("Content-Length")
    if declared is not None and declared != str(received):
        raise NodeUnreachable("its answer broke off")


def _content(response: requests.Response, largest: int, deadline: float) -> bytes:
    return b"".join(_chunks(response, largest, deadline))


def _processes(content: bytes) -> list[dict[str, Any]]:
    try:
        answer = msgspec.json.decode(content)
        processes = answer["processes"]
        if all(isinstance(process["id"], int) for process in processes):
            return list(processes)
    except (msgspec.MsgspecError, KeyError, TypeError):
        pass
    raise NodeUnreachable("what answers is no node: its list of processes can't be read")
