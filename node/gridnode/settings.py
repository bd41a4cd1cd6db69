"""Every setting of the node, in one frozen dataclass, read from flags, the environment and secret files.

A field ``x`` is set by the flag that a command gives it, else by the variable ``GRIDNODE_X``, else (secrets only) by
the content of the file that ``GRIDNODE_X_FILE`` names, else it has its default. An empty variable counts as not set.
Sizes are in bytes, durations in seconds.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from gridnode import setting_kinds as kinds
from gridnode.errors import GridNodeError
from gridnode.redaction import HIDDEN, masked_url
from gridnode.setting_kinds import Kind, Network

T = TypeVar("T")
Source = Literal["default", "environment", "file", "flag"]

PREFIX = "GRIDNODE_"
MIB = 1024 * 1024

# Kubernetes puts such variables into every pod for each Service of the namespace; one called 'gridnode-device' gives
# GRIDNODE_DEVICE_PORT=tcp://10.0.0.7:5000, which is nobody's setting.
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+")
_SERVICE_LINK_NAME = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$")

# Read by the commands that manage a node, and set in the same shells and pods as its settings.
_CLIENT_VARIABLES = frozenset({f"{PREFIX}MANAGEMENT_URL"})


class InvalidSetting(GridNodeError):
    """A setting can't be used. The message names it, its value unless secret, and what is accepted."""


def _setting(default: T, description: str, kind: Kind[Any], *, secret: bool = False) -> T:
    metadata = {"description": description, "kind": kind, "secret": secret}
    # field() is typed as its default so that type checkers see the dataclass with defaults.
    return field(default=default, repr=not secret, metadata=metadata)


def _found_setting(find: Callable[[], T], description: str, kind: Kind[Any]) -> T:
    """A setting whose default depends on the machine."""
    return field(default_factory=find, metadata={"description": description, "kind": kind})


