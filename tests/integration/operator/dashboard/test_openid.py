"""Signing in by OpenID Connect with a provider that is one, and with one that is not quite."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc.jwk import RSAKey

from gridnode_operator.master.dashboard.oidc import CALLBACK
from tests.support.dashboard_client import ROOT, DashboardClient
from tests.support.master_process import MasterProcess
from tests.support.node import free_port
from tests.support.openid_provider import OpenIdProviderForTests
from tests.support.postgres import PostgresForTests

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def running(
    postgres: PostgresForTests, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[MasterProcess, OpenIdProviderForTests]]:
    """A master node and the provider that it trusts."""
    provider = OpenIdProviderForTests()
    directory = tmp_path_factory.mktemp("openid")
    with postgres.database(migrated=False) as url:
        port = free_port()
        settings = provider.settings(port, oidc_groups="platform,sre")
        with MasterProcess(url, directory, port=port, **settings) as master:
            yield master, provider
            assert "Traceback" not in master.log()
            assert settings["oidc_client_secret"] not in master.log()
    provider.close()


@pytest.fixture
def provider(running: tuple[MasterProcess, OpenIdProviderForTests]) -> OpenIdProviderForTests:
    """The provider, as it should be."""
    provider = running[1]
    provider.person = {"sub": "1", "email": "ann@example.org", "email_verified": True}
    provider.userinfo = {}
    provider.spoil = lambda claims: claims
    provider.sign = provider.sign_with_rsa
    return provider


@pytest.fixture
def visitor(running: tuple[MasterProcess, OpenIdProviderForTests]) -> DashboardClient:
    """Somebody who is not signed in."""
    return DashboardClient(running[0].port)


def begin(visitor: DashboardClient, wanted: str = ROOT) -> str:
    """The address at the provider that a visitor is sent to."""
    answer = visitor.get(f"/login/oidc?next={wanted}")
    assert answer.status_code == 303
    return answer.headers["Location"]


def come_back(visitor: DashboardClient, query: str) -> Any:
    """The answer to a visitor who comes from the provider."""
    return visitor.get(f"{CALLBACK.removeprefix(ROOT)}?{query}")


def sign_in(visitor: DashboardClient, provider: OpenIdProviderForTests, wanted: str = ROOT) -> Any:
    """All of it."""
    return come_back(visitor, provider.authorize(begin(visitor, wanted)))


def test_person_who_is_let_in(visitor: DashboardClient, provider: OpenIdProviderForTests) -> None:
    assert "Sign in with your organisation" in visitor.page("/login")
    answer = sign_in(visitor, provider, f"{ROOT}/events")
    assert answer.headers["Location"] == f"{ROOT}/events"
    assert visitor.is_signed_in()
    assert "ann@example.org" in visitor.page()
    assert provider.requests[-1]["code_verifier"]


def test_what_is_asked_of_the_provider(visitor: DashboardClient, provider: OpenIdProviderForTests) -> None:
    asked = {name: values[0] for name, values in parse_qs(urlsplit(begin(visitor)).query).items()}
    assert asked["response_type"] == "code"
    assert asked["code_challenge_method"] == "S256"
    assert asked["redirect_uri"] == f"{visitor.base}{CALLBACK}"
    assert set(asked["scope"].split()) == {"openid", "email", "profile"}
    other = {name: values[0] for name, values in parse_qs(urlsplit(begin(visitor)).query).items()}
    for name in ("state", "nonce", "code_challenge"):
        assert len(asked[name]) >= 32
        assert asked[name] != other[name]


@pytest.mark.parametrize(
    ("person", "status"),
    [
        ({"email": "ANN@example.org", "email_verified": True}, 303),
        ({"email": "ann@example.org", "email_verified": False}, 403),
        ({"email": "ann@example.org"}, 403),
        ({"email": "bob@example.org", "email_verified": True}, 403),
        ({"email": "bob@example.org", "email_verified": True, "groups": ["sre", "x"]}, 303),
        ({"groups": "platform"}, 303),
        ({"groups": ["plat", "form"]}, 403),
        ({"groups": {"platform": 1}}, 403),
        ({}, 403),
    ],
)
def test_who_is_let_in(
    visitor: DashboardClient, provider: OpenIdProviderForTests, person: dict[str, Any], status: int
) -> None:
    provider.person = {"sub": "2", **person}
    answer = sign_in(visitor, provider)
    assert answer.status_code == status
    assert visitor.is_signed_in() == (status == 303)


def test_what_the_token_lacks_is_asked_for(visitor: DashboardClient, provider: OpenIdProviderForTests) -> None:
    provider.person = {"sub": "3"}
    provider.userinfo = {"groups": ["sre"]}
    assert sign_in(visitor, provider).status_code == 303


def test_of_another_person_nothing_is_taken(visitor: DashboardClient, provider: OpenIdProviderForTests) -> None:
    provider.person = {"sub": "3"}
    provider.userinfo = {"sub": "1", "groups": ["sre"]}
    assert sign_in(visitor, provider).status_code == 403


SPOILT: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "another nonce": lambda claims: claims | {"nonce": "another"},
    "no nonce": lambda claims: {name: value for name, value in claims.items() if name != "nonce"},
    "another audience": lambda claims: claims | {"aud": "another"},
    "another party": lambda claims: claims | {"azp": "another"},
    "another issuer": lambda claims: claims | {"iss": "https://evil.example"},
    "expired": lambda claims: claims | {"exp": claims["iat"] - 600},
    "of the future": lambda claims: claims | {"nbf": claims["iat"] + 3600},
    "no subject": lambda claims: {name: value for name, value in claims.items() if name != "sub"},
    "another access token": lambda claims: claims | {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
}


@pytest.mark.parametrize("how", SPOILT)
def test_token_that_is_not_for_this_sign_in(
    visitor: DashboardClient, provider: OpenIdProviderForTests, how: str
) -> None:
    provider.spoil = SPOILT[how]
    answer = sign_in(visitor, provider)
    assert answer.status_code == 401
    assert "could not be verified" in answer.text
    assert not visitor.is_signed_in()


@pytest.mark.parametrize("how", ["not", "secret", "stranger"])
def test_token_that_the_provider_did_not_sign(
    visitor: DashboardClient, provider: OpenIdProviderForTests, how: str
) -> None:
    stranger = OpenIdProviderForTests()
    stranger.close()
    provider.sign = {
        "not": provider.sign_not, "secret": provider.sign_with_secret, "stranger": stranger.sign_with_rsa,
    }[how]  # fmt: skip
    assert sign_in(visitor, provider).status_code == 401
    assert not visitor.is_signed_in()


def test_answer_to_nobodys_attempt(visitor: DashboardClient, provider: OpenIdProviderForTests) -> None:
    query = provider.authorize(begin(visitor))
    thief = DashboardClient(int(visitor.base.rpartition(":")[2]))
    assert come_back(thief, query).status_code == 400  # has begun none
    begin(thief)
    assert come_back(thief, query).status_code == 400  # has begun another
    assert come_back(thief, "").status_code == 400
    assert not thief.is_signed_in()
    spoilt = re.sub(r"iss=[^&]*", "iss=https%3A%2F%2Fevil.example", query)
    assert come_back(visitor, spoilt).status_code == 400
    assert come_back(visitor, query).status_code == 303
    assert come_back(visitor, query).status_code in (400, 401)  # once only


def test_refusal_is_told_without_what_it_says(visitor: DashboardClient, provider: OpenIdProviderForTests) -> None:
    state = parse_qs(urlsplit(begin(visitor)).query)["state"][0]
    answer = come_back(visitor, f"error=access_denied&error_description=call+0900&state={state}")
    assert answer.status_code == 401
    assert "access_denied" in answer.text
    assert "0900" not in answer.text


def test_sign_in_leads_nowhere_else(visitor: DashboardClient, provider: OpenIdProviderForTests) -> None:
    assert sign_in(visitor, provider, "https://evil.example").headers["Location"] == ROOT


def test_new_keys_of_the_provider(postgres: PostgresForTests, tmp_path: Path, provider: OpenIdProviderForTests) -> None:
    own = OpenIdProviderForTests()
    with postgres.database(migrated=False) as url:
        port = free_port()
        with MasterProcess(url, tmp_path, port=port, **own.settings(port)) as master:
            assert sign_in(DashboardClient(master.port), own).status_code == 303
            own.key = RSAKey.generate_key(2048, {"kid": "two"})
            # Keys are read anew at most every half minute.
            assert sign_in(DashboardClient(master.port), own).status_code == 401
            own.close()
            answer = sign_in(DashboardClient(master.port), own)
            assert answer.status_code == 503
            assert "Retry-After" in answer.headers


def test_provider_that_is_away(postgres: PostgresForTests, tmp_path: Path) -> None:
    gone = OpenIdProviderForTests()
    gone.close()
    with postgres.database(migrated=False) as url, MasterProcess(url, tmp_path, **gone.settings(1)) as master:
        answer = DashboardClient(master.port).get("/login/oidc")
        assert answer.status_code == 503
        assert "The sign-in server can&#39;t be reached" in answer.text
        assert master.log().count("Traceback") == 0


def test_without_settings_there_is_no_such_way(postgres: PostgresForTests, tmp_path: Path) -> None:
    with postgres.database(migrated=False) as url, MasterProcess(url, tmp_path) as master:
        visitor = DashboardClient(master.port)
        assert "organisation" not in visitor.page("/login")
        assert visitor.get("/login/oidc").status_code == 404
        assert come_back(visitor, "code=x&state=y").status_code == 404
