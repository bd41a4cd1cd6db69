"""``gridnode master``: run the master node."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from gridnode.logs import configure_logging
from gridnode.serving.supervisor import bind
from gridnode_operator.master.db.migrate import upgrade
from gridnode_operator.master.settings import MasterSettings, load_master_settings, secret_values

log = logging.getLogger(__name__)
#: Seconds that the database may take to answer at start; Kubernetes' startup probe is as patient.
_PATIENCE = 300.0

Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default=False)]
Port = Annotated[
    str | None, typer.Option(help="Port to listen on; 5001 where nothing else is set.", show_default=False)
]
Provider = Annotated[
    str | None,
    typer.Option(help="Who makes nodes: kubernetes, local, static or none.", show_default=False),
]
NodesFile = Annotated[str | None, typer.Option(help="static: YAML file that lists the nodes.", show_default=False)]
NodesDir = Annotated[str | None, typer.Option(help="local: directory of GridNode manifests.", show_default=False)]
StorageUrl = Annotated[
    str | None, typer.Option(help="fsspec URL of the directory for finished models.", show_default=False)
]
DataDir = Annotated[str | None, typer.Option(help="Where the private PostgreSQL keeps its files.", show_default=False)]
LegacyAccess = Annotated[
    bool | None,
    typer.Option(
        "--legacy-access/--no-legacy-access", help="Let clients of 2020 in without a key.", show_default=False
    ),
]
LogLevel = Annotated[str | None, typer.Option(help="Least severe log lines shown.", show_default=False)]


def master(
    migrate: Annotated[bool, typer.Option("--migrate", help="Bring the schema to this release, and exit.")] = False,
    host: Host = None,
    port: Port = None,
    provider: Provider = None,
    nodes_file: NodesFile = None,
    nodes_dir: NodesDir = None,
    storage_url: StorageUrl = None,
    data_dir: DataDir = None,
    legacy_access: LegacyAccess = None,
    log_level: LogLevel = None,
) -> None:
    """Run the master node: progress of all nodes, the app developers' API, and keys.

    Its schema is made, and brought to this release, at start. Without GRIDNODE_MASTER_DATABASE_URL a private PostgreSQL
    is started and kept under --data-dir. Every setting is a GRIDNODE_MASTER_ variable; docs/master.md lists them.

    Examples:

        gridnode master

        gridnode keys create --scope admin

        GRIDNODE_MASTER_DATABASE_URL=postgresql://grid@db/grid gridnode master --provider kubernetes

        gridnode master --provider static --nodes-file nodes.yaml

        gridnode master --migrate
    """
    settings = start(
        host=host, port=port, provider=provider, nodes_file=nodes_file, nodes_dir=nodes_dir, storage_url=storage_url,
        data_dir=data_dir, legacy_access=legacy_access, log_level=log_level,
    )  # fmt: skip
    with database(settings) as url:
        upgrade(
            url,
            schema=settings.database_schema,
            connect_timeout=settings.database_connect_timeout,
            patience=0 if migrate else _PATIENCE,
        )
        if migrate:
            return
        from gridnode_operator.master.master import Master
        from gridnode_operator.master.serving.server import serve

        node = Master(settings, url)
        listener = bind(settings.host, settings.port)
        host, port = listener.getsockname()[:2]
        log.info(
            "serving the master node",
            extra={
                "address": f"{host}:{port}",
                "provider": settings.provider,
                "dashboard": f"{settings.public_url or f'http://127.0.0.1:{port}'}/dashboard",
            },
        )
        if settings.legacy_access:
            log.warning("clients without a key are let in: whoever reaches this port can act for any owner")
        serve(node, settings, listener)


def start(**flags: Any) -> MasterSettings:
    """Load the settings, and configure logging with them.

    Raises:
        InvalidSetting: see :func:`gridnode_operator.master.settings.load_master_settings`.
    """
    settings = load_master_settings(os.environ, flags)
    configure_logging(settings.log_format, settings.log_level, known_secrets=secret_values(settings))
    return settings


@contextmanager
def database(settings: MasterSettings) -> Iterator[str]:
    """URL of the configured database, or of a private one that runs as long as somebody on this machine uses it."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    from gridnode.db.embedded import EmbeddedPostgres

    with EmbeddedPostgres(settings.data_dir) as embedded:
        yield embedded.url
