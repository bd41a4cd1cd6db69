"""Every setting of the node, in one frozen dataclass; :mod:`gridnode.declared_settings` tells how they are read.

The prefix of the variables is ``GRIDNODE_``. Sizes are in bytes, durations in seconds.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gridnode import setting_kinds as kinds
from gridnode.declared_settings import (
    InvalidSetting,
    SettingSpec,
    Source,
    default_data_dir,
    found_setting,
    is_service_link,
    read_settings,
    secrets_in,
    setting,
    specs_of,
)
from gridnode.redaction import HIDDEN, masked_url
from gridnode.setting_kinds import Network

PREFIX = "GRIDNODE_"
MIB = 1024 * 1024

# Others of Kubernetes' variables for a Service; see :mod:`gridnode.declared_settings`.
_SERVICE_LINK_NAME = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$")

# Read by the commands that manage a node, and set in the same shells and pods as its settings.
_CLIENT_VARIABLES = frozenset({f"{PREFIX}MANAGEMENT_URL"})
# Settings of the master node and of the operator, and what the commands read that ask the master node.
_OTHER_PROGRAMS = (f"{PREFIX}MASTER_", f"{PREFIX}OPERATOR_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings. Direct construction checks nothing: it is for tests; programs use :func:`load_settings`."""

    # Database
    database_url: str | None = setting(
        None, "PostgreSQL of this node. Not set: a private one is started (extra 'embedded').", kinds.database_url(),
        secret=True,
    )  # fmt: skip
    database_schema: str | None = setting(
        None, "Schema that holds the node's tables. Not set: the role's search_path decides.", kinds.schema()
    )
    database_iam_authentication: bool = setting(
        False, "Log in to Amazon RDS or Aurora by an IAM token instead of a password (extra 'aws').", kinds.flag()
    )
    database_pool_size: int = setting(
        4, "Connections that each worker process keeps at most. The server needs replicas × worker_processes × this.",
        kinds.whole("connections", 1, 1000),
    )  # fmt: skip
    database_connect_timeout: float = setting(
        20.0, "Seconds to try to open one connection before giving it up.", kinds.number("seconds", above=0)
    )
    database_deadline: float = setting(
        5.0, "Seconds a request may wait for the database before it is answered 503.", kinds.number("seconds", above=0)
    )
    database_statement_timeout: float = setting(
        60.0, "Seconds after which the database ends a single statement. Not below database_deadline.",
        kinds.number("seconds", above=0),
    )  # fmt: skip
    data_dir: Path = found_setting(
        default_data_dir, "Where the private PostgreSQL keeps its files when database_url is not set.",
        kinds.directory(),
    )  # fmt: skip

    # Listeners
    host: str = setting("0.0.0.0", "Address the device listener binds to.", kinds.listen_host())  # noqa: S104
    device_port: int = setting(5000, "Port of the device listener, the one phones reach.", kinds.port())
    management_host: str = setting(
        "127.0.0.1", "Address the management listener binds to. Another than loopback needs management_token.",
        kinds.listen_host(),
    )  # fmt: skip
    management_port: int = setting(
        5050, "Port of the management listener: hosting, retrieving, metrics. Never open it to phones.", kinds.port()
    )
    management_token: str | None = setting(
        None, "Bearer token that management requests must carry. Not set: only loopback may manage.",
        kinds.text("at least 16 printable characters", minimum=16), secret=True,
    )  # fmt: skip
    worker_processes: int = setting(
        1,
        "Processes that serve requests. One for about every two cores: more commit smaller groups.",
        kinds.whole("processes", 1, 256),
    )
    threads_per_process: int = setting(
        16, "Threads in each worker process that handle requests.", kinds.whole("threads", 1, 1024)
    )
    legacy_hosting: bool = setting(
        False, "Also let hosting and retrieving in through the device port, as notebooks of 2020 do, without a token.",
        kinds.flag(),
    )  # fmt: skip
    drain_timeout: float = setting(
        30.0, "Seconds that running requests get to end after SIGTERM.", kinds.number("seconds", minimum=0)
    )

    # Identity and the master node
    node_id: str = found_setting(
        socket.gethostname, "Name of this node in progress events and logs.",
        kinds.text("1 to 253 printable characters", maximum=253),
    )  # fmt: skip
    master_url: str | None = setting(
        None, "Master node that progress is posted to. Not set: progress is not reported.", kinds.http_url()
    )
    master_key: str | None = setting(
        None, "Bearer token for the master node.", kinds.text("1 to 4096 printable characters"), secret=True
    )
    master_timeout: float = setting(
        10.0, "Seconds to wait for the master node's answer.", kinds.number("seconds", above=0)
    )

    # Limits
    body_limit: int = setting(256 * MIB, "Bytes a device request's body may have.", kinds.whole("bytes", 1024))
    hosting_limit: int = setting(
        1024 * MIB, "Bytes a hosting request's body may have (hex over WebSocket doubles a model's size).",
        kinds.whole("bytes", 1024),
    )  # fmt: skip
    header_timeout: float = setting(
        10.0, "Seconds a request's header may take to arrive.", kinds.number("seconds", above=0)
    )
    body_timeout: float = setting(
        300.0, "Seconds a request's body may take to arrive. Slow phones with large diffs need minutes.",
        kinds.number("seconds", above=0),
    )  # fmt: skip
    connection_limit: int = setting(
        10_000, "Open connections per worker process, idle WebSockets included.", kinds.whole("connections", 1)
    )
    connection_limit_per_address: int = setting(
        4096, "Open connections from one address per worker process (0: no limit). Many phones share one NAT address.",
        kinds.whole("connections", 0),
    )  # fmt: skip
    request_rate_per_address: float = setting(
        1000.0, "Requests per second from one address per worker process (0: no limit). Many phones share one address.",
        kinds.number("requests per second", minimum=0),
    )  # fmt: skip
    trusted_proxies: tuple[Network, ...] = setting(
        (), "Proxies whose X-Forwarded-For is believed. None: the address is the connection's.", kinds.networks()
    )
    speed_test_bytes: int = setting(64 * MIB, "Bytes that a speed test downloads.", kinds.whole("bytes", 1, 1024 * MIB))

    # Cycles, averaging and checkpoints
    sweep_interval: float = setting(
        1.0, "Seconds between two looks for cycles that are due.", kinds.number("seconds", above=0)
    )
    averaging_plan_memory: int = setting(
        2048 * MIB, "Bytes of memory that a hosted averaging plan's process may use.", kinds.whole("bytes", 64 * MIB)
    )
    averaging_plan_timeout: float = setting(
        120.0, "Seconds that a hosted averaging plan may run.", kinds.number("seconds", above=0)
    )
    averaging_list_limit: int = setting(
        1024 * MIB, "Bytes of all diffs together that a list-form averaging plan is given (max_diffs × model size).",
        kinds.whole("bytes", 1),
    )  # fmt: skip
    averaging_sandboxes: int = setting(
        4, "Processes of averaging plans in each worker process, idle ones too. Each may use averaging_plan_memory.",
        kinds.whole("processes", 1, 64),
    )  # fmt: skip
    checkpoint_cache_bytes: int = setting(
        256 * MIB, "Bytes of checkpoints and plans that each worker process keeps in memory.", kinds.whole("bytes", 0)
    )
    checkpoint_retention: int | None = setting(
        None, "How many of a process's newest checkpoints are kept ('all' or a number).", kinds.all_or_last()
    )

    # Logs
    log_format: str = setting(
        "auto", "Form of log lines. auto: text on a terminal, else json.", kinds.choice("auto", "json", "text")
    )
    log_level: str = setting("info", "Least severe log lines shown.", kinds.choice("debug", "info", "warning", "error"))

    sources: Mapping[str, Source] = field(default_factory=dict, repr=False, compare=False)
    """Where each setting that has not its default came from."""
    warnings: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """What the environment held that is probably a mistake; whoever loads the settings logs it."""


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting as it is shown to people; ``value`` never holds a secret."""

    name: str
    variable: str
    value: str
    source: Source
    description: str


def setting_specs() -> tuple[SettingSpec, ...]:
    """All settings in the order of their declaration."""
    return specs_of(Settings, PREFIX)


def load_settings(environ: Mapping[str, str], overrides: Mapping[str, object] | None = None) -> Settings:
    """Read all settings.

    Args:
        environ: usually ``os.environ``.
        overrides: flags by field name; None means that the flag was not given.

    Raises:
        InvalidSetting: a value is not accepted, a secret is given twice, or its file can't be read.
    """
    specs = setting_specs()
    values, sources = read_settings(specs, environ, overrides)
    return Settings(**values, sources=sources, warnings=tuple(_warnings(environ, specs)))


def describe(settings: Settings) -> list[SettingRow]:
    """All settings in the order of their declaration, with secrets masked."""
    return [
        SettingRow(
            spec.name,
            spec.variable,
            _shown(spec, getattr(settings, spec.name)),
            settings.sources.get(spec.name, "default"),
            spec.description,
        )
        for spec in setting_specs()
    ]


def check_listeners(settings: Settings) -> None:
    """Refuse combinations that must not serve; commands that open no port don't care.

    Raises:
        InvalidSetting: management would be open to other machines without a token, or both listeners share a port.
    """
    if settings.management_token is None and not _is_loopback(settings.management_host):
        raise InvalidSetting(
            f"{PREFIX}MANAGEMENT_HOST is {settings.management_host!r}, which other machines reach, without a token. "
            f"Set {PREFIX}MANAGEMENT_TOKEN (or {PREFIX}MANAGEMENT_TOKEN_FILE), or listen on 127.0.0.1."
        )
    if settings.device_port == settings.management_port != 0:
        raise InvalidSetting(
            f"{PREFIX}DEVICE_PORT and {PREFIX}MANAGEMENT_PORT are both {settings.device_port}: "
            "phones must not reach management. Choose two ports."
        )


def check_database(settings: Settings) -> None:
    """Refuse what can't be meant about the database.

    Raises:
        InvalidSetting: IAM without a database to log in to, or statements that end before a request gives up.
    """
    if settings.database_iam_authentication and settings.database_url is None:
        raise InvalidSetting(
            f"{PREFIX}DATABASE_IAM_AUTHENTICATION is on without {PREFIX}DATABASE_URL: set it to the cluster's "
            "endpoint, with the login and without a password."
        )
    if settings.database_statement_timeout < settings.database_deadline:
        raise InvalidSetting(
            f"{PREFIX}DATABASE_STATEMENT_TIMEOUT is {settings.database_statement_timeout:g}, below "
            f"{PREFIX}DATABASE_DEADLINE ({settings.database_deadline:g}): statements would end while requests still "
            "wait for them. Raise it, or lower the deadline."
        )


def secret_values(settings: Settings) -> tuple[str, ...]:
    """The secrets in use, for the filter that keeps them out of the logs."""
    return secrets_in(settings, setting_specs())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _shown(spec: SettingSpec, value: object) -> str:
    if value is None:
        return spec.kind.none
    text: str = spec.kind.show(value)
    if spec.secret:
        return masked_url(text) if spec.name.endswith("_url") else HIDDEN
    return text


def _warnings(environ: Mapping[str, str], specs: Iterable[SettingSpec]) -> Iterator[str]:
    """One sentence for each variable that looks like a setting and is none."""
    known = {spec.variable for spec in specs} | {f"{spec.variable}_FILE" for spec in specs if spec.secret}
    known |= _CLIENT_VARIABLES
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        if is_service_link(environ[variable]) or _SERVICE_LINK_NAME.search(variable):
            if variable in known:
                yield f"{variable} holds a Kubernetes service link and is ignored: set enableServiceLinks to false."
        elif variable not in known and not variable.startswith(_OTHER_PROGRAMS):
            yield f"{variable} is not a setting and is ignored{_hint(variable, known)}"


def _hint(variable: str, known: set[str]) -> str:
    if variable.endswith("_FILE") and variable.removesuffix("_FILE") in known:
        return f": only secrets are read from files. Set {variable.removesuffix('_FILE')}."
    names = sorted(name.removeprefix(PREFIX) for name in known)
    close = [PREFIX + name for name in difflib.get_close_matches(variable.removeprefix(PREFIX), names)]
    return f". Did you mean {' or '.join(close)}?" if close else ". `gridnode config` lists all settings."
