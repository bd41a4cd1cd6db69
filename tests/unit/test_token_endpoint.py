"""Asking a third party about a token, with a real HTTP server on the other side."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gridnode.errors import InvalidRequest, Unavailable
from gridnode.security.token_endpoint import TokenEndpoint
from gridnode.security.tokens import parse_authentication, verify_token


class ThirdParty(ThreadingHTTPServer):
    """Answers /<status>; /hang only once ``released`` is set; /endless with a body that never ends."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.released = threading.Event()
        self.reached = threading.Event()
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class _Handler(BaseHTTPRequestHandler):
    server: ThirdParty

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        self.server.reached.set()
        name = self.path.strip("/")
        if name == "hang":
            self.server.released.wait(10)
        self.send_response(int(name) if name.isdigit() else 200)
        if name == "302":
            self.send_header("Location", "/200")
        self.end_headers()
        try:
            while name == "endless":
                self.wfile.write(bytes(65536))
        except OSError:
            self.server.released.set()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def third_party() -> Iterator[ThirdParty]:
    with ThirdParty() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()


@contextmanager
def dripping_server() -> Iterator[str]:
    """Sends one byte of a header that never ends every few milliseconds, so that no single wait is long."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not stopped.wait(0.02):
                connection.sendall(b"x")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        stopped.set()
        thread.join(5)
        listener.close()


@pytest.mark.parametrize("status", [200, 204, 401, 404, 500])
def test_status_of_the_answer_is_given(third_party: ThirdParty, status: int) -> None:
    assert TokenEndpoint().ask(third_party.url(f"/{status}"), {"auth_token": "opaque"}) == status


def test_token_is_posted_as_json(third_party: ThirdParty) -> None:
    TokenEndpoint().ask(third_party.url("/200"), {"auth_token": 't\u00f6ken "\0\ud800'})
    [(path, headers, body)] = third_party.requests
    assert path == "/200"
    assert headers["content-type"] == "application/json"
    assert json.loads(body) == {"auth_token": 't\u00f6ken "\0\ud800'}


def test_redirects_are_not_followed(third_party: ThirdParty) -> None:
    assert TokenEndpoint().ask(third_party.url("/302"), {"auth_token": "opaque"}) == 302
    assert [path for path, _, _ in third_party.requests] == ["/302"]


def test_body_of_the_answer_is_not_read(third_party: ThirdParty) -> None:
    assert TokenEndpoint().ask(third_party.url("/endless"), {"auth_token": "opaque"}) == 200
    assert third_party.released.wait(5), "the connection stayed open"


def test_no_credential_of_the_machine_is_sent(
    third_party: ThirdParty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    TokenEndpoint().ask(third_party.url("/200"), {"auth_token": "opaque"})
    [(_, headers, _)] = third_party.requests
    assert "authorization" not in headers
    assert "cookie" not in headers


def test_silent_endpoint_is_unavailable_after_the_timeout(third_party: ThirdParty) -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable) as unavailable:
        TokenEndpoint(timeout=0.2).ask(third_party.url("/hang"), {"auth_token": "opaque"})
    assert 0.2 <= time.monotonic() - started < 2
    assert unavailable.value.retry_after > 0


def test_dripping_endpoint_is_unavailable_after_the_timeout() -> None:
    with dripping_server() as url:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            TokenEndpoint(timeout=0.3).ask(url, {"auth_token": "opaque"})
        assert 0.3 <= time.monotonic() - started < 2


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_unreachable_endpoint_is_unavailable_and_its_url_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    url = f"http://127.0.0.1:{_closed_port()}/verify?key=hunter2"
    with pytest.raises(Unavailable) as unavailable:
        TokenEndpoint().ask(url, {"auth_token": "opaque"})
    assert unavailable.value.message == "The service that checks 'auth_token' does not answer; try again later."
    assert "gave no answer: ConnectionError" in caplog.text
    assert "hunter2" not in caplog.text


def test_endpoint_that_speaks_no_tls_is_unavailable(third_party: ThirdParty) -> None:
    with pytest.raises(Unavailable):
        TokenEndpoint().ask(third_party.url("/200").replace("http:", "https:"), {"auth_token": "opaque"})
    assert third_party.requests == []


@pytest.mark.parametrize("url", ["http://a..b/", "http://[::1/", "http://host:port/", "ftp://127.0.0.1/"])
def test_url_that_cannot_be_asked_is_unavailable(url: str) -> None:
    with pytest.raises(Unavailable):
        TokenEndpoint().ask(url, {"auth_token": "opaque"})


def test_slow_endpoint_holds_few_threads_and_none_of_another_endpoint(third_party: ThirdParty) -> None:
    endpoint = TokenEndpoint(timeout=5.0, maximum_pending=1)
    url = third_party.url("/hang")
    answers: list[int] = []
    first = threading.Thread(target=lambda: answers.append(endpoint.ask(url, {"auth_token": "first"})))
    first.start()
    assert third_party.reached.wait(5)

    started = time.monotonic()
    with pytest.raises(Unavailable):
        endpoint.ask(url, {"auth_token": "second"})
    assert time.monotonic() - started < 2
    assert endpoint.ask(third_party.url("/200"), {"auth_token": "third"}) == 200

    third_party.released.set()
    first.join(5)
    assert answers == [200]
    assert endpoint.ask(url, {"auth_token": "fourth"}) == 200
    assert b"second" not in b"".join(body for _, _, body in third_party.requests)


def test_requests_that_failed_free_their_place() -> None:
    endpoint = TokenEndpoint(timeout=1.0, maximum_pending=1)
    url = f"http://127.0.0.1:{_closed_port()}/"
    started = time.monotonic()
    for _ in range(20):
        with pytest.raises(Unavailable):
            endpoint.ask(url, {"auth_token": "opaque"})
    assert time.monotonic() - started < 1.5, "places were waited for"


def test_whole_way_from_config_to_verdict(third_party: ThirdParty) -> None:
    accepting = parse_authentication({"endpoint": third_party.url("/200")})
    refusing = parse_authentication({"endpoint": third_party.url("/401")})
    silent = parse_authentication({"endpoint": third_party.url("/hang")})
    ask = TokenEndpoint(timeout=0.5).ask
    verify_token(accepting, "opaque", ask)
    with pytest.raises(InvalidRequest, match="did not pass 3rd party validation"):
        verify_token(refusing, "opaque", ask)
    with pytest.raises(Unavailable):
        verify_token(silent, "opaque", ask)
