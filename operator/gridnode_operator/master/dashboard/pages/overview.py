"""The environment at a glance, and the stream that all pages listen to."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response
from markupsafe import Markup

from gridnode_operator.master.api.v1.environment import event_stream
from gridnode_operator.master.dashboard.charts import spark
from gridnode_operator.master.dashboard.recent import Recent
from gridnode_operator.master.dashboard.site import Site, signed_in
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.nodes.queries import NodeView
from gridnode_operator.master.overview.service import environment_overview

#: Nodes shown; the page of all nodes has the others.
_NODES: Final = 12
_KEPT_SECONDS: Final = 2.0
_SECONDS_BETWEEN: Final = 3


def add_overview_pages(blueprint: Blueprint, site: Site) -> None:
    """The overview and the stream."""
    recent: Recent[Markup] = Recent(_KEPT_SECONDS)

    @blueprint.get("")
    def overview() -> Response:
        principal = signed_in().principal
        # All who see the same share one: with many viewers the overview is made once every two seconds.
        content = recent.get(principal.owner, lambda: overview_content(site, principal))
        return site.framed(content, title="Overview", current="overview", stream="", seconds=_SECONDS_BETWEEN)

    @blueprint.get("/stream")
    def stream() -> Response:
        return event_stream(site.services, signed_in().principal, brief=True)


def overview_content(site: Site, principal: Principal) -> Markup:
    """The overview as far as somebody may see it; the same for all who may see the same."""
    services = site.services
    view = services.database.transaction(lambda session: environment_overview(session, principal, services.patience))
    nodes = sorted(view.nodes, key=_worst_first)
    whole = view.reports[:-1]
    return site.content(
        "overview.html",
        view=view,
        nodes=nodes[:_NODES],
        up=sum((node.ready or not node.known) and not node.silent for node in view.nodes),
        silent=sum(node.silent for node in view.nodes),
        spark=spark([count for _, count in view.reports]),
        most=max((count for _, count in whole), default=0),
        total=sum(count for _, count in view.reports),
        owner=principal.owner,
        provider=services.settings.provider,
    )


def _worst_first(node: NodeView) -> tuple[bool, bool, str]:
    is_well = node.ready or not node.known
    return (not node.silent and is_well and node.poll_error is None, not node.silent, node.node_id)
