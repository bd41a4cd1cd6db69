"""``/api/v1/finished-models``: final checkpoints, and their download."""

from __future__ import annotations

from flask import Flask, Response, request
from werkzeug.utils import secure_filename

from gridnode.errors import InvalidRequest
from gridnode_operator.master.api.answers import V1, json_answer, page_answer, tagged_answer
from gridnode_operator.master.api.requests import optional_text, page, principal
from gridnode_operator.master.finished.service import list_finished, retry, view_finished
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.services import Services
from gridnode_operator.master.serving.bridge import PIECES


def add_finished_routes(app: Flask, services: Services) -> None:
    """Endpoints about finished models."""

    @app.get(f"{V1}/finished-models")
    def v1_finished_models() -> Response:
        caller, (after, limit), state = principal(), page(), optional_text("state")
        if state not in (None, "pending", "stored"):
            raise InvalidRequest("state must be pending or stored")
        views = services.database.transaction(
            lambda session: list_finished(session, caller, state=state, after=after, limit=limit)
        )
        return page_answer(views, limit, "model")

    @app.get(f"{V1}/finished-models/<int:model>")
    def v1_finished_model(model: int) -> Response:
        caller = principal()
        return tagged_answer(services.database.transaction(lambda session: view_finished(session, caller, model)))

    @app.get(f"{V1}/finished-models/<int:model>/content")
    def v1_finished_content(model: int) -> Response:
        return finished_download(services, principal(), model)

    @app.post(f"{V1}/finished-models/<int:model>/retry")
    def v1_retry_finished(model: int) -> Response:
        caller = principal()
        services.database.transaction(lambda session: retry(session, model))
        return json_answer(services.database.transaction(lambda session: view_finished(session, caller, model)), 202)


def finished_download(services: Services, caller: Principal, model: int) -> Response:
    """The stored checkpoint as a download; for pages too, which authorize their visitors by a session.

    Raises:
        NotFound: there is none that the caller may see.
        Conflict: it is not stored yet.
        StorageFailed: it can't be read.
    """
    view, pieces = services.finished.open(caller, model)
    request.environ[PIECES] = True
    name = secure_filename(f"{view.name}-{view.version}.state") or f"model-{model}.state"
    headers = {
        "Cache-Control": "private, no-cache",
        "Content-Length": str(view.size),
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Checkpoint": str(view.checkpoint),
        "X-Content-Sha256": str(view.sha256),
        "ETag": f'"{view.sha256}"',
    }
    return Response(pieces, headers=headers, content_type="application/octet-stream")
