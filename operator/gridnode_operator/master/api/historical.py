"""The API of 2020: what the iOS and notebook libraries of that time, and every node, call."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from gridnode.errors import InvalidRequest, NotFound
from gridnode_operator.master.api.answers import json_answer
from gridnode_operator.master.api.requests import address, body_object, principal
from gridnode_operator.master.datasets.service import (
    SHARED_OWNER,
    DatasetView,
    create_dataset,
    find_dataset,
    list_datasets,
    offered_models,
    register_model,
    view_dataset,
)
from gridnode_operator.master.db.models import Dataset
from gridnode_operator.master.devices.losses import read_device_report, record_device_loss
from gridnode_operator.master.errors import Forbidden
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.keys.service import create_key, random_key
from gridnode_operator.master.models.events import read_event
from gridnode_operator.master.services import Services
from gridnode_operator.master.texts import names, owner_text, plain_text

_EVERYTHING = Principal("admin")
_MOST_LISTED = 1000


def add_historical_routes(app: Flask, services: Services) -> None:
    """The eight endpoints of 2020."""

    @app.get("/")
    def running() -> Response:
        return Response("Running", content_type="text/plain; charset=utf-8")

    @app.post("/info")
    def info() -> Response:
        name = _dataset_name(body_object())
        caller = principal()
        return json_answer(services.database.transaction(lambda session: app_info(session, caller, name)))

    @app.post("/model_progress")
    def model_progress() -> Response:
        services.intake.take(read_event(body_object(), datetime.now(UTC)), principal())
        return json_answer({"status": "success"})

    @app.post("/model_loss")
    def model_loss() -> Response:
        report = read_device_report(body_object(), address())
        caller = principal()
        services.database.transaction(lambda session: record_device_loss(session, report, caller))
        return json_answer({"status": "success"})

    @app.post("/create")
    def create() -> Response:
        body = body_object()
        name, model = _dataset_name(body), plain_text("model_id", body.get("model_id"))
        features, labels = names("features", body.get("features")), names("labels", body.get("labels"))
        caller = principal()

        def work(session: Session) -> int:
            owner = _owner(session, caller, body, name)
            dataset, _ = create_dataset(session, owner, name, features=features, labels=labels)
            register_model(session, dataset, model, features=features, labels=labels)
            return dataset

        dataset = services.database.transaction(work)
        return json_answer(_creation(services.dataset_nodes.request(dataset)))

    @app.post("/delete")
    def delete() -> Response:
        body = body_object()
        name, caller = _dataset_name(body), principal()

        def work(session: Session) -> int | None:
            return find_dataset(session, _owner(session, caller, body, name), name)

        dataset = services.database.transaction(work)
        if dataset is None:
            raise NotFound(f"there is no dataset {name}")
        services.dataset_nodes.delete(dataset)
        return json_answer({"status": "deleted"})

    @app.post("/generate_key")
    def generate_key() -> Response:
        owner, key = _user(principal()), random_key()
        made = services.database.transaction(
            lambda session: create_key(session, key, "app", owner=owner, note="generate_key")
        )
        return json_answer({"api_key": made.key})

    @app.post("/get_datasets")
    def get_datasets() -> Response:
        owner = _user(principal())
        shared = [SHARED_OWNER] if services.settings.legacy_access and owner != SHARED_OWNER else []

        def work(session: Session) -> list[DatasetView]:
            return [
                view
                for each in [owner, *shared]
                for view in list_datasets(session, _EVERYTHING, owner=each, limit=_MOST_LISTED)
            ]

        return json_answer({"datasets": [view.name for view in services.database.transaction(work)]})

    def app_info(session: Session, caller: Principal, name: str) -> dict[str, Any]:
        dataset = _app_dataset(session, caller, name, shared=services.settings.legacy_access)
        if dataset is None:
            create_dataset(session, str(caller.owner), name)
            return {"success": f"Dataset {name} is known now. A notebook can create models for it."}
        view = view_dataset(session, _EVERYTHING, dataset)
        if view.state != "ready":
            return {"wait": f"Dataset {name} has no node that is ready yet."}
        if not view.models:
            return {"wait": f"Dataset {name} has no model yet."}
        models = [[each.name, each.version, each.features, each.labels] for each in offered_models(session, dataset)]
        return {"models": models, "nodeURL": view.node_host}


def _app_dataset(session: Session, caller: Principal, name: str, *, shared: bool) -> int | None:
    if caller.owner is None:
        return _only_dataset(session, name)
    found = find_dataset(session, caller.owner, name)
    if found is None and shared:
        return find_dataset(session, SHARED_OWNER, name)
    return found


def _only_dataset(session: Session, name: str) -> int:
    """For a caller who is nobody's: the dataset of the name, if only one owner has such."""
    rows = session.scalars(select(Dataset.id).where(Dataset.name == name, Dataset.deleted_at.is_(None)).limit(2)).all()
    if len(rows) != 1:
        raise InvalidRequest(
            f"{'no owner has' if not rows else 'several owners have'} a dataset {name}: use a key of its owner"
        )
    return rows[0]


def _owner(session: Session, caller: Principal, body: dict[str, Any], name: str) -> str:
    """Whose dataset a notebook means: its key's, else whom it names, else the one who has such a dataset."""
    if caller.owner is not None:
        return caller.owner
    if body.get("user_id") is not None:
        return owner_text(body["user_id"])
    owners = session.scalars(
        select(Dataset.owner).where(Dataset.name == name, Dataset.deleted_at.is_(None)).limit(2)
    ).all()
    if len(owners) > 1 or (not owners and not caller.legacy):
        raise InvalidRequest("say whose dataset it is: add user_id, or use a key of the owner")
    return owners[0] if owners else SHARED_OWNER


def _user(caller: Principal) -> str:
    """The owner that a request names, who must be the key's own."""
    owner = owner_text(body_object().get("user_id"))
    if caller.owner is not None and caller.owner != owner:
        raise Forbidden("this key acts for another user")
    return owner


def _dataset_name(body: dict[str, Any]) -> str:
    value = body.get("dataset_id")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return plain_text("dataset_id", value)


def _creation(view: DatasetView) -> dict[str, Any]:
    if view.state == "ready":
        return {"status": "ready", "nodeURL": view.node_host}
    return {"status": "creating"} if view.waits_for is None else {"status": "creating", "reason": view.waits_for}
