"""Nodes: the list, and one with its conditions and models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from flask import Blueprint, Response
from sqlalchemy.orm import Session

from gridnode_operator.master.api.requests import whole
from gridnode_operator.master.dashboard.charts import bar_chart
from gridnode_operator.master.dashboard.site import Site, signed_in
from gridnode_operator.master.models.queries import ModelView, list_models
from gridnode_operator.master.models.values import moment
from gridnode_operator.master.nodes.queries import NodeView, list_nodes, reports_by_minute, view_node
from gridnode_operator.master.overview.service import Trouble, find_troubles

_PAGE: Final = 50
_LARGEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of a node; what a GridNode's status does not say is empty."""

    name: str
    status: str
    why: str
    since: datetime | None

    @property
    def kind(self) -> str:
        """Whether it is ``good``, ``bad``, or nobody knows (``idle``)."""
        if self.status not in ("True", "False"):
            return "idle"
        return "good" if (self.status == "True") != (self.name == "Degraded") else "bad"


def read_condition(condition: Mapping[str, Any]) -> Condition:
    """From a condition as a provider gives it."""
    return Condition(
        name=str(condition.get("type", "")),
        status=str(condition.get("status", "Unknown")),
        why=str(condition.get("message") or condition.get("reason") or ""),
        since=moment(condition.get("lastTransitionTime")),
    )


def add_node_pages(blueprint: Blueprint, site: Site) -> None:
    """The pages of nodes."""
    services = site.services

    @blueprint.get("/nodes")
    def nodes() -> Response:
        caller, after = signed_in().principal, whole("after", 0, _LARGEST)
        found = services.database.transaction(
            lambda session: list_nodes(session, caller, services.patience, after=after, limit=_PAGE + 1)
        )
        return site.page(
            "nodes.html",
            title="Nodes",
            current="nodes",
            stream="",
            nodes=found[:_PAGE],
            following=found[_PAGE - 1].id if len(found) > _PAGE else None,
            is_first=after == 0,
            provider=services.settings.provider,
        )

    @blueprint.get("/nodes/<int:node>")
    def node(node: int) -> Response:
        caller, after = signed_in().principal, whole("after", 0, _LARGEST)

        def read(session: Session) -> tuple[NodeView, list[ModelView], list[Trouble], list[tuple[datetime, int]]]:
            view = view_node(session, caller, services.patience, node)
            models = list_models(session, caller, node=node, after=after, limit=_PAGE + 1)
            troubles = [each for each in find_troubles(session, caller, services.patience, [view]) if each.node == node]
            return view, models, troubles, reports_by_minute(session, caller, node=node)

        view, models, troubles, reports = services.database.transaction(read)
        return site.page(
            "node.html",
            title=view.node_id,
            current="nodes",
            stream=f"node={node}",
            node=view,
            conditions=[read_condition(each) for each in view.conditions],
            models=models[:_PAGE],
            following=models[_PAGE - 1].id if len(models) > _PAGE else None,
            is_first=after == 0,
            troubles=troubles,
            reports=reports,
            minutes=[minute for minute, _ in reports],
            chart=bar_chart(range(len(reports)), {"reports": [count for _, count in reports]}),
        )
