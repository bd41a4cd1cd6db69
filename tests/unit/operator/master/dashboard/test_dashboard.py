"""The dashboard without a database: what it serves, to whom, and what it sends away."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask, Request
from werkzeug.test import EnvironBuilder

from gridnode.errors import InvalidRequest
from gridnode.protocol.wsgi import BODY
from gridnode_operator.master.app import make_app
from gridnode_operator.master.dashboard.access import PAGES, PUBLIC
from gridnode_operator.master.dashboard.assets import Assets
from gridnode_operator.master.dashboard.blueprint import add_dashboard
from gridnode_operator.master.dashboard.cookies import TOKEN_FIELD, check_form, form_token
from gridnode_operator.master.dashboard.oidc import may_enter
from gridnode_operator.master.dashboard.pages.nodes import read_condition
from gridnode_operator.master.dashboard.rendering import make_templates
from gridnode_operator.master.dashboard.site import own_path
from gridnode_operator.master.master import Master
from gridnode_operator.master.nodes.provider import NoProvider
from gridnode_operator.master.serving.bridge import ADDRESS
from gridnode_operator.master.settings import MasterSettings


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    """With the dashboard, and a database that nobody asks."""
    settings = MasterSettings(data_dir=tmp_path_factory.mktemp("data"), admin_token="t" * 40)
    services = Master(settings, "postgresql+psycopg2://nobody@127.0.0.1:1/nothing", NoProvider()).services
    return make_app(services, add_dashboard)


def test_every_page_has_a_rule(app: Flask) -> None:
    served = {
        rule.endpoint.partition(".")[2] for rule in app.url_map.iter_rules() if rule.rule.startswith("/dashboard")
    }
    assert served == PAGES.keys() | PUBLIC


def test_what_changes_something_is_no_link(app: Flask) -> None:
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/dashboard"):
            methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            assert methods in ({"GET"}, {"POST"}), rule.rule


def test_page_without_a_rule_is_nobodys(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(PAGES, "models")
    answer = app.test_client().get("/dashboard/models", environ_overrides={ADDRESS: "10.0.0.1", BODY: b""})
    assert answer.status_code == 303


def test_the_api_of_2020_still_says_that_it_runs(app: Flask) -> None:
    assert app.test_client().get("/").data == b"Running"


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("/dashboard", "/dashboard"),
        ("/dashboard/models?state=failed&contains=a%20b", "/dashboard/models?state=failed&contains=a%20b"),
        (None, "/dashboard"),
        ("/", "/dashboard"),
        ("/dashboards", "/dashboard"),
        ("/dashboard/login?next=/dashboard", "/dashboard"),
        ("http://evil.example/dashboard", "/dashboard"),
        ("//evil.example/dashboard", "/dashboard"),
        ("/dashboard\\@evil.example", "/dashboard"),
        ("/dashboard/\n", "/dashboard"),
        ("javascript:/dashboard", "/dashboard"),
    ],
)
def test_after_signing_in_one_stays_here(path: str | None, leads_to: str) -> None:
    assert own_path(path) == leads_to


def request_with(form: dict[str, str]) -> Request:
    """A form as it arrives."""
    return Request(EnvironBuilder(method="POST", data=form).get_environ())


def test_form_token_is_of_one_session() -> None:
    check_form(request_with({TOKEN_FIELD: form_token("one")}), "one")
    assert "one" not in form_token("one")
    for form, secret in (
        ({TOKEN_FIELD: form_token("one")}, "two"),
        ({TOKEN_FIELD: form_token("one")}, None),
        ({TOKEN_FIELD: ""}, "one"),
        ({TOKEN_FIELD: "é"}, "one"),
        ({}, "one"),
    ):
        with pytest.raises(InvalidRequest):
            check_form(request_with(form), secret)


def test_assets_are_named_by_content() -> None:
    assets = Assets()
    names = ("base.css", "parts.css", "dashboard.js", "theme.js", "icon.svg")
    for name in names:
        path = assets.path(name)
        assert re.fullmatch(rf"[0-9a-f]{{16}}/{re.escape(name)}", path)
        found = assets.find(path)
        assert found is not None
        assert found.content
    assert assets.find(f"0{assets.path('base.css')[1:]}") is None or assets.path("base.css")[0] == "0"
    with pytest.raises(KeyError):
        assets.path("other.css")


def test_style_sheets_and_scripts_fetch_nothing() -> None:
    for name in ("base.css", "parts.css", "dashboard.js", "theme.js", "icon.svg"):
        asset = Assets().find(Assets().path(name))
        assert asset is not None
        text = asset.content.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"url\(|@import|https?://|\beval\b|innerHTML|document\.write", text), name


def test_templates_escape_and_know_their_names() -> None:
    environment = make_templates(Assets())
    attack = "<script>alert(1)</script>\"'"
    page = environment.get_template("error.html").render(heading=attack, message=attack, code=404)
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;" in page
    with pytest.raises(Exception, match="is undefined"):
        environment.get_template("error.html").render(heading="x", code=404)


def test_both_dark_themes_have_the_same_colours() -> None:
    asset = Assets().find(Assets().path("base.css"))
    assert asset is not None
    blocks = re.findall(r"(?:^|\n)\s*:root([^{]*)\{([^}]*)\}", asset.content.decode())
    colours = {selector.strip(): dict(re.findall(r"(--[\w]+[\w-]*): ([^;]+);", block)) for selector, block in blocks}
    dark = colours[':not([data-theme="light"])']
    assert dark == colours['[data-theme="dark"]']
    kept = {"--sans", "--mono", "--radius", *(f"--t{size}" for size in range(1, 8))}
    assert dark.keys() == colours[""].keys() - kept


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        ({"type": "Ready", "status": "True"}, "good"),
        ({"type": "Ready", "status": "False"}, "bad"),
        ({"type": "Degraded", "status": "True"}, "bad"),
        ({"type": "Degraded", "status": "False"}, "good"),
        ({"type": "Ready", "status": "Unknown"}, "idle"),
        ({}, "idle"),
    ],
)
def test_conditions_are_good_or_bad_by_what_they_mean(condition: dict[str, Any], kind: str) -> None:
    assert read_condition(condition).kind == kind


@pytest.mark.parametrize(
    ("claims", "is_let_in"),
    [
        ({"email": "Ann@Example.org", "email_verified": True}, True),
        ({"email": "x@staff.example.org", "email_verified": "true"}, True),
        ({"email": "x@evilstaff.example.org", "email_verified": True}, False),
        ({"email": "staff.example.org", "email_verified": True}, False),
        ({"email": "@staff.example.org", "email_verified": True}, False),
        ({"email": "ann@example.org", "email_verified": 1}, False),
        ({"email": "ann@example.org", "email_verified": "yes"}, False),
        ({"email": "ann@example.org"}, False),
        ({"email": ["ann@example.org"], "email_verified": True}, False),
        ({"roles": ["ops"]}, True),
        ({"groups": ["ops"]}, False),
        ({"roles": [["ops"]]}, False),
    ],
)
def test_who_may_enter(claims: dict[str, Any], is_let_in: bool) -> None:
    settings = MasterSettings(
        oidc_emails=("ann@example.org", "@staff.example.org"), oidc_groups=("ops",), oidc_groups_claim="roles"
    )
    assert may_enter(settings, claims) is is_let_in
