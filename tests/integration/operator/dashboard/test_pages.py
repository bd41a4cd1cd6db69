"""What pages show, to whom, and what they never let through."""

from __future__ import annotations

import re
from functools import partial
from html import escape
from typing import Any

import pytest

from gridnode.db.session import Database
from gridnode_operator.master.nodes.observer import record_answer, record_nodes
from gridnode_operator.master.nodes.provider import ObservedNode, node_name
from tests.support.dashboard_client import ROOT, DashboardClient
from tests.support.master_process import MasterProcess

pytestmark = pytest.mark.integration

LISTS = ["", "/models", "/nodes", "/datasets", "/finished", "/events", "/keys"]
ATTACK = "<img src=x onerror=alert(1)>\"'{{7*7}}</title><script>alert(2)</script>"


def pages_of(visitor: DashboardClient) -> dict[str, str]:
    """All pages that a visitor can click their way to, by path."""
    waiting, found = [""], {}
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        answer = visitor.get(path)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:300]}"
        found[path] = answer.text
        links = re.findall(rf'href="{ROOT}([^"]*)"', answer.text)
        waiting += [link.replace("&amp;", "&") for link in links if not re.search("static|checkpoints|content", link)]
    return found


def test_every_page_can_be_reached_and_is_whole(scene: MasterProcess, admin: DashboardClient) -> None:
    pages = pages_of(admin)
    assert set(LISTS) <= pages.keys()
    assert {"/models/1", "/models/5", "/events?model=1", "/models?state=failed"} <= pages.keys()
    assert len([path for path in pages if path.startswith("/nodes/")]) == 4
    for path, page in pages.items():
        assert page.rstrip().endswith("</html>"), path
        assert "Undefined" not in page, path
        assert len(re.findall("<h1", page)) == 1, path


def test_overview_says_what_is_stuck_and_why(scene: MasterProcess, admin: DashboardClient) -> None:
    page = admin.page()
    for text in (
        "2 of 2 pods can&#39;t pull their image",
        "nothing has been heard of it",
        "operation torch.div got a tensor of shape [3]",
        "cycle 10 has 3 of at least 12 reports, and its deadline is past",
        "its final checkpoint could not be fetched: its management listener does not answer in time",
    ):
        assert text in page


def test_model_page_has_its_figures(scene: MasterProcess, admin: DashboardClient) -> None:
    page = admin.page("/models/1")
    assert 'aria-valuenow="60"' in page
    assert "Cycle 37 has 22 of at least 30 reports" in page
    for title in ("Loss", "Accuracy", "Devices accepted", "Requests rejected", "Seconds a cycle took"):
        assert f'<span class="chart-title">{title}</span>' in page
    assert "chart-band" in page
    assert len(re.findall(r'data-key="cycle-\d+"', page)) == 37
    for name in ("cycle full", "no open cycle", "pool_selection", "&#34;random&#34;"):
        assert name in page
    assert f'href="{ROOT}/models/1/checkpoints/37" download' in page


def test_older_cycles_are_on_pages_of_their_own(scene: MasterProcess, admin: DashboardClient) -> None:
    numbers: list[int] = []
    path = "/models/3"
    while path:
        page = admin.page(path)
        numbers += map(int, re.findall(r'data-key="cycle-(\d+)"', page))
        older = re.search(rf'href="{ROOT}(/models/3\?before=\d+)"', page)
        path = older.group(1) if older else ""
    assert numbers == list(range(119, 0, -1))


def test_lists_have_pages(scene: MasterProcess, admin: DashboardClient) -> None:
    seen: list[str] = []
    path = "/events"
    while path:
        page = admin.page(path)
        seen += re.findall(r'data-key="event-(\d+)"', page)
        following = re.search(rf'href="{ROOT}(/events\?before=\d+)">Next', page)
        path = following.group(1) if following else ""
    assert len(seen) == len(set(seen)) == sum((36, 9, 118, 4, 12, 20, 50, 2))
    assert seen == sorted(seen, key=int, reverse=True)


