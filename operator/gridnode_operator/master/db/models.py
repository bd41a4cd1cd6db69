"""The tables of the master node, as typed SQLAlchemy models.

Nodes and their models are known by what nodes report and what the master node sees of them; both are kept whether or
not somebody has asked for them. Who owns a model follows from its dataset, and nothing else.
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
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Types that hold for every table: ids are bigints, times carry a zone, what has no fixed form is JSON."""

    type_annotation_map = {  # noqa: RUF012 - the name and form SQLAlchemy asks for
        int: BigInteger,
        bytes: LargeBinary,
        datetime: DateTime(timezone=True),
        uuid.UUID: UUID(as_uuid=True),
        dict[str, Any]: JSONB(none_as_null=True),
        list[dict[str, Any]]: JSONB(none_as_null=True),
        list[str]: JSONB(none_as_null=True),
    }


class ApiKey(Base):
    """A key that was given out. Only its digest is kept: who reads this table can use none of them."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("scope IN ('app', 'notebook', 'node', 'admin')", name="api_keys_scope_check"),
        # A key for apps or notebooks acts for somebody; tenants are kept apart by this column.
        CheckConstraint("(scope IN ('app', 'notebook')) = (owner IS NOT NULL)", name="api_keys_owner_check"),
        CheckConstraint("node_id IS NULL OR scope = 'node'", name="api_keys_node_check"),
        Index("api_keys_owner_idx", "owner"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    # SHA-256: keys are 256 random bits, so there is nothing to guess that a slow hash would slow down.
    digest: Mapped[bytes] = mapped_column(unique=True)
    # The beginning of the key, by which people recognise it.
    prefix: Mapped[str]
    scope: Mapped[str]
    owner: Mapped[str | None]
    # The only node that this key speaks for; NULL: any.
    node_id: Mapped[str | None]
    note: Mapped[str] = mapped_column(server_default=text("''"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class DashboardSession(Base):
    """Somebody who is signed in to the dashboard. Only the digest of the cookie is kept, as with keys."""

    __tablename__ = "dashboard_sessions"
    __table_args__ = (
        CheckConstraint("method IN ('token', 'key', 'oidc')", name="dashboard_sessions_method_check"),
        # A session ends with the key that opened it, or with the settings that let its visitor in.
        CheckConstraint("(method = 'key') = (key_id IS NOT NULL)", name="dashboard_sessions_key_check"),
        CheckConstraint("(method = 'key') = (proof IS NULL)", name="dashboard_sessions_proof_check"),
    )

    digest: Mapped[bytes] = mapped_column(primary_key=True)
    method: Mapped[str]
    # Who it is, for the person to see.
    visitor: Mapped[str]
    key_id: Mapped[int | None] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"))
    # Digest of the settings by which the visitor was let in.
    proof: Mapped[bytes | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Node(Base):
    """A node that has reported, or that the provider knows."""

    __tablename__ = "nodes"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    node_id: Mapped[str] = mapped_column(unique=True)
    # Whether the provider has it. Only such nodes are ever connected to.
    known: Mapped[bool] = mapped_column(server_default=text("false"))
    ready: Mapped[bool] = mapped_column(server_default=text("false"))
    url: Mapped[str | None]
    conditions: Mapped[list[dict[str, Any]]] = mapped_column(server_default=text("'[]'"))
    replicas: Mapped[int | None]
    ready_replicas: Mapped[int | None]
    first_seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_event_at: Mapped[datetime | None]
    # When the provider told of it last, and when its management listener answered last.
    observed_at: Mapped[datetime | None]
    polled_at: Mapped[datetime | None]
    poll_error: Mapped[str | None]
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Dataset(Base):
    """What an app collects on devices: its features and labels, whose it is, and the node that trains with it."""

    __tablename__ = "datasets"
    __table_args__ = (
        # Owners know nothing of each other, so two may use one name. A deleted one keeps its models' history.
        Index("datasets_owner_name_key", "owner", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
        Index("datasets_node_idx", "node_id"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str]
    owner: Mapped[str]
    features: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))
    labels: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))
    node_id: Mapped[int | None] = mapped_column(ForeignKey("nodes.id"))
    node_requested_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]


class RegisteredModel(Base):
    """A model that a notebook has announced for a dataset: apps are told of it."""

    __tablename__ = "registered_models"

    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    features: Mapped[list[str]]
    labels: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Model(Base):
    """A model that a node trains or has trained, as far as the master node has heard.

    Of one node, name and version there is at most one that is not deleted: hosting the name again after a deletion
    makes another row, so nothing that was reported ever goes backwards.
    """

    __tablename__ = "models"
    __table_args__ = (
        Index(
            "models_live_key", "node_id", "name", "version", unique=True, postgresql_where=text("deleted_at IS NULL")
        ),
        Index("models_dataset_idx", "dataset_id"),
        Index("models_changed_idx", "changed_at"),
        Index(
            "models_training_idx",
            "id",
            postgresql_where=text("finished_at IS NULL AND deleted_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"))
    # NULL: nobody has registered it with /create.
    dataset_id: Mapped[int | None] = mapped_column(ForeignKey("datasets.id"))
    name: Mapped[str]
    version: Mapped[str]
    percent: Mapped[int] = mapped_column(server_default=text("0"))
    completed_cycles: Mapped[int] = mapped_column(server_default=text("0"))
    # NULL: not known; 0: without end.
    num_cycles: Mapped[int | None]
    # What the node says: active, paused, failed or finished.
    state: Mapped[str] = mapped_column(server_default=text("'active'"))
    failure: Mapped[str | None]
    finished_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    # Of the cycle that was completed last.
    loss: Mapped[float | None]
    accuracy: Mapped[float | None]
    client_config: Mapped[dict[str, Any] | None]
    server_config: Mapped[dict[str, Any] | None]
    # The running cycle as seen last; :class:`gridnode_operator.master.models.running.RunningCycle`.
    running: Mapped[dict[str, Any] | None]
    # When the newest event happened at the node, and when one was received last.
    occurred_at: Mapped[datetime | None]
    last_event_at: Mapped[datetime | None]
    # When a report or a completed cycle was heard of last.
    progressed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    revision: Mapped[int] = mapped_column(server_default=text("0"))


class Cycle(Base):
    """What is known of one cycle of a model; NULL is what nobody has told."""

    __tablename__ = "cycles"
    __table_args__ = (CheckConstraint("state IN ('running', 'completed', 'abandoned')", name="cycles_state_check"),)

    model_id: Mapped[int] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    seconds: Mapped[float | None]
    accepted: Mapped[int | None]
    reported: Mapped[int | None]
    dropped: Mapped[int | None]
    # Cycle requests that were rejected, by reason.
    rejected: Mapped[dict[str, Any] | None]
    loss: Mapped[float | None]
    loss_min: Mapped[float | None]
    loss_max: Mapped[float | None]
    accuracy: Mapped[float | None]
    accuracy_min: Mapped[float | None]
    accuracy_max: Mapped[float | None]


class DeviceLoss(Base):
    """What one device said of one cycle: a device has one voice, however often it speaks."""

    __tablename__ = "device_losses"

    model_id: Mapped[int] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    cycle: Mapped[int] = mapped_column(primary_key=True)
    # A keyed hash: addresses of devices are nobody's business.
    device: Mapped[bytes] = mapped_column(primary_key=True)
    address: Mapped[bytes]
    loss: Mapped[float]
    accuracy: Mapped[float | None]
    posts: Mapped[int] = mapped_column(server_default=text("1"))
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class CycleLossSum(Base):
    """What all devices said of a cycle that is over: their single voices are not kept for ever."""

    __tablename__ = "cycle_loss_sums"

    model_id: Mapped[int] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    cycle: Mapped[int] = mapped_column(primary_key=True)
    devices: Mapped[int]
    posts: Mapped[int]
    loss: Mapped[float]
    loss_min: Mapped[float]
    loss_max: Mapped[float]
    accuracy: Mapped[float | None]
    accuracy_min: Mapped[float | None]
    accuracy_max: Mapped[float | None]
    updated_at: Mapped[datetime]


class Event(Base):
    """A progress event as it came. Kept so that a repeated one is known, and for people to look at."""

    __tablename__ = "events"
    __table_args__ = (
        Index("events_model_idx", "model_id", "id"),
        Index("events_node_idx", "node_id", "id"),
        Index("events_received_idx", "received_at"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    # NULL: from a node of 2020, which sends none.
    event_id: Mapped[uuid.UUID | None] = mapped_column(unique=True)
    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id", ondelete="CASCADE"))
    model_id: Mapped[int | None] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    percent: Mapped[int]
    cycle: Mapped[int | None]
    occurred_at: Mapped[datetime]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # False: it came too late to change anything.
    applied: Mapped[bool]
    body: Mapped[dict[str, Any]]


class FinishedModel(Base):
    """The final checkpoint of a finished model: still to be fetched, or stored."""

    __tablename__ = "finished_models"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'stored')", name="finished_models_state_check"),
        Index("finished_models_due_idx", "next_attempt_at", postgresql_where=text("state = 'pending'")),
    )

    model_id: Mapped[int] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    state: Mapped[str] = mapped_column(server_default=text("'pending'"))
    # Path below the storage URL.
    path: Mapped[str | None]
    sha256: Mapped[str | None]
    size: Mapped[int | None]
    checkpoint: Mapped[int | None]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    stored_at: Mapped[datetime | None]


class ReportCount(Base):
    """Reports that nodes counted, by the minute in which the master node heard of them."""

    __tablename__ = "report_counts"

    minute: Mapped[datetime] = mapped_column(primary_key=True)
    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True)
    reports: Mapped[int]


class Lease(Base):
    """Which process does a background service just now: of several replicas one does, the others wait."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[uuid.UUID]
    until: Mapped[datetime]


class SharedValue(Base):
    """Values that all replicas share and that are made once."""

    __tablename__ = "shared_values"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[bytes]
