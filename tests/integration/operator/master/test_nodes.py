"""What the master node sees of nodes: by their provider, by their management listeners, and when it sees nothing."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from gridnode.db.session import Database
from gridnode_operator.master.datasets.service import assign_node, create_dataset, register_model
from gridnode_operator.master.db.models import Model, Node
from gridnode_operator.master.errors import ProviderFailed
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.models.events import read_event
from gridnode_operator.master.models.history import CycleView, list_cycles
from gridnode_operator.master.models.ingest import ingest
from gridnode_operator.master.models.queries import ModelView, list_models, view_model
from gridnode_operator.master.nodes.observer import Observer
from gridnode_operator.master.nodes.provider import ManagementAccess, NodeRequest, ObservedNode
from gridnode_operator.master.nodes.queries import NodeView, Patience, list_nodes, reports_by_minute
from gridnode_operator.master.overview.service import Overview, environment_overview
from tests.support.scripted_node import NodeReply, ScriptedNode

pytestmark = pytest.mark.integration

ADMIN = Principal("admin")
PATIENCE = Patience.of_seconds(silent_after=300, stuck_after=3600)
NODE_ID = "apps/demo"


class ScriptedProvider:
    """A provider whose nodes a test sets."""

    def __init__(self) -> None:
        self.nodes: list[ObservedNode] = []
        self.access: dict[str, ManagementAccess] = {}
        self.away = False

    def observe(self) -> list[ObservedNode]:
        if self.away:
            raise ProviderFailed("the API server does not answer")
        return self.nodes

    def create(self, request: NodeRequest) -> str:
        return request.name

    def delete(self, node_id: str) -> None: ...

    def management(self, node_id: str) -> ManagementAccess | None:
        return self.access.get(node_id)


class Environment:
    """A provider with one node, whose processes a test sets, and the observer of it."""

    def __init__(self, database: Database, node: ScriptedNode) -> None:
        self.database = database
        self.node = node
        self.provider = ScriptedProvider()
        self.provider.nodes = [ObservedNode(node_id=NODE_ID, ready=True, url="http://10.0.0.1:5000")]
        self.provider.access = {NODE_ID: ManagementAccess(url=node.url)}
        self.processes: list[dict[str, Any]] = []
        node.script = lambda _path: NodeReply(body=json.dumps({"processes": self.processes}).encode())
        self.observer = Observer(database, self.provider)

    def nodes(self) -> list[NodeView]:
        return self.database.transaction(lambda session: list_nodes(session, ADMIN, PATIENCE))

    def models(self) -> list[ModelView]:
        return self.database.transaction(lambda session: list_models(session, ADMIN))

    def cycles(self, model: int) -> list[CycleView]:
        return self.database.transaction(lambda session: list_cycles(session, model))

    def overview(self) -> Overview:
        return self.database.transaction(lambda session: environment_overview(session, ADMIN, PATIENCE))

    def troubles(self) -> dict[str, str]:
        return {trouble.kind: trouble.what for trouble in self.overview().troubles}

    def reports(self) -> int:
        return sum(count for _, count in self.database.transaction(lambda session: reports_by_minute(session, ADMIN)))

    def event(self, **values: Any) -> None:
        body = {
            "percent_complete": 10, "model_id": "digits", "version": "1.0", "node_id": NODE_ID, "cycle": 1,
            "cycles": 10, "event_id": str(uuid.uuid4()), **values,
        }  # fmt: skip
        self.database.transaction(lambda session: ingest(session, [read_event(body, datetime.now(UTC))]))

    def age(self, **ago: timedelta) -> None:
        """Move a node's and its models' times into the past."""
        moved = {name: datetime.now(UTC) - by for name, by in ago.items()}
        of_model = {name: at for name, at in moved.items() if name == "progressed_at"}
        of_node = {name: at for name, at in moved.items() if name not in of_model}

        def work(session: Any) -> None:
            if of_node:
                session.execute(update(Node).values(**of_node))
            if of_model:
                session.execute(update(Model).values(**of_model))

        self.database.transaction(work)


def process(**values: Any) -> dict[str, Any]:
    """A process as a node's list has it."""
    now = datetime.now(UTC)
    cycle = {
        "number": 2, "state": "open", "started_at": now.isoformat(), "deadline": (now + timedelta(hours=1)).isoformat(),
        "accepted": 4, "working": 2, "reports": 2, "min_diffs": 3, "max_diffs": 5, "starved": False,
    }  # fmt: skip
    return {
        "id": 7, "name": "digits", "version": "1.0", "state": "active", "failure": None, "completed_cycles": 1,
        "num_cycles": 10, "progress": 10, "latest_checkpoint": 2, "created_at": now.isoformat(), "finished_at": None,
        "cycle": cycle | values.pop("cycle", {}), "client_config": {"name": "digits", "lr": 0.1},
        "server_config": {"num_cycles": 10, "min_workers": 3}, **values,
    }  # fmt: skip


