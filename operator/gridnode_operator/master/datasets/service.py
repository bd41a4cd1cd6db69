"""Datasets, the models registered for them, and the node that each of them owns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from sqlalchemy import Select, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gridnode.db.session import Database
from gridnode.errors import Conflict, NotFound, TooManyRequests
from gridnode_operator.master.db.models import Dataset, Model, Node, RegisteredModel
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.models.ingest import DEFAULT_VERSION
from gridnode_operator.master.nodes.provider import NodeProvider, NodeRequest, node_name
from gridnode_operator.master.nodes.rows import lock_nodes

#: Owner of what notebooks of 2020 make without a key, where the switch lets them.
SHARED_OWNER: Final = "shared"
_MOST_DATASETS: Final = 1000
#: Conditions of a GridNode in the order in which they come to hold.
_STAGES: Final = ("DatabaseReady", "Migrated", "Available", "Exposed", "Ready")
_MOST_MODELS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetView:
    """A dataset as lists show it.

    Attributes:
        id: Of its row.
        name: The ``dataset_id`` that apps and notebooks say.
        state: ``registered`` without a node, ``creating`` until the node is ready, ``ready``.
        node: Row of its node.
        node_id: Name of its node.
        node_host: Host that phones call.
        waits_for: What a node that is being made still lacks, for people; None if that is not known, or it is ready.
        models: Names of the models registered for it.
    """

    id: int
    name: str
    owner: str
    features: list[str]
    labels: list[str]
    state: str
    node: int | None
    node_id: str | None
    node_host: str | None
    waits_for: str | None
    models: list[str]
    created_at: datetime
    node_requested_at: datetime | None


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """A model that an app may train now."""

    name: str
    version: str
    features: list[str]
    labels: list[str]


def create_dataset(
    session: Session, owner: str, name: str, *, features: Sequence[str] = (), labels: Sequence[str] = ()
) -> tuple[int, bool]:
    """Row of an owner's dataset, and whether it was made now; one that is there stays as it is.

    Raises:
        TooManyRequests: the owner has too many.
    """
    existing = find_dataset(session, owner, name)
    if existing is not None:
        return existing, False
    have = session.scalar(select(func.count()).where(Dataset.owner == owner, Dataset.deleted_at.is_(None))) or 0
    if have >= _MOST_DATASETS:
        raise TooManyRequests(f"{owner} has {have} datasets, which is the most: delete some", retry_after=3600)
    made = session.execute(
        insert(Dataset)
        .values(owner=owner, name=name, features=list(features), labels=list(labels))
        .on_conflict_do_nothing()
        .returning(Dataset.id)
    ).scalar_one_or_none()
    if made is not None:
        return made, True
    found = find_dataset(session, owner, name)
    if found is None:
        raise Conflict(f"dataset {name} is just being deleted, try again")
    return found, False


def find_dataset(session: Session, owner: str, name: str) -> int | None:
    """Row of an owner's dataset by name."""
    return session.scalar(
        select(Dataset.id).where(Dataset.owner == owner, Dataset.name == name, Dataset.deleted_at.is_(None))
    )


def register_model(
    session: Session, dataset_id: int, name: str, *, features: Sequence[str], labels: Sequence[str]
) -> None:
    """Announce a model for a dataset; again changes its features and labels.

    A dataset that was made without features and labels gets those of its first model.

    Raises:
        NotFound: the dataset is gone.
        TooManyRequests: it has too many models.
    """
    dataset = session.get(Dataset, dataset_id, with_for_update=True)
    if dataset is None or dataset.deleted_at is not None:
        raise NotFound("the dataset is gone")
    have = session.scalar(select(func.count()).where(RegisteredModel.dataset_id == dataset_id)) or 0
    if have >= _MOST_MODELS:
        raise TooManyRequests(f"dataset {dataset.name} has {have} models, which is the most", retry_after=3600)
    dataset.features = dataset.features or list(features)
    dataset.labels = dataset.labels or list(labels)
    session.execute(
        insert(RegisteredModel)
        .values(dataset_id=dataset_id, name=name, features=list(features), labels=list(labels))
        .on_conflict_do_update(
            index_elements=[RegisteredModel.dataset_id, RegisteredModel.name],
            set_={"features": list(features), "labels": list(labels)},
        )
    )
    if dataset.node_id is not None:
        _claim_models(session, dataset_id, dataset.node_id)


def offered_models(session: Session, dataset_id: int) -> list[OfferedModel]:
    """Models of a dataset that are not finished, in the order in which they were registered.

    One that its node has not told of yet has the version that clients of 2020 ask for.
    """
    heard = (
        select(Model.name, Model.version, Model.finished_at, Model.percent, Model.id)
        .where(Model.dataset_id == dataset_id, Model.deleted_at.is_(None))
        .subquery("heard")
    )
    rows = session.execute(
        select(RegisteredModel, heard.c.version, heard.c.finished_at, heard.c.percent)
        .outerjoin(heard, heard.c.name == RegisteredModel.name)
        .where(RegisteredModel.dataset_id == dataset_id)
        .order_by(RegisteredModel.created_at, RegisteredModel.name, heard.c.id)
    )
    return [
        OfferedModel(registered.name, version or DEFAULT_VERSION, registered.features, registered.labels)
        for registered, version, finished_at, percent in rows
        if finished_at is None and (percent or 0) < 100
    ]


def view_dataset(session: Session, principal: Principal, dataset_id: int) -> DatasetView:
    """One dataset.

    Raises:
        NotFound: there is none that the caller may see.
    """
    found = _views(session, _visible(principal).where(Dataset.id == dataset_id))
    if not found:
        raise NotFound(f"there is no dataset {dataset_id}")
    return found[0]


