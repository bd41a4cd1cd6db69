"""The master node put together: database, services, background work and the application."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Final

from gridnode_operator.master.app import make_app
from gridnode_operator.master.background import Background
from gridnode_operator.master.dashboard.blueprint import add_dashboard
from gridnode_operator.master.datasets.service import DatasetNodes
from gridnode_operator.master.db.session import make_database
from gridnode_operator.master.finished.service import FinishedModels
from gridnode_operator.master.finished.storage import Storage
from gridnode_operator.master.keys.service import Keys
from gridnode_operator.master.live.changes import Changes
from gridnode_operator.master.live.viewers import Viewers
from gridnode_operator.master.models.checkpoints import NodeCheckpoints
from gridnode_operator.master.models.intake import EventIntake
from gridnode_operator.master.nodes.local import LocalProvider
from gridnode_operator.master.nodes.observer import Observer
from gridnode_operator.master.nodes.provider import NodeProvider, NoProvider
from gridnode_operator.master.nodes.queries import Patience
from gridnode_operator.master.nodes.static import StaticProvider
from gridnode_operator.master.nodes.template import NodeTemplate
from gridnode_operator.master.retention import delete_old
from gridnode_operator.master.services import Services
from gridnode_operator.master.serving.bridge import Bridge
from gridnode_operator.master.settings import MasterSettings

_RETENTION_INTERVAL: Final = 3600.0


class Master:
    """One process's master node; nothing is connected to before it is needed.

    Args:
        settings: All of them.
        database_url: Of the database, migrated.
        provider: Instead of the one that the settings name.

    Raises:
        InvalidSetting: a file or URL that the settings name can't be used.
    """

    def __init__(self, settings: MasterSettings, database_url: str, provider: NodeProvider | None = None) -> None:
        self._settings = settings
        self.database = make_database(
            database_url,
            schema=settings.database_schema,
            pool_size=settings.database_pool_size,
            connect_timeout=settings.database_connect_timeout,
            deadline=settings.database_deadline,
        )
        patience = Patience.of_seconds(silent_after=settings.silent_after, stuck_after=settings.stuck_after)
        viewers = Viewers(settings.viewers, joined=self._notify)
        self._changes = Changes(self.database, viewers, patience)
        provider = provider or make_provider(settings)
        self.services = Services(
            settings=settings,
            database=self.database,
            keys=Keys(self.database, configured={"admin": settings.admin_token, "node": settings.node_key}),
            intake=EventIntake(self.database, committed=self._notify),
            dataset_nodes=DatasetNodes(self.database, provider),
            finished=FinishedModels(
                self.database,
                provider,
                Storage(settings.storage),
                largest=settings.checkpoint_limit,
                changed=self._notify,
            ),
            checkpoints=NodeCheckpoints(self.database, provider, largest=settings.checkpoint_limit),
            viewers=viewers,
            patience=patience,
        )
        self.observer = Observer(self.database, provider, changed=self._notify)
        self._background = self._make_background()
        self.app = make_app(self.services, add_dashboard)

    def bridge(self, executor: Executor, *, answer_seconds: float) -> Bridge:
        """The ASGI application."""
        return Bridge(
            self.app.wsgi_app,
            executor,
            self.services.viewers,
            body_limit=self._settings.body_limit,
            answer_seconds=answer_seconds,
            trusted_proxies=self._settings.trusted_proxies,
        )

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start what runs beside requests."""
        self._changes.start(loop)
        for each in self._background:
            each.start()

    def stop(self) -> None:
        """Stop it, and close the database."""
        for each in self._background:
            each.stop()
        self._changes.stop()
        self.database.close()

    def _make_background(self) -> list[Background]:
        settings = self._settings
        return [
            Background(
                "observer", self.observer.look, interval=settings.observe_interval, database=self.database
            ),
            Background(
                "finished-models", self.services.finished.fetch_due, interval=settings.fetch_interval,
                database=self.database,
            ),
            Background(
                "retention", lambda: delete_old(self.database, event_days=settings.event_days),
                interval=_RETENTION_INTERVAL, database=self.database,
            ),
        ]  # fmt: skip

    def _notify(self) -> None:
        self._changes.notify()


def make_provider(settings: MasterSettings) -> NodeProvider:
    """The provider that the settings name.

    Raises:
        InvalidSetting: a file that it needs can't be used.
    """
    if settings.provider == "static" and settings.nodes_file is not None:
        return StaticProvider(settings.nodes_file)
    if settings.provider == "local" and settings.nodes_dir is not None:
        return LocalProvider(settings.nodes_dir, NodeTemplate(settings.node_template))
    if settings.provider == "kubernetes":
        # Its client takes a second to import.
        from gridnode_operator.master.nodes.kubernetes import KubernetesProvider

        return KubernetesProvider(
            NodeTemplate(settings.node_template), namespace=settings.namespace, watched=settings.watch_namespaces
        )
    return NoProvider()
