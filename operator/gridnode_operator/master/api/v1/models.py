"""``/api/v1/models``: models, their cycles, what devices say of them, and their checkpoints."""

from __future__ import annotations

import re

from flask import Flask, Response, request
from werkzeug.utils import secure_filename

from gridnode.errors import InvalidRequest
from gridnode_operator.master.api.answers import V1, page_answer, tagged_answer
from gridnode_operator.master.api.requests import optional_text, optional_whole, page, principal, switch
from gridnode_operator.master.devices.losses import loss_history
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.models.history import list_cycles
from gridnode_operator.master.models.queries import list_models, view_model
from gridnode_operator.master.services import Services
from gridnode_operator.master.serving.bridge import PIECES


def add_model_routes(app: Flask, services: Services) -> None:
    """Endpoints about models."""

    @app.get(f"{V1}/models")
    def v1_models() -> Response:
        caller, (after, limit) = principal(), page()
        state, name = optional_text("state"), optional_text("name")
        node, dataset = optional_whole("node"), optional_whole("dataset")
        views = services.database.transaction(
            lambda session: list_models(
                session, caller, state=state, node=node, dataset=dataset, name=name, after=after, limit=limit
            )
        )
        return page_answer(views, limit, "id")

    @app.get(f"{V1}/models/<int:model>")
    def v1_model(model: int) -> Response:
        caller = principal()
        return tagged_answer(services.database.transaction(lambda session: view_model(session, caller, model)))

    @app.get(f"{V1}/models/<int:model>/cycles")
    def v1_model_cycles(model: int) -> Response:
        caller, (after, limit), newest = principal(), page(), switch("newest")
        _, views = services.database.transaction(
            lambda session: (
                view_model(session, caller, model),
                list_cycles(session, model, after=after, limit=limit, newest=newest),
            )
        )
        return page_answer(views, limit, "number")

    @app.get(f"{V1}/models/<int:model>/losses")
    def v1_model_losses(model: int) -> Response:
        caller, (after, limit) = principal(), page()
        _, views = services.database.transaction(
            lambda session: (
                view_model(session, caller, model),
                loss_history(session, model, after=after, limit=limit),
            )
        )
        return page_answer(views, limit, "cycle")

    @app.get(f"{V1}/models/<int:model>/checkpoints/<checkpoint>")
    def v1_checkpoint(model: int, checkpoint: str) -> Response:
        return checkpoint_download(services, principal(), model, checkpoint)


def checkpoint_download(services: Services, caller: Principal, model: int, checkpoint: str) -> Response:
    """A checkpoint from the model's node as a download; for pages too, which authorize their visitors by a session.

    Raises:
        InvalidRequest: it is neither a number nor ``latest``.
        NotFound: there is no model that the caller may see, or its node is none of this master node's own.
        NodeUnreachable: the node does not answer, or has no such checkpoint.
    """
    if checkpoint != "latest" and not re.fullmatch(r"[0-9]{1,18}", checkpoint, re.ASCII):
        raise InvalidRequest("a checkpoint is named by its number, or latest")
    name, download = services.checkpoints.open(caller, model, checkpoint)
    request.environ[PIECES] = True
    headers = {
        "Cache-Control": "private, no-store",
        "Content-Disposition": f'attachment; filename="{secure_filename(name) or "checkpoint.state"}"',
        "X-Checkpoint": str(download.number),
    }
    return Response(download.chunks, headers=headers, content_type="application/octet-stream")
