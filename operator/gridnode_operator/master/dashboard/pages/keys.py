"""Keys: made, shown once, and revoked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from gridnode.errors import GridNodeError, InvalidRequest
from gridnode_operator.master.api.requests import switch, whole
from gridnode_operator.master.api.v1.datasets import owner_for
from gridnode_operator.master.dashboard.rendering import ROOT
from gridnode_operator.master.dashboard.site import Site, signed_in
from gridnode_operator.master.errors import Forbidden, retry_after, status_of
from gridnode_operator.master.keys.access import SCOPES, Principal
from gridnode_operator.master.keys.service import NewKey, create_key, list_keys, random_key, revoke_key

_PAGE: Final = 50
_LARGEST: Final = 2**63 - 1
#: Choices of how long a key is good, in days; 0 is for ever.
_DAYS: Final = {"0": "for ever", "7": "a week", "30": "30 days", "90": "90 days", "365": "a year"}
_OWNED: Final = ("app", "notebook")
_FIELDS: Final = ("scope", "owner", "node_id", "note", "days")


def add_key_pages(blueprint: Blueprint, site: Site) -> None:
    """The page of keys, and what it does."""
    services = site.services

    def keys_page(*, status: int = 200, made: NewKey | None = None, error: str | None = None) -> Response:
        caller, after, revoked = signed_in().principal, whole("after", 0, _LARGEST), switch("revoked")
        found = services.database.transaction(
            lambda session: list_keys(session, caller, after=after, limit=_PAGE + 1, revoked=revoked)
        )
        return site.page(
            "keys.html",
            title="Keys",
            current="keys",
            status=status,
            keys=found[:_PAGE],
            following=found[_PAGE - 1].id if len(found) > _PAGE else None,
            is_first=after == 0,
            revoked=revoked,
            made=made,
            error=error,
            given={name: "" if made else request.form.get(name, "") for name in _FIELDS},
            scopes=[scope for scope in SCOPES if caller.sees_all or scope in _OWNED],
            days=_DAYS,
            owner=caller.owner,
            now=datetime.now(UTC),
        )

    @blueprint.get("/keys")
    def keys() -> Response:
        return keys_page()

    @blueprint.post("/keys", endpoint="create_key")
    def create_key_page() -> Response:
        try:
            made = _make(site, signed_in().principal)
        except (InvalidRequest, Forbidden) as error:
            return keys_page(status=status_of(error), error=error.message)
        except GridNodeError as error:
            answer = keys_page(status=status_of(error), error=error.message)
            answer.headers["Retry-After"] = retry_after(error) or "0"
            return answer
        return keys_page(status=201, made=made)

    @blueprint.post("/keys/<int:key>/revoke", endpoint="revoke_key")
    def revoke_key_page(key: int) -> AnyResponse:
        caller = signed_in().principal
        services.database.transaction(lambda session: revoke_key(session, caller, key))
        services.keys.forget()
        return redirect(f"{ROOT}/keys", 303)


def _make(site: Site, caller: Principal) -> NewKey:
    scope, named = request.form.get("scope", ""), request.form.get("owner", "").strip() or None
    if scope not in SCOPES:
        raise InvalidRequest("Choose what the key is for.")
    if scope not in _OWNED and not caller.sees_all:
        raise Forbidden(f"Only an administrator makes keys of scope {scope}.")
    days = request.form.get("days", "0")
    if days not in _DAYS:
        raise InvalidRequest("Choose how long the key is good.")
    if scope in _OWNED and caller.owner is None and named is None:
        raise InvalidRequest(f"Name the owner: a key of scope {scope} acts for somebody.")
    key = random_key()
    node_id = request.form.get("node_id", "").strip() or None
    return site.services.database.transaction(
        lambda session: create_key(
            session,
            key,
            scope,
            owner=owner_for(caller, named) if scope in _OWNED else None,
            node_id=node_id if scope == "node" else None,
            note=request.form.get("note", "").strip(),
            expires_at=datetime.now(UTC) + timedelta(days=int(days)) if days != "0" else None,
        )
    )
