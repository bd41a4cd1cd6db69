"""Final checkpoints: fetched from known nodes only, until they are stored, whole and as they were sent."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gridnode.db.session import Database
from gridnode.errors import Conflict, NotFound
from gridnode_operator.master.datasets.service import assign_node, create_dataset, register_model
from gridnode_operator.master.errors import ProviderFailed
from gridnode_operator.master.finished.service import FinishedModels, FinishedView, list_finished, retry
from gridnode_operator.master.finished.storage import Storage
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.models.events import read_event
from gridnode_operator.master.models.ingest import ingest
from gridnode_operator.master.nodes.observer import Observer
from gridnode_operator.master.nodes.provider import ManagementAccess, NodeRequest, ObservedNode
from tests.support.scripted_node import NodeReply, ScriptedNode

pytestmark = pytest.mark.integration

ADMIN = Principal("admin")
STATE = b"state of a model" * 10_000
TOKEN = "token-of-the-node"


class OneNode:
    """A provider that knows one node."""

    def __init__(self, node_id: str, url: str) -> None:
        self.node_id = node_id
        self.url = url
        self.asked: list[str] = []

    def observe(self) -> list[ObservedNode]:
        return [ObservedNode(node_id=self.node_id, ready=True, url="http://10.0.0.1:5000")]

    def create(self, request: NodeRequest) -> str:
        return self.node_id

    def delete(self, node_id: str) -> None:
        raise ProviderFailed("not now")

    def management(self, node_id: str) -> ManagementAccess | None:
        self.asked.append(node_id)
        return ManagementAccess(url=self.url, token=TOKEN) if node_id == self.node_id else None


def checkpoint(_path: str) -> NodeReply:
    """What a node answers to retrieve-model."""
    return NodeReply(body=STATE, headers={"x-checkpoint": "5"})


@pytest.fixture
def node() -> Iterator[ScriptedNode]:
    """A node with a checkpoint."""
    with ScriptedNode(checkpoint) as running:
        yield running


@pytest.fixture
def finished(database: Database, node: ScriptedNode, tmp_path: Path) -> FinishedModels:
    """The service, on a provider that knows ``apps/known`` at the scripted node."""
    provider = OneNode("apps/known", node.url)
    Observer(database, provider).look()
    return FinishedModels(database, provider, Storage(tmp_path.as_uri()), largest=len(STATE))


def finish_model(database: Database, node_id: str = "apps/known", **more: Any) -> None:
    """Have a node report that its model is trained to the end."""
    body = {
        "percent_complete": 100, "model_id": "digits", "version": "1.0", "node_id": node_id, "cycle": 4,
        "event_id": str(uuid.uuid4()), "finished": True, **more,
    }  # fmt: skip
    database.transaction(lambda session: ingest(session, [read_event(body, datetime.now(UTC))]))


def only(database: Database) -> FinishedView:
    """The only finished model."""
    (view,) = database.transaction(lambda session: list_finished(session, ADMIN))
    return view


def make_due(database: Database) -> None:
    """Let the pause before the next attempt pass."""
    database.transaction(lambda session: retry(session, only(database).model))


def test_checkpoint_is_stored_with_its_checksum(
    database: Database, finished: FinishedModels, node: ScriptedNode
) -> None:
    finish_model(database)
    assert finished.fetch_due() == 1
    view = only(database)
    assert (view.state, view.checkpoint, view.size, view.attempts) == ("stored", 5, len(STATE), 1)
    assert view.sha256 == hashlib.sha256(STATE).hexdigest()
    asked = node.seen[-1]
    assert asked.path == "/model-centric/retrieve-model?name=digits&version=1.0&checkpoint=latest"
    assert asked.headers["Authorization"] == f"Bearer {TOKEN}"
    shown, pieces = finished.open(ADMIN, view.model)
    assert (shown, b"".join(pieces)) == (view, STATE)
    assert finished.fetch_due() == 0


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (NodeReply(500), "answers 500"),
        (NodeReply(404), "answers 404"),
        (NodeReply(body=STATE), "names no checkpoint"),
        (NodeReply(body=STATE + b"x", headers={"x-checkpoint": "5"}), "larger than"),
        (
            NodeReply(body=STATE[:-1], headers={"x-checkpoint": "5"}, declared=len(STATE)),
            "(broke off|can't be reached)",
        ),
    ],
)
def test_failed_attempt_leaves_nothing_and_is_repeated(
    database: Database, finished: FinishedModels, node: ScriptedNode, tmp_path: Path, reply: NodeReply, reason: str
) -> None:
    finish_model(database)
    node.script = lambda _path: reply
    assert finished.fetch_due() == 0
    view = only(database)
    assert view.state == "pending"
    assert view.last_error is not None
    assert re.search(reason, view.last_error)
    assert view.next_attempt_at is not None
    assert view.next_attempt_at > datetime.now(UTC)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert finished.fetch_due() == 0, "it is tried again before its pause has passed"
    with pytest.raises(Conflict, match="not stored yet"):
        finished.open(ADMIN, view.model)

    node.script = checkpoint
    make_due(database)
    assert finished.fetch_due() == 1
    assert only(database).last_error is None


def test_node_that_only_reports_is_never_connected_to(database: Database, finished: FinishedModels) -> None:
    with ScriptedNode(checkpoint) as trap:
        urls = {"url": trap.url, "management_url": trap.url, "node_url": trap.url, "nodeURL": trap.url}
        finish_model(database, node_id=trap.url, **urls)
        finish_model(database, node_id="apps/stranger", **urls)
        assert finished.fetch_due() == 0
        assert trap.seen == []
    views = database.transaction(lambda session: list_finished(session, ADMIN))
    assert all("only reports" in str(view.last_error) for view in views)


def test_redirect_is_not_followed(database: Database, finished: FinishedModels, node: ScriptedNode) -> None:
    with ScriptedNode(checkpoint) as trap:
        node.script = lambda path: NodeReply(302, headers={"Location": trap.url + path})
        finish_model(database)
        assert finished.fetch_due() == 0
        assert trap.seen == []
    assert "answers 302" in str(only(database).last_error)


def test_names_of_models_can_not_change_what_is_asked_for(
    database: Database, finished: FinishedModels, node: ScriptedNode
) -> None:
    finish_model(database, model_id="../processes?x=1&name=other#", version="1.0&checkpoint=1")
    finished.fetch_due()
    assert node.seen[-1].path == (
        "/model-centric/retrieve-model?name=..%2Fprocesses%3Fx%3D1%26name%3Dother%23"
        "&version=1.0%26checkpoint%3D1&checkpoint=latest"
    )


def test_storage_that_fails_is_tried_again(database: Database, node: ScriptedNode, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the directory should be")
    provider = OneNode("apps/known", node.url)
    Observer(database, provider).look()
    service = FinishedModels(database, provider, Storage(blocked.as_uri()), largest=len(STATE))
    finish_model(database)
    assert service.fetch_due() == 0
    assert "can't be kept" in str(only(database).last_error)
    blocked.unlink()
    make_due(database)
    assert service.fetch_due() == 1


def test_pause_between_attempts_grows_and_is_bounded(
    database: Database, finished: FinishedModels, node: ScriptedNode
) -> None:
    node.script = lambda _path: NodeReply(503)
    finish_model(database)
    pauses = []
    for _ in range(12):
        before = datetime.now(UTC)
        assert finished.fetch_due() == 0
        at = only(database).next_attempt_at
        assert at is not None
        pauses.append(round((at - before).total_seconds()))
        make_due(database)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (5, 900)


def test_only_the_owner_gets_it(database: Database, finished: FinishedModels) -> None:
    def register(session: Any) -> None:
        dataset, _ = create_dataset(session, "ann", "d")
        assign_node(session, dataset, "apps/known")
        register_model(session, dataset, "digits", features=[], labels=[])

    database.transaction(register)
    finish_model(database)
    assert finished.fetch_due() == 1
    model = only(database).model
    for scope in ("app", "notebook"):
        view, pieces = finished.open(Principal(scope, owner="ann"), model)
        assert (view.owner, b"".join(pieces)) == ("ann", STATE)
        with pytest.raises(NotFound):
            finished.open(Principal(scope, owner="bob"), model)


def test_claim_is_nobody_elses_until_it_must_have_ended(
    database: Database, finished: FinishedModels, node: ScriptedNode, tmp_path: Path
) -> None:
    finish_model(database)
    other = FinishedModels(database, OneNode("apps/known", node.url), Storage(tmp_path.as_uri()), largest=len(STATE))
    seen: list[int] = []

    def while_downloading(path: str) -> NodeReply:
        if not seen:
            seen.append(other.fetch_due())
        return checkpoint(path)

    node.script = while_downloading
    assert finished.fetch_due() == 1
    assert seen == [0]


def test_finishing_again_fetches_nothing_again(database: Database, finished: FinishedModels) -> None:
    finish_model(database)
    assert finished.fetch_due() == 1
    stored = only(database)
    finish_model(database)
    assert only(database) == stored
