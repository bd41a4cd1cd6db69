"""The management listener's HTTP endpoints as a Flask application: hosting, processes, health, metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from flask import Flask, Response, request
from sqlalchemy import select
from sqlalchemy.orm import Session

from gridnode.cycles.intake import utc_now
from gridnode.db.models import Process
from gridnode.db.session import Database
from gridnode.errors import InvalidRequest, NotFound, Unavailable
from gridnode.processes import management
from gridnode.processes.catalog import Catalog
from gridnode.protocol.hosting import HostingEndpoints
from gridnode.protocol.http import add_hosting_routes, json_answer, make_app
from gridnode.protocol.openapi import openapi_document
from gridnode.reporting.announcer import Announcer
from gridnode.reporting.scrape import CONTENT_TYPE
from gridnode.security.management_token import ManagementAccess

#: Paths that need no token: probes and the document that says how to call the others.
_OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json"})
_LARGEST_PAGE = 1000
#: Seconds to wait for a cycle that is just being averaged.
_CLOSER_PATIENCE = 60.0


def make_management_app(
    database: Database,
    catalog: Catalog,
    hosting: HostingEndpoints,
    announcer: Announcer,
    access: ManagementAccess,
    *,
    is_ready: Callable[[], str | None],
    render_metrics: Callable[[], bytes],
    event_written: Callable[[], None],
) -> Flask:
    """The application of the management listener.

    Args:
        database: The node's.
        catalog: Told when a process is deleted.
        hosting: Hosting and retrieving.
        announcer: Tells the master node of what is done here.
        access: Who may.
        is_ready: Why the node can't serve devices just now; None if it can.
        render_metrics: The scrape.
        event_written: Called after an event was written, so that it is posted at once.
    """
    app = make_app("management")

    @app.before_request
    def check_token() -> None:
        if request.path not in _OPEN_PATHS:
            access.check(request.headers)

    @app.get("/healthz")
    def healthz() -> Response:
        return json_answer({"status": "alive"})

    @app.get("/readyz")
    def readyz() -> Response:
        reason = is_ready()
        if reason is not None:
            raise Unavailable(reason, retry_after=1)
        return json_answer({"status": "ready"})

    @app.get("/openapi.json")
    def openapi() -> Response:
        return json_answer(openapi_document())

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(render_metrics(), content_type=CONTENT_TYPE)

    add_hosting_routes(app, hosting)
    _add_process_routes(app, database, catalog, announcer, event_written)
    return app


def _add_process_routes(
    app: Flask, database: Database, catalog: Catalog, announcer: Announcer, event_written: Callable[[], None]
) -> None:
    @app.get("/processes")
    def list_processes() -> Response:
        after, limit = _number("after", 0, 2**63 - 1), _number("limit", _LARGEST_PAGE, _LARGEST_PAGE)
        name, version = _text("name"), _text("version")
        found = database.transaction(
            lambda session: management.list_processes(
                session, utc_now(), name=name, version=version, after=after, limit=limit
            )
        )
        return json_answer({"processes": [asdict(process) for process in found]})

    @app.post("/processes/<process_id>/pause")
    def pause_process(process_id: str) -> Response:
        return _status_after(process_id, lambda session, row: management.pause(session, row, utc_now(), announcer))

    @app.post("/processes/<process_id>/resume")
    def resume_process(process_id: str) -> Response:
        return _status_after(process_id, lambda session, row: management.resume(session, row, utc_now(), announcer))

    @app.post("/processes/<process_id>/finish")
    def finish_process(process_id: str) -> Response:
        row = _row_id(process_id)
        done = database.transaction(
            lambda session: management.finish(session, _existing(session, row), utc_now(), announcer),
            deadline=_CLOSER_PATIENCE,
        )
        event_written()
        return json_answer(asdict(done))

    @app.delete("/processes/<process_id>")
    def delete_process(process_id: str) -> Response:
        row = _row_id(process_id)
        force = request.args.get("force", "") in ("true", "1", "yes")
        database.transaction(
            lambda session: management.delete_process(
                session, _existing(session, row), utc_now(), announcer, force=force
            ),
            deadline=_CLOSER_PATIENCE,
        )
        catalog.forget()
        event_written()
        return json_answer({"status": "deleted"})

    def _status_after(process_id: str, move: Callable[[Session, int], None]) -> Response:
        row = _row_id(process_id)

        def work(session: Session) -> dict[str, Any]:
            move(session, _existing(session, row))
            session.flush()
            session.expire_all()
            return asdict(_status(session, row, utc_now()))

        status = database.transaction(work)
        event_written()
        return json_answer(status)


def _existing(session: Session, process_id: int) -> int:
    if session.scalar(select(Process.id).where(Process.id == process_id)) is None:
        raise _no_such_process(process_id)
    return process_id


def _status(session: Session, process_id: int, now: datetime) -> management.ProcessStatus:
    found = management.list_processes(session, now, after=process_id - 1, limit=1)
    if not found or found[0].id != process_id:
        raise _no_such_process(process_id)
    return found[0]


def _no_such_process(process_id: int) -> NotFound:
    return NotFound(f"there is no process {process_id}")


def _row_id(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) >= 2**63:
        raise NotFound("a process is named by its integer id: list the processes to find it")
    return int(text)


def _number(name: str, default: int, largest: int) -> int:
    text = request.args.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > largest:
        raise InvalidRequest(f"{name} must be an integer from 0 to {largest}")
    return int(text)


def _text(name: str) -> str | None:
    text = request.args.get(name)
    if text is not None and "\x00" in text:
        raise InvalidRequest(f"{name} can't hold NUL characters")
    return text or None
