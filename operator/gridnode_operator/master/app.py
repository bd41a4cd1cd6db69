"""The master node's Flask application."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from gridnode.errors import GridNodeError, Unavailable
from gridnode_operator.master.api.answers import domain_error, http_error, json_answer, unexpected_error
from gridnode_operator.master.api.historical import add_historical_routes
from gridnode_operator.master.api.requests import authorize
from gridnode_operator.master.api.v1.datasets import add_dataset_routes
from gridnode_operator.master.api.v1.environment import add_environment_routes
from gridnode_operator.master.api.v1.finished import add_finished_routes
from gridnode_operator.master.api.v1.keys import add_key_routes
from gridnode_operator.master.api.v1.models import add_model_routes
from gridnode_operator.master.api.v1.nodes import add_node_routes
from gridnode_operator.master.services import Services


def make_app(services: Services, *more: Callable[[Flask, Services], None]) -> Flask:
    """The application with both APIs.

    Args:
        services: What requests are answered with.
        more: Add what else is served, such as pages, as blueprints that know their own visitors.
    """
    app = Flask("gridnode.master", static_folder=None)
    app.url_map.strict_slashes = False
    app.register_error_handler(GridNodeError, domain_error)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(Exception, unexpected_error)
    app.before_request(lambda: authorize(services))
    app.after_request(_harden)
    _add_health_routes(app, services)
    for add in (
        add_historical_routes,
        add_environment_routes,
        add_node_routes,
        add_model_routes,
        add_dataset_routes,
        add_key_routes,
        add_finished_routes,
        *more,
    ):
        add(app, services)
    return app


def _add_health_routes(app: Flask, services: Services) -> None:
    @app.get("/readyz")
    def readyz() -> Response:
        if not services.database.is_writable():
            raise Unavailable("the database is unavailable", retry_after=5)
        return json_answer({"status": "ready"})


def _harden(answer: Response) -> Response:
    answer.headers.setdefault("X-Content-Type-Options", "nosniff")
    answer.headers.setdefault("Cache-Control", "no-store")
    return answer
