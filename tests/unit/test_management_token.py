"""Who may manage a node."""

from __future__ import annotations

import pytest

from gridnode.errors import Unauthorized
from gridnode.security.management_token import ManagementAccess, ManagementTokens, bearer_token, refuse_cross_site

TOKEN = "correct-horse-battery"
NEXT_TOKEN = "staple-of-tomorrow"


@pytest.mark.parametrize(
    ("authorization", "token"),
    [
        (f"Bearer {TOKEN}", TOKEN),
        (f"bearer {TOKEN}", TOKEN),
        (f"BEARER   {TOKEN}  ", TOKEN),
        ("Bearer with spaces inside", "with spaces inside"),
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Bearer    ", None),
        (TOKEN, None),
        (f"Bearer{TOKEN}", None),
        (f"Basic {TOKEN}", None),
        (f"Token Bearer {TOKEN}", None),
        (f"Bearer {'x' * 8192}", None),
    ],
)
def test_token_is_read_from_the_header(authorization: str | None, token: str | None) -> None:
    assert bearer_token(authorization) == token


def test_every_known_token_passes() -> None:
    tokens = ManagementTokens([TOKEN, NEXT_TOKEN])
    tokens.check(f"Bearer {TOKEN}")
    tokens.check(f"bearer {NEXT_TOKEN}")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer ",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN} {NEXT_TOKEN}",
        f"Bearer {TOKEN}, Bearer {TOKEN}",
        f"Bearer {TOKEN}\0",
        "Bearer \u00e9\ud800",
    ],
)
def test_others_do_not_pass(authorization: str | None) -> None:
    with pytest.raises(Unauthorized) as refusal:
        ManagementTokens([TOKEN, NEXT_TOKEN]).check(authorization)
    assert TOKEN not in refusal.value.message


@pytest.mark.parametrize("authorization", [None, "", "Bearer ", "Bearer None", f"Bearer {TOKEN}"])
def test_without_tokens_nobody_passes(authorization: str | None) -> None:
    with pytest.raises(Unauthorized):
        ManagementTokens([]).check(authorization)


def test_tokens_are_not_kept() -> None:
    assert TOKEN not in repr(vars(ManagementTokens([TOKEN])))


@pytest.mark.parametrize("origin", ["https://page.example", "null", ""])
def test_page_in_a_browser_cannot_manage_a_listener_without_token(origin: str) -> None:
    with pytest.raises(Unauthorized, match="browser"):
        refuse_cross_site(origin)


def test_tools_can_manage_a_listener_without_token() -> None:
    refuse_cross_site(None)


def test_listener_with_token_asks_for_nothing_else() -> None:
    access = ManagementAccess(TOKEN)
    access.check({"authorization": f"Bearer {TOKEN}", "origin": "https://console.example", "host": "node.example:5050"})
    for headers in ({}, {"host": "localhost:5050"}, {"authorization": f"Bearer {NEXT_TOKEN}", "host": "127.0.0.1"}):
        with pytest.raises(Unauthorized):
            access.check(headers)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:5050", "127.0.0.1", "127.0.0.1:5050", "127.8.8.8:1", "[::1]", "[::1]:5050"]
)
def test_listener_without_token_is_managed_under_a_loopback_address(host: str) -> None:
    ManagementAccess(None).check({"host": host})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": ""},
        {"host": ":5050"},
        {"host": "page.example"},
        {"host": "page.example:5050"},
        {"host": "localhost.page.example:5050"},
        {"host": "127.0.0.1.page.example"},
        {"host": "10.0.0.1:5050"},
        {"host": "0.0.0.0:5050"},
        {"host": "[2001:db8::1]:5050"},
        {"host": "localhost:5050", "origin": "https://page.example"},
        {"host": "localhost:5050", "origin": "http://localhost:5050"},
        {"host": "page.example", "authorization": f"Bearer {TOKEN}"},
    ],
    ids=str,
)
def test_listener_without_token_refuses_pages_and_names_that_point_to_it(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthorized):
        ManagementAccess(None).check(headers)
