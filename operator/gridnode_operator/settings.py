"""The operator's settings, ``GRIDNODE_OPERATOR_*``: read as the node's are (:mod:`gridnode.declared_settings`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gridnode import setting_kinds as kinds
from gridnode.declared_settings import SettingSpec, read_settings, setting, specs_of
from gridnode.setting_kinds import Kind

PREFIX: Final = "GRIDNODE_OPERATOR_"


def _names() -> Kind[tuple[str, ...]]:
    def read(value: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in value.split(",") if part.strip())

    return Kind("names separated by commas", read, ",".join)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """All settings. Direct construction checks nothing: it is for tests; programs use :func:`load_settings`."""

    database_url: str | None = setting(
        None, "Administrator's login on the shared PostgreSQL, for GridNodes that name none.", kinds.database_url(),
        secret=True,
    )  # fmt: skip
    image: str = setting("gridnode/node:latest", "Image of GridNodes that name none.", kinds.text("an image's name"))
    namespace: str = setting(
        "gridnode-system", "Where the operator runs: its Lease and administrators' Secrets are there.",
        kinds.text("a namespace"),
    )  # fmt: skip
    watch_namespaces: tuple[str, ...] = setting(
        (), "Namespaces whose GridNodes are looked after. Not set: all of the cluster.", _names()
    )
    installation: str = setting(
        "", "Tells installs apart that share one database server; part of the roles' names.",
        kinds.text("text of at most 63 characters", maximum=63),
    )  # fmt: skip
    master_url: str | None = setting(
        None, "The master node that nodes report to unless they name another.", kinds.http_url()
    )
    master_key: str | None = setting(
        None, "The key that nodes show to that master node.", kinds.text("text"), secret=True
    )
    resync_interval: float = setting(
        60.0, "Seconds after which a GridNode is looked at though nothing has happened.", kinds.number("s", minimum=1)
    )
    workers: int = setting(8, "GridNodes that are worked on at once.", kinds.whole("GridNodes", 1, 64))
    port: int = setting(8080, "Port of /metrics, /healthz and /readyz.", kinds.port())
    host: str = setting("0.0.0.0", "Address that it is on.", kinds.listen_host())  # noqa: S104 - of a pod
    leader_election: bool = setting(True, "Whether a Lease keeps a second operator idle.", kinds.flag())
    log_format: str = setting("json", "How to log.", kinds.choice("json", "text"))
    log_level: str = setting("info", "What to log.", kinds.choice("debug", "info", "warning", "error"))


def load_settings(environ: Mapping[str, str] = os.environ) -> OperatorSettings:
    """Read all settings.

    Raises:
        InvalidSetting: names the first that can't be used.
    """
    values, _ = read_settings(setting_specs(), environ)
    return OperatorSettings(**values)


def setting_specs() -> tuple[SettingSpec, ...]:
    """All settings in the order of their declaration."""
    return specs_of(OperatorSettings, PREFIX)
