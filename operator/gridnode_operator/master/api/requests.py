"""What a request carries: its key, its body, and the values of its query."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from flask import g, request

from gridnode.errors import InvalidRequest, Unauthorized
from gridnode.protocol.wsgi import BODY
from gridnode.security.management_token import bearer_token
from gridnode_operator.master.errors import Forbidden
from gridnode_operator.master.keys.access import RULES, Principal
from gridnode_operator.master.services import Services
from gridnode_operator.master.serving.bridge import ADDRESS

T = TypeVar("T")

LARGEST_PAGE: Final = 1000
_DEFAULT_PAGE: Final = 100
_LARGEST_ROW: Final = 2**63 - 1


def authorize(services: Services) -> None:
    """Find out who calls and whether it may, by the table in :mod:`gridnode_operator.master.keys.access`.

    Raises:
        Unauthorized: it shows no key, or one that is not valid.
        Forbidden: its key is not for this.
    """
    if request.endpoint is None or request.blueprint is not None:
        return  # not found, or pages that know their own visitors
    rule = RULES.get(request.endpoint)
    if rule is None:
        raise Forbidden("nobody may do this")
    if rule.public:
        return
    key = presented_key()
    if key is None:
        if rule.legacy and services.settings.legacy_access:
            g.principal = Principal("app", legacy=True)
            return
        raise Unauthorized("This needs a key: send it as 'Authorization: Bearer <key>', or in the header 'api_key'.")
    principal = services.keys.principal(key, address())
    legacy = rule.legacy and services.settings.legacy_access and principal.scope == "app"
    if principal.scope not in rule.scopes and not legacy:
        raise Forbidden(f"a key of scope {principal.scope} is not for this; {_named(rule.scopes)} is")
    g.principal = principal


def presented_key() -> str | None:
    """The key of the request, from the header that it stands in."""
    key = bearer_token(request.headers.get("Authorization")) or request.headers.get("api_key", "").strip()
    return key or request.headers.get("X-API-Key", "").strip() or None


def principal() -> Principal:
    """Whoever calls."""
    found: Principal = g.principal
    return found


def address() -> str:
    """The caller's address."""
    found: str = request.environ[ADDRESS]
    return found


def body() -> bytes:
    """The whole body."""
    content: bytes = request.environ[BODY]
    return content


def body_object() -> dict[str, Any]:
    """The body as a JSON object, whatever its Content-Type says.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        return msgspec.json.decode(body(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest("the body must be a JSON object") from None


def body_as(kind: type[T]) -> T:
    """The body as a typed request.

    Raises:
        InvalidRequest: names the field that is wrong.
    """
    try:
        return msgspec.json.decode(body(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not what is asked for: {error}") from None


def page() -> tuple[int, int]:
    """``after`` and ``limit`` of the query."""
    return whole("after", 0, _LARGEST_ROW), max(1, whole("limit", _DEFAULT_PAGE, LARGEST_PAGE))


def whole(name: str, default: int, largest: int) -> int:
    """A whole number of the query.

    Raises:
        InvalidRequest: it is none from 0 to ``largest``.
    """
    found = optional_whole(name, largest)
    return default if found is None else found


def optional_whole(name: str, largest: int = _LARGEST_ROW) -> int | None:
    """A whole number of the query, None where it is absent."""
    text = request.args.get(name)
    if text is None or text == "":
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > largest:
        raise InvalidRequest(f"{name} must be a whole number from 0 to {largest}")
    return int(text)


def optional_text(name: str) -> str | None:
    """A text of the query, None where it is absent or empty.

    Raises:
        InvalidRequest: it holds what no name can.
    """
    text = request.args.get(name) or None
    if text is not None and ("\x00" in text or not text.isprintable()):
        raise InvalidRequest(f"{name} must be printable text")
    return text


def switch(name: str) -> bool:
    """Whether a switch of the query is on."""
    return request.args.get(name, "") in ("true", "1", "yes")


def _named(scopes: frozenset[str]) -> str:
    return " or ".join(sorted(scopes))