def test_models_are_found_by_state_and_name(scene: MasterProcess, admin: DashboardClient) -> None:
    def names(query: str) -> set[str]:
        return set(re.findall(r'<a href="/dashboard/models/\d+">([\w-]+)</a>', admin.page(f"/models?{query}")))

    assert names("state=failed") == {"sleep-stages"}
    assert names("contains=RATE") == {"resting-heart-rate"}
    assert names("contains=%25") == set()
    assert names("state=active&contains=e") == {"resting-heart-rate", "stress-level", "next-word"}
    assert admin.get("/models?state=nothing").status_code == 400
    assert admin.get("/models?after=-1").status_code == 400


def test_answers_have_a_strict_policy(scene: MasterProcess, admin: DashboardClient) -> None:
    asset = re.findall(rf'href="{ROOT}(/static/[^"]+)"', admin.page())[0]
    anybody = DashboardClient(scene.port)
    for answer in (admin.get(), admin.get("/nothing"), anybody.get("/login"), anybody.get(), anybody.get(asset)):
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; ")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http:" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
    assert admin.get().headers["Cache-Control"] == "no-store"


def test_pages_need_nothing_from_elsewhere_and_nothing_within(scene: MasterProcess, admin: DashboardClient) -> None:
    for path, page in pages_of(admin).items():
        assert re.findall(r"<script(?![^>]* src=)", page) == [], path
        assert re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", page) == [], path
        assert re.findall(r'(?:src|href|action)="(?!/dashboard|#)[^"]*"', page) == [], path


def test_files_are_kept_by_browsers_and_named_by_content(master: MasterProcess, visitor: DashboardClient) -> None:
    paths = set(re.findall(rf'(?:href|src)="{ROOT}(/static/[^"]+)"', visitor.page("/login")))
    assert len(paths) == 4
    for path in paths:
        answer = visitor.get(path)
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        digest, name = path.split("/")[2:]
        assert visitor.get(f"/static/{'0' * len(digest)}/{name}").status_code == 404
    for path in ("/static/../app.py", "/static/%2e%2e/blueprint.py", "/static//etc/passwd", "/static/"):
        assert visitor.get(path).status_code == 404


def test_fragment_is_the_page_without_its_frame(scene: MasterProcess, admin: DashboardClient) -> None:
    answer = admin.get("/models/1", **{"X-Fragment": "1"})
    page = admin.page("/models/1")
    assert answer.text.strip() in page
    assert "<html" not in answer.text
    # By which a page knows that it is of another release.
    assert f'data-assets="{answer.headers["X-Assets"]}"' in page


def test_errors_are_pages_and_tell_nothing(scene: MasterProcess, admin: DashboardClient) -> None:
    for path, status in (
        ("/models/999999", 404), ("/nodes/999999", 404), ("/nothing", 404), ("/models/1/checkpoints/x", 400),
        ("/models/8/checkpoints/1", 404), ("/finished/6/content", 409), ("/events?model=x", 400),
    ):  # fmt: skip
        answer = admin.get(path)
        assert answer.status_code == status, path
        assert answer.headers["Content-Type"].startswith("text/html")
        assert "Traceback" not in answer.text


