"""``/api/v1/datasets``: datasets, their nodes, and the models announced for them."""

from __future__ import annotations

from flask import Flask, Response
from sqlalchemy.orm import Session

from gridnode.errors import InvalidRequest
from gridnode_operator.master.api.answers import V1, json_answer, page_answer, tagged_answer
from gridnode_operator.master.api.bodies import NewDataset, NewModel
from gridnode_operator.master.api.requests import body_as, page, principal
from gridnode_operator.master.datasets.service import (
    create_dataset,
    list_datasets,
    register_model,
    view_dataset,
)
from gridnode_operator.master.errors import Forbidden
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.services import Services
from gridnode_operator.master.texts import names, owner_text, plain_text


def add_dataset_routes(app: Flask, services: Services) -> None:
    """Endpoints about datasets."""

    @app.get(f"{V1}/datasets")
    def v1_datasets() -> Response:
        caller, (after, limit) = principal(), page()
        views = services.database.transaction(lambda session: list_datasets(session, caller, after=after, limit=limit))
        return page_answer(views, limit, "id")

    @app.post(f"{V1}/datasets")
    def v1_create_dataset() -> Response:
        wanted, caller = body_as(NewDataset), principal()
        owner, name = owner_for(caller, wanted.owner), plain_text("name", wanted.name)
        features, labels = names("features", wanted.features), names("labels", wanted.labels)

        def work(session: Session) -> tuple[int, bool]:
            return create_dataset(session, owner, name, features=features, labels=labels)

        dataset, is_new = services.database.transaction(work)
        view = (
            services.dataset_nodes.request(dataset)
            if wanted.node
            else services.database.transaction(lambda session: view_dataset(session, caller, dataset))
        )
        answer = json_answer(view, 201 if is_new else 200)
        answer.headers["Location"] = f"{V1}/datasets/{dataset}"
        return answer

    @app.get(f"{V1}/datasets/<int:dataset>")
    def v1_dataset(dataset: int) -> Response:
        caller = principal()
        return tagged_answer(services.database.transaction(lambda session: view_dataset(session, caller, dataset)))

    @app.delete(f"{V1}/datasets/<int:dataset>")
    def v1_delete_dataset(dataset: int) -> Response:
        caller = principal()
        services.database.transaction(lambda session: view_dataset(session, caller, dataset))
        services.dataset_nodes.delete(dataset)
        return Response(status=204)

    @app.put(f"{V1}/datasets/<int:dataset>/models/<name>")
    def v1_register_model(dataset: int, name: str) -> Response:
        wanted, caller = body_as(NewModel), principal()
        model = plain_text("name", name)
        features, labels = names("features", wanted.features), names("labels", wanted.labels)

        def work(session: Session) -> None:
            view_dataset(session, caller, dataset)
            register_model(session, dataset, model, features=features, labels=labels)

        services.database.transaction(work)
        return tagged_answer(services.database.transaction(lambda session: view_dataset(session, caller, dataset)))


def owner_for(caller: Principal, named: str | None) -> str:
    """Whom something new belongs to: the key's owner, or, for an admin, whom the request names.

    Raises:
        InvalidRequest: an admin names nobody.
        Forbidden: somebody names another.
    """
    if caller.owner is None:
        if named is None:
            raise InvalidRequest("owner must be named: this key is nobody's own")
        return owner_text(named)
    if named is not None and named != caller.owner:
        raise Forbidden("this key acts for another owner")
    return caller.owner
