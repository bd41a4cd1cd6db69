"""What changes of a node's row, and the counts of its reports, whenever something is heard of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gridnode_operator.master.db.models import Base

# As tables, not as classes: the unit of work has no part in what is written here.
_NODES: Final = Base.metadata.tables["nodes"]
_REPORT_COUNTS: Final = Base.metadata.tables["report_counts"]


def lock_nodes(session: Session, node_ids: Iterable[str], *, heard_at: datetime | None = None) -> dict[str, int]:
    """Rows of nodes by name, made where missing, locked until the transaction ends.

    Args:
        session: One transaction.
        node_ids: Names.
        heard_at: When they were heard of; None leaves that.
    """
    # In one order, or two transactions could each hold what the other waits for.
    ordered = [{"node_id": node_id, "last_event_at": heard_at} for node_id in sorted(node_ids)]
    if not ordered:
        return {}
    statement = insert(_NODES)
    heard = func.coalesce(statement.excluded.last_event_at, _NODES.c.last_event_at)
    statement = statement.on_conflict_do_update(index_elements=["node_id"], set_={"last_event_at": heard})
    rows = session.execute(statement.returning(_NODES.c.node_id, _NODES.c.id), ordered)
    return dict(row for row in rows)


def count_reports(session: Session, counts: dict[int, int], now: datetime) -> None:
    """Add reports by node row to the present minute."""
    rows = [
        {"minute": now.replace(second=0, microsecond=0), "node_id": node, "reports": reports}
        for node, reports in sorted(counts.items())
        if reports
    ]
    if rows:
        statement = insert(_REPORT_COUNTS)
        total = _REPORT_COUNTS.c.reports + statement.excluded.reports
        session.execute(
            statement.on_conflict_do_update(index_elements=["minute", "node_id"], set_={"reports": total}), rows
        )
