"""``/api/v1/keys``."""

from __future__ import annotations

from flask import Flask, Response

from gridnode_operator.master.api.answers import V1, json_answer, page_answer
from gridnode_operator.master.api.bodies import NewKey
from gridnode_operator.master.api.requests import body_as, page, principal
from gridnode_operator.master.api.v1.datasets import owner_for
from gridnode_operator.master.errors import Forbidden
from gridnode_operator.master.keys.service import create_key, list_keys, random_key, revoke_key
from gridnode_operator.master.services import Services


def add_key_routes(app: Flask, services: Services) -> None:
    """Endpoints about keys."""

    @app.get(f"{V1}/keys")
    def v1_keys() -> Response:
        caller, (after, limit) = principal(), page()
        views = services.database.transaction(lambda session: list_keys(session, caller, after=after, limit=limit))
        return page_answer(views, limit, "id")

    @app.post(f"{V1}/keys")
    def v1_create_key() -> Response:
        wanted, caller = body_as(NewKey), principal()
        if wanted.scope in ("node", "admin") and not caller.sees_all:
            raise Forbidden(f"only an admin makes keys of scope {wanted.scope}")
        owner = owner_for(caller, wanted.owner) if wanted.scope in ("app", "notebook") else wanted.owner
        key = random_key()
        made = services.database.transaction(
            lambda session: create_key(
                session,
                key,
                wanted.scope,
                owner=owner,
                node_id=wanted.node_id,
                note=wanted.note,
                expires_at=wanted.expires_at,
            )
        )
        answer = json_answer({"key": made.key, "view": made.view}, 201)
        answer.headers["Cache-Control"] = "no-store"
        return answer

    @app.delete(f"{V1}/keys/<int:key>")
    def v1_revoke_key(key: int) -> Response:
        caller = principal()
        view = services.database.transaction(lambda session: revoke_key(session, caller, key))
        services.keys.forget()
        return json_answer(view)
