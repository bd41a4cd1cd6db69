"""Finished models: final checkpoints, stored or still to be fetched."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, redirect
from werkzeug.wrappers import Response as AnyResponse

from gridnode_operator.master.api.requests import whole
from gridnode_operator.master.api.v1.finished import finished_download
from gridnode_operator.master.dashboard.rendering import ROOT
from gridnode_operator.master.dashboard.site import Site, signed_in
from gridnode_operator.master.finished.service import list_finished, retry

_PAGE: Final = 50
_LARGEST: Final = 2**63 - 1


def add_finished_pages(blueprint: Blueprint, site: Site) -> None:
    """The page of finished models, and their download."""
    services = site.services

    @blueprint.get("/finished")
    def finished() -> Response:
        caller, after = signed_in().principal, whole("after", 0, _LARGEST)
        found = services.database.transaction(
            lambda session: list_finished(session, caller, after=after, limit=_PAGE + 1)
        )
        return site.page(
            "finished.html",
            title="Finished models",
            current="finished",
            stream="",
            finished=found[:_PAGE],
            following=found[_PAGE - 1].model if len(found) > _PAGE else None,
            is_first=after == 0,
        )

    @blueprint.get("/finished/<int:model>/content")
    def finished_content(model: int) -> Response:
        return finished_download(services, signed_in().principal, model)

    @blueprint.post("/finished/<int:model>/retry")
    def retry_finished(model: int) -> AnyResponse:
        services.database.transaction(lambda session: retry(session, model))
        return redirect(f"{ROOT}/finished", 303)
