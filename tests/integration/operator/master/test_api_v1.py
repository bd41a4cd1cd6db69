"""``/api/v1`` as programs use it: pages, entity tags, problems, and answers that its description describes."""

from __future__ import annotations

import uuid
from typing import Any

import jsonschema
import pytest

from tests.support.master_process import MasterProcess

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def filled(shared_master: MasterProcess) -> MasterProcess:
    """Seven models in several states, with cycles, a dataset and keys."""
    for number in range(7):
        for cycle in range(1, 4):
            is_last = number == 0 and cycle == 3
            event = {
                "percent_complete": 100 if is_last else cycle * 10, "model_id": f"model-{number}", "version": "1.0",
                "node_id": f"apps/node-{number % 2}", "event_id": str(uuid.uuid4()), "cycle": cycle, "cycles": 10,
                "finished": is_last, "reports": 4, "accepted": 5, "dropped": 1, "loss": 0.5, "loss_min": 0.1,
                "loss_max": 0.9, "rejected": {"full": 3}, "cycle_seconds": 2.5,
                "running": {"number": cycle + 1, "reports": 0, "min_diffs": 2, "accepted": 1},
            }  # fmt: skip
            shared_master.admin.post("/model_progress", event)
    shared_master.admin.post("/api/v1/datasets", {"name": "d", "owner": "ann", "features": ["f"]})
    shared_master.key("app", owner="ann", note="for the app")
    return shared_master


def test_pages_follow_each_other_without_gaps(filled: MasterProcess) -> None:
    names: list[str] = []
    after = 0
    while after is not None:
        page = filled.admin.get("/api/v1/models", limit=3, after=after)
        names += [each["name"] for each in page["items"]]
        after = page["next"]
    assert names == [f"model-{number}" for number in range(7)]


def test_events_are_paged_from_the_newest(filled: MasterProcess) -> None:
    first = filled.admin.get("/api/v1/events", limit=5)
    second = filled.admin.get("/api/v1/events", limit=5, after=first["next"])
    ids = [each["id"] for each in first["items"] + second["items"]]
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) == 10


def test_filters(filled: MasterProcess) -> None:
    assert [each["name"] for each in filled.admin.get("/api/v1/models", state="finished")["items"]] == ["model-0"]
    assert len(filled.admin.get("/api/v1/models", state="active")["items"]) == 6
    (node,) = [each for each in filled.admin.get("/api/v1/nodes")["items"] if each["node_id"] == "apps/node-1"]
    assert len(filled.admin.get("/api/v1/models", node=node["id"])["items"]) == 3
    refused = filled.admin.request("GET", "/api/v1/models", query={"state": "dancing"})
    assert (refused.status, "state must be one of" in refused.json()["detail"]) == (400, True)


def test_cycles_of_a_model_with_their_figures(filled: MasterProcess) -> None:
    (model,) = filled.admin.get("/api/v1/models", name="model-1")["items"]
    assert model["waits_for"] == "has 0 of at least 2 reports"
    cycles = filled.admin.get(f"/api/v1/models/{model['id']}/cycles")["items"]
    assert [each["number"] for each in cycles] == [1, 2, 3]
    newest = filled.admin.get(f"/api/v1/models/{model['id']}/cycles", limit=2, newest="true")["items"]
    assert newest == cycles[1:]
    figures = {
        name: cycles[0][name] for name in ("reported", "accepted", "dropped", "rejected", "loss_min", "loss_max")
    }
    assert figures == {
        "reported": 4, "accepted": 5, "dropped": 1, "rejected": {"full": 3}, "loss_min": 0.1, "loss_max": 0.9,
    }  # fmt: skip


def test_unchanged_answer_is_not_sent_again(filled: MasterProcess) -> None:
    first = filled.admin.request("GET", "/api/v1/models")
    again = filled.admin.request("GET", "/api/v1/models", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    filled.admin.post("/model_progress", {"percent_complete": 50, "model_id": "model-2", "node_id": "apps/node-0"})
    changed = filled.admin.request("GET", "/api/v1/models", headers={"If-None-Match": first.headers["etag"]})
    assert changed.status == 200


@pytest.mark.parametrize(
    ("method", "path", "data", "status"),
    [
        ("GET", "/api/v1/nothing", None, 404),
        ("GET", "/api/v1/models/999999", None, 404),
        ("GET", "/api/v1/models/99999999999999999999999", None, 404),
        ("GET", "/api/v1/models?limit=x", None, 400),
        ("GET", "/api/v1/models?limit=1001", None, 400),
        ("GET", "/api/v1/models?after=-1", None, 400),
        ("GET", "/api/v1/models?name=%00", None, 400),
        ("GET", "/api/v1/models/1/checkpoints/first", None, 400),
        ("PATCH", "/api/v1/models", None, 405),
        ("POST", "/api/v1/keys", {"scope": "nothing"}, 400),
        ("POST", "/api/v1/keys", {"scope": "app"}, 400),
        ("POST", "/api/v1/keys", {"scope": "admin", "owner": "ann"}, 400),
        ("POST", "/api/v1/keys", {"scope": "app", "owner": "ann", "node_id": "x"}, 400),
        ("POST", "/api/v1/keys", {"scope": "app", "owner": "a\nb"}, 400),
        ("POST", "/api/v1/keys", {"scope": "node", "more": 1}, 400),
        ("POST", "/api/v1/datasets", {"name": "x"}, 400),
        ("POST", "/api/v1/datasets", {"name": "x", "owner": "ann", "features": "f"}, 400),
    ],
)
def test_errors_are_problems(filled: MasterProcess, method: str, path: str, data: object, status: int) -> None:
    answer = filled.admin.request(method, path, data)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert (problem["status"], problem.keys()) == (status, {"type", "title", "status", "detail"})


def test_dataset_is_made_once(filled: MasterProcess) -> None:
    first = filled.admin.request("POST", "/api/v1/datasets", {"name": "twice", "owner": "ann"})
    again = filled.admin.request("POST", "/api/v1/datasets", {"name": "twice", "owner": "ann"})
    assert (first.status, again.status) == (201, 200)
    assert first.json() == again.json()
    assert filled.admin.request("GET", first.headers["location"]).json() == first.json()


def test_answers_are_as_the_description_says(filled: MasterProcess) -> None:
    document = filled.anonymous.get("/api/v1/openapi.json")
    (model,) = filled.admin.get("/api/v1/models", name="model-0")["items"]
    ids = {"node": model["node"], "model": model["id"], "dataset": 1}
    checked = 0
    for path, operations in document["paths"].items():
        content = operations.get("get", {}).get("responses", {}).get("200", {}).get("content", {})
        if "application/json" not in content:
            continue
        answer = filled.admin.get(path.format(**ids))
        schema = content["application/json"]["schema"] | {"components": document["components"]}
        jsonschema.validate(answer, schema, cls=jsonschema.Draft202012Validator)
        checked += 1
    assert checked >= 14


def test_names_are_data_everywhere(filled: MasterProcess) -> None:
    name = "<script>alert('x')</script>"
    filled.admin.post("/model_progress", {"percent_complete": 1, "model_id": name, "node_id": name, "version": name})
    (model,) = filled.admin.get("/api/v1/models", name=name)["items"]
    assert (model["name"], model["node_id"], model["version"]) == (name, name, name)
    answer: Any = filled.admin.request("GET", "/api/v1/models")
    assert answer.headers["x-content-type-options"] == "nosniff"
