"""An environment in which everything happens that the dashboard shows, made by the code that takes nodes' reports."""

from __future__ import annotations

import math
import random
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from gridnode.db.session import Database
from gridnode_operator.master.datasets.service import assign_node, create_dataset, register_model
from gridnode_operator.master.db.models import FinishedModel, Model, Node, ReportCount
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.keys.service import create_key, random_key, revoke_key
from gridnode_operator.master.models.events import read_event
from gridnode_operator.master.models.ingest import ingest
from gridnode_operator.master.nodes.observer import record_answer, record_nodes
from gridnode_operator.master.nodes.provider import ObservedNode

_CONDITIONS = ("DatabaseReady", "Migrated", "Available", "Exposed", "Ready")
_REASONS = ("cycle_full", "no_open_cycle", "too_slow", "reused_too_soon")


@dataclass(frozen=True, slots=True)
class Training:
    """A model of the scene.

    Attributes:
        cycles: Completed.
        num_cycles: In all; 0 is without end.
        running: What is told of its running cycle, beside its number.
    """

    node: str
    name: str
    version: str
    cycles: int
    num_cycles: int
    state: str = "active"
    failure: str | None = None
    running: dict[str, Any] | None = None
    dataset: tuple[str, str] | None = None


def trainings(now: datetime) -> list[Training]:
    """Models in every state."""

    def at(minutes: float) -> str:
        return (now + timedelta(minutes=minutes)).isoformat()

    return [
        Training(
            "apps/heart-rate", "resting-heart-rate", "2.1", 36, 60, dataset=("heart-rate", "ann"),
            running={"started_at": at(-3), "deadline": at(7), "accepted": 41, "working": 17, "reports": 22,
                     "min_diffs": 30, "max_diffs": 50, "min_workers": 20},
        ),
        Training(
            "apps/heart-rate", "stress-level", "1.0", 9, 40, dataset=("heart-rate", "ann"),
            running={"started_at": at(-55), "deadline": at(-25), "accepted": 6, "working": 2, "reports": 3,
                     "min_diffs": 12, "min_workers": 4},
        ),
        Training(
            "apps/keyboard", "next-word", "5.3", 118, 0, dataset=("typing", "bob"),
            running={"started_at": at(-1), "accepted": 210, "working": 96, "reports": 100, "min_diffs": 200,
                     "max_diffs": 200},
        ),
        Training("apps/keyboard", "emoji-suggestion", "1.2", 4, 25, state="paused", dataset=("typing", "bob")),
        Training(
            "apps/sleep", "sleep-stages", "0.9", 12, 30, state="failed",
            failure="averaging plan: operation torch.div got a tensor of shape [3] and one of shape [4]",
            dataset=("sleep", "ann"),
        ),
        Training("apps/sleep", "snoring", "1.0", 20, 20, state="finished", dataset=("sleep", "ann")),
        Training("apps/heart-rate", "arrhythmia", "1.4", 50, 50, state="finished", dataset=("heart-rate", "ann")),
        Training("lab/edge-1", "gait", "1.0", 2, 10),
    ]  # fmt: skip


def fill(database: Database, *, seed: int = 7) -> None:
    """Make the scene in a database without rows."""
    now = datetime.now(UTC)
    generator = random.Random(seed)
    for work in (_make_nodes, _make_datasets):
        database.transaction(lambda session, work=work: work(session, now))  # type: ignore[misc]
    for training in trainings(now):
        for cycle in range(1, training.cycles + 1):
            body = event_of(training, cycle, now, generator)
            database.transaction(lambda session, body=body: ingest(session, [read_event(body, now)]))  # type: ignore[misc]
    database.transaction(lambda session: _tell_processes(session, now))
    database.transaction(lambda session: _age(session, now, generator))
    database.transaction(_make_keys)


