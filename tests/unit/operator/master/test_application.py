"""The application as a whole, without a database: every endpoint has a rule and a description."""

from __future__ import annotations

import re

import pytest
from flask import Blueprint, Flask

from gridnode.protocol.wsgi import BODY
from gridnode_operator.master.api.openapi import OPERATIONS, openapi_document
from gridnode_operator.master.app import make_app
from gridnode_operator.master.keys.access import RULES
from gridnode_operator.master.master import Master
from gridnode_operator.master.nodes.provider import NoProvider
from gridnode_operator.master.services import Services
from gridnode_operator.master.serving.bridge import ADDRESS
from gridnode_operator.master.settings import MasterSettings


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    """Of a master node whose database nobody asks."""
    settings = MasterSettings(data_dir=tmp_path_factory.mktemp("data"), admin_token="t" * 40, node_key="n" * 40)
    return Master(settings, "postgresql+psycopg2://nobody@127.0.0.1:1/nothing", NoProvider()).services


def test_every_endpoint_has_a_rule(services: Services) -> None:
    assert {rule.endpoint for rule in make_app(services).url_map.iter_rules()} == RULES.keys()


def test_every_operation_is_described_as_it_is(services: Services) -> None:
    routes = {
        (rule.endpoint, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in make_app(services).url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/api/v1")
    }
    assert {(each.endpoint, f"/api/v1{each.path}", each.method) for each in OPERATIONS} == routes


def test_description_refers_to_what_it_has() -> None:
    document = openapi_document()
    references = set(re.findall(r"'#/components/schemas/(\w+)'", str(document)))
    assert references
    assert references <= document["components"]["schemas"].keys()


def test_endpoint_without_a_rule_is_nobodys(services: Services) -> None:
    def forgotten(app: Flask, _services: Services) -> None:
        app.add_url_rule("/forgotten", "forgotten", lambda: "secret")

    answer = make_app(services, forgotten).test_client().get("/forgotten")
    assert (answer.status_code, b"secret" in answer.data) == (403, False)


def test_pages_of_a_blueprint_know_their_own_visitors(services: Services) -> None:
    def pages(app: Flask, _services: Services) -> None:
        blueprint = Blueprint("pages", __name__)
        blueprint.add_url_rule("/page", "page", lambda: "for visitors")
        app.register_blueprint(blueprint)

    assert make_app(services, pages).test_client().get("/page").data == b"for visitors"


def test_unforeseen_failure_tells_nothing(services: Services) -> None:
    def fails() -> str:
        raise ZeroDivisionError("division by zero")

    app = make_app(services)
    app.view_functions["running"] = fails
    answer = app.test_client().get("/")
    assert answer.status_code == 500
    assert answer.get_json().keys() == {"error"}
    assert b"division" not in answer.data


@pytest.mark.parametrize(("key", "scope"), [("t" * 40, "admin"), ("n" * 40, "node")])
def test_configured_keys_need_no_database(services: Services, key: str, scope: str) -> None:
    client = make_app(services).test_client()
    environ = {ADDRESS: "10.0.0.1", BODY: b""}
    answer = client.get("/api/v1/whoami", headers={"Authorization": f"Bearer {key}"}, environ_overrides=environ)
    assert answer.get_json() == {"scope": scope, "owner": None, "node_id": None}
