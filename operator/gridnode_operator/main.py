"""``gridnode-operator``: the operator as a process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any, Final

import kopf
import kubernetes.config

from gridnode import __version__
from gridnode.db.revision import REVISION
from gridnode.declared_settings import InvalidSetting, secrets_in
from gridnode.logs import configure_logging
from gridnode.malloc import MallocSettings, give_back_free_memory
from gridnode_operator.api import API_VERSION, KIND
from gridnode_operator.convergence import Environment
from gridnode_operator.handlers import NoMemories, make_registry, make_settings
from gridnode_operator.kube import ApiError, Cluster, load_configuration
from gridnode_operator.leadership import INTERVAL, Leadership
from gridnode_operator.metrics import OperatorMetrics
from gridnode_operator.node_client import NodeClient
from gridnode_operator.reconcile import Reconciler
from gridnode_operator.settings import OperatorSettings, load_settings, setting_specs
from gridnode_operator.tenants import Tenants
from gridnode_operator.vitals import served
from gridnode_operator.watchfulness import Watchfulness
from gridnode_operator.workqueue import NO_CONTEXT, Key, WorkQueue

logger = logging.getLogger(__name__)

#: Seconds between two comparisons of what was told with what is.
_COMPARE_INTERVAL: Final = 60.0
#: Seconds to wait before changes of children are looked at: a rollout makes several in a second.
_CHILDREN_GATHER: Final = 1.0
#: Seconds after which a reconcile that has not ended never will: each of its calls has a shorter timeout.
_LONGEST_RECONCILE: Final = 900.0
#: Seconds that reconciles get to end, and the Lease to be released, when the operator ends: a pod gets 30 in all.
_LAST_RECONCILES: Final = 15.0
_LAST_WORD: Final = 3.0
#: Lists of children are large and short-lived; an arena for each worker would keep the most it ever held.
_MALLOC: Final = MallocSettings(trim_threshold=1 << 20, arenas=1)


class Operator:
    """All parts of the operator, and the loops that keep them going.

    Args:
        settings: See there.
        cluster: The API server.
    """

    def __init__(self, settings: OperatorSettings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster
        self.metrics = OperatorMetrics()
        tenants = Tenants(
            default_url=settings.database_url,
            installation=settings.installation,
            read_secret=lambda name: cluster.read("v1", "Secret", settings.namespace, name),
        )
        self._reconciler = Reconciler(
            cluster=cluster,
            tenants=tenants,
            # A little sooner than the next look: one that comes just before the time would leave the status as it is.
            nodes=NodeClient(interval=0.9 * settings.resync_interval, at_once=max(1, settings.workers // 2)),
            environment=Environment(
                default_image=settings.image,
                schema_revision=REVISION,
                master_url=settings.master_url,
                master_key=settings.master_key,
                operator_namespace=settings.namespace,
                resync_interval=settings.resync_interval,
            ),
        )
        self.queue = WorkQueue(
            self._reconciler.reconcile, glance=self._reconciler.glance, workers=settings.workers, metrics=self.metrics
        )
        self._watchfulness = Watchfulness(self.queue.request, self.metrics)
        self._leadership = Leadership(cluster, settings.namespace, f"{socket.gethostname()}_{os.getpid()}")
        self._works = False
        self.metrics.queue_waiting.set_function(lambda: self.queue.waiting)
        self.metrics.queue_running.set_function(lambda: self.queue.running)

    def gridnode_changed(self, key: Key, body: Mapping[str, Any]) -> None:
        """A GridNode is there, or has changed; changes of its status are our own."""
        metadata = body["metadata"]
        rest = (
            metadata.get("deletionTimestamp"),
            tuple(metadata.get("finalizers") or ()),
            tuple(sorted((metadata.get("annotations") or {}).items())),
        )
        if self._watchfulness.tell(key, metadata["uid"], int(metadata["generation"]), rest):
            self.queue.request(key, urgent=True)

    def gridnode_gone(self, key: Key) -> None:
        """A GridNode is gone; one more look, to forget what was known of it."""
        self._watchfulness.tell_gone(key)
        self.queue.request(key)

    def child_changed(self, key: Key, uid: str, version: str) -> None:
        """Something that belongs to a GridNode has changed.

        Most changes are those that a reconcile has just made, and the watch tells of them before it has ended.
        """

        def look() -> None:
            if self._reconciler.inventory.is_news(str(key), uid, version):
                self.queue.request(key)

        asyncio.get_running_loop().call_later(_CHILDREN_GATHER, look, context=NO_CONTEXT)

    def why_not_alive(self) -> str | None:
        """What only a restart would mend."""
        if self._watchfulness.is_deaf:
            return "changes of GridNodes are not heard any more"
        if self.queue.longest_run > _LONGEST_RECONCILE:
            return f"a reconcile has not ended for {self.queue.longest_run:.0f} s"
        return None

    async def run(self) -> int:
        """Work until a signal comes, or the Lease is lost.

        Returns:
            The process's exit code.
        """
        stop = asyncio.Event()
        registry = make_registry(self)
        namespaces = self._settings.watch_namespaces
        # Nobody hears it, without peering. kopf would take the user's name, and a container's numbers have none.
        identity: Any = socket.gethostname()
        watching = kopf.operator(
            identity=identity,
            registry=registry,
            settings=make_settings(clusterwide=not namespaces),
            memories=NoMemories(),
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=stop,
        )
        tasks = [asyncio.create_task(self._lead(stop)), asyncio.create_task(self._compare())]
        try:
            await watching
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.queue.stop(_LAST_RECONCILES)
            if self._settings.leader_election:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.to_thread(self._leadership.release), _LAST_WORD)
        return 1 if stop.is_set() else 0

    def is_working(self) -> bool:
        """Whether this operator leads."""
        return self._works

    async def _lead(self, stop: asyncio.Event) -> None:
        while self._settings.leader_election and not await asyncio.to_thread(self._leadership.attempt):
            await asyncio.sleep(INTERVAL)
        self._works = True
        self.metrics.leading.set(1)
        self.queue.start()
        logger.info("the operator works")
        while self._settings.leader_election and await asyncio.to_thread(self._leadership.attempt):
            await asyncio.sleep(INTERVAL)
        if self._settings.leader_election:
            logger.error("the Lease is lost: another operator may be at work, and this one ends")
            stop.set()

    async def _compare(self) -> None:
        while True:
            await asyncio.sleep(_COMPARE_INTERVAL)
            # What bursts of changes needed: most of it is free by now, between the little that stays.
            await asyncio.to_thread(give_back_free_memory)
            with contextlib.suppress(ApiError):
                found = await asyncio.to_thread(self._list)
                self._watchfulness.compare(found)
                # One that was taken for gone, by an API server that had lost its memory, say.
                for key, _, _ in found:
                    if key not in self.queue.keys:
                        self.queue.request(key)

    def _list(self) -> list[tuple[Key, str, int]]:
        found = []
        for namespace in self._settings.watch_namespaces or (None,):
            for each in self._cluster.list(API_VERSION, KIND, namespace):
                metadata = each["metadata"]
                key = Key(metadata["namespace"], metadata["name"])
                found.append((key, metadata["uid"], int(metadata["generation"])))
        return found


def main() -> None:
    """Run the operator until SIGTERM."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        print(f"gridnode-operator {__version__}")
        return
    if sys.argv[1:]:
        sys.exit("gridnode-operator takes no arguments: its settings are GRIDNODE_OPERATOR_… variables.")
    try:
        settings = load_settings()
        secrets = secrets_in(settings, setting_specs())
        configure_logging(settings.log_format, settings.log_level, known_secrets=secrets)
        # A line for each event, with all of kopf's settings in it.
        logging.getLogger("kopf.objects").setLevel(logging.WARNING)
        cluster = Cluster(load_configuration(), connections=settings.workers + 2)
    except InvalidSetting as error:
        sys.exit(str(error))
    except kubernetes.config.ConfigException as error:
        sys.exit(f"There is no way to the API server: {error} Outside of a cluster, set KUBECONFIG.")
    _MALLOC.apply()
    asyncio.run(_serve(settings, cluster))


async def _serve(settings: OperatorSettings, cluster: Cluster) -> None:
    operator = Operator(settings, cluster)
    alive, ready = operator.why_not_alive, lambda: None if operator.is_working() else "another operator works"
    with served(settings.host, settings.port, operator.metrics.registry, alive=alive, ready=ready):
        code = await operator.run()
    # Python would wait for threads, and one of them may wait for a server that hangs.
    logging.shutdown()
    os._exit(code)
