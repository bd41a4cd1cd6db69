"""Log lines: readable by machines and people, with a request id, and never with a secret."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import pytest

from gridnode.logs import configure_logging, current_request_id, request_scope
from gridnode.redaction import LONGEST_TEXT, Redactor, masked_url

KNOWN = "opensesame-opensesame"
REQUEST_KEY = "0123456789abcdef" * 4
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyIjoxfQ.c2lnbmF0dXJl"

log = logging.getLogger("gridnode.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def json_lines() -> Callable[[], list[dict[str, object]]]:
    stream = io.StringIO()
    configure_logging("json", "info", known_secrets=[KNOWN], stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def text_lines() -> Callable[[], list[str]]:
    stream = io.StringIO()
    configure_logging("text", "info", known_secrets=[KNOWN], stream=stream)
    return lambda: stream.getvalue().splitlines()


def test_json_line_has_fields(json_lines: Callable[[], list[dict[str, object]]]) -> None:
    log.info("cycle %d closed", 3, extra={"model": "mnist", "reports": 20, "seconds": 0.5, "plain": None})
    (line,) = json_lines()
    assert line.pop("time")
    assert line == {
        "level": "info",
        "logger": "gridnode.test",
        "message": "cycle 3 closed",
        "model": "mnist",
        "reports": 20,
        "seconds": 0.5,
        "plain": None,
    }


def test_json_time_is_utc(json_lines: Callable[[], list[dict[str, object]]]) -> None:
    log.info("now")
    assert str(json_lines()[0]["time"]).endswith("+00:00")


def test_json_line_stays_one_line_and_valid_whatever_is_logged(
    json_lines: Callable[[], list[dict[str, object]]],
) -> None:
    class Odd:
        def __str__(self) -> str:
            return "odd"

    loop: dict[str, object] = {}
    loop["self"] = loop
    log.info(
        'a "quoted"\nline\u2028\ud800',
        extra={"nan": float("nan"), "odd": Odd(), "raw": b"\xff" * 5, "loop": loop, "set": {1}},
    )
    (line,) = json_lines()
    assert line["message"] == 'a "quoted"\nline\u2028\ud800'
    assert (line["nan"], line["odd"], line["raw"], line["set"]) == ("nan", "odd", "<5 bytes>", [1])


def test_extra_field_does_not_replace_a_standard_one(json_lines: Callable[[], list[dict[str, object]]]) -> None:
    log.info("closed", extra={"level": 7, "logger": "other"})
    assert (json_lines()[0]["level"], json_lines()[0]["logger"]) == ("info", "gridnode.test")


def test_level_is_obeyed() -> None:
    stream = io.StringIO()
    configure_logging("json", "warning", stream=stream)
    log.info("quiet")
    log.warning("loud")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["loud"]


def test_libraries_that_repeat_every_request_are_quiet(json_lines: Callable[[], list[dict[str, object]]]) -> None:
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("uvicorn.error").info("started")
    assert [line["message"] for line in json_lines()] == ["started"]


def test_configuring_twice_does_not_double_lines() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging("json", "info", stream=first)
    configure_logging("json", "info", stream=second)
    log.info("once")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    ("log_format", "stream", "is_json"),
    [
        ("auto", Terminal(), False),
        ("auto", io.StringIO(), True),
        ("text", io.StringIO(), False),
        ("json", Terminal(), True),
    ],
)
def test_terminal_gets_text_and_the_rest_json(log_format: str, stream: io.StringIO, is_json: bool) -> None:
    configure_logging(log_format, "info", stream=stream)
    log.info("hello")
    assert stream.getvalue().startswith("{") is is_json


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown, plain, piped = Terminal(), Terminal(), io.StringIO()
    configure_logging("text", "info", stream=shown)
    log.info("hello")
    configure_logging("text", "info", stream=piped)
    log.info("hello")
    monkeypatch.setenv("NO_COLOR", "1")
    configure_logging("text", "info", stream=plain)
    log.info("hello")
    assert "\x1b[" in shown.getvalue()
    assert "\x1b[" not in plain.getvalue() + piped.getvalue()


def test_text_line_shows_fields(text_lines: Callable[[], list[str]]) -> None:
    log.warning("starved", extra={"model": "mnist", "reports": 2})
    (line,) = text_lines()
    assert line.split(" ", 1)[1] == "warning starved model=mnist reports=2"


def test_client_text_makes_no_lines_of_its_own(text_lines: Callable[[], list[str]]) -> None:
    log.info("no such model: %s", "x\n08:00:00 info    all is well\x1b[2J", extra={"model": "y\r\nz\u2028"})
    (line,) = text_lines()
    assert r"x\n08:00:00" in line
    assert r"\x1b[2J" in line
    assert r"model=y\r\nz\u2028" in line


def test_request_id_is_in_every_line_of_the_request(json_lines: Callable[[], list[dict[str, object]]]) -> None:
    with request_scope() as first:
        log.info("in")
        with request_scope() as second:
            assert current_request_id() == second != first
        assert current_request_id() == first
    log.info("out")
    assert current_request_id() is None
    inside, outside = json_lines()
    assert inside["request_id"] == first
    assert "request_id" not in outside


@pytest.mark.parametrize(
    ("supplied", "is_kept"), [("abc-1.2_3", True), ("", False), ("a\nb", False), ("a" * 65, False)]
)
def test_request_id_of_a_proxy_is_kept_if_it_is_harmless(supplied: str, is_kept: bool) -> None:
    with request_scope(supplied) as request_id:
        assert (request_id == supplied) is is_kept
        assert request_id


def test_threads_do_not_share_request_ids() -> None:
    seen: list[str | None] = []
    with request_scope():
        thread = threading.Thread(target=lambda: seen.append(current_request_id()))
        thread.start()
        thread.join()
    assert seen == [None]


@pytest.mark.parametrize(
    "text",
    [
        f"auth_token={KNOWN[:10]}",
        f'{{"auth_token": "{KNOWN[:10]}", "model_name": "m"}}',
        f'{{"auth_token": "with \\" quote {KNOWN[:10]}"}}',
        f"{{'auth_token': '{KNOWN[:10]}'}}",
        f'b\'{{\\"auth_token\\": \\"{KNOWN[:10]}\\"}}\'',
        f"authToken: {KNOWN[:10]}",
        f"GET /model-centric/get-model?worker_id=1&request_key={KNOWN[:10]}&model_id=3",
        f"GRIDNODE_MASTER_KEY={KNOWN[:10]} GRIDNODE_MANAGEMENT_TOKEN={KNOWN[:10]}",
        f"Authorization: Bearer {KNOWN[:10]}",
        f"Authorization: Basic {KNOWN[:10]}==",
        f"{{'Authorization': 'Bearer {KNOWN[:10]}'}}",
        f"Set-Cookie: session={KNOWN[:10]}; Path=/",
        f"sent Bearer {KNOWN[:10]} to master",
        f"postgresql+psycopg2://node:{KNOWN[:10]}@db:5432/nodes is away",
        f"postgresql://node:p@ss/{KNOWN[:10]}@db/nodes",
        f"postgresql://:{KNOWN[:10]}@db/nodes",
        f"postgresql://db/nodes?user=node&password={KNOWN[:10]}&sslpassword={KNOWN[:10]}",
        f"could not connect: host=db user=node password={KNOWN[:10]} dbname=nodes",
        f"known values are found anywhere:{KNOWN}!",
    ],
)
def test_no_secret_in_text(text: str) -> None:
    shown = Redactor([KNOWN]).text(text)
    assert KNOWN[:10] not in shown
    assert "***" in shown


@pytest.mark.parametrize("secret", [REQUEST_KEY, JWT])
def test_secrets_are_known_by_their_form(secret: str) -> None:
    assert Redactor().text(f"got {secret}.") in {"got ***.", "got ***"}


@pytest.mark.parametrize(
    "text",
    [
        "http://master:5001/model_progress answered 500",
        "max_tokens=5 is no setting",
        "the token is missing, send one",
        "sha256 0123456789abcdef of checkpoint 3",
        "worker 6f1f3c6e-7d0e-4d53-9f43-6a8f8e9c9f10 reported",
        "mail author@example.org",
    ],
)
def test_harmless_text_is_left_alone(text: str) -> None:
    assert Redactor([KNOWN]).text(text) == text


def test_rest_of_a_masked_url_is_still_shown() -> None:
    assert masked_url("postgresql://node:opensesame@db:5432/nodes?sslmode=require") == (
        "postgresql://node:***@db:5432/nodes?sslmode=require"
    )


def test_no_secret_in_fields(json_lines: Callable[[], list[dict[str, object]]]) -> None:
    log.info(
        "request",
        extra={
            "auth_token": "plain-word",
            "body": {"request_key": "plain-word", "nested": [{"master_key": "plain-word"}], "model": "mnist"},
            "headers": {"Authorization": "Bearer plain-word"},
            "url": f"postgresql://n:{KNOWN}@db/x",
        },
    )
    (line,) = json_lines()
    assert "plain-word" not in json.dumps(line)
    assert KNOWN not in json.dumps(line)
    assert line["body"] == {"request_key": "***", "nested": [{"master_key": "***"}], "model": "mnist"}


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_secret_in_tracebacks(log_format: str) -> None:
    stream = io.StringIO()
    configure_logging(log_format, "info", known_secrets=[KNOWN], stream=stream)
    try:
        raise ValueError(f"connecting to postgresql://n:other@db/x as {KNOWN}")
    except ValueError:
        log.exception("failed")
    assert "ValueError" in stream.getvalue()
    assert "test_no_secret_in_tracebacks" in stream.getvalue()
    assert "other@" not in stream.getvalue()
    assert KNOWN not in stream.getvalue()


def test_long_text_keeps_its_beginning_and_its_end_and_no_part_of_a_secret() -> None:
    secret = "s" * 40
    text = f"start {'word ' * 3000}{secret} {'word ' * 3000}end"
    for cut in range(0, 60, 7):
        shown = Redactor([secret]).text(text[:6] + " " * cut + text[6:])
        assert len(shown) < LONGEST_TEXT + 50
        assert shown.startswith("start")
        assert shown.endswith("end")
        assert "sss" not in shown


def test_secret_across_the_cut_is_not_half_shown() -> None:
    secret = "s" * 40
    for before in range(LONGEST_TEXT // 2 - 45, LONGEST_TEXT // 2 + 5):
        shown = Redactor([secret]).text("a" * (before - 1) + " " + secret + " " + "b" * LONGEST_TEXT)
        assert "sss" not in shown


@pytest.mark.parametrize(
    "unit",
    ["a_", "://", "://:", "eyJ-", "eyJa.", "bearer ", "token=", 'token="', "\\", "token ", "a", "authorization:"],
)
def test_hostile_text_does_not_make_masking_slow(unit: str) -> None:
    text = (unit * LONGEST_TEXT)[:LONGEST_TEXT]
    began = time.thread_time()
    Redactor([KNOWN]).text(text)
    assert time.thread_time() - began < 0.25  # 0.015 s measured; quadratic patterns took seconds


def test_uncaught_exceptions_of_threads_are_logged_and_masked(
    json_lines: Callable[[], list[dict[str, object]]],
) -> None:
    def fail() -> None:
        raise RuntimeError(KNOWN)

    thread = threading.Thread(target=fail, name="dispatcher")
    thread.start()
    thread.join()
    (line,) = json_lines()
    assert line["level"] == "critical"
    assert "dispatcher" in str(line["message"])
    assert "RuntimeError: ***" in str(line["exception"])


def test_uncaught_exception_of_the_process_is_logged(json_lines: Callable[[], list[dict[str, object]]]) -> None:
    error = RuntimeError(KNOWN)
    sys.excepthook(RuntimeError, error, None)
    assert "RuntimeError: ***" in str(json_lines()[0]["exception"])


def test_python_warnings_become_log_lines(json_lines: Callable[[], list[dict[str, object]]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("odd", stacklevel=1)
    assert "odd" in str(json_lines()[0]["message"])