def _default_data_dir() -> Path:
    # XDG base directory specification: relative paths in the variable are to be ignored.
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "gridnode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings. Direct construction checks nothing: it is for tests; programs use :func:`load_settings`."""

    # Database
    database_url: str | None = _setting(
        None, "PostgreSQL of this node. Not set: a private one is started (extra 'embedded').", kinds.database_url(),
        secret=True,
    )  # fmt: skip
    database_schema: str | None = _setting(
        None, "Schema that holds the node's tables. Not set: the role's search_path decides.", kinds.schema()
    )
    database_iam_authentication: bool = _setting(
        False, "Log in to Amazon RDS or Aurora by an IAM token instead of a password (extra 'aws').", kinds.flag()
    )
    database_pool_size: int = _setting(
        4, "Connections that each worker process keeps at most. The server needs replicas × worker_processes × this.",
        kinds.whole("connections", 1, 1000),
    )  # fmt: skip
    database_connect_timeout: float = _setting(
        20.0, "Seconds to try to open one connection before giving it up.", kinds.number("seconds", above=0)
    )
    database_deadline: float = _setting(
        5.0, "Seconds a request may wait for the database before it is answered 503.", kinds.number("seconds", above=0)
    )
    database_statement_timeout: float = _setting(
        60.0, "Seconds after which the database ends a single statement. Not below database_deadline.",
        kinds.number("seconds", above=0),
    )  # fmt: skip
    data_dir: Path = _found_setting(
        _default_data_dir, "Where the private PostgreSQL keeps its files when database_url is not set.",
        kinds.directory(),
    )  # fmt: skip

    # Listeners
    host: str = _setting("0.0.0.0", "Address the device listener binds to.", kinds.listen_host())  # noqa: S104
    device_port: int = _setting(5000, "Port of the device listener, the one phones reach.", kinds.port())
    management_host: str = _setting(
        "127.0.0.1", "Address the management listener binds to. Another than loopback needs management_token.",
        kinds.listen_host(),
    )  # fmt: skip
    management_port: int = _setting(
        5050, "Port of the management listener: hosting, retrieving, metrics. Never open it to phones.", kinds.port()
    )
    management_token: str | None = _setting(
        None, "Bearer token that management requests must carry. Not set: only loopback may manage.",
        kinds.text("at least 16 printable characters", minimum=16), secret=True,
    )  # fmt: skip
    worker_processes: int = _setting(
        1,
        "Processes that serve requests. One for about every two cores: more commit smaller groups.",
        kinds.whole("processes", 1, 256),
    )
    threads_per_process: int = _setting(
        16, "Threads in each worker process that handle requests.", kinds.whole("threads", 1, 1024)
    )
    legacy_hosting: bool = _setting(
        False, "Also let hosting and retrieving in through the device port, as notebooks of 2020 do, without a token.",
        kinds.flag(),
    )  # fmt: skip
    drain_timeout: float = _setting(
        30.0, "Seconds that running requests get to end after SIGTERM.", kinds.number("seconds", minimum=0)
    )

    # Identity and the master node
    node_id: str = _found_setting(
        socket.gethostname, "Name of this node in progress events and logs.",
        kinds.text("1 to 253 printable characters", maximum=253),
    )  # fmt: skip
    master_url: str | None = _setting(
        None, "Master node that progress is posted to. Not set: progress is not reported.", kinds.http_url()
    )
    master_key: str | None = _setting(
        None, "Bearer token for the master node.", kinds.text("1 to 4096 printable characters"), secret=True
    )
    master_timeout: float = _setting(
        10.0, "Seconds to wait for the master node's answer.", kinds.number("seconds", above=0)
    )

    # Limits
    body_limit: int = _setting(256 * MIB, "Bytes a device request's body may have.", kinds.whole("bytes", 1024))
    hosting_limit: int = _setting(
        1024 * MIB, "Bytes a hosting request's body may have (hex over WebSocket doubles a model's size).",
        kinds.whole("bytes", 1024),
    )  # fmt: skip
    header_timeout: float = _setting(
        10.0, "Seconds a request's header may take to arrive.", kinds.number("seconds", above=0)
    )
    body_timeout: float = _setting(
        300.0, "Seconds a request's body may take to arrive. Slow phones with large diffs need minutes.",
        kinds.number("seconds", above=0),
    )  # fmt: skip
    connection_limit: int = _setting(
        10_000, "Open connections per worker process, idle WebSockets included.", kinds.whole("connections", 1)
    )
    connection_limit_per_address: int = _setting(
        4096, "Open connections from one address per worker process (0: no limit). Many phones share one NAT address.",
        kinds.whole("connections", 0),
    )  # fmt: skip
    request_rate_per_address: float = _setting(
        1000.0, "Requests per second from one address per worker process (0: no limit). Many phones share one address.",
        kinds.number("requests per second", minimum=0),
    )  # fmt: skip
    trusted_proxies: tuple[Network, ...] = _setting(
        (), "Proxies whose X-Forwarded-For is believed. None: the address is the connection's.", kinds.networks()
    )
    speed_test_bytes: int = _setting(
        64 * MIB, "Bytes that a speed test downloads.", kinds.whole("bytes", 1, 1024 * MIB)
    )

    # Cycles, averaging and checkpoints
    sweep_interval: float = _setting(
        1.0, "Seconds between two looks for cycles that are due.", kinds.number("seconds", above=0)
    )
    averaging_plan_memory: int = _setting(
        2048 * MIB, "Bytes of memory that a hosted averaging plan's process may use.", kinds.whole("bytes", 64 * MIB)
    )
    averaging_plan_timeout: float = _setting(
        120.0, "Seconds that a hosted averaging plan may run.", kinds.number("seconds", above=0)
    )
    averaging_list_limit: int = _setting(
        1024 * MIB, "Bytes of all diffs together that a list-form averaging plan is given (max_diffs × model size).",
        kinds.whole("bytes", 1),
    )  # fmt: skip
    averaging_sandboxes: int = _setting(
        4, "Processes of averaging plans in each worker process, idle ones too. Each may use averaging_plan_memory.",
        kinds.whole("processes", 1, 64),
    )  # fmt: skip
    checkpoint_cache_bytes: int = _setting(
        256 * MIB, "Bytes of checkpoints and plans that each worker process keeps in memory.", kinds.whole("bytes", 0)
    )
    checkpoint_retention: int | None = _setting(
        None, "How many of a process's newest checkpoints are kept ('all' or a number).", kinds.all_or_last()
    )

    # Logs
    log_format: str = _setting(
        "auto", "Form of log lines. auto: text on a terminal, else json.", kinds.choice("auto", "json", "text")
    )
    log_level: str = _setting(
        "info", "Least severe log lines shown.", kinds.choice("debug", "info", "warning", "error")
    )

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