@pytest.fixture
def environment(database: Database) -> Iterator[Environment]:
    """One node that answers."""
    with ScriptedNode() as node:
        yield Environment(database, node)


def test_running_cycle_is_seen_with_what_it_waits_for(environment: Environment) -> None:
    environment.processes = [process()]
    environment.observer.look()
    (model,) = environment.models()
    assert model.running is not None
    assert (model.state, model.percent, model.completed_cycles, model.num_cycles) == ("active", 10, 1, 10)
    assert (model.running.number, model.running.reports, model.running.working) == (2, 2, 2)
    assert model.waits_for == "has 2 of at least 3 reports"
    assert not model.late
    detail = environment.database.transaction(lambda session: view_model(session, ADMIN, model.id))
    assert (detail.client_config, detail.server_config) == (process()["client_config"], process()["server_config"])
    assert [(each.number, each.state, each.reported, each.accepted) for each in environment.cycles(model.id)] == [
        (2, "running", 2, 4)
    ]
    (node,) = environment.nodes()
    assert (node.known, node.ready, node.silent, node.poll_error, node.training) == (True, True, False, None, 1)
    assert environment.troubles() == {}


def test_reports_are_counted_once_whether_seen_or_told(environment: Environment) -> None:
    environment.processes = [process()]
    environment.observer.look()
    environment.observer.look()
    assert environment.reports() == 2
    environment.processes = [process(cycle={"reports": 4})]
    environment.observer.look()
    assert environment.reports() == 4
    environment.event(cycle=2, percent_complete=20, reports=5, accepted=6)
    assert environment.reports() == 5
    (model,) = environment.models()
    assert [(each.number, each.state, each.reported) for each in environment.cycles(model.id)] == [(2, "completed", 5)]


def test_list_from_before_an_event_moves_nothing_back(environment: Environment) -> None:
    environment.event(cycle=5, percent_complete=50, reports=3)
    environment.processes = [process()]
    environment.observer.look()
    (model,) = environment.models()
    assert (model.completed_cycles, model.percent, model.running) == (5, 50, None)
    assert [each.number for each in environment.cycles(model.id)] == [5]


def test_finished_process_is_finished_here_without_an_event(environment: Environment) -> None:
    environment.processes = [process(state="finished", progress=100, finished_at=datetime.now(UTC).isoformat())]
    environment.observer.look()
    (model,) = environment.models()
    assert (model.state, model.percent) == ("finished", 100)
    pending = environment.database.transaction(lambda s: s.execute(text("SELECT state FROM finished_models")).scalar())
    assert pending == "pending"


def test_process_that_was_deleted_is_not_revived_by_an_old_list(environment: Environment) -> None:
    old = process(created_at=(datetime.now(UTC) - timedelta(hours=1)).isoformat())
    environment.event(deleted=True)
    environment.processes = [old]
    environment.observer.look()
    assert environment.models() == []
    environment.processes = [process(created_at=(datetime.now(UTC) + timedelta(seconds=5)).isoformat())]
    environment.observer.look()
    assert [model.completed_cycles for model in environment.models()] == [1]


def test_late_cycle_is_told_with_the_reason(environment: Environment) -> None:
    late = {"deadline": (datetime.now(UTC) - timedelta(minutes=5)).isoformat(), "accepted": 2}
    environment.processes = [process(cycle=late)]
    environment.observer.look()
    assert environment.troubles() == {
        "cycle_late": "cycle 2 has 2 of at least 3 reports and 2 of at least 3 devices accepted, "
        "and its deadline is past"
    }


def test_failed_model_is_told_with_its_failure(environment: Environment) -> None:
    environment.processes = [process(state="failed", failure="the averaging plan raised ZeroDivisionError")]
    environment.observer.look()
    assert environment.troubles() == {"model_failed": "the averaging plan raised ZeroDivisionError"}
    assert environment.overview().failed == 1


