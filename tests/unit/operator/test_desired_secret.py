"""The Secrets: who gets which value, and the database's TLS mode."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from gridnode.settings import load_settings
from gridnode_operator.desired.secret import with_tls_mode
from tests.support.gridnode_manifests import DATABASE_URL, EVERYTHING, children


def values(secret: dict[str, Any]) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def test_secrets_hold_what_the_node_needs() -> None:
    made = children()
    assert values(made["Secret/demo-database"]) == {"url": DATABASE_URL}
    assert values(made["Secret/demo-management"]) == {"token": "a-token-of-sixteen-or-more"}
    assert values(made["Secret/demo-master"]) == {"key": "master-key"}


def test_what_the_spec_refers_to_is_not_made() -> None:
    assert [name for name in children(EVERYTHING) if name.startswith("Secret/")] == ["Secret/demo-database"]
    with_key = children({"master": {"keySecretRef": {"name": "mine", "key": "k"}}})
    assert "Secret/demo-master" not in with_key


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h:5432/d", "postgresql://u:p@h:5432/d?sslmode=require"),
        ("postgresql://u:p@h/d?sslmode=disable", "postgresql://u:p@h/d?sslmode=require"),
        ("postgresql://u:p%40%2F@h/d?a=1&sslmode=prefer", "postgresql://u:p%40%2F@h/d?a=1&sslmode=require"),
        ("postgresql+psycopg2://u:p@h/d", "postgresql+psycopg2://u:p@h/d?sslmode=require"),
        ("postgresql://u@[fd00::1]:5432/d", "postgresql://u@[fd00::1]:5432/d?sslmode=require"),
    ],
)
def test_the_tls_mode_of_the_spec_replaces_that_of_the_url(url: str, expected: str) -> None:
    assert with_tls_mode(url, "require") == expected
    assert with_tls_mode(url, None) == url
    assert load_settings({"GRIDNODE_DATABASE_URL": expected}).database_url is not None


def test_the_tls_mode_is_in_the_secret() -> None:
    (url,) = values(children({"database": {"tlsMode": "verify-full"}})["Secret/demo-database"]).values()
    assert url == DATABASE_URL.replace("sslmode=prefer", "sslmode=verify-full")
