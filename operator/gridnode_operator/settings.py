"""The operator's settings, from ``GRIDNODE_OPERATOR_*`` variables and, for secrets, the files that they name.

The kinds of value are the node's (:mod:`gridnode.setting_kinds`), so that both read the same texts alike.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from gridnode import setting_kinds as kinds
from gridnode.setting_kinds import Kind

PREFIX: Final = "GRIDNODE_OPERATOR_"


class InvalidSetting(Exception):
    """A setting can't be used. The message names it and what is accepted, and holds no secret."""


def _setting(default: Any, description: str, kind: Kind[Any], *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"text": description, "kind": kind, "secret": secret})


def _names() -> Kind[tuple[str, ...]]:
    def read(value: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in value.split(",") if part.strip())

    return Kind("names separated by commas", read, ",".join)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """All settings. Direct construction checks nothing: it is for tests; programs use :func:`load_settings`."""

    database_url: str | None = _setting(
        None, "Administrator's login on the shared PostgreSQL, for GridNodes that name none.", kinds.database_url(),
        secret=True,
    )  # fmt: skip
    image: str = _setting("gridnode/node:latest", "Image of GridNodes that name none.", kinds.text("an image's name"))
    namespace: str = _setting(
        "gridnode-system", "Where the operator runs: its Lease and administrators' Secrets are there.",
        kinds.text("a namespace"),
    )  # fmt: skip
    watch_namespaces: tuple[str, ...] = _setting(
        (), "Namespaces whose GridNodes are looked after. Not set: all of the cluster.", _names()
    )
    installation: str = _setting(
        "", "Tells installs apart that share one database server; part of the roles' names.",
        kinds.text("text of at most 63 characters", maximum=63),
    )  # fmt: skip
    master_url: str | None = _setting(
        None, "The master node that nodes report to unless they name another.", kinds.http_url()
    )
    master_key: str | None = _setting(
        None, "The key that nodes show to that master node.", kinds.text("text"), secret=True
    )
    resync_interval: float = _setting(
        60.0, "Seconds after which a GridNode is looked at though nothing has happened.", kinds.number("s", minimum=1)
    )
    workers: int = _setting(8, "GridNodes that are worked on at once.", kinds.whole("GridNodes", 1, 64))
    port: int = _setting(8080, "Port of /metrics, /healthz and /readyz.", kinds.port())
    host: str = _setting("0.0.0.0", "Address that it is on.", kinds.listen_host())  # noqa: S104 - of a pod
    leader_election: bool = _setting(True, "Whether a Lease keeps a second operator idle.", kinds.flag())
    log_format: str = _setting("json", "How to log.", kinds.choice("json", "text"))
    log_level: str = _setting("info", "What to log.", kinds.choice("debug", "info", "warning", "error"))


def load_settings(environ: Mapping[str, str] = os.environ) -> OperatorSettings:
    """Read all settings.

    Raises:
        InvalidSetting: names the first that can't be used.
    """
    found = {}
    for each in fields(OperatorSettings):
        variable = PREFIX + each.name.upper()
        text = environ.get(variable, "")
        if not text and each.metadata["secret"] and (path := environ.get(f"{variable}_FILE", "")):
            variable, text = f"{variable}_FILE", _content(f"{variable}_FILE", path)
        if text:
            found[each.name] = _read(variable, text, each.metadata["kind"])
    return OperatorSettings(**found)


def _content(variable: str, path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"{variable} names a file that can't be read: {error}") from None


def _read(variable: str, text: str, kind: Kind[Any]) -> Any:
    try:
        return kind.read(text)
    except ValueError:
        raise InvalidSetting(f"{variable} can't be used: accepted is {kind.accepts}.") from None
