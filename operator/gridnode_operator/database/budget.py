"""Database connections: how many there are, and how many a GridNode may need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gridnode_operator.database.session import Session

#: Pods that a rollout adds to those that are there.
SURGE: Final = 1
#: The operator looks now and then whether a node's login works.
CHECKS: Final = 1

_RESERVES: Final = (
    "superuser_reserved_connections",
    "reserved_connections",
    "rds.rds_superuser_reserved_connections",  # on RDS and Aurora only
)

# Backends of other roles show little to an administrator who is no superuser; those that serve a client have a
# database and a role.
_BUDGET: Final = """
SELECT current_setting('max_connections')::int,
       (SELECT COALESCE(sum(setting::int), 0)::int FROM pg_settings WHERE name = ANY({reserves})),
       (SELECT count(*)::int FROM pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL)
"""


@dataclass(frozen=True, slots=True)
class Budget:
    """Connections of the whole server.

    Attributes:
        max_connections: That it accepts.
        reserved: Of these, kept for its administrators.
        in_use: By everybody now, the one that asked included.
    """

    max_connections: int
    reserved: int
    in_use: int

    @property
    def usable(self) -> int:
        """What all GridNodes together must stay below."""
        return self.max_connections - self.reserved


def read_budget(session: Session) -> Budget:
    """Ask the server."""
    [row] = session.execute(_BUDGET, reserves=list(_RESERVES))
    return Budget(*row)


def connection_demand(replicas_max: int, processes: int, pool_size: int, migration: int = 1) -> int:
    """Connections that a GridNode needs at most, during a rollout.

    Args:
        replicas_max: Pods at most; the autoscaler's upper bound where there is one.
        processes: Worker processes of a pod.
        pool_size: Connections that each of them keeps at most.
        migration: Connections of the migration Job.
    """
    if replicas_max == 0:
        return migration + CHECKS
    return (replicas_max + SURGE) * processes * pool_size + migration + CHECKS
