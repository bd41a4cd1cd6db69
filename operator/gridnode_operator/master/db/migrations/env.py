"""Alembic's entry point: runs the migrations on the connection that the caller opened and locked."""

from __future__ import annotations

from alembic import context

from gridnode_operator.master.db.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
