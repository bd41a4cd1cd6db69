"""``/api/v1``: who calls, the environment at a glance, events, and live progress."""

from __future__ import annotations

from flask import Flask, Response, request

from gridnode_operator.master.api.answers import V1, page_answer, tagged_answer
from gridnode_operator.master.api.openapi import openapi_document
from gridnode_operator.master.api.requests import optional_whole, page, principal, whole
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.live.viewers import filter_for
from gridnode_operator.master.models.history import list_events
from gridnode_operator.master.models.queries import list_models
from gridnode_operator.master.overview.service import environment_overview
from gridnode_operator.master.services import Services
from gridnode_operator.master.serving.bridge import WATCH


def add_environment_routes(app: Flask, services: Services) -> None:
    """Endpoints about the whole environment."""

    @app.get(f"{V1}/openapi.json")
    def v1_openapi() -> Response:
        return tagged_answer(openapi_document())

    @app.get(f"{V1}/whoami")
    def v1_whoami() -> Response:
        caller = principal()
        return tagged_answer({"scope": caller.scope, "owner": caller.owner, "node_id": caller.node_id})

    @app.get(f"{V1}/overview")
    def v1_overview() -> Response:
        caller = principal()
        return tagged_answer(
            services.database.transaction(lambda session: environment_overview(session, caller, services.patience))
        )

    @app.get(f"{V1}/progress")
    def v1_progress() -> Response:
        caller, (after, limit) = principal(), page()
        views = services.database.transaction(lambda session: list_models(session, caller, after=after, limit=limit))
        items = [
            {
                "id": view.id, "node_id": view.node_id, "name": view.name, "version": view.version,
                "state": view.state, "percent": view.percent, "completed_cycles": view.completed_cycles,
                "num_cycles": view.num_cycles, "revision": view.revision,
            }
            for view in views
        ]  # fmt: skip
        return tagged_answer({"items": items, "next": views[-1].id if len(views) == limit else None})

    @app.get(f"{V1}/events")
    def v1_events() -> Response:
        caller, (_, limit) = principal(), page()
        node, model, before = optional_whole("node"), optional_whole("model"), whole("after", 0, 2**63 - 1)
        views = services.database.transaction(
            lambda session: list_events(session, caller, node=node, model=model, before=before or None, limit=limit)
        )
        return page_answer(views, limit, "id")

    @app.get(f"{V1}/stream")
    def v1_stream() -> Response:
        return event_stream(services, principal())


def event_stream(services: Services, caller: Principal, *, brief: bool = False) -> Response:
    """An answer that goes on as server-sent events about what the caller may see.

    For pages too, which authorize their visitors by a session, and want to know only which rows have changed
    (``brief``). ``?model=`` and ``?node=`` narrow it down.

    Raises:
        Unavailable: too many watch.
    """
    wanted = filter_for(caller, model=optional_whole("model"), node=optional_whole("node"), brief=brief)
    services.viewers.check_room()
    request.environ[WATCH] = wanted
    # A proxy that collects the answer before it passes it on would pass on nothing.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Response(b"", headers=headers, content_type="text/event-stream")