def test_names_are_text_whatever_they_hold(master: MasterProcess, database: Database) -> None:
    """Stored XSS: every name, note and message that somebody else chooses."""
    admin = master.admin
    owner = f"o{ATTACK}"[:100]
    dataset = admin.post("/api/v1/datasets", {"name": ATTACK, "owner": owner, "features": [ATTACK], "labels": [ATTACK]})
    admin.request("PUT", f"/api/v1/datasets/{dataset['id']}/models/x", {"features": [ATTACK]})
    master.key("notebook", owner=owner, note=ATTACK)
    master.key("node", node_id=ATTACK)
    conditions = [
        {"type": ATTACK, "status": "False", "reason": ATTACK, "message": ATTACK, "lastTransitionTime": ATTACK}
    ]
    observed = ObservedNode(node_id=ATTACK, ready=False, url=f"javascript:{ATTACK}", conditions=conditions)
    database.transaction(partial(record_nodes, observed=[observed]))
    process = {
        "id": 1, "name": ATTACK, "version": ATTACK, "state": "failed", "failure": ATTACK, "progress": 3,
        "completed_cycles": 1, "num_cycles": 5, "client_config": {ATTACK: ATTACK}, "server_config": {ATTACK: [ATTACK]},
        "cycle": {"number": 2, "state": ATTACK, "deadline": ATTACK},
    }  # fmt: skip
    database.transaction(partial(record_answer, node_id=ATTACK, processes=[process], error=None))
    event: dict[str, Any] = {
        "percent_complete": 20, "model_id": ATTACK, "version": ATTACK, "node_id": ATTACK, "cycle": 1, "cycles": 5,
        "rejected": {ATTACK: 3}, "state": "failed", "failure": ATTACK, "reports": 1, ATTACK: ATTACK, "event_id": ATTACK,
    }  # fmt: skip
    admin.post("/model_progress", event)
    admin.post("/model_progress", {**event, "finished": True, "percent_complete": 100, "model_id": f"2{ATTACK}"})
    database.transaction(partial(record_answer, node_id=ATTACK, processes=[], error=ATTACK))

    visitor = DashboardClient(master.port).signed_in(master.key("admin"))
    pages = pages_of(visitor)
    shown = 0
    for path, page in pages.items():
        for part in (
            "<img src=x",
            "<script>alert",
            "onerror=alert(1)>",
            "</title><script",
            'href="javascript:',
            "49</title",
        ):
            assert part not in page, f"{path} lets {part} through"
        shown += escape(ATTACK).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page
    assert shown >= 7
    # Reflected: what the address says.
    for path in (f"/models?contains={ATTACK}", f"/{ATTACK}", f"/events?model={ATTACK}", f"/models?state={ATTACK}"):
        assert "<img src=x" not in visitor.get(path).text
    assert "<img src=x" not in DashboardClient(master.port).get(f"/login?next=/dashboard/{ATTACK}").text
    # A script's name in a file's name for the browser to save.
    assert "\n" not in str(visitor.get("/models/1/checkpoints/latest").headers)


def test_owners_see_nothing_of_each_other(postgres: Any, tmp_path: Any) -> None:
    with (
        postgres.database(migrated=False) as url,
        MasterProcess(url, tmp_path, provider="local", nodes_dir=tmp_path / "nodes") as master,
    ):
        visitors = {}
        for owner in ("alice", "bobby"):
            key = master.key("notebook", owner=owner, note=f"note of {owner}")
            body = {"model_id": f"model-of-{owner}", "dataset_id": f"data-of-{owner}", "features": [], "labels": []}
            master.anonymous.with_key(key).post("/create", body)
            for percent in (10, 100):
                event = {
                    "percent_complete": percent, "model_id": f"model-of-{owner}", "version": "1.0", "cycle": percent,
                    "node_id": f"default/{node_name(owner, f'data-of-{owner}')}", "reports": 7,
                }  # fmt: skip
                master.admin.post("/model_progress", event)
            visitors[owner] = DashboardClient(master.port).signed_in(key)
        everything = master.admin.get("/api/v1/models")["items"]
        for owner, visitor in visitors.items():
            other = "bobby" if owner == "alice" else "alice"
            for path, page in pages_of(visitor).items():
                assert other not in page, f"{path} tells {owner} of {other}"
            assert f"model-of-{owner}" in visitor.page()
            (foreign,) = [each for each in everything if each["owner"] == other]
            (key,) = [each for each in master.admin.get("/api/v1/keys")["items"] if each["owner"] == other]
            for path in (
                f"/models/{foreign['id']}", f"/nodes/{foreign['node']}", f"/models/{foreign['id']}/checkpoints/latest",
                f"/finished/{foreign['id']}/content",
            ):  # fmt: skip
                assert visitor.get(path).status_code == 404
            assert f"model-of-{other}" not in visitor.page(f"/events?model={foreign['id']}")
            assert visitor.post(f"/keys/{key['id']}/revoke").status_code == 404
            for form in ({"scope": "app", "owner": other}, {"scope": "admin"}, {"scope": "node"}):
                assert visitor.post("/keys", form).status_code == 403
        # An admin sees both, and not from what was kept for one of them.
        page = DashboardClient(master.port).signed_in(master.key("admin")).page()
        assert "model-of-alice" in page
        assert "model-of-bobby" in page


