"""Whose a model is: the dataset that it was registered for."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from gridnode_operator.master.db.models import Dataset, RegisteredModel


def datasets_of(session: Session, names: Iterable[tuple[int, str]]) -> dict[tuple[int, str], int]:
    """Datasets by node row and name of a model that was registered for them."""
    wanted = list(names)
    if not wanted:
        return {}
    rows = session.execute(
        select(Dataset.node_id, RegisteredModel.name, func.min(Dataset.id))
        .join(RegisteredModel, RegisteredModel.dataset_id == Dataset.id)
        .where(Dataset.deleted_at.is_(None), tuple_(Dataset.node_id, RegisteredModel.name).in_(wanted))
        .group_by(Dataset.node_id, RegisteredModel.name)
    )
    return {(node, name): dataset for node, name, dataset in rows if node is not None}
