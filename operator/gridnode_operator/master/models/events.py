"""A progress event: what a node posts after each cycle, read into types.

Only ``percent_complete`` and ``model_id`` must be there. Everything else is optional, and an optional value that makes
no sense is left out rather than refused: a node posts its events in order, and would post a refused one for ever.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, cast

from gridnode.errors import InvalidRequest
from gridnode_operator.master.models.running import RunningCycle, read_running_cycle
from gridnode_operator.master.models.values import count, figure, moment, text
from gridnode_operator.master.texts import is_storable, plain_text

#: States of a process that a node may tell of.
STATES: Final = ("active", "paused", "failed", "finished")

_LONGEST_FAILURE: Final = 4000
_MOST_REASONS: Final = 32
_NODE_ID: Final = 253
#: How far a node's clock may be ahead before its time is not believed.
_CLOCK_AHEAD: Final = timedelta(minutes=5)

CycleEnd = Literal["completed", "abandoned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleFigures:
    """What a cycle came to; None is what the node did not say.

    Attributes:
        number: Of the cycle; None: the one that was completed last.
        end: How it ended; None is not said.
        reported: Reports counted.
        accepted: Devices ever accepted.
        dropped: Devices accepted that did not report.
        rejected: Cycle requests rejected, by reason.
        loss: Mean of what devices reported; likewise ``accuracy``. With minimum and maximum over devices.
        seconds: From start to end.
    """

    number: int | None = None
    end: CycleEnd | None = None
    started_at: datetime | None = None
    reported: int | None = None
    accepted: int | None = None
    dropped: int | None = None
    rejected: dict[str, int] | None = None
    loss: float | None = None
    loss_min: float | None = None
    loss_max: float | None = None
    accuracy: float | None = None
    accuracy_min: float | None = None
    accuracy_max: float | None = None
    seconds: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is said."""
        return self.reported is None and self.accepted is None and self.seconds is None and self.loss is None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressEvent:
    """One event.

    Attributes:
        model: ``client_config.name``.
        percent: 0 to 100; 100 is finished.
        version: None where a node of 2020 sends none.
        node_id: None where the node does not say who it is.
        event_id: By which a repetition is known; None where there is none.
        occurred_at: At the node; when it was received where the node does not say.
        cycle: Completed cycles.
        num_cycles: Cycles until the end; 0 is without end.
        state: Of the process, one of :data:`STATES`.
        running: The cycle that runs after the event.
        body: All of it, as it came.
    """

    model: str
    percent: int
    occurred_at: datetime
    version: str | None = None
    node_id: str | None = None
    event_id: uuid.UUID | None = None
    cycle: int | None = None
    num_cycles: int | None = None
    finished: bool = False
    deleted: bool = False
    state: str | None = None
    failure: str | None = None
    figures: CycleFigures = CycleFigures()
    running: RunningCycle | None = None
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)


def read_event(body: Mapping[str, Any], received_at: datetime) -> ProgressEvent:
    """Read a decoded JSON object.

    Raises:
        InvalidRequest: ``percent_complete`` or ``model_id`` is missing or wrong, or a name can't be kept.
    """
    percent = _percent(body.get("percent_complete"))
    deleted = body.get("deleted") is True
    finished = body["finished"] if isinstance(body.get("finished"), bool) else percent == 100
    state = body.get("state")
    return ProgressEvent(
        model=plain_text("model_id", body.get("model_id")),
        percent=percent,
        version=None if body.get("version") is None else plain_text("version", body["version"]),
        node_id=None if body.get("node_id") is None else plain_text("node_id", body["node_id"], longest=_NODE_ID),
        event_id=_uuid(body.get("event_id")),
        occurred_at=_occurred_at(body.get("occurred_at"), received_at),
        cycle=count(body.get("cycle")),
        num_cycles=count(body.get("cycles")),
        finished=finished or percent == 100,
        deleted=deleted,
        state=state if state in STATES else None,
        failure=text(body.get("failure"), _LONGEST_FAILURE),
        figures=_figures(body),
        running=read_running_cycle(body.get("running")),
        body=body,
    )


def _percent(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise InvalidRequest("percent_complete must be a number from 0 to 100")
    return int(value)


def _uuid(value: object) -> uuid.UUID | None:
    try:
        return uuid.UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _occurred_at(value: object, received_at: datetime) -> datetime:
    read = moment(value)
    return received_at if read is None or read > received_at + _CLOCK_AHEAD else read


def _figures(body: Mapping[str, Any]) -> CycleFigures:
    end = body.get("cycle_state")
    return CycleFigures(
        number=count(body.get("cycle_number")),
        end=cast(CycleEnd, end) if end in ("completed", "abandoned") else None,
        started_at=moment(body.get("cycle_started_at")),
        reported=count(body.get("reports")),
        accepted=count(body.get("accepted")),
        dropped=count(body.get("dropped")),
        rejected=_reasons(body.get("rejected")),
        loss=figure(body.get("loss")),
        loss_min=figure(body.get("loss_min")),
        loss_max=figure(body.get("loss_max")),
        accuracy=figure(body.get("accuracy")),
        accuracy_min=figure(body.get("accuracy_min")),
        accuracy_max=figure(body.get("accuracy_max")),
        seconds=figure(body.get("cycle_seconds")),
    )


def _reasons(value: object) -> dict[str, int] | None:
    if not isinstance(value, Mapping):
        return None
    counted = {
        str(reason): number
        for reason, given in list(value.items())[:_MOST_REASONS]
        if is_storable(str(reason)[:100]) and (number := count(given)) is not None
    }
    return {reason[:100]: number for reason, number in counted.items()}
