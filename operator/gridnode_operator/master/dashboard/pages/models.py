"""Models: the list, and one with its cycles, checkpoints and configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from flask import Blueprint, Response
from sqlalchemy.orm import Session

from gridnode.errors import NotFound
from gridnode_operator.master.api.requests import optional_text, optional_whole, whole
from gridnode_operator.master.api.v1.models import checkpoint_download
from gridnode_operator.master.dashboard.charts import BarChart, Figure, LineChart, bar_chart, line_chart
from gridnode_operator.master.dashboard.site import Site, signed_in
from gridnode_operator.master.devices.losses import CycleLoss, loss_history
from gridnode_operator.master.finished.service import FinishedView, view_finished
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.models.history import CycleView, list_cycles
from gridnode_operator.master.models.queries import MODEL_STATES, ModelDetail, list_models, view_model
from gridnode_operator.master.nodes.queries import NodeView, view_node

_PAGE: Final = 50
_CYCLES: Final = 60
_REASONS: Final = 5
_LARGEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Charts:
    """What is drawn of a model's cycles; None where nothing is known.

    Attributes:
        devices: Reports and devices that did not report, by cycle.
        rejected: Rejected requests by reason, by cycle.
    """

    loss: LineChart | None
    accuracy: LineChart | None
    devices: BarChart | None
    rejected: BarChart | None
    seconds: BarChart | None


@dataclass(frozen=True, slots=True)
class Shown:
    """Everything on a model's page.

    Attributes:
        node: Its node, None if the visitor may not see that.
        finished: Its final checkpoint, None if it is not finished.
        cycles: A window of its cycles, in order.
        voices: What phones themselves said of those, by cycle.
    """

    detail: ModelDetail
    node: NodeView | None
    finished: FinishedView | None
    cycles: list[CycleView]
    voices: dict[int, CycleLoss]


def add_model_pages(blueprint: Blueprint, site: Site) -> None:
    """The pages of models, and the download of checkpoints."""
    services = site.services

    @blueprint.get("/models")
    def models() -> Response:
        caller, after = signed_in().principal, whole("after", 0, _LARGEST)
        state, contains = optional_text("state"), optional_text("contains")
        found = services.database.transaction(
            lambda session: list_models(session, caller, state=state, contains=contains, after=after, limit=_PAGE + 1)
        )
        narrowed = {name: value for name, value in (("state", state), ("contains", contains)) if value is not None}
        return site.page(
            "models.html",
            title="Models",
            current="models",
            stream="",
            models=found[:_PAGE],
            following=found[_PAGE - 1].id if len(found) > _PAGE else None,
            is_first=after == 0,
            state=state,
            contains=contains,
            narrowed=urlencode(narrowed),
            states=MODEL_STATES,
        )

    @blueprint.get("/models/<int:model>")
    def model(model: int) -> Response:
        caller, before = signed_in().principal, optional_whole("before")
        shown = services.database.transaction(lambda session: read_model(session, site, caller, model, before))
        view = shown.detail.model
        return site.page(
            "model.html",
            title=f"{view.name} {view.version}",
            current="models",
            stream=f"model={model}" if before is None else None,
            model=view,
            detail=shown.detail,
            node=shown.node,
            finished=shown.finished,
            cycles=shown.cycles,
            voices=shown.voices,
            charts=make_charts(shown.cycles, shown.voices),
            reasons=reasons_of(shown.cycles),
            is_newest=before is None,
            older=shown.cycles[0].number if shown.cycles and shown.cycles[0].number > 1 else None,
        )

    @blueprint.get("/models/<int:model>/checkpoints/<checkpoint>")
    def checkpoint(model: int, checkpoint: str) -> Response:
        return checkpoint_download(services, signed_in().principal, model, checkpoint)


def read_model(session: Session, site: Site, caller: Principal, model_id: int, before: int | None) -> Shown:
    """A model with its newest cycles, or with those before a number.

    Raises:
        NotFound: there is no such model that the caller may see.
    """
    detail = view_model(session, caller, model_id)
    after = 0 if before is None else max(0, before - 1 - _CYCLES)
    cycles = list_cycles(session, model_id, after=after, limit=_CYCLES, newest=before is None)
    cycles = [cycle for cycle in cycles if before is None or cycle.number < before]
    first = cycles[0].number if cycles else 0
    voices = loss_history(session, model_id, after=max(0, first - 1), limit=2 * _CYCLES)
    try:
        node = view_node(session, caller, site.services.patience, detail.model.node)
    except NotFound:
        node = None
    finished = None
    if detail.model.finished_at is not None:
        try:
            finished = view_finished(session, caller, model_id)
        except NotFound:
            finished = None
    return Shown(detail, node, finished, cycles, {each.cycle: each for each in voices})


def make_charts(cycles: Sequence[CycleView], voices: Mapping[int, CycleLoss]) -> Charts:
    """The charts of some cycles."""
    places = [cycle.number for cycle in cycles]
    seconds = [cycle.seconds for cycle in cycles]
    devices = {
        "reported": [cycle.reported for cycle in cycles],
        "dropped": [cycle.dropped for cycle in cycles],
    }
    reasons = list(reasons_of(cycles))
    named, others = reasons[:_REASONS], reasons[_REASONS:]
    rejected: dict[str, list[float | None]] = {
        reason: [(cycle.rejected or {}).get(reason) for cycle in cycles] for reason in named
    }
    if others:
        rejected["other"] = [sum((cycle.rejected or {}).get(reason, 0) for reason in others) for cycle in cycles]
    return Charts(
        loss=line_chart([_loss(cycle, voices.get(cycle.number)) for cycle in cycles]),
        accuracy=line_chart([_accuracy(cycle, voices.get(cycle.number)) for cycle in cycles]),
        devices=_unless_empty(bar_chart(places, devices)),
        rejected=_unless_empty(bar_chart(places, rejected)) if rejected else None,
        seconds=_unless_empty(bar_chart(places, {"seconds": seconds})),
    )


def reasons_of(cycles: Sequence[CycleView]) -> dict[str, int]:
    """Rejected requests of some cycles by reason, the most frequent first."""
    counted: Counter[str] = Counter()
    for cycle in cycles:
        counted.update(cycle.rejected or {})
    return dict(counted.most_common())


def _unless_empty(chart: BarChart | None) -> BarChart | None:
    return None if chart is None or chart.is_empty else chart


def _loss(cycle: CycleView, said: CycleLoss | None) -> Figure:
    """What the node counted; where it has counted nothing, what phones themselves said."""
    if cycle.loss is not None or said is None:
        return Figure(cycle.number, cycle.loss, cycle.loss_min, cycle.loss_max)
    return Figure(cycle.number, said.loss, said.loss_min, said.loss_max)


def _accuracy(cycle: CycleView, said: CycleLoss | None) -> Figure:
    if cycle.accuracy is not None or said is None:
        return Figure(cycle.number, cycle.accuracy, cycle.accuracy_min, cycle.accuracy_max)
    return Figure(cycle.number, said.accuracy, said.accuracy_min, said.accuracy_max)
