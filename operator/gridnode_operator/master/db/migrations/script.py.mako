"""${message}

Expand first: pods of the previous version keep serving while this runs.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
# The last release that can work with the tables as they are after this. Write it down: see CONTRIBUTING.md.
oldest_release = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
