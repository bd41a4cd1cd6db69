"""The tables of one node, as typed SQLAlchemy models.

Every id that a client sees is a bigint: frozen clients read them as integers. A process has exactly one model, so the
wire contract's ``model_id`` is the process id.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Types that hold for every table: ids are bigints, times carry a zone, configs are JSON."""

    type_annotation_map = {  # noqa: RUF012 - the name and form SQLAlchemy asks for
        int: BigInteger,
        bytes: LargeBinary,
        datetime: DateTime(timezone=True),
        uuid.UUID: UUID(as_uuid=True),
        dict[str, Any]: JSONB,
        list[dict[str, Any]]: JSONB,
    }


class Process(Base):
    """A hosted process: one model that phones train cycle by cycle. States: :mod:`gridnode.processes.states`."""

    __tablename__ = "processes"
    __table_args__ = (
        UniqueConstraint("name", "version", name="processes_name_version_key"),
        CheckConstraint("state IN ('active', 'paused', 'failed', 'finished')", name="processes_state_check"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str]
    version: Mapped[str]
    state: Mapped[str]
    failure: Mapped[str | None]
    # Key of the process's HMACs: a worker id or request key made for one process is worthless to another.
    secret: Mapped[bytes]
    client_config: Mapped[dict[str, Any]]
    server_config: Mapped[dict[str, Any]]
    averaging_plan: Mapped[bytes | None]
    # Shape and dtype of each model parameter, in order: reports are checked without reading a checkpoint.
    parameters: Mapped[list[dict[str, Any]]]
    # Of all that was hosted: tells a hosting that is sent again from another one under the same name and version.
    upload_digest: Mapped[bytes | None]
    # Kept here so that progress and the cycle request don't count rows of past cycles.
    completed_cycles: Mapped[int] = mapped_column(server_default=text("0"))
    # Set when the author finishes early while the running cycle has enough reports: it is averaged, and then no more.
    last_cycle: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class Plan(Base):
    """A training plan in the variants that ``get-plan`` serves. Averaging plans are elsewhere: never served."""

    __tablename__ = "plans"
    __table_args__ = (UniqueConstraint("process_id", "name", name="plans_process_id_name_key"),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    process_id: Mapped[int] = mapped_column(ForeignKey("processes.id", ondelete="CASCADE"))
    name: Mapped[str]
    operations: Mapped[bytes]
    torchscript: Mapped[bytes]
    tfjs: Mapped[bytes | None]
    tfjs_refusal: Mapped[str | None]


class Protocol(Base):
    """A protocol hosted beside the plans; the node stores and serves it as it came."""

    __tablename__ = "protocols"
    __table_args__ = (UniqueConstraint("process_id", "name", name="protocols_process_id_name_key"),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    process_id: Mapped[int] = mapped_column(ForeignKey("processes.id", ondelete="CASCADE"))
    name: Mapped[str]
    value: Mapped[bytes]


class Checkpoint(Base):
    """The model's parameters after ``number - 1`` completed cycles, as an encoded State. Never changed once written."""

    __tablename__ = "checkpoints"

    process_id: Mapped[int] = mapped_column(ForeignKey("processes.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Cycle(Base):
    """One round of training. States and moves: :mod:`gridnode.cycles.states`."""

    __tablename__ = "cycles"
    __table_args__ = (
        UniqueConstraint("process_id", "number", name="cycles_process_id_number_key"),
        CheckConstraint("state IN ('open', 'averaging', 'completed', 'abandoned')", name="cycles_state_check"),
        # At most one running cycle a process, whatever two replicas try at once; also how the running one is found.
        Index(
            "cycles_running_key",
            "process_id",
            unique=True,
            postgresql_where=text("state IN ('open', 'averaging')"),
        ),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    process_id: Mapped[int] = mapped_column(ForeignKey("processes.id", ondelete="CASCADE"))
    number: Mapped[int]
    state: Mapped[str]
    # The checkpoint that phones of this cycle train from.
    checkpoint_number: Mapped[int]
    # Copied from server_config, so that one statement finds every due cycle of every process.
    min_workers: Mapped[int]
    min_diffs: Mapped[int]
    max_diffs: Mapped[int | None]
    started_at: Mapped[datetime]
    deadline: Mapped[datetime | None]
    averaging_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    # Slots in use: accepted and neither lapsed nor given back. Counts against max_workers.
    slots: Mapped[int] = mapped_column(server_default=text("0"))
    # Devices ever accepted into this cycle. Counts towards min_workers.
    accepted: Mapped[int] = mapped_column(server_default=text("0"))
    reports: Mapped[int] = mapped_column(server_default=text("0"))
    weight: Mapped[float] = mapped_column(server_default=text("0"))
    min_diffs_at: Mapped[datetime | None]
    # Cycle requests rejected while this cycle ran, by reason; written about once a second, not with each.
    rejected: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))

    @property
    def working(self) -> int:
        """Workers that were accepted, have not reported, and may still."""
        return max(0, self.slots - self.reports)


class Assignment(Base):
    """A worker accepted into a cycle, and whether its report has been counted."""

    __tablename__ = "assignments"
    __table_args__ = (
        CheckConstraint("state IN ('assigned', 'lapsed', 'reported')", name="assignments_state_check"),
        Index("assignments_worker_idx", "worker_id"),
        Index(
            "assignments_lease_idx",
            "cycle_id",
            "lease_until",
            postgresql_where=text("state = 'assigned'"),
        ),
    )

    # No foreign key here and in update_sums: its check would lock the cycle's row once per phone, the hottest row
    # there is. Both are written only while that row is locked or conditionally updated, so none is left behind by a
    # deletion.
    cycle_id: Mapped[int] = mapped_column(primary_key=True)
    worker_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    state: Mapped[str]
    assigned_at: Mapped[datetime]
    lease_until: Mapped[datetime]
    reported_at: Mapped[datetime | None]
    # Tells a repeated report (answered success again) from another one under the same key (refused).
    diff_digest: Mapped[bytes | None]
    num_samples: Mapped[float | None]
    loss: Mapped[float | None]
    accuracy: Mapped[float | None]


class UpdateSum(Base):
    """The sum of the diffs of one group commit, or a single diff where the strategy needs each."""

    __tablename__ = "update_sums"
    __table_args__ = (Index("update_sums_cycle_idx", "cycle_id", "id"),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    cycle_id: Mapped[int]
    reports: Mapped[int]
    weight: Mapped[float]
    value: Mapped[bytes]


class OutboxEvent(Base):
    """A progress event: it waits, was accepted by the master node (``delivered_at``), or set aside (``refused_at``)."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index(
            "outbox_undelivered_idx",
            "process_id",
            "id",
            postgresql_where=text("delivered_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    event_id: Mapped[uuid.UUID] = mapped_column(unique=True)
    # No foreign key: an event outlives a process that is deleted before the master node heard of it.
    process_id: Mapped[int]
    body: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # While a replica posts the event nobody else does; the lease frees it if that replica dies.
    leased_until: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    last_error: Mapped[str | None]
    # Answers that were about this very event, and not about the master node's own state.
    refusals: Mapped[int] = mapped_column(server_default=text("0"))
    refused_at: Mapped[datetime | None]