@dataclass(frozen=True, slots=True)
class SettingSpec:
    """What a setting is, whatever its value."""

    name: str
    description: str
    kind: Kind[Any]
    secret: bool = False

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The command-line flag."""
        return "--" + self.name.replace("_", "-")

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        return self.kind.is_switch


def setting_specs() -> Iterator[SettingSpec]:
    """All settings in the order of their declaration."""
    for each in fields(Settings):
        if "kind" in each.metadata:
            yield SettingSpec(each.name, **each.metadata)


def load_settings(environ: Mapping[str, str], overrides: Mapping[str, object] | None = None) -> Settings:
    """Read all settings.

    Args:
        environ: usually ``os.environ``.
        overrides: flags by field name; None means that the flag was not given.

    Raises:
        InvalidSetting: a value is not accepted, a secret is given twice, or its file can't be read.
    """
    flags = {name: value for name, value in (overrides or {}).items() if value is not None}
    specs = {spec.name: spec for spec in setting_specs()}
    if unknown := flags.keys() - specs.keys():
        raise TypeError(f"no such settings: {', '.join(sorted(unknown))}")

    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for spec in specs.values():
        found = _find(spec, environ, flags)
        if found is not None:
            text, source, origin = found
            values[spec.name] = _read(spec, text, origin)
            sources[spec.name] = source
    return Settings(**values, sources=sources, warnings=tuple(_warnings(environ, list(specs.values()))))


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
    return tuple(value for spec in setting_specs() if spec.secret and (value := getattr(settings, spec.name)))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _find(spec: SettingSpec, environ: Mapping[str, str], flags: Mapping[str, object]) -> tuple[str, Source, str] | None:
    """The text of a setting, its source, and how to call that source in an error."""
    if spec.name in flags:
        return _flag_text(spec, flags[spec.name]), "flag", spec.flag
    text = environ.get(spec.variable, "")
    if _SERVICE_LINK.fullmatch(text) and spec.variable.endswith("_PORT"):
        text = ""
    if not spec.secret:
        return (text, "environment", spec.variable) if text else None

    file_variable = f"{spec.variable}_FILE"
    path = environ.get(file_variable, "")
    if text and path:
        raise InvalidSetting(f"{spec.variable} and {file_variable} are both set: keep one of them.")
    if path:
        return _secret_from_file(file_variable, path), "file", f"the file of {file_variable}"
    return (text, "environment", spec.variable) if text else None


def _flag_text(spec: SettingSpec, value: object) -> str:
    return value if isinstance(value, str) else spec.kind.show(value)


def _secret_from_file(variable: str, path: str) -> str:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InvalidSetting(f"{variable} is {path!r}, which can't be read: {reason}.") from None
    if not text:
        raise InvalidSetting(f"{variable} is {path!r}, which is empty.")
    return text


def _read(spec: SettingSpec, text: str, origin: str) -> Any:
    try:
        return spec.kind.read(text.strip())
    except ValueError:
        shown = f"is {text!r}" if not spec.secret else "has a value (not shown) that can't be used"
        raise InvalidSetting(f"{origin} {shown}; accepted is {spec.kind.accepts}.") from None


def _shown(spec: SettingSpec, value: object) -> str:
    if value is None:
        return spec.kind.none
    text: str = spec.kind.show(value)
    if spec.secret:
        return masked_url(text) if spec.name.endswith("_url") else HIDDEN
    return text


def _warnings(environ: Mapping[str, str], specs: list[SettingSpec]) -> Iterator[str]:
    """One sentence for each variable that looks like a setting and is none."""
    known = {spec.variable for spec in specs} | {f"{spec.variable}_FILE" for spec in specs if spec.secret}
    known |= _CLIENT_VARIABLES
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        if _SERVICE_LINK.fullmatch(environ[variable]) or _SERVICE_LINK_NAME.search(variable):
            if variable in known:
                yield f"{variable} holds a Kubernetes service link and is ignored: set enableServiceLinks to false."
        elif variable not in known:
            yield f"{variable} is not a setting and is ignored{_hint(variable, known)}"


def _hint(variable: str, known: set[str]) -> str:
    if variable.endswith("_FILE") and variable.removesuffix("_FILE") in known:
        return f": only secrets are read from files. Set {variable.removesuffix('_FILE')}."
    names = sorted(name.removeprefix(PREFIX) for name in known)
    close = [PREFIX + name for name in difflib.get_close_matches(variable.removeprefix(PREFIX), names)]
    return f". Did you mean {' or '.join(close)}?" if close else ". `gridnode config` lists all settings."
