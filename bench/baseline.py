"""The bare cost of a report: base64, JSON, protobuf and a durable insert of the same bodies, with no server around it.

As many processes as the load generator has connections each take a body apart with the libraries the node uses, and
insert the diff into PostgreSQL in a transaction of its own.
"""

from __future__ import annotations

import multiprocessing
import struct
import time
from dataclasses import dataclass
from io import BytesIO
from multiprocessing.synchronize import Barrier
from typing import Any, Literal

import msgspec
import psycopg2
import pybase64

from gridnode.protocol.syft_proto import decode_state

Insert = Literal["none", "copy", "hex"]

_FORK = multiprocessing.get_context("fork")
_TABLE = "bench_baseline"
_COPY_HEAD = b"PGCOPY\n\xff\r\n\x00" + struct.pack("!iih", 0, 0, 1)
_COPY_END = struct.pack("!h", -1)


class _Report(msgspec.Struct):
    worker_id: str
    request_key: str
    diff: str


@dataclass(frozen=True, slots=True)
class Bare:
    """Reports per second, and the CPU seconds of each one on the client's side."""

    rate: float
    cpu_seconds: float


def bare_cost(body: bytes, database_url: str, insert: Insert, *, processes: int = 8, seconds: float = 5.0) -> Bare:
    """Measure the bare cost of ``body``.

    Args:
        insert: 'copy' is binary COPY, 'hex' a plain query parameter as psycopg2 sends it, 'none' stops before it.
        processes: how many do this at the same time.
    """
    _create_table(database_url)
    barrier = _FORK.Barrier(processes)
    results = _FORK.SimpleQueue()
    arguments = (body, database_url, insert, seconds, barrier, results)
    workers = [_FORK.Process(target=_work, args=arguments) for _ in range(processes)]
    for worker in workers:
        worker.start()
    counts = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    total = sum(count for count, _ in counts)
    return Bare(rate=total / seconds, cpu_seconds=sum(cpu for _, cpu in counts) / max(1, total))


def _work(body: bytes, database_url: str, insert: Insert, seconds: float, barrier: Barrier, results: Any) -> None:
    connection = psycopg2.connect(database_url)
    decoder = msgspec.json.Decoder(_Report)
    barrier.wait()
    end = time.perf_counter() + seconds
    cpu = time.process_time()
    count = 0
    while time.perf_counter() < end:
        report = decoder.decode(body)
        diff = pybase64.b64decode(report.diff, validate=True)
        if not decode_state(diff).tensors:
            raise ValueError("the report's diff has no tensors")
        _insert(connection, diff, insert)
        count += 1
    results.put((count, time.process_time() - cpu))
    connection.close()


def _insert(connection: Any, diff: bytes, insert: Insert) -> None:
    if insert == "none":
        return
    with connection.cursor() as cursor:
        if insert == "copy":
            stream = BytesIO(b"".join((_COPY_HEAD, struct.pack("!i", len(diff)), diff, _COPY_END)))
            cursor.copy_expert(f"COPY {_TABLE} (diff) FROM STDIN WITH BINARY", stream, 1 << 20)
        else:
            cursor.execute(f"INSERT INTO {_TABLE} (diff) VALUES (%s)", (diff,))
    connection.commit()


def _create_table(database_url: str) -> None:
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {_TABLE}")
        cursor.execute(f"CREATE TABLE {_TABLE} (id bigint GENERATED ALWAYS AS IDENTITY, diff bytea STORAGE EXTERNAL)")
    connection.close()
