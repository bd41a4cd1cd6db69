"""Who may do what: every scope at every endpoint, owners kept apart, keys that are guessed, revoked or expired."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gridnode_operator.master.keys.access import RULES, SCOPES
from tests.support.master_process import ADMIN, MasterClient, MasterProcess

pytestmark = pytest.mark.integration

#: A request to each endpoint that names nothing that exists: 404 or 400 then says that the caller may.
REQUESTS: dict[str, tuple[str, str, Any]] = {
    "running": ("GET", "/", None),
    "info": ("POST", "/info", {"dataset_id": "of-the-matrix"}),
    "model_progress": ("POST", "/model_progress", {"percent_complete": 1, "model_id": "of-the-matrix"}),
    "model_loss": ("POST", "/model_loss", {"acc": 0.5, "loss": 0.5, "model_id": "nothing"}),
    "create": ("POST", "/create", {"model_id": "m"}),
    "delete": ("POST", "/delete", {"dataset_id": "nothing", "user_id": "ann"}),
    "generate_key": ("POST", "/generate_key", {"user_id": "ann"}),
    "get_datasets": ("POST", "/get_datasets", {"user_id": "ann"}),
    "readyz": ("GET", "/readyz", None),
    "v1_openapi": ("GET", "/api/v1/openapi.json", None),
    "v1_whoami": ("GET", "/api/v1/whoami", None),
    "v1_overview": ("GET", "/api/v1/overview", None),
    "v1_nodes": ("GET", "/api/v1/nodes", None),
    "v1_node": ("GET", "/api/v1/nodes/999999", None),
    "v1_models": ("GET", "/api/v1/models", None),
    "v1_model": ("GET", "/api/v1/models/999999", None),
    "v1_model_cycles": ("GET", "/api/v1/models/999999/cycles", None),
    "v1_model_losses": ("GET", "/api/v1/models/999999/losses", None),
    "v1_checkpoint": ("GET", "/api/v1/models/999999/checkpoints/1", None),
    "v1_progress": ("GET", "/api/v1/progress", None),
    "v1_events": ("GET", "/api/v1/events", None),
    "v1_stream": ("HEAD", "/api/v1/stream", None),
    "v1_datasets": ("GET", "/api/v1/datasets", None),
    "v1_create_dataset": ("POST", "/api/v1/datasets", {}),
    "v1_dataset": ("GET", "/api/v1/datasets/999999", None),
    "v1_delete_dataset": ("DELETE", "/api/v1/datasets/999999", None),
    "v1_register_model": ("PUT", "/api/v1/datasets/999999/models/m", {}),
    "v1_keys": ("GET", "/api/v1/keys", None),
    "v1_create_key": ("POST", "/api/v1/keys", {"scope": "nothing"}),
    "v1_revoke_key": ("DELETE", "/api/v1/keys/999999", None),
    "v1_finished_models": ("GET", "/api/v1/finished-models", None),
    "v1_finished_model": ("GET", "/api/v1/finished-models/999999", None),
    "v1_finished_content": ("GET", "/api/v1/finished-models/999999/content", None),
    "v1_retry_finished": ("POST", "/api/v1/finished-models/999999/retry", None),
}
#: Who may, once more and by hand: a change of the product's table must be meant.
EVERYBODY = {*SCOPES}
OWNERS = {"notebook", "admin"}
APPS = {"app", "notebook", "admin"}
ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(REQUESTS, OWNERS),
    **dict.fromkeys(("running", "readyz", "v1_openapi", "v1_whoami"), EVERYBODY),
    **dict.fromkeys(("info", "model_loss"), APPS),
    **dict.fromkeys(("v1_finished_models", "v1_finished_model", "v1_finished_content"), APPS),
    "model_progress": {"node", "admin"},
    "v1_retry_finished": {"admin"},
}
PUBLIC = {"running", "readyz", "v1_openapi"}
LEGACY = {"model_progress", "model_loss", "create", "delete", "generate_key", "get_datasets"}


@pytest.fixture(scope="module")
def keys(shared_master: MasterProcess) -> dict[str, str]:
    """A key of each scope."""
    return {
        "app": shared_master.key("app", owner="ann"),
        "notebook": shared_master.key("notebook", owner="ann"),
        "node": shared_master.key("node"),
        "admin": shared_master.key("admin"),
    }


def test_matrix_is_complete() -> None:
    assert REQUESTS.keys() == RULES.keys() == ALLOWED.keys()


@pytest.mark.parametrize("endpoint", REQUESTS)
def test_each_scope_at_each_endpoint(shared_master: MasterProcess, keys: dict[str, str], endpoint: str) -> None:
    method, path, data = REQUESTS[endpoint]
    for scope, key in keys.items():
        status = shared_master.anonymous.with_key(key).request(method, path, data).status
        if scope in ALLOWED[endpoint]:
            assert status not in (401, 403), f"{scope} may not {endpoint}"
        else:
            assert status == 403, f"{scope} may {endpoint}: {status}"


@pytest.mark.parametrize("endpoint", REQUESTS)
def test_without_a_key(shared_master: MasterProcess, endpoint: str) -> None:
    method, path, data = REQUESTS[endpoint]
    answer = shared_master.anonymous.request(method, path, data)
    if endpoint in PUBLIC:
        assert answer.status == 200
    else:
        # Apps of 2020 know 400 only.
        assert answer.status == (400 if endpoint == "info" else 401)


def test_switch_for_clients_of_2020_opens_their_endpoints_and_no_other(empty_database_url: str, tmp_path: Path) -> None:
    with MasterProcess(empty_database_url, tmp_path, legacy_access="true") as master:
        for endpoint, (method, path, data) in REQUESTS.items():
            status = master.anonymous.request(method, path, data).status
            is_open = endpoint in PUBLIC | LEGACY
            assert (status not in (401, 403)) == (is_open or endpoint == "info"), f"{endpoint}: {status}"
            if endpoint == "info":
                assert status == 400


@pytest.fixture(scope="module")
def tenants(shared_master: MasterProcess) -> dict[str, MasterClient]:
    """Two owners with a dataset of the same name, and a model announced for it, each."""
    clients = {}
    for owner in ("alice", "bob"):
        client = shared_master.anonymous.with_key(shared_master.key("notebook", owner=owner))
        dataset = client.post("/api/v1/datasets", {"name": "same-name"})
        client.request("PUT", f"/api/v1/datasets/{dataset['id']}/models/model-of-{owner}", {"features": ["f"]})
        clients[owner] = client
    return clients


def test_owners_see_nothing_of_each_other(shared_master: MasterProcess, tenants: dict[str, MasterClient]) -> None:
    admin = shared_master.admin
    datasets = {each["owner"]: each["id"] for each in admin.get("/api/v1/datasets")["items"]}
    assert {"alice", "bob"} <= datasets.keys()
    for owner, client in tenants.items():
        other = "bob" if owner == "alice" else "alice"
        assert [each["owner"] for each in client.get("/api/v1/datasets")["items"]] == [owner]
        foreign_dataset = f"/api/v1/datasets/{datasets[other]}"
        assert client.request("GET", foreign_dataset).status == 404
        assert client.request("DELETE", foreign_dataset).status == 404
        assert client.request("PUT", f"{foreign_dataset}/models/x", {}).status == 404
        assert client.request("POST", "/api/v1/datasets", {"name": "x", "owner": other}).status == 403
        assert client.request("POST", "/api/v1/keys", {"scope": "app", "owner": other}).status == 403
        assert client.request("POST", "/generate_key", {"user_id": other}).status == 403
        assert client.request("POST", "/get_datasets", {"user_id": other}).status == 403
        shown = client.request("GET", "/api/v1/overview").body
        assert other.encode() not in shown
        assert {each["owner"] for each in client.get("/api/v1/keys")["items"]} == {owner}
    foreign = [each["id"] for each in admin.get("/api/v1/keys")["items"] if each["owner"] == "bob"]
    assert tenants["alice"].request("DELETE", f"/api/v1/keys/{foreign[0]}").status == 404


@pytest.mark.parametrize("scope", ["node", "admin"])
def test_notebooks_make_no_keys_beyond_their_own(tenants: dict[str, MasterClient], scope: str) -> None:
    assert tenants["alice"].request("POST", "/api/v1/keys", {"scope": scope}).status == 403


def test_key_is_shown_once_and_kept_as_a_digest(shared_master: MasterProcess) -> None:
    key = shared_master.key("app", owner="carol")
    listed = shared_master.admin.request("GET", "/api/v1/keys", query={"limit": 1000})
    assert key.encode() not in listed.body
    assert key[:12].encode() in listed.body
    assert key not in shared_master.log()


def test_revoked_key_is_refused_at_once(shared_master: MasterProcess) -> None:
    client = shared_master.anonymous.with_key(shared_master.key("notebook", owner="dora"))
    assert client.request("GET", "/api/v1/whoami").status == 200
    (own,) = client.get("/api/v1/keys")["items"]
    assert shared_master.admin.request("DELETE", f"/api/v1/keys/{own['id']}").status == 200
    assert client.request("GET", "/api/v1/whoami").status == 401


def test_expired_key_is_refused(shared_master: MasterProcess) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    client = shared_master.anonymous.with_key(shared_master.key("notebook", owner="dora", expires_at=past))
    assert client.request("GET", "/api/v1/whoami").status == 401


def test_guessing_is_slowed_down_and_keys_in_use_go_on(empty_database_url: str, tmp_path: Path) -> None:
    with MasterProcess(empty_database_url, tmp_path) as master:
        good = master.anonymous.with_key(master.key("notebook", owner="ann"))
        assert good.request("GET", "/api/v1/whoami").status == 200
        statuses = [
            master.anonymous.with_key(f"gnk_{uuid.uuid4().hex}").request("GET", "/api/v1/whoami").status
            for _ in range(30)
        ]
        assert statuses[:10] == [401] * 10
        assert set(statuses[12:]) == {429}
        refused = master.anonymous.with_key("gnk_guess").request("GET", "/api/v1/whoami")
        assert int(refused.headers["retry-after"]) >= 1
        assert good.request("GET", "/api/v1/whoami").status == 200
        assert ADMIN not in master.log()


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer {}"},
        {"authorization": "bearer {}"},
        {"api_key": "{}"},
        {"X-API-Key": "{}"},
    ],
)
def test_key_may_stand_in_any_of_the_headers(shared_master: MasterProcess, headers: dict[str, str]) -> None:
    key = shared_master.key("notebook", owner="ann")
    sent = {name: value.format(key) for name, value in headers.items()}
    assert shared_master.anonymous.request("GET", "/api/v1/whoami", headers=sent).json()["owner"] == "ann"
