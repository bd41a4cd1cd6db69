"""What devices themselves say of loss and accuracy: a mean over devices, in which each has one voice."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gridnode.errors import InvalidRequest, NotFound
from gridnode_operator.master.db.models import CycleLossSum, Dataset, DeviceLoss, Model, RegisteredModel, SharedValue
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.models.values import figure
from gridnode_operator.master.texts import plain_text

#: Devices that one address may speak for in one cycle: many phones share one behind a provider's NAT.
DEVICES_PER_ADDRESS: Final = 64
_SECRET: Final = "device-losses"  # noqa: S105 - a name
_LONGEST_DEVICE: Final = 255


#: In the order of :func:`_sums`.
_SUM_COLUMNS: Final = (
    CycleLossSum.cycle,
    CycleLossSum.devices,
    CycleLossSum.posts,
    CycleLossSum.loss,
    CycleLossSum.loss_min,
    CycleLossSum.loss_max,
    CycleLossSum.accuracy,
    CycleLossSum.accuracy_min,
    CycleLossSum.accuracy_max,
    CycleLossSum.updated_at,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    """What one device said.

    Attributes:
        model: Name of the model.
        loss: A finite number.
        accuracy: A finite number; None if the device said none.
        device: What it calls itself, in a key that clients of 2020 don't send; empty then.
        address: Where it came from.
    """

    model: str
    loss: float
    accuracy: float | None
    device: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleLoss:
    """What devices said of one cycle: mean, minimum and maximum over devices."""

    cycle: int
    devices: int
    posts: int
    loss: float
    loss_min: float
    loss_max: float
    accuracy: float | None
    accuracy_min: float | None
    accuracy_max: float | None
    updated_at: datetime


def read_device_report(body: dict[str, object], address: str) -> DeviceReport:
    """Read ``{acc, loss, model_id}``; numbers may be texts, as some apps send them.

    Raises:
        InvalidRequest: the loss is no finite number, or the model has no name.
    """
    loss = _number(body.get("loss"))
    if loss is None:
        raise InvalidRequest("loss must be a finite number")
    accuracy = body.get("acc")
    if accuracy is not None and (accuracy := _number(accuracy)) is None:
        raise InvalidRequest("acc must be a finite number")
    device = body.get("worker_id")
    return DeviceReport(
        model=plain_text("model_id", body.get("model_id")),
        loss=loss,
        accuracy=accuracy,
        device="" if device is None else plain_text("worker_id", device, longest=_LONGEST_DEVICE),
        address=address,
    )


def record_device_loss(session: Session, report: DeviceReport, principal: Principal) -> bool:
    """Keep what a device says of the current cycle of its model; what it said of that before is replaced.

    Returns:
        False if it was left out: the address speaks for too many devices already, or the node of the model has not told
        of it yet, so that nobody knows which cycle is meant.

    Raises:
        NotFound: the caller has no such model.
    """
    model = _current_model(session, report.model, principal)
    if model is None:
        _check_registered(session, report.model, principal)
        return False
    secret = shared_secret(session, _SECRET)
    cycle = model.completed_cycles + 1
    address = _keyed(secret, report.address)
    device = _keyed(secret, f"{report.address}\n{report.device}")
    if not _may_speak(session, model.id, cycle, address, device):
        return False
    statement = insert(DeviceLoss).values(
        model_id=model.id, cycle=cycle, device=device, address=address, loss=report.loss, accuracy=report.accuracy
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[DeviceLoss.model_id, DeviceLoss.cycle, DeviceLoss.device],
            set_={
                "loss": statement.excluded.loss,
                "accuracy": statement.excluded.accuracy,
                "posts": DeviceLoss.posts + 1,
                "updated_at": func.now(),
            },
        )
    )
    return True


def loss_history(session: Session, model_id: int, *, after: int = 0, limit: int = 1000) -> list[CycleLoss]:
    """What devices said of each cycle of a model, in order."""
    summed = select(*_SUM_COLUMNS).where(CycleLossSum.model_id == model_id, CycleLossSum.cycle > after)
    voices = (
        select(DeviceLoss.cycle, *_sums())
        .where(DeviceLoss.model_id == model_id, DeviceLoss.cycle > after)
        .group_by(DeviceLoss.cycle)
    )
    rows = [
        *session.execute(voices.order_by(DeviceLoss.cycle).limit(limit)),
        *session.execute(summed.order_by(CycleLossSum.cycle).limit(limit)),
    ]
    found = {row.cycle: CycleLoss(**(dict(row._mapping) | {"posts": int(row.posts)})) for row in rows}
    return [found[cycle] for cycle in sorted(found)][:limit]


def sum_up_voices(session: Session, limit: int) -> int:
    """Replace the single voices of cycles that are long over by their sum; gives how many cycles.

    A voice is of the cycle that runs when it comes, so none comes any more for the one before the last.
    """
    over = (
        select(DeviceLoss.model_id, DeviceLoss.cycle, *_sums())
        .join(Model, Model.id == DeviceLoss.model_id)
        .where(DeviceLoss.cycle < Model.completed_cycles)
        .group_by(DeviceLoss.model_id, DeviceLoss.cycle)
        .limit(limit)
    )
    names = ["model_id", *(column.key for column in _SUM_COLUMNS)]
    done = session.execute(
        insert(CycleLossSum)
        .from_select(names, over)
        .on_conflict_do_nothing()
        .returning(CycleLossSum.model_id, CycleLossSum.cycle)
    ).all()
    if done:
        of_these = tuple_(DeviceLoss.model_id, DeviceLoss.cycle).in_([tuple(row) for row in done])
        session.execute(delete(DeviceLoss).where(of_these).execution_options(synchronize_session=False))
    return len(done)


def shared_secret(session: Session, name: str) -> bytes:
    """A random secret that all replicas share, made on first use."""
    session.execute(insert(SharedValue).values(name=name, value=secrets.token_bytes(32)).on_conflict_do_nothing())
    return session.execute(select(SharedValue.value).where(SharedValue.name == name)).scalar_one()


def _sums() -> tuple[ColumnElement[Any], ...]:
    return (
        func.count().label("devices"),
        func.sum(DeviceLoss.posts).label("posts"),
        func.avg(DeviceLoss.loss).label("loss"),
        func.min(DeviceLoss.loss).label("loss_min"),
        func.max(DeviceLoss.loss).label("loss_max"),
        func.avg(DeviceLoss.accuracy).label("accuracy"),
        func.min(DeviceLoss.accuracy).label("accuracy_min"),
        func.max(DeviceLoss.accuracy).label("accuracy_max"),
        func.max(DeviceLoss.updated_at).label("updated_at"),
    )


def _current_model(session: Session, name: str, principal: Principal) -> Model | None:
    """The one of this name that trains now, or trained last; of the caller's own, unless it may speak of any."""
    query = select(Model).where(Model.name == name, Model.deleted_at.is_(None))
    if not _speaks_of_any(principal):
        query = query.join(Dataset, Dataset.id == Model.dataset_id).where(Dataset.owner == principal.owner)
    return session.scalars(query.order_by(Model.finished_at.is_(None).desc(), Model.id.desc()).limit(1)).first()


def _check_registered(session: Session, name: str, principal: Principal) -> None:
    query = (
        select(Dataset.id)
        .join(RegisteredModel, RegisteredModel.dataset_id == Dataset.id)
        .where(RegisteredModel.name == name, Dataset.deleted_at.is_(None))
    )
    if not _speaks_of_any(principal):
        query = query.where(Dataset.owner == principal.owner)
    if session.scalar(query.limit(1)) is None:
        raise NotFound(f"there is no model {name}")


def _speaks_of_any(principal: Principal) -> bool:
    return principal.sees_all or principal.legacy


def _may_speak(session: Session, model_id: int, cycle: int, address: bytes, device: bytes) -> bool:
    known = session.scalars(
        select(DeviceLoss.device)
        .where(DeviceLoss.model_id == model_id, DeviceLoss.cycle == cycle, DeviceLoss.address == address)
        .limit(DEVICES_PER_ADDRESS + 1)
    ).all()
    return len(known) < DEVICES_PER_ADDRESS or device in known


def _number(value: object) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return figure(value)


def _keyed(secret: bytes, text: str) -> bytes:
    return hmac.new(secret, text.encode(), hashlib.sha256).digest()[:16]
