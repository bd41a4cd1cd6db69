"""Signing in with a key or by OpenID Connect, and signing out."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from gridnode.errors import GridNodeError, InvalidRequest, NotFound
from gridnode_operator.master.api.requests import address
from gridnode_operator.master.dashboard.access import SIGN_IN
from gridnode_operator.master.dashboard.cookies import LOGIN, SESSION, STATE, check_form, form_token
from gridnode_operator.master.dashboard.rendering import ROOT
from gridnode_operator.master.dashboard.sessions import Method
from gridnode_operator.master.dashboard.site import Site, own_path, signed_in
from gridnode_operator.master.errors import Forbidden, retry_after, status_of
from gridnode_operator.master.settings import MasterSettings

if TYPE_CHECKING:
    from gridnode_operator.master.dashboard.oidc import OpenIdProvider

_SHOWN: Final = 12


def add_login(blueprint: Blueprint, site: Site) -> None:
    """The sign-in page and its ways."""
    settings = site.services.settings
    provider = _make_provider(settings)

    def sign_in_page(wanted: str, error: GridNodeError | None = None) -> Response:
        secret = site.cookies.get(request, LOGIN) or secrets.token_urlsafe(32)
        answer = site.bare(
            "login.html",
            title="Sign in",
            status=200 if error is None else status_of(error),
            error=None if error is None else error.message,
            token=form_token(secret),
            next=wanted,
            has_oidc=provider is not None,
        )
        if error is not None and (after := retry_after(error)) is not None:
            answer.headers["Retry-After"] = after
        site.cookies.set(request, answer, LOGIN, secret)
        return answer

    @blueprint.get("/login")
    def login() -> AnyResponse:
        wanted = own_path(request.args.get("next"))
        return redirect(wanted, 303) if site.visitor() is not None else sign_in_page(wanted)

    @blueprint.post("/login")
    def sign_in() -> AnyResponse:
        wanted = own_path(request.form.get("next"))
        try:
            check_form(request, site.cookies.get(request, LOGIN))
            method, visitor, key_id = _show_key(site, request.form.get("key", "").strip())
        except GridNodeError as error:
            return sign_in_page(wanted, error)
        return begin_session(site, wanted, method, visitor, key_id)

    @blueprint.get("/login/oidc")
    def oidc() -> AnyResponse:
        url, attempt = _configured(provider).begin(own_path(request.args.get("next")))
        answer = redirect(url, 303)
        site.cookies.set(request, answer, STATE, attempt.to_cookie())
        return answer

    @blueprint.get("/login/oidc/callback")
    def oidc_callback() -> AnyResponse:
        name, wanted = _configured(provider).finish(request.args, site.cookies.get(request, STATE))
        answer = begin_session(site, own_path(wanted), "oidc", name)
        site.cookies.delete(request, answer, STATE)
        return answer

    @blueprint.post("/logout")
    def sign_out() -> AnyResponse:
        site.sessions.end(signed_in().session)
        answer = redirect(f"{ROOT}/login", 303)
        site.cookies.delete(request, answer, SESSION)
        return answer


def begin_session(site: Site, wanted: str, method: Method, visitor: str, key_id: int | None = None) -> AnyResponse:
    """Let somebody in: with a new session, whatever their browser brought along, which is ended."""
    site.sessions.end(site.cookies.get(request, SESSION))
    session = site.sessions.open(method, visitor, key_id=key_id)
    answer = redirect(wanted, 303)
    site.cookies.set(request, answer, SESSION, session)
    site.cookies.delete(request, answer, LOGIN)
    return answer


def _show_key(site: Site, key: str) -> tuple[Method, str, int | None]:
    """Who a key lets in.

    Raises:
        InvalidRequest: there is none.
        Unauthorized: it is not valid.
        Forbidden: it is not for people.
        TooManyRequests: too many wrong ones came from this address.
    """
    if not key:
        raise InvalidRequest("Type or paste a key.")
    principal = site.services.keys.principal(key, address())
    if principal.scope not in SIGN_IN:
        raise Forbidden(
            f"A key of scope {principal.scope} is not for the dashboard: use one of scope notebook or admin."
        )
    if principal.key_id is None:
        return "token", "administrator", None
    return "key", principal.owner or f"key {key[:_SHOWN]}…", principal.key_id


def _make_provider(settings: MasterSettings) -> OpenIdProvider | None:
    if settings.oidc_issuer is None:
        return None
    # Authlib is imported only where it is used.
    from gridnode_operator.master.dashboard.oidc import OpenIdProvider

    return OpenIdProvider(settings)


def _configured(provider: OpenIdProvider | None) -> OpenIdProvider:
    if provider is None:
        raise NotFound("Signing in by OpenID Connect is not set up here.")
    return provider
