"""Tokens for Amazon RDS: signed as AWS documents it, one for each connection, and never without encryption."""

from __future__ import annotations

import hashlib
import hmac
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.exc import OperationalError

from gridnode.db.iam import IamTokens, IamUnavailable, log_in_by_iam
from gridnode.logs import configure_logging

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
HOST = "grid.cluster-abc.eu-west-1.rds.amazonaws.com"
KEY, SECRET, SESSION = "AKIDEXAMPLE", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY", "session+token/=="
URL = f"postgresql+psycopg2://node:ignored@{HOST}:6432/grid"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SESSION)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


def tokens(now: datetime = NOW) -> IamTokens:
    """Those of one moment."""
    return IamTokens(lambda: now)


def signed(host: str, port: int, user: str, region: str) -> dict[str, str]:
    """The parameters of the presigned request, by AWS's description of Signature Version 4."""
    day, moment = NOW.strftime("%Y%m%d"), NOW.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{day}/{region}/rds-db/aws4_request"
    parameters = {
        "Action": "connect",
        "DBUser": user,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{KEY}/{scope}",
        "X-Amz-Date": moment,
        "X-Amz-Expires": "900",
        "X-Amz-Security-Token": SESSION,
        "X-Amz-SignedHeaders": "host",
    }
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(parameters.items()))
    nothing = hashlib.sha256(b"").hexdigest()
    request = f"GET\n/\n{query}\nhost:{host}:{port}\n\nhost\n{nothing}"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{SECRET}".encode()
    for part in (day, region, "rds-db", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return parameters | {"X-Amz-Signature": hmac.digest(key, text.encode(), "sha256").hex()}


def test_token_is_a_signed_request_to_connect() -> None:
    token = tokens().token(HOST, 6432, "node")
    address, _, query = token.partition("/?")
    assert address == f"{HOST}:6432"
    assert dict(parse_qsl(query)) == signed(HOST, 6432, "node", "eu-west-1")


def test_region_is_that_of_the_environment_where_the_name_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IamUnavailable, match=r"'db\.internal'.*AWS_REGION"):
        tokens().token("db.internal", 5432, "node")
    monkeypatch.setenv("AWS_REGION", "ap-south-1")
    _, _, query = tokens().token("db.internal", 5432, "node").partition("/?")
    assert dict(parse_qsl(query)) == signed("db.internal", 5432, "node", "ap-south-1")


def test_missing_library_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "awscrt", None)
    with pytest.raises(IamUnavailable, match=r"pip install 'gridnode\[aws\]'"):
        IamTokens()


class Attempted(Exception):
    """Instead of a connection."""


def attempt(url: str, iam: IamTokens) -> Callable[[], dict[str, Any]]:
    """Opens a connection each time it is called, and gives what PostgreSQL's library would be given."""
    engine = create_engine(url)
    log_in_by_iam(engine, iam)
    seen: list[dict[str, Any]] = []

    @event.listens_for(engine, "do_connect")
    def catch(_dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]) -> None:
        seen.append(dict(parameters))
        raise Attempted

    def connect() -> dict[str, Any]:
        with pytest.raises(Attempted):
            engine.connect()
        return seen[-1]

    return connect


def test_each_connection_gets_a_token_of_its_own() -> None:
    moments = [NOW + timedelta(minutes=20), NOW]
    connect = attempt(URL, IamTokens(moments.pop))
    first = connect()
    assert first["password"].startswith(f"{HOST}:6432/?Action=connect&DBUser=node&")
    assert "X-Amz-Date=20261124T122000Z" in connect()["password"]
    assert "X-Amz-Date=20261124T120000Z" in first["password"]


def test_port_of_postgresql_is_signed_where_the_url_has_none() -> None:
    assert attempt(f"postgresql+psycopg2://node@{HOST}/grid", tokens())()["password"].startswith(f"{HOST}:5432/")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (None, "require"),
        ("disable", "require"),
        ("prefer", "require"),
        ("require", "require"),
        ("verify-ca", "verify-ca"),
        ("verify-full", "verify-full"),
    ],
)
def test_token_is_sent_encrypted_or_not_at_all(given: str | None, used: str) -> None:
    url = URL if given is None else f"{URL}?sslmode={given}"
    assert attempt(url, tokens())()["sslmode"] == used


@pytest.mark.parametrize("url", ["postgresql+psycopg2:///grid", f"postgresql+psycopg2://{HOST}/grid"])
def test_url_without_host_or_user_is_refused_at_once(url: str) -> None:
    with pytest.raises(IamUnavailable, match="GRIDNODE_DATABASE_URL has no host or no user"):
        log_in_by_iam(create_engine(url), tokens())


def test_missing_credentials_are_like_a_database_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    engine = create_engine(URL)
    log_in_by_iam(engine, tokens())
    with pytest.raises(OperationalError, match="no IAM token could be made for node@"):
        engine.connect()


def test_no_part_of_a_token_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text", "debug")
    try:
        token = attempt(URL, tokens())()["password"]
        logging.getLogger("test").debug("said at debug")
    finally:
        configure_logging()
    logged = capsys.readouterr().err
    assert "said at debug" in logged
    assert dict(parse_qsl(token))["X-Amz-Signature"] not in logged
    assert SESSION not in logged
    assert quote(SESSION, safe="") not in logged
