"""Who may manage a node: the bearer tokens of the management listener."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from typing import Final, Protocol

from gridnode.errors import Unauthorized

_MAXIMUM_HEADER_LENGTH: Final = 8192


def bearer_token(authorization: str | None) -> str | None:
    """The token of an ``Authorization: Bearer …`` header (RFC 6750), or None where there is none."""
    if authorization is None or len(authorization) > _MAXIMUM_HEADER_LENGTH:
        return None
    scheme, _, token = authorization.strip().partition(" ")
    return (token.strip() or None) if scheme.lower() == "bearer" else None


class ManagementTokens:
    """The tokens that open the management listener; several, so that one can be replaced without an interruption."""

    def __init__(self, tokens: Iterable[str]) -> None:
        # Digests have one length, so that comparing tells nothing of a token's; and the tokens themselves are not kept.
        self._digests = tuple(_digest(token) for token in tokens)

    def check(self, authorization: str | None) -> None:
        """Let the request with this ``Authorization`` header pass.

        The time taken does not depend on which token matches, or how far. Without tokens nobody passes.

        Raises:
            Unauthorized: no bearer token, or one that is not known.
        """
        token = bearer_token(authorization)
        if token is None:
            raise Unauthorized("Management needs the header 'Authorization: Bearer <management token>'.")
        given = _digest(token)
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        if not any(matches):
            raise Unauthorized("The management token is not valid.")


def refuse_cross_site(origin: str | None) -> None:
    """Refuse what a page in a browser sends to a management listener that has no token.

    Such a listener is open on loopback only. A browser on the same machine reaches it too, and the page it shows may be
    anybody's; what a browser sends for a page carries ``Origin``, also with a WebSocket handshake.

    Raises:
        Unauthorized: the request has an ``Origin`` header.
    """
    if origin is not None:
        raise Unauthorized("From a browser this node can be managed only if it has a management token.")


class Headers(Protocol):
    """Request headers of any server: a mapping with lower-case names, or one that ignores case."""

    def get(self, name: str, /) -> str | None: ...


class ManagementAccess:
    """Decides on each management request by its headers.

    Args:
        token: what requests must carry. None: the listener is bound to loopback, and only programs on this machine
            pass.
    """

    def __init__(self, token: str | None) -> None:
        self._tokens = None if token is None else ManagementTokens([token])

    def check(self, headers: Headers) -> None:
        """Let a request pass; header names are looked up in lower case.

        Raises:
            Unauthorized: it may not manage this node.
        """
        if self._tokens is not None:
            self._tokens.check(headers.get("authorization"))
            return
        refuse_cross_site(headers.get("origin"))
        # A page whose host name was pointed at 127.0.0.1 after it was loaded sends no Origin, but it sends that name.
        if not _is_loopback(headers.get("host") or ""):
            raise Unauthorized("Without a management token this node is managed under a loopback address only.")


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    try:
        return name == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
