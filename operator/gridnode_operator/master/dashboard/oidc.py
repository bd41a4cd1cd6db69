"""Signing in by OpenID Connect: the code flow with PKCE, by Authlib; who may enter is the settings' matter."""

from __future__ import annotations

import base64
import hmac
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from gridnode.errors import InvalidRequest, Unauthorized, Unavailable
from gridnode_operator.master.dashboard.rendering import ROOT
from gridnode_operator.master.errors import Forbidden
from gridnode_operator.master.settings import MasterSettings

log = logging.getLogger(__name__)

CALLBACK: Final = f"{ROOT}/login/oidc/callback"

_SCOPE: Final = "openid email profile"
_TIMEOUT: Final = (3.0, 10.0)
_LEEWAY: Final = 60
_METADATA_SECONDS: Final = 3600.0
#: A key that nobody knows makes the keys be read anew, but not for everybody who makes one up.
_KEYS_SECONDS: Final = 30.0
# Only signatures that the issuer alone can make: with HMAC the client's secret would do, and 'none' needs nothing.
_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519")
_REFUSED: Final = "The sign-in server's answer could not be verified. Sign in again."


class Attempt(msgspec.Struct, frozen=True):
    """A sign-in under way; stays with the visitor's browser, in a cookie that no script reads.

    Attributes:
        state: Comes back with the answer.
        nonce: Comes back within the signed token.
        verifier: Shown when the code is redeemed: whoever caught the code alone can't.
        next: Where the visitor wanted to go.
    """

    state: str
    nonce: str
    verifier: str
    next: str

    def to_cookie(self) -> str:
        """As text for a cookie."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode()


@dataclass(frozen=True, slots=True)
class _Known:
    metadata: Mapping[str, Any]
    read_at: float


class OpenIdProvider:
    """The issuer that the settings name; usable from any thread, and asked only when somebody signs in.

    Args:
        settings: With an issuer.
    """

    def __init__(self, settings: MasterSettings, *, now: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._issuer = settings.oidc_issuer or ""
        self._redirect = f"{settings.public_url}{CALLBACK}"
        self._now = now
        self._lock = threading.Lock()
        self._known: _Known | None = None
        self._keys: tuple[KeySet, float] | None = None

    def begin(self, wanted: str) -> tuple[str, Attempt]:
        """Where to send a visitor, and what to keep of it.

        Args:
            wanted: Where the visitor wants to go.

        Raises:
            Unavailable: the issuer does not answer, or not as one.
        """
        attempt = Attempt(
            state=secrets.token_urlsafe(24),
            nonce=secrets.token_urlsafe(24),
            verifier=secrets.token_urlsafe(48),
            next=wanted,
        )
        endpoint = self._metadata()["authorization_endpoint"]
        with self._client() as client:
            url, _ = client.create_authorization_url(
                endpoint, state=attempt.state, nonce=attempt.nonce, code_verifier=attempt.verifier
            )
        return str(url), attempt

    def finish(self, answer: Mapping[str, str], cookie: str | None) -> tuple[str, str]:
        """Who has signed in, and where they wanted to go.

        Args:
            answer: The query with which the visitor comes back.
            cookie: What was kept of the attempt.

        Raises:
            InvalidRequest: it is no answer to this browser's attempt.
            Unauthorized: the issuer refused, or its token is not what it should be.
            Forbidden: the settings don't let this person in.
            Unavailable: the issuer does not answer.
        """
        attempt = _attempt(cookie)
        if attempt is None or not hmac.compare_digest(answer.get("state", "").encode(), attempt.state.encode()):
            raise InvalidRequest("This sign-in was not begun in this browser, or too long ago. Sign in again.")
        if answer.get("iss", self._issuer).rstrip("/") != self._issuer.rstrip("/"):
            raise InvalidRequest("This answer is another sign-in server's. Sign in again.")
        if "code" not in answer:
            reason = re.sub(r"[^a-z_]", "", answer.get("error", ""))[:64] or "no reason given"
            raise Unauthorized(f"The sign-in server let nobody in: {reason}.")
        claims = self._redeem(answer["code"], attempt)
        if not may_enter(self._settings, claims):
            raise Forbidden(
                "You are signed in there, but nobody has let you in here: an administrator of this master node adds "
                "your verified address to GRIDNODE_MASTER_OIDC_EMAILS, or one of your groups to "
                "GRIDNODE_MASTER_OIDC_GROUPS."
            )
        return _name(claims), attempt.next

    def _redeem(self, code: str, attempt: Attempt) -> dict[str, Any]:
        metadata = self._metadata()
        with _translated(), self._client() as client:
            token = client.fetch_token(
                metadata["token_endpoint"], grant_type="authorization_code", code=code, code_verifier=attempt.verifier
            )
            claims = self._verified(token, attempt.nonce)
            lacks_any = "email" not in claims or self._settings.oidc_groups_claim not in claims
            if lacks_any and "userinfo_endpoint" in metadata:
                said = client.get(metadata["userinfo_endpoint"]).json()
                # Of another subject it would be another person's.
                if isinstance(said, dict) and said.get("sub") == claims["sub"]:
                    claims = {**said, **claims}
        return claims

    def _verified(self, token: Mapping[str, Any], nonce: str) -> dict[str, Any]:
        text = token.get("id_token")
        if not isinstance(text, str):
            raise Unauthorized(_REFUSED)
        try:
            decoded = jwt.decode(text, self._key_set(), algorithms=list(_ALGORITHMS))
        except (JoseError, ValueError):
            # The issuer may have changed its keys.
            decoded = jwt.decode(text, self._key_set(anew=True), algorithms=list(_ALGORITHMS))
        claims = CodeIDToken(
            decoded.claims,
            decoded.header,
            {
                "iss": {"essential": True, "value": self._metadata()["issuer"]},
                "aud": {"essential": True, "value": self._settings.oidc_client_id},
            },
            {"nonce": nonce, "client_id": self._settings.oidc_client_id, "access_token": token.get("access_token")},
        )
        claims.validate(leeway=_LEEWAY)
        return dict(claims)

    def _metadata(self) -> Mapping[str, Any]:
        with self._lock:
            known = self._known
            if known is None or self._now() - known.read_at > _METADATA_SECONDS:
                with _translated():
                    known = self._known = _Known(self._read_metadata(), self._now())
            return known.metadata

    def _read_metadata(self) -> Mapping[str, Any]:
        answer = _read_json(f"{self._issuer}/.well-known/openid-configuration")
        endpoints = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        named = all(isinstance(answer.get(name), str) for name in (*endpoints, "issuer"))
        if not named or answer["issuer"].rstrip("/") != self._issuer:
            raise Unavailable("what answers as the sign-in server is none, or another than the settings name", 30)
        schemes = {urlsplit(answer[name]).scheme for name in endpoints}
        if schemes - {"https", urlsplit(self._issuer).scheme}:
            raise Unavailable("the sign-in server names addresses that are less safe than its own", 30)
        return answer

    def _key_set(self, *, anew: bool = False) -> KeySet:
        with self._lock:
            keys = self._keys
            known = self._known
        age = float("inf") if keys is None else self._now() - keys[1]
        if keys is None or age > _METADATA_SECONDS or (anew and age > _KEYS_SECONDS):
            metadata = self._metadata() if known is None else known.metadata
            keys = (KeySet.import_key_set(_read_json(metadata["jwks_uri"])), self._now())  # type: ignore[arg-type]
            with self._lock:
                self._keys = keys
        return keys[0]

    def _client(self) -> OAuth2Session:
        return OAuth2Session(
            self._settings.oidc_client_id,
            self._settings.oidc_client_secret,
            scope=_SCOPE,
            redirect_uri=self._redirect,
            code_challenge_method="S256",
            default_timeout=_TIMEOUT,
        )


def may_enter(settings: MasterSettings, claims: Mapping[str, Any]) -> bool:
    """Whether the settings let somebody in: by an address that the issuer has verified, or by a group."""
    email, verified = claims.get("email"), claims.get("email_verified")
    if isinstance(email, str) and (verified is True or verified == "true"):
        name, _, domain = email.casefold().rpartition("@")
        allowed = {each.casefold() for each in settings.oidc_emails}
        if name and not allowed.isdisjoint({f"{name}@{domain}", f"@{domain}"}):
            return True
    groups = claims.get(settings.oidc_groups_claim)
    member_of = {groups} if isinstance(groups, str) else set(map(str, groups)) if isinstance(groups, list) else set()
    return not member_of.isdisjoint(settings.oidc_groups)


def _name(claims: Mapping[str, Any]) -> str:
    for claim in ("email", "preferred_username", "name", "sub"):
        name = claims.get(claim)
        if isinstance(name, str) and name.isprintable() and name:
            return name[:255]
    return "somebody"


def _attempt(cookie: str | None) -> Attempt | None:
    if cookie is None:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(cookie), type=Attempt)
    except (ValueError, msgspec.MsgspecError):
        return None


def _read_json(url: str) -> dict[str, Any]:
    answer = requests.get(url, timeout=_TIMEOUT)
    answer.raise_for_status()
    said = answer.json()
    if not isinstance(said, dict):
        raise ValueError("no JSON object")
    return said


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (JoseError, AuthlibBaseError) as error:
        log.warning("sign-in refused", extra={"reason": type(error).__name__, "detail": str(error)[:200]})
        raise Unauthorized(_REFUSED) from None
    except (requests.RequestException, ValueError, KeyError) as error:
        log.warning("the sign-in server does not answer as one", extra={"reason": type(error).__name__})
        raise Unavailable("the sign-in server can't be reached just now; try again in a moment", 10) from None
