"""``gridnode serve``: run a node."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from gridnode.commands.setting_flags import with_settings
from gridnode.db.iam import IamTokens
from gridnode.reporting.metrics_directory import metrics_directory
from gridnode.settings import Settings, check_database, check_listeners

log = logging.getLogger(__name__)


@with_settings()
def serve(settings: Settings) -> None:
    """Run a node: the device listener that phones reach, and the management listener.

    Without GRIDNODE_DATABASE_URL a private PostgreSQL is started and kept under --data-dir. With it, run `gridnode
    migrate` first; a database that is away is waited for.

    Examples:

        gridnode serve

        GRIDNODE_DATABASE_URL=postgresql+psycopg2://node@db/grid gridnode serve --worker-processes 4

        gridnode serve --legacy-hosting --device-port 5000
    """
    check_listeners(settings)
    check_database(settings)
    if settings.database_iam_authentication:
        # The worker processes make their own: this one finds out now that it can't be done.
        IamTokens()
    with _database(settings) as url, metrics_directory():
        # Only now: prometheus-client looks for the directory when it is imported.
        from gridnode.serving.supervisor import Supervisor, bind
        from gridnode.serving.worker import run_worker

        device = bind(settings.host, settings.device_port)
        management = bind(settings.management_host, settings.management_port)
        log.info(
            "serving",
            extra={
                "device": f"{settings.host}:{settings.device_port}",
                "management": f"{settings.management_host}:{settings.management_port}",
                "node_id": settings.node_id,
            },
        )
        supervisor = Supervisor(
            settings.worker_processes,
            settings.drain_timeout,
            lambda: run_worker(settings, url, device, management),
        )
        supervisor.run()
    if supervisor.gave_up:
        raise typer.Exit(1)


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    """URL of the configured database, or of an embedded one that is migrated and lives as long as this."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    from gridnode.db.embedded import EmbeddedPostgres
    from gridnode.db.migrate import upgrade

    with EmbeddedPostgres(settings.data_dir) as embedded:
        log.info("using an embedded PostgreSQL", extra={"data_dir": str(settings.data_dir)})
        upgrade(embedded.url)
        yield embedded.url
