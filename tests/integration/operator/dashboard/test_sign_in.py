"""Who gets in, for how long, and who is kept out: sessions, forms, guessing, and where one is sent."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from gridnode.db.session import Database
from gridnode_operator.master.dashboard.access import PAGES
from gridnode_operator.master.dashboard.sessions import Sessions
from gridnode_operator.master.db.models import ApiKey, DashboardSession
from gridnode_operator.master.settings import MasterSettings
from tests.support.dashboard_client import ROOT, DashboardClient
from tests.support.master_process import ADMIN, MasterProcess

pytestmark = pytest.mark.integration

#: A request to each page that needs a session.
REQUESTS: dict[str, tuple[str, str]] = {
    "overview": ("GET", ""),
    "nodes": ("GET", "/nodes"),
    "node": ("GET", "/nodes/999999"),
    "models": ("GET", "/models"),
    "model": ("GET", "/models/999999"),
    "checkpoint": ("GET", "/models/999999/checkpoints/1"),
    "datasets": ("GET", "/datasets"),
    "finished": ("GET", "/finished"),
    "finished_content": ("GET", "/finished/999999/content"),
    "retry_finished": ("POST", "/finished/999999/retry"),
    "events": ("GET", "/events"),
    "keys": ("GET", "/keys"),
    "create_key": ("POST", "/keys"),
    "revoke_key": ("POST", "/keys/999999/revoke"),
    "stream": ("HEAD", "/stream"),
    "sign_out": ("POST", "/logout"),
}
FOR_ADMINS = {"retry_finished"}


def send(visitor: DashboardClient, endpoint: str, token: str | None = None) -> int:
    """The status of a request to a page."""
    method, path = REQUESTS[endpoint]
    if method == "POST":
        return visitor.post(path, token=token).status_code
    return visitor.session.request(method, visitor.base + ROOT + path, allow_redirects=False, timeout=30).status_code


def test_matrix_is_complete() -> None:
    assert REQUESTS.keys() == PAGES.keys()


@pytest.mark.parametrize("endpoint", sorted(set(REQUESTS) - {"sign_out"}))
def test_each_scope_at_each_page(master: MasterProcess, endpoint: str) -> None:
    for scope, key in (("admin", master.key("admin")), ("notebook", master.key("notebook", owner="ann"))):
        status = send(DashboardClient(master.port).signed_in(key), endpoint)
        if scope == "notebook" and endpoint in FOR_ADMINS:
            assert status == 403
        else:
            assert status in (200, 303, 400, 404), f"{scope} may not {endpoint}: {status}"


@pytest.mark.parametrize("endpoint", REQUESTS)
def test_nobody_gets_in_without_a_session(visitor: DashboardClient, endpoint: str) -> None:
    method, path = REQUESTS[endpoint]
    for cookie in (None, "made-up", "x" * 5000):
        if cookie is not None:
            visitor.session.cookies.set("gridnode_session", cookie)
        if method == "GET":
            answer = visitor.get(path)
            assert answer.status_code == 303
            assert answer.headers["Location"].startswith(f"{ROOT}/login?next=%2Fdashboard")
        else:
            assert send(visitor, endpoint, token="x") == 401
    assert visitor.get(path, **{"X-Fragment": "1"}).status_code in (401, 404, 405)


@pytest.mark.parametrize(("scope", "values"), [("app", {"owner": "ann"}), ("node", {})])
def test_keys_that_are_not_for_people_let_nobody_in(
    master: MasterProcess, visitor: DashboardClient, scope: str, values: dict[str, str]
) -> None:
    answer = visitor.sign_in(master.key(scope, **values))
    assert answer.status_code == 403
    assert f"A key of scope {scope} is not for the dashboard" in answer.text
    assert visitor.session_cookie is None


def test_sign_in_leads_to_where_one_wanted_to_go(master: MasterProcess, visitor: DashboardClient) -> None:
    sent = visitor.get("/events?model=7")
    assert sent.headers["Location"] == f"{ROOT}/login?next=%2Fdashboard%2Fevents%3Fmodel%3D7"
    assert f'value="{ROOT}/events?model=7"' in visitor.session.get(visitor.base + sent.headers["Location"]).text
    assert visitor.sign_in(ADMIN, f"{ROOT}/events?model=7").headers["Location"] == f"{ROOT}/events?model=7"


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example", "//evil.example", "/\\evil.example", "/dashboard/../../evil", "javascript:alert(1)",
        "/dashboardevil", "/", "/dashboard\r\nX: y", "/dashboard/login", "\\\\evil.example", "",
    ],
)  # fmt: skip
def test_sign_in_leads_nowhere_else(visitor: DashboardClient, wanted: str) -> None:
    location = visitor.sign_in(ADMIN, wanted).headers["Location"]
    assert location.startswith(ROOT)
    assert "evil" not in location or location == "/dashboard/../../evil"


def test_cookie_is_kept_from_scripts_and_other_sites(visitor: DashboardClient) -> None:
    header = visitor.sign_in(ADMIN).headers["Set-Cookie"]
    session = next(part for part in header.split(", ") if part.startswith("gridnode_session="))
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(session.split("; "))
    assert "Secure" not in session


def test_behind_https_the_cookie_is_secure_and_bound_to_the_host(master: MasterProcess) -> None:
    visitor = DashboardClient(master.port)
    visitor.session.headers["X-Forwarded-Proto"] = "https"
    login = visitor.get("/login")
    (cookie,) = [part.split("; ") for part in [login.headers["Set-Cookie"]]]
    assert cookie[0].startswith("__Host-gridnode_login=")
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie)
    assert not any(part.startswith("Domain") for part in cookie)


def test_session_is_another_after_signing_in(visitor: DashboardClient) -> None:
    """Session fixation: what somebody has planted in the browser before is worth nothing."""
    planted = "planted-by-somebody-else-0123456789abcdef0"
    visitor.session.cookies.set("gridnode_session", planted, domain="127.0.0.1", path="/")
    visitor.signed_in(ADMIN)
    assert visitor.session_cookie not in (None, planted)
    thief = DashboardClient(int(visitor.base.rpartition(":")[2]))
    thief.session.cookies.set("gridnode_session", planted)
    assert not thief.is_signed_in()


def test_signing_in_again_ends_the_session_before(master: MasterProcess, admin: DashboardClient) -> None:
    before = admin.session_cookie
    login = admin.session.get(f"{admin.base}{ROOT}/login", allow_redirects=False)
    assert login.status_code == 303  # there is no need to
    key = master.key("admin")
    admin.session.cookies.set("gridnode_login", "x" * 20, domain="127.0.0.1", path="/")
    from gridnode_operator.master.dashboard.cookies import form_token

    assert admin.post("/login", {"key": key}, token=form_token("x" * 20)).status_code == 303
    assert admin.session_cookie != before
    other = DashboardClient(master.port)
    other.session.cookies.set("gridnode_session", before or "")
    assert not other.is_signed_in()


def test_signing_out_ends_the_session_for_whoever_has_a_copy(admin: DashboardClient, master: MasterProcess) -> None:
    copy = DashboardClient(master.port)
    copy.session.cookies.set("gridnode_session", admin.session_cookie or "")
    assert copy.is_signed_in()
    assert admin.get("/logout").status_code == 404  # a link, or an image, signs nobody out
    assert copy.is_signed_in()
    assert admin.post("/logout").headers["Location"] == f"{ROOT}/login"
    assert not copy.is_signed_in()


def test_only_the_digest_of_a_session_is_kept(admin: DashboardClient, database: Database) -> None:
    rows = database.transaction(lambda session: session.scalars(select(DashboardSession)).all())
    secret = admin.session_cookie or ""
    assert rows
    assert all(secret.encode() not in row.digest and secret not in row.visitor for row in rows)


def test_revoked_key_ends_its_sessions_at_once(master: MasterProcess, visitor: DashboardClient) -> None:
    visitor.signed_in(master.key("notebook", owner="dora"))
    (key,) = [each for each in master.admin.get("/api/v1/keys", limit=1000)["items"] if each["owner"] == "dora"]
    assert visitor.is_signed_in()
    master.admin.request("DELETE", f"/api/v1/keys/{key['id']}")
    assert not visitor.is_signed_in()


def test_expired_key_ends_its_sessions(master: MasterProcess, visitor: DashboardClient, database: Database) -> None:
    visitor.signed_in(master.key("notebook", owner="eve"))
    expire = update(ApiKey).where(ApiKey.owner == "eve").values(expires_at=func.now() - timedelta(seconds=1))
    database.transaction(lambda session: session.execute(expire))
    assert not visitor.is_signed_in()


@pytest.mark.parametrize(
    ("column", "ago", "is_good"),
    [("seen_at", 59, True), ("seen_at", 61, False), ("created_at", 599, True), ("created_at", 601, False)],
)
def test_session_ends_by_itself(database: Database, column: str, ago: int, is_good: bool) -> None:
    sessions = Sessions(database, MasterSettings(admin_token="t" * 40, session_idle=60, session_lifetime=600))
    opened = sessions.open("token", "administrator")
    values: Any = {column: func.now() - timedelta(seconds=ago)}
    database.transaction(
        lambda session: session.execute(
            update(DashboardSession).where(DashboardSession.visitor == "administrator").values(values)
        )
    )
    assert (sessions.find(opened) is not None) == is_good
    if column == "seen_at" and is_good:
        # It was used now: another minute.
        seen = select(func.max(DashboardSession.seen_at) > func.now() - timedelta(seconds=30))
        assert database.transaction(lambda session: session.execute(seen).scalar_one())


def test_another_token_ends_the_sessions_of_the_one_before(database: Database) -> None:
    before = Sessions(database, MasterSettings(admin_token="t" * 40))
    opened = before.open("token", "administrator")
    assert before.find(opened) is not None
    assert Sessions(database, MasterSettings(admin_token="u" * 40)).find(opened) is None
    assert Sessions(database, MasterSettings()).find(opened) is None


def test_people_who_are_let_in_no_more_are_signed_out(database: Database) -> None:
    settings = {"oidc_issuer": "https://login.example.org", "oidc_client_id": "c"}
    before = Sessions(database, MasterSettings(**settings, oidc_emails=("ann@example.org",)))  # type: ignore[arg-type]
    opened = before.open("oidc", "ann@example.org")
    assert before.find(opened) is not None
    after = Sessions(database, MasterSettings(**settings, oidc_emails=("bob@example.org",)))  # type: ignore[arg-type]
    assert after.find(opened) is None


def test_guessing_is_slowed_down(master_database_url: str, tmp_path: Any) -> None:
    with MasterProcess(master_database_url, tmp_path) as own:
        visitor = DashboardClient(own.port)
        token = visitor.form_token()
        answers = [visitor.post("/login", {"key": f"gnk_guess-{n}"}, token=token) for n in range(30)]
        statuses = [answer.status_code for answer in answers]
        assert statuses[:10] == [401] * 10
        assert set(statuses[12:]) == {429}
        assert int(answers[-1].headers["Retry-After"]) >= 1
        assert "Too many wrong keys" in answers[-1].text
        # The right one is not even looked at from there.
        assert visitor.post("/login", {"key": ADMIN}, token=token).status_code == 429
        assert "gnk_guess" not in own.log()


@pytest.mark.parametrize("endpoint", [name for name, (method, _) in REQUESTS.items() if method == "POST"])
def test_forms_of_others_do_nothing(master: MasterProcess, admin: DashboardClient, endpoint: str) -> None:
    other = DashboardClient(master.port).signed_in(ADMIN)
    for token in ("", "x", other.form_token(), DashboardClient(master.port).form_token()):
        assert send(admin, endpoint, token=token) == 400
    assert admin.is_signed_in()


def test_form_of_another_site_signs_nobody_in(visitor: DashboardClient) -> None:
    """Login CSRF: else somebody could be made to work under another's name."""
    foreign = DashboardClient(int(visitor.base.rpartition(":")[2])).form_token()
    for token in ("", foreign):
        answer = visitor.post("/login", {"key": ADMIN}, token=token)
        assert answer.status_code == 400
        assert visitor.session_cookie is None
    assert "This form is not from this session" in answer.text


def test_cookie_opens_no_api(admin: DashboardClient) -> None:
    for path in ("/api/v1/overview", "/api/v1/keys"):
        assert admin.session.get(admin.base + path, timeout=30).status_code == 401


def test_sessions_hold_when_the_master_node_is_started_again(master_database_url: str, tmp_path: Any) -> None:
    with MasterProcess(master_database_url, tmp_path) as own:
        visitor = DashboardClient(own.port).signed_in(ADMIN)
        own.stop()
        own.start()
        own.wait_until_ready()
        assert visitor.is_signed_in()
