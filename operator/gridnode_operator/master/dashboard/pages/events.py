"""Progress events as they came, the newest first."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from flask import Blueprint, Response

from gridnode_operator.master.api.requests import optional_whole
from gridnode_operator.master.dashboard.site import Site, signed_in
from gridnode_operator.master.models.history import list_events
from gridnode_operator.master.models.values import count, figure

_PAGE: Final = 50


def add_event_pages(blueprint: Blueprint, site: Site) -> None:
    """The page of events."""

    @blueprint.get("/events")
    def events() -> Response:
        caller = signed_in().principal
        node, model, before = optional_whole("node"), optional_whole("model"), optional_whole("before")
        found = site.services.database.transaction(
            lambda session: list_events(session, caller, node=node, model=model, before=before, limit=_PAGE + 1)
        )
        narrowed = urlencode({name: row for name, row in (("node", node), ("model", model)) if row is not None})
        return site.page(
            "events.html",
            title="Events",
            current="events",
            stream=narrowed if before is None else None,
            events=found[:_PAGE],
            told={each.id: (count(each.body.get("reports")), figure(each.body.get("loss"))) for each in found},
            following=found[_PAGE - 1].id if len(found) > _PAGE else None,
            is_first=before is None,
            narrowed=narrowed,
        )