def list_datasets(
    session: Session, principal: Principal, *, owner: str | None = None, after: int = 0, limit: int = 100
) -> list[DatasetView]:
    """Datasets that the caller may see, in the order in which they were made."""
    query = _visible(principal).where(Dataset.id > after).order_by(Dataset.id).limit(limit)
    return _views(session, query if owner is None else query.where(Dataset.owner == owner))


class DatasetNodes:
    """Gives datasets their nodes and takes them away. What a provider does is never within a transaction.

    Args:
        database: The master node's.
        provider: Who makes nodes.
    """

    def __init__(self, database: Database, provider: NodeProvider) -> None:
        self._database = database
        self._provider = provider

    def request(self, dataset_id: int) -> DatasetView:
        """Have a node made for a dataset unless it has one; gives the dataset as it is now.

        Raises:
            NotFound: the dataset is gone.
            ProviderFailed: no node can be made for it.
        """
        view = self._view(dataset_id)
        if view.node_id is None:
            request = NodeRequest(name=node_name(view.owner, view.name), dataset=view.name, owner=view.owner)
            node_id = self._provider.create(request)
            self._database.transaction(lambda session: assign_node(session, dataset_id, node_id))
        return self._view(dataset_id)

    def delete(self, dataset_id: int) -> None:
        """Delete a dataset and the node that it owns; what its models were stays to be looked at.

        Raises:
            NotFound: the dataset is gone.
            ProviderFailed: its node can't be removed just now; nothing is changed then.
        """
        view = self._view(dataset_id)
        if view.node_id is not None:
            shared = self._database.transaction(lambda session: _has_others(session, dataset_id, view.node))
            if not shared:
                self._provider.delete(view.node_id)
        self._database.transaction(lambda session: _mark_deleted(session, dataset_id))

    def _view(self, dataset_id: int) -> DatasetView:
        return self._database.transaction(lambda session: view_dataset(session, Principal("admin"), dataset_id))


def assign_node(session: Session, dataset_id: int, node_id: str) -> None:
    """Note that a node is a dataset's, and whose its registered models are."""
    row = lock_nodes(session, [node_id])[node_id]
    session.execute(
        update(Dataset)
        .where(Dataset.id == dataset_id, Dataset.deleted_at.is_(None))
        .values(node_id=row, node_requested_at=func.coalesce(Dataset.node_requested_at, func.now()))
    )
    _claim_models(session, dataset_id, row)


def host_of(url: str | None) -> str | None:
    """The host in a node's URL: clients of 2020 add their own scheme and port."""
    return None if url is None else urlsplit(url).hostname


def _claim_models(session: Session, dataset_id: int, node: int) -> None:
    """Models of the node that nobody owned become the dataset's, if they are registered for it."""
    names = select(RegisteredModel.name).where(RegisteredModel.dataset_id == dataset_id)
    session.execute(
        update(Model)
        .where(Model.node_id == node, Model.dataset_id.is_(None), Model.name.in_(names))
        .values(dataset_id=dataset_id, changed_at=func.now(), revision=Model.revision + 1)
        .execution_options(synchronize_session=False)
    )


def _has_others(session: Session, dataset_id: int, node: int | None) -> bool:
    others = select(Dataset.id).where(Dataset.node_id == node, Dataset.id != dataset_id, Dataset.deleted_at.is_(None))
    return session.scalar(others.limit(1)) is not None


def _mark_deleted(session: Session, dataset_id: int) -> None:
    session.execute(
        update(Dataset).where(Dataset.id == dataset_id, Dataset.deleted_at.is_(None)).values(deleted_at=func.now())
    )


def _visible(principal: Principal) -> Select[Dataset, Node]:
    query = select(Dataset, Node).outerjoin(Node, Node.id == Dataset.node_id).where(Dataset.deleted_at.is_(None))
    return query if principal.sees_all else query.where(Dataset.owner == principal.owner)


def _views(session: Session, query: Select[Dataset, Node]) -> list[DatasetView]:
    rows = list(session.execute(query))
    models: dict[int, list[str]] = {}
    registered = session.execute(
        select(RegisteredModel.dataset_id, RegisteredModel.name)
        .where(RegisteredModel.dataset_id.in_([dataset.id for dataset, _ in rows]))
        .order_by(RegisteredModel.created_at, RegisteredModel.name)
    )
    for dataset_id, name in registered:
        models.setdefault(dataset_id, []).append(name)
    return [_view(dataset, node, models.get(dataset.id, [])) for dataset, node in rows]


def _view(dataset: Dataset, node: Node | None, models: list[str]) -> DatasetView:
    host = None if node is None else host_of(node.url)
    is_ready = node is not None and node.ready and host is not None
    return DatasetView(
        id=dataset.id,
        name=dataset.name,
        owner=dataset.owner,
        features=dataset.features,
        labels=dataset.labels,
        state="registered" if node is None else "ready" if is_ready else "creating",
        node=None if node is None else node.id,
        node_id=None if node is None else node.node_id,
        node_host=host,
        waits_for=None if node is None or is_ready else _waits_for(node),
        models=models,
        created_at=dataset.created_at,
        node_requested_at=dataset.node_requested_at,
    )


def _waits_for(node: Node) -> str | None:
    """The first of the conditions on the way to a ready node that does not hold."""
    conditions = {str(each.get("type")): each for each in node.conditions}
    for kind in _STAGES:
        condition = conditions.get(kind)
        if condition is not None and condition.get("status") != "True":
            return str(condition.get("message") or condition.get("reason") or kind)
    return None
