"""Cycle requests that were rejected, by cycle and reason.

Expand first: pods of the previous version keep serving while this runs, and afterwards.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
oldest_release = "0001"


def upgrade() -> None:
    # A default that is no expression: the table is not written anew.
    op.add_column(
        "cycles",
        sa.Column("rejected", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
    )
