"""Posting one event to the master node, and when to try again."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from gridnode.reporting.dispatcher import retry_delay
from gridnode.reporting.master import Answer, MasterNode
from tests.support.scripted_master import Reply, ScriptedMaster

EVENT = {"percent_complete": 50, "model_id": "mnist"}
KEY = "key-of-the-master-node"


@pytest.fixture
def master() -> Iterator[ScriptedMaster]:
    with ScriptedMaster() as server:
        yield server


def post(master: ScriptedMaster, *, key: str | None = None, timeout: float = 5) -> Answer:
    return MasterNode(master.url, key=key, timeout=timeout).post(EVENT)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_2xx_accepts_the_event(master: ScriptedMaster, status: int) -> None:
    master.script = lambda _: Reply(status)
    assert post(master) == Answer("accepted")
    (received,) = master.posts
    assert received.path == "/model_progress"
    assert received.body == EVENT
    assert received.headers["Content-Type"] == "application/json"


def test_key_goes_into_a_bearer_header_and_nothing_goes_without_one(master: ScriptedMaster) -> None:
    post(master, key=KEY)
    post(master)
    assert master.posts[0].headers["Authorization"] == f"Bearer {KEY}"
    assert "Authorization" not in master.posts[1].headers


def test_key_is_sent_though_a_netrc_knows_the_host(
    master: ScriptedMaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    post(master, key=KEY)
    assert master.posts[0].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_answers_about_the_event_call_it_wrong(master: ScriptedMaster, status: int) -> None:
    master.script = lambda _: Reply(status)
    assert post(master) == Answer("invalid", f"HTTP {status}")


@pytest.mark.parametrize("status", [401, 403, 404, 408, 409, 500])
def test_other_answers_refuse_this_event(master: ScriptedMaster, status: int) -> None:
    master.script = lambda _: Reply(status)
    assert post(master) == Answer("refused", f"HTTP {status}")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_answers_of_an_overloaded_master_concern_all_events(master: ScriptedMaster, status: int) -> None:
    master.script = lambda _: Reply(status)
    assert post(master) == Answer("unreachable", f"HTTP {status}")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_not_followed(master: ScriptedMaster, status: int) -> None:
    with ScriptedMaster() as elsewhere:
        master.script = lambda _: Reply(status, {"Location": f"{elsewhere.url}/model_progress"})
        answer = post(master, key=KEY)
        assert answer.outcome == "refused"
        assert "redirects are not followed" in answer.reason
        assert elsewhere.posts == []


def test_slow_master_is_given_up_after_the_timeout(master: ScriptedMaster) -> None:
    master.script = lambda _: Reply(delay=2)
    began = time.monotonic()
    assert post(master, timeout=0.2) == Answer("unreachable", "no answer within 0.2 s")
    assert time.monotonic() - began < 1.5


def test_answer_counts_though_its_body_never_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        node = MasterNode(f"http://127.0.0.1:{listener.getsockname()[1]}", key=None, timeout=5)

        def answer_without_end() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n{")
            time.sleep(3)
            connection.close()

        threading.Thread(target=answer_without_end, daemon=True).start()
        began = time.monotonic()
        assert node.post(EVENT) == Answer("accepted")
        assert time.monotonic() - began < 2


def test_refused_connection_says_why_and_not_where(master: ScriptedMaster) -> None:
    master.stop()
    assert post(master, key=KEY) == Answer("unreachable", "connection failed: Connection refused")


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH\r\n", b"", b"HTTP/1.1 200\x00 \xff\r\n\r\n"])
def test_what_is_no_http_is_an_unreachable_master(garbage: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_with_garbage() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(garbage)
            connection.close()

        threading.Thread(target=answer_with_garbage, daemon=True).start()
        answer = MasterNode(f"http://127.0.0.1:{listener.getsockname()[1]}", key=None, timeout=5).post(EVENT)
    assert answer.outcome == "unreachable"
    assert answer.reason


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0", 0), ("-5", 0), ("nan", None), ("soon", None), (formatdate(time.time() - 60, usegmt=True), 0)],
)
def test_retry_after_in_seconds_or_not_readable(master: ScriptedMaster, header: str, seconds: float | None) -> None:
    master.script = lambda _: Reply(503, {"Retry-After": header})
    assert post(master).retry_after == seconds


def test_retry_after_as_a_date(master: ScriptedMaster) -> None:
    master.script = lambda _: Reply(503, {"Retry-After": formatdate(time.time() + 100, usegmt=True)})
    seconds = post(master).retry_after
    assert seconds is not None
    assert 95 < seconds <= 100


@pytest.mark.parametrize(
    ("attempts", "longest"), [(1, 1), (2, 2), (3, 4), (8, 128), (9, 256), (10, 300), (1_000_000, 300)]
)
def test_delay_is_spread_between_nothing_and_a_ceiling_that_doubles(attempts: int, longest: float) -> None:
    delays = [retry_delay(attempts) for _ in range(500)]
    assert min(delays) < longest * 0.1
    assert longest * 0.9 < max(delays) <= longest


def test_delay_is_at_least_what_the_master_asked_for_but_an_hour_at_most() -> None:
    assert all(retry_delay(1, 60) == 60 for _ in range(100))
    assert retry_delay(1, 1e9) == 3600
    assert all(retry_delay(3, 0) <= 4 for _ in range(100))
