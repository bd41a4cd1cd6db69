"""The dashboard as a part of the master node's Flask application."""

from __future__ import annotations

from flask import Blueprint, Flask, Response
from werkzeug.exceptions import HTTPException, NotFound

from gridnode.errors import GridNodeError
from gridnode_operator.master.dashboard.login import add_login
from gridnode_operator.master.dashboard.pages.datasets import add_dataset_pages
from gridnode_operator.master.dashboard.pages.events import add_event_pages
from gridnode_operator.master.dashboard.pages.finished import add_finished_pages
from gridnode_operator.master.dashboard.pages.keys import add_key_pages
from gridnode_operator.master.dashboard.pages.models import add_model_pages
from gridnode_operator.master.dashboard.pages.nodes import add_node_pages
from gridnode_operator.master.dashboard.pages.overview import add_overview_pages
from gridnode_operator.master.dashboard.rendering import ROOT
from gridnode_operator.master.dashboard.site import Site, harden
from gridnode_operator.master.services import Services


def add_dashboard(app: Flask, services: Services) -> None:
    """Serve the dashboard under ``/dashboard``; its visitors have sessions of their own."""
    app.register_blueprint(make_dashboard(services))


def make_dashboard(services: Services) -> Blueprint:
    """All pages, with their style sheets and scripts."""
    site = Site(services)
    blueprint = Blueprint("dashboard", __name__, url_prefix=ROOT)
    blueprint.before_request(site.admit)
    blueprint.after_request(harden)
    blueprint.register_error_handler(GridNodeError, site.domain_error)
    blueprint.register_error_handler(HTTPException, site.http_error)
    blueprint.register_error_handler(Exception, site.unexpected_error)
    for add in (
        add_login,
        add_overview_pages,
        add_node_pages,
        add_model_pages,
        add_dataset_pages,
        add_finished_pages,
        add_event_pages,
        add_key_pages,
    ):
        add(blueprint, site)
    _add_assets(blueprint, site)
    return blueprint


def _add_assets(blueprint: Blueprint, site: Site) -> None:
    @blueprint.get("/static/<path:path>")
    def static(path: str) -> Response:
        asset = site.assets.find(path)
        if asset is None:
            raise NotFound("There is no such file, or this release has another.")
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(asset.content, content_type=asset.kind, headers=headers)

    @blueprint.get("/<path:path>")
    def missing(path: str) -> Response:
        raise NotFound(f"There is no page {path[:200]}.")
