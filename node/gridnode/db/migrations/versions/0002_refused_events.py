"""Events that the master node refuses for good, what was hosted, and which releases can serve a schema.

Expand first: pods of the previous version keep serving while this runs, and afterwards.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
oldest_release = "0001"


def upgrade() -> None:
    # Alembic's own table, whose one row is about the same thing.
    op.add_column("alembic_version", sa.Column("oldest_release", sa.String(32), nullable=True))
    op.add_column("outbox", sa.Column("refusals", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("outbox", sa.Column("refused_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("processes", sa.Column("upload_digest", sa.LargeBinary(), nullable=True))