def event_of(training: Training, cycle: int, now: datetime, generator: random.Random) -> dict[str, Any]:
    """What a node posts after a cycle."""
    left = training.cycles - cycle
    ended = now - timedelta(minutes=4 + 11 * left)
    loss = 0.35 + 1.9 * math.exp(-cycle / 14) + generator.uniform(-0.04, 0.04)
    accuracy = 0.93 - 0.6 * math.exp(-cycle / 12) + generator.uniform(-0.015, 0.015)
    reports = generator.randint(30, 50)
    dropped = generator.randint(1, 14)
    is_last = cycle == training.cycles
    is_finished = is_last and training.state == "finished"
    body: dict[str, Any] = {
        "percent_complete": 100 * cycle // training.num_cycles if training.num_cycles else min(99, cycle // 2),
        "model_id": training.name,
        "version": training.version,
        "node_id": training.node,
        "event_id": str(uuid.UUID(int=generator.getrandbits(128))),
        "occurred_at": ended.isoformat(),
        "cycle": cycle,
        "cycles": training.num_cycles,
        "cycle_number": cycle,
        "cycle_state": "completed",
        "cycle_started_at": (ended - timedelta(minutes=7)).isoformat(),
        "cycle_seconds": 200 + generator.uniform(0, 220),
        "finished": is_finished,
        "reports": reports,
        "accepted": reports + dropped,
        "dropped": dropped,
        "rejected": {reason: generator.randint(0, 30 // (place + 1)) for place, reason in enumerate(_REASONS)},
        "loss": loss,
        "loss_min": loss * 0.62,
        "loss_max": loss * 1.5,
        "accuracy": accuracy,
        "accuracy_min": accuracy - 0.14,
        "accuracy_max": min(1.0, accuracy + 0.09),
    }
    if is_last:
        body |= {"state": training.state, "failure": training.failure}
    return body


def _make_nodes(session: Session, now: datetime) -> None:
    def conditions(broken: str | None = None, message: str = "") -> list[dict[str, Any]]:
        since = (now - timedelta(hours=30)).isoformat()
        made = []
        for kind in _CONDITIONS:
            holds = broken is None or _CONDITIONS.index(kind) < _CONDITIONS.index(broken)
            made.append(
                {
                    "type": kind,
                    "status": str(holds),
                    "reason": "AsWanted" if holds else "Waiting",
                    "message": "" if holds else message,
                    "lastTransitionTime": since,
                }
            )
        return made

    record_nodes(
        session,
        [
            ObservedNode(
                node_id="apps/heart-rate", ready=True, url="https://heart-rate.nodes.example.org",
                conditions=conditions(), replicas=3, ready_replicas=3,
            ),
            ObservedNode(
                node_id="apps/keyboard", ready=True, url="https://keyboard.nodes.example.org",
                conditions=conditions(), replicas=6, ready_replicas=5,
            ),
            ObservedNode(
                node_id="apps/sleep", ready=False, url="https://sleep.nodes.example.org",
                conditions=conditions("Available", "2 of 2 pods can't pull their image: gridnode-node:2.0.1"),
                replicas=2, ready_replicas=0,
            ),
        ],
    )  # fmt: skip


def _make_datasets(session: Session, now: datetime) -> None:
    columns = {"heart-rate": (["bpm", "steps", "hour"], ["resting"]), "typing": (["previous", "language"], ["next"])}
    for training in trainings(now):
        if training.dataset is None:
            continue
        name, owner = training.dataset
        features, labels = columns.get(name, (["movement", "sound"], ["stage"]))
        dataset, _ = create_dataset(session, owner, name, features=features, labels=labels)
        register_model(session, dataset, training.name, features=features, labels=labels)
        assign_node(session, dataset, training.node)
    create_dataset(session, "ann", "gait", features=["x", "y", "z"], labels=["fall"])


def _tell_processes(session: Session, now: datetime) -> None:
    """What the nodes' management listeners say, but that of one, which has died."""
    for node in ("apps/heart-rate", "apps/keyboard", "apps/sleep"):
        processes = [_process(each, number) for number, each in enumerate(trainings(now), 1) if each.node == node]
        record_answer(session, node, processes, None)


def _process(training: Training, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "name": training.name,
        "version": training.version,
        "state": training.state,
        "failure": training.failure,
        "progress": 100 if training.state == "finished" else 0,
        "completed_cycles": training.cycles,
        "num_cycles": training.num_cycles,
        "cycle": None if training.running is None else {"number": training.cycles + 1, **training.running},
        "client_config": {
            "name": training.name, "version": training.version, "batch_size": 32, "lr": 0.05, "max_updates": 40,
        },
        "server_config": {
            "num_cycles": training.num_cycles, "cycle_length": 600, "min_diffs": 30, "max_diffs": 50,
            "min_workers": 20, "max_workers": 80, "pool_selection": "random",
            "minimum_upload_speed": 0, "minimum_download_speed": 0,
            "authentication": {"secret": "***", "type": "HMAC"},
        },
    }  # fmt: skip


def _age(session: Session, now: datetime, generator: random.Random) -> None:
    """Let time pass: one node has been silent for hours, and reports came by the minute."""
    rows = {node.node_id: node for node in session.query(Node)}
    rows["lab/edge-1"].last_event_at = now - timedelta(hours=5)
    rows["lab/edge-1"].first_seen_at = now - timedelta(days=2)
    models = {model.name: model for model in session.query(Model)}
    for name, minutes in (("resting-heart-rate", 0.4), ("next-word", 0.1), ("stress-level", 31), ("gait", 300)):
        models[name].progressed_at = now - timedelta(minutes=minutes)
    for name, hours in (("emoji-suggestion", 26), ("sleep-stages", 3), ("snoring", 9), ("arrhythmia", 50)):
        models[name].progressed_at = now - timedelta(hours=hours)
    for name, hours in (("snoring", 9), ("arrhythmia", 50)):
        models[name].finished_at = now - timedelta(hours=hours)
    session.query(ReportCount).delete()
    minute = now.replace(second=0, microsecond=0)
    for back in range(60):
        for node, typical in (("apps/heart-rate", 8), ("apps/keyboard", 26)):
            wave = 1 + 0.5 * math.sin(back / 7)
            session.add(
                ReportCount(
                    minute=minute - timedelta(minutes=back),
                    node_id=rows[node].id,
                    reports=int(typical * wave) + generator.randint(0, 5),
                )
            )
    stored = {
        "state": "stored", "path": "7/a", "sha256": "9f2c1e" * 10 + "ab12", "size": 1_284_213, "checkpoint": 51,
        "stored_at": now - timedelta(hours=50), "attempts": 1,
    }  # fmt: skip
    session.execute(update(FinishedModel).where(FinishedModel.model_id == models["arrhythmia"].id).values(**stored))
    pending = {
        "attempts": 7, "last_error": "its management listener does not answer in time",
        "next_attempt_at": now + timedelta(minutes=9),
    }  # fmt: skip
    session.execute(update(FinishedModel).where(FinishedModel.model_id == models["snoring"].id).values(**pending))


def _make_keys(session: Session) -> None:
    for scope, owner, node, note in (
        ("admin", None, None, "platform team"),
        ("notebook", "ann", None, "Ann's notebooks"),
        ("app", "ann", None, "Pulse, iOS 4.2"),
        ("node", None, "apps/heart-rate", ""),
        ("notebook", "bob", None, ""),
    ):
        create_key(session, random_key(), scope, owner=owner, node_id=node, note=note)
    lost = create_key(session, random_key(), "app", owner="bob", note="test build, lost")
    revoke_key(session, Principal("admin"), lost.view.id)
