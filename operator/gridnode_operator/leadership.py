"""A Lease that only one operator holds: with two of them running, the other waits.

As client-go's leader election does it: who holds the Lease renews it; who doesn't takes it once it was not renewed for
its whole duration, by one's own clock. A reconcile is safe against a second one anyway; this keeps two releases, as
during an upgrade, from undoing each other's work in turn.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from gridnode_operator.kube import ApiError, Cluster, Object

logger = logging.getLogger(__name__)

_API: Final = "coordination.k8s.io/v1"
NAME: Final = "gridnode-operator"
#: Seconds that a Lease holds without being renewed, and after which its holder gives up.
DURATION: Final = 15.0
GIVE_UP: Final = 10.0
#: Seconds between two looks at it.
INTERVAL: Final = 3.0


class Leadership:
    """One candidate.

    Args:
        cluster: Where the Lease is.
        namespace: The operator's.
        identity: Unique among candidates, such as the pod's name.
        clock: Seconds.
    """

    def __init__(
        self, cluster: Cluster, namespace: str, identity: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._identity = identity
        self._clock = clock
        self._seen: tuple[str, float] = ("", 0.0)
        self._renewed: float | None = None

    @property
    def is_held(self) -> bool:
        """Whether this candidate leads: it has renewed the Lease not long ago."""
        return self._renewed is not None and self._clock() - self._renewed < GIVE_UP

    def attempt(self) -> bool:
        """Take or renew the Lease; blocks. To be repeated every :data:`INTERVAL` seconds.

        Returns:
            Whether this candidate leads.
        """
        began = self._clock()
        try:
            if self._take_or_renew():
                self._renewed = began
            else:
                self._renewed = None
        except ApiError as error:
            logger.warning("the Lease can't be renewed: %s", error)
        return self.is_held

    def release(self) -> None:
        """Let another candidate lead at once; blocks."""
        if not self.is_held:
            return
        self._renewed = None
        try:
            lease = self._read()
            if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                self._cluster.replace({**lease, "spec": {**lease["spec"], "holderIdentity": ""}})
        except ApiError as error:
            logger.warning("the Lease can't be released: %s", error)

    def _take_or_renew(self) -> bool:
        lease = self._read()
        try:
            if lease is None:
                self._cluster.create(self._lease(None))
                return True
            if lease["spec"].get("holderIdentity") not in (self._identity, "", None) and not self._has_expired(lease):
                return False
            self._cluster.replace(self._lease(lease))
            return True
        except ApiError as error:
            if error.status == 409:  # another candidate was faster
                return False
            raise

    def _has_expired(self, lease: Object) -> bool:
        version = lease["metadata"]["resourceVersion"]
        if self._seen[0] != version:
            self._seen = (version, self._clock())
        return self._clock() - self._seen[1] > float(lease["spec"].get("leaseDurationSeconds") or DURATION)

    def _lease(self, before: Object | None) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict(before["spec"]) if before is not None else {}
        if spec.get("holderIdentity") != self._identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (before is not None)
        spec |= {"holderIdentity": self._identity, "leaseDurationSeconds": int(DURATION), "renewTime": now}
        metadata = before["metadata"] if before is not None else {"name": NAME, "namespace": self._namespace}
        return {"apiVersion": _API, "kind": "Lease", "metadata": metadata, "spec": spec}

    def _read(self) -> Object | None:
        return self._cluster.read(_API, "Lease", self._namespace, NAME)
