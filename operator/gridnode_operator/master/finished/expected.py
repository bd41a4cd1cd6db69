"""Which final checkpoints are waited for."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gridnode_operator.master.db.models import FinishedModel


def expect_final_checkpoint(session: Session, model_ids: Sequence[int]) -> None:
    """Have the final checkpoints of models fetched, if they are not yet."""
    if model_ids:
        session.execute(
            insert(FinishedModel).on_conflict_do_nothing(), [{"model_id": model_id} for model_id in sorted(model_ids)]
        )