def test_model_that_nobody_reports_to_is_told(environment: Environment) -> None:
    environment.processes = [process()]
    environment.observer.look()
    environment.age(progressed_at=timedelta(hours=2))
    assert "no device has reported to it" in environment.troubles()["model_quiet"]


def test_node_without_any_sign_is_silent(environment: Environment) -> None:
    environment.processes = [process()]
    environment.observer.look()
    environment.age(polled_at=timedelta(minutes=6))
    (node,) = environment.nodes()
    assert node.silent
    assert "node_silent" in environment.troubles()
    environment.event()
    (node,) = environment.nodes()
    assert not node.silent


def test_node_that_only_reports_is_silent_only_while_it_trains(environment: Environment) -> None:
    environment.event()
    environment.age(last_event_at=timedelta(minutes=6))
    assert environment.nodes()[0].silent
    environment.event(percent_complete=100, finished=True)
    environment.age(last_event_at=timedelta(minutes=6))
    assert not environment.nodes()[0].silent


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (NodeReply(503), "answers 503"),
        (NodeReply(body=b"<html>"), "can't be read"),
        (NodeReply(body=b'{"processes": [{"id": "x"}]}'), "can't be read"),
        (NodeReply(302, headers={"Location": "http://127.0.0.1:1/"}), "answers 302"),
    ],
)
def test_node_that_does_not_answer_is_told(environment: Environment, reply: NodeReply, reason: str) -> None:
    environment.observer.look()
    environment.node.script = lambda _path: reply
    environment.observer.look()
    (node,) = environment.nodes()
    assert reason in str(node.poll_error)
    assert reason in environment.troubles()["node_unreachable"]
    environment.node.script = lambda _path: NodeReply(body=b'{"processes": []}')
    environment.observer.look()
    assert environment.troubles() == {}


def test_conditions_are_shown_as_seen(environment: Environment) -> None:
    condition = {
        "type": "Ready", "status": "False", "reason": "MigrationFailed", "message": "The migration Job failed.",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    environment.provider.nodes = [replace(environment.provider.nodes[0], ready=False, conditions=[condition])]
    environment.observer.look()
    (node,) = environment.nodes()
    assert (node.ready, node.conditions) == (False, [condition])
    assert environment.troubles() == {"node_degraded": "The migration Job failed."}


def test_node_that_its_provider_does_not_have_any_more_is_not_known(environment: Environment) -> None:
    environment.observer.look()
    environment.provider.nodes = []
    environment.observer.look()
    (node,) = environment.nodes()
    assert (node.known, node.ready) == (False, False)


def test_provider_that_is_away_changes_nothing(environment: Environment) -> None:
    environment.observer.look()
    environment.provider.away = True
    environment.observer.look()
    assert [node.known for node in environment.nodes()] == [True]


def test_names_without_sense_in_a_list_are_left_out(environment: Environment) -> None:
    names: list[Any] = ["", None, 5, "x" * 300, "a\x00b"]
    environment.processes = [process(id=n, name=name) for n, name in enumerate(names)] + [process(id=9)]
    environment.observer.look()
    assert [model.name for model in environment.models()] == ["digits"]


def test_owners_who_share_a_node_see_nothing_of_each_other(environment: Environment) -> None:
    database = environment.database

    def register(session: Session) -> None:
        for owner in ("ann", "bob"):
            dataset, _ = create_dataset(session, owner, f"data-of-{owner}")
            assign_node(session, dataset, NODE_ID)
            register_model(session, dataset, f"model-of-{owner}", features=[], labels=[])

    database.transaction(register)
    for owner, state in (("ann", "active"), ("bob", "failed")):
        environment.event(
            model_id=f"model-of-{owner}", cycle_number=1, reports=5, state=state, failure=f"why of {owner}"
        )
    database.transaction(lambda s: s.execute(text("UPDATE report_counts SET minute = minute - interval '1 minute'")))
    for owner in ("ann", "bob"):
        principal = Principal("notebook", owner=owner)
        (node,) = database.transaction(partial(list_nodes, principal=principal, patience=PATIENCE))
        assert (node.datasets, node.training, node.failed) == ([f"data-of-{owner}"], 1, int(owner == "bob"))
        assert node.reports_per_minute == 0
        overview = database.transaction(partial(environment_overview, principal=principal, patience=PATIENCE))
        other = "bob" if owner == "ann" else "ann"
        assert f"of-{other}" not in repr(overview)
        assert f"of {other}" not in repr(overview)
        assert sum(count for _, count in overview.reports) == 0
    assert environment.nodes()[0].reports_per_minute == 2