def test_key_is_made_shown_once_and_revoked(master: MasterProcess, admin: DashboardClient) -> None:
    made = admin.post("/keys", {"scope": "notebook", "owner": "carol", "note": "for a test", "days": "30"})
    assert made.status_code == 201
    (key,) = re.findall(r'<output id="new-key"[^>]*>(gnk_[\w-]+)</output>', made.text)
    client = master.anonymous.with_key(key)
    assert client.get("/api/v1/whoami")["owner"] == "carol"
    assert key not in admin.page("/keys")
    (row,) = client.get("/api/v1/keys")["items"]
    assert row["expires_at"] is not None
    assert admin.post(f"/keys/{row['id']}/revoke").status_code == 303
    assert client.request("GET", "/api/v1/whoami").status == 401
    assert key not in master.log()
    assert "for a test" not in admin.page("/keys")
    assert "for a test" in admin.page("/keys?revoked=true")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({}, "Choose what the key is for."),
        ({"scope": "nothing"}, "Choose what the key is for."),
        ({"scope": "app"}, "Name the owner"),
        ({"scope": "app", "owner": "x" * 300}, "must be text of 1 to 255 characters"),
        ({"scope": "admin", "days": "-1"}, "Choose how long the key is good."),
        ({"scope": "admin", "note": "x" * 201}, "note must be text of 0 to 200 characters"),
        ({"scope": "node", "node_id": "\x01"}, "node_id must be text"),
    ],
)
def test_key_that_makes_no_sense_is_not_made(admin: DashboardClient, form: dict[str, str], message: str) -> None:
    before = re.findall(r'data-key="key-\d+"', admin.page("/keys"))
    answer = admin.post("/keys", form)
    assert answer.status_code == 400
    assert message in answer.text
    assert re.findall(r'data-key="key-\d+"', admin.page("/keys")) == before


def test_finished_model_is_tried_again_at_once(scene: MasterProcess, admin: DashboardClient) -> None:
    assert admin.post("/finished/6/retry").status_code == 303
    assert admin.post("/finished/7/retry").status_code == 404


def test_empty_environment_says_what_to_do(postgres: Any, tmp_path: Any) -> None:
    with postgres.database(migrated=False) as url, MasterProcess(url, tmp_path) as master:
        for key in (master.key("admin"), master.key("notebook", owner="ann")):
            visitor = DashboardClient(master.port).signed_in(key)
            for path in ("", "/models", "/nodes", "/datasets", "/finished", "/events"):
                page = visitor.page(path)
                assert 'class="empty"' in page, path
                assert "<pre" in page, path


def test_pages_say_so_when_the_database_is_away(postgres: Any, tmp_path: Any) -> None:
    from tests.support.postgres import PostgresForTests

    own = PostgresForTests(tmp_path / "own")
    own.start()
    try:
        with MasterProcess(own.server.url, tmp_path, database_deadline="1", database_connect_timeout="2") as master:
            visitor = DashboardClient(master.port).signed_in(master.key("admin"))
            own.stop()
            answer = visitor.get("/models")
            assert answer.status_code == 503
            assert answer.headers["Content-Type"].startswith("text/html")
            assert "Retry-After" in answer.headers
            assert "Not available just now" in answer.text
    finally:
        own.stop()
