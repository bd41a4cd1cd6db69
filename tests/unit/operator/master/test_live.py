"""Who is told of what, and what a slow viewer gets."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from gridnode.errors import Unavailable
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.live.changes import Changed, render
from gridnode_operator.master.live.viewers import RESET, Filter, Viewer, Viewers, filter_for
from gridnode_operator.master.models.queries import ModelView
from gridnode_operator.master.nodes.queries import NodeView

NOW = datetime(2026, 5, 1, tzinfo=UTC)
MODEL = ModelView(
    id=1, node=10, node_id="n", dataset=1, dataset_name="d", owner="ann", registered=True, name="m", version="1",
    state="active", failure=None, percent=1, completed_cycles=1, num_cycles=9, loss=None, accuracy=None, running=None,
    waits_for=None, late=False, created_at=NOW, last_event_at=NOW, progressed_at=NOW, finished_at=None,
    deleted_at=None, changed_at=NOW, revision=1,
)  # fmt: skip
NODE = NodeView(
    id=10, node_id="n", known=True, ready=True, url=None, conditions=[], replicas=1, ready_replicas=1,
    first_seen_at=NOW, last_event_at=NOW, observed_at=NOW, polled_at=NOW, poll_error=None, last_seen_at=NOW,
    silent=False, training=1, failed=0, finished=0, reports_per_minute=0, datasets=[],
)  # fmt: skip
CHANGED = Changed([MODEL, replace(MODEL, id=2, node=20, owner="bob"), replace(MODEL, id=3, node=20, owner=None)], [])


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (Filter(), [1, 2, 3]),
        (Filter(owner="ann"), [1]),
        (Filter(owner="bob"), [2]),
        (Filter(owner=""), []),
        (Filter(model=3), [3]),
        (Filter(node=20), [2, 3]),
        (Filter(owner="ann", node=20), []),
    ],
)
def test_filters(wanted: Filter, ids: list[int]) -> None:
    rendered = render(CHANGED, wanted)
    if not ids:
        assert rendered == b""
        return
    name, data, *rest = rendered.decode().split("\n")
    assert (name, rest) == ("event: progress", ["", ""])
    assert [model["id"] for model in json.loads(data.removeprefix("data: "))["models"]] == ids


def test_nodes_are_told_of_to_their_only_owner() -> None:
    changed = Changed([], [(NODE, frozenset({"ann"})), (replace(NODE, id=20), frozenset({"ann", "bob"}))])
    told = {wanted: render(changed, wanted).count(b'"node_id"') for wanted in (Filter(), Filter("ann"), Filter("bob"))}
    assert told == {Filter(): 2, Filter("ann"): 1, Filter("bob"): 0}
    assert render(changed, Filter(model=1)) == b""
    assert render(changed, Filter(node=20)).count(b'"node_id"') == 1


def test_line_breaks_in_names_make_no_events_of_their_own() -> None:
    evil = replace(MODEL, failure="x\n\nevent: reset\ndata: {}\r\n\r\n\u2028")
    assert render(Changed([evil], []), Filter()).count(b"\n") == 3


def test_callers_without_an_owner_see_nothing() -> None:
    assert filter_for(Principal("admin")) == Filter()
    assert filter_for(Principal("notebook", owner="ann"), model=4) == Filter(owner="ann", model=4)
    assert filter_for(Principal("node")) == Filter(owner="")


def test_slow_viewer_is_told_to_read_everything_anew() -> None:
    async def watch() -> bytes:
        viewer = Viewer(Filter())
        for number in range(100):
            viewer.put(b"%d;" % number)
        return await viewer.take(1)

    received = asyncio.run(watch())
    assert received.startswith(RESET)
    assert received.endswith(b"99;")


def test_room_is_bounded() -> None:
    viewers = Viewers(1)
    viewers.check_room()
    viewer = viewers.join(Filter())
    with pytest.raises(Unavailable):
        viewers.check_room()
    viewers.leave(viewer)
    viewers.check_room()
