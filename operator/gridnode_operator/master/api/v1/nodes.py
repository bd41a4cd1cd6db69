"""``/api/v1/nodes``."""

from __future__ import annotations

from flask import Flask, Response

from gridnode_operator.master.api.answers import V1, page_answer, tagged_answer
from gridnode_operator.master.api.requests import page, principal
from gridnode_operator.master.nodes.queries import list_nodes, reports_by_minute, view_node
from gridnode_operator.master.services import Services


def add_node_routes(app: Flask, services: Services) -> None:
    """Endpoints about nodes."""

    @app.get(f"{V1}/nodes")
    def v1_nodes() -> Response:
        caller, (after, limit) = principal(), page()
        views = services.database.transaction(
            lambda session: list_nodes(session, caller, services.patience, after=after, limit=limit)
        )
        return page_answer(views, limit, "id")

    @app.get(f"{V1}/nodes/<int:node>")
    def v1_node(node: int) -> Response:
        caller = principal()
        view, reports = services.database.transaction(
            lambda session: (
                view_node(session, caller, services.patience, node),
                reports_by_minute(session, caller, node=node),
            )
        )
        return tagged_answer({"node": view, "reports": reports})
