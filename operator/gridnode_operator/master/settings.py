# ruff: noqa: RUF009 - fields are declared by a function, which makes immutable values
"""Every setting of the master node, read from flags, the environment and secret files by the rules of the node's.

A field ``x`` is set by its flag, else by ``GRIDNODE_MASTER_X``, else (secrets) by the content of the file that
``GRIDNODE_MASTER_X_FILE`` names, else it has its default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from gridnode import setting_kinds as kinds
from gridnode.setting_kinds import Kind, Network
from gridnode.settings import InvalidSetting

T = TypeVar("T")

PREFIX: Final = "GRIDNODE_MASTER_"
MIB: Final = 1024 * 1024
DEFAULT_PORT: Final = 5001
DEFAULT_SCHEMA: Final = "gridnode_master"

# A Service called 'gridnode-master' gives every pod of its namespace GRIDNODE_MASTER_PORT=tcp://10.0.0.7:5001.
_SERVICE_LINK: Final = re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+")
_LARGEST_SECRET_FILE: Final = 65_536


def _setting(default: T, description: str, kind: Kind[Any], *, secret: bool = False) -> T:
    metadata = {"description": description, "kind": kind, "secret": secret}
    # field() is typed as its default so that type checkers see the dataclass with defaults.
    return field(default=default, repr=not secret, metadata=metadata)


def _found_setting(find: Callable[[], T], description: str, kind: Kind[Any]) -> T:
    return field(default_factory=find, metadata={"description": description, "kind": kind, "secret": False})


def _file(what: str) -> Kind[Path]:
    return Kind(f"the path of {what}", kinds.directory().read)


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "gridnode"


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterSettings:
    """All settings. Direct construction checks nothing: it is for tests; programs use :func:`load_master_settings`."""

    database_url: str | None = _setting(
        None, "PostgreSQL server and database. Not set: a private one is started (extra 'embedded').",
        kinds.database_url(), secret=True,
    )  # fmt: skip
    database_schema: str | None = _setting(
        DEFAULT_SCHEMA, "Schema that holds the master node's tables, made where there is none.", kinds.schema()
    )
    database_pool_size: int = _setting(8, "Database connections at most.", kinds.whole("connections", 2, 100))
    database_connect_timeout: float = _setting(
        20.0, "Seconds to try to open one connection before giving it up.", kinds.number("seconds", above=0)
    )
    database_deadline: float = _setting(
        5.0, "Seconds a request may wait for the database before it is answered 503.", kinds.number("seconds", above=0)
    )
    data_dir: Path = _found_setting(
        _default_data_dir, "Where the private PostgreSQL, and finished models by default, keep their files.",
        kinds.directory(),
    )  # fmt: skip

    host: str = _setting("0.0.0.0", "Address to listen on.", kinds.listen_host())  # noqa: S104
    port: int = _setting(DEFAULT_PORT, "Port to listen on.", kinds.port())
    threads: int = _setting(32, "Threads that handle requests.", kinds.whole("threads", 1, 1024))
    viewers: int = _setting(1000, "Open event streams at most.", kinds.whole("streams", 1, 100_000))
    body_limit: int = _setting(MIB, "Bytes that a request's body may have.", kinds.whole("bytes", 1024))
    trusted_proxies: tuple[Network, ...] = _setting(
        (), "Proxies whose X-Forwarded-For is believed. None: the address is the connection's.", kinds.networks()
    )
    drain_timeout: float = _setting(
        10.0, "Seconds that running requests get to end after SIGTERM.", kinds.number("seconds", minimum=0)
    )

    admin_token: str | None = _setting(
        None, "A key with the scope admin that is not in the database, to begin with.",
        kinds.text("at least 32 printable characters", minimum=32), secret=True,
    )  # fmt: skip
    node_key: str | None = _setting(
        None, "A key with the scope node that is not in the database: the operator gives it to its nodes.",
        kinds.text("at least 32 printable characters", minimum=32), secret=True,
    )  # fmt: skip
    legacy_access: bool = _setting(
        False,
        "Let notebooks and nodes of 2020 in without a key. Whoever reaches the port can then act for any owner.",
        kinds.flag(),
    )

    provider: str = _setting(
        "none",
        "Who makes nodes: kubernetes (GridNode resources), local (manifests for a running `gridnode up`), "
        "static (a file lists them), none.",
        kinds.choice("none", "static", "local", "kubernetes"),
    )
    nodes_file: Path | None = _setting(None, "static: YAML file that lists the nodes.", _file("a YAML file"))
    nodes_dir: Path | None = _setting(
        None, "local: directory of GridNode manifests that `gridnode up` watches.", kinds.directory()
    )
    namespace: str | None = _setting(
        None, "kubernetes: where GridNodes are made. Not set: the namespace of the master node's own pod.",
        kinds.text("a namespace's name", maximum=63),
    )  # fmt: skip
    node_template: Path | None = _setting(
        None, "kubernetes, local: YAML file with the spec of new GridNodes; '{name}' in it is the node's name.",
        _file("a YAML file"),
    )  # fmt: skip
    observe_interval: float = _setting(
        10.0, "Seconds between two looks at the nodes.", kinds.number("seconds", above=0)
    )
    silent_after: float = _setting(
        120.0, "Seconds without any sign of a node after which it is shown as silent.",
        kinds.number("seconds", above=0),
    )  # fmt: skip
    stuck_after: float = _setting(
        3600.0, "Seconds without a report after which a model in training is shown as stuck.",
        kinds.number("seconds", above=0),
    )  # fmt: skip

    storage_url: str | None = _setting(
        None, "fsspec URL of the directory for finished models, such as s3://bucket/models. Not set: below data_dir.",
        kinds.text("a URL such as s3://bucket/models or file:///var/lib/gridnode/finished"),
    )  # fmt: skip
    fetch_interval: float = _setting(
        5.0, "Seconds between two looks for finished models that are not stored yet.", kinds.number("seconds", above=0)
    )
    checkpoint_limit: int = _setting(4096 * MIB, "Bytes that a finished model may have.", kinds.whole("bytes", 1024))
    event_days: int = _setting(30, "Days that progress events are kept.", kinds.whole("days", 1, 3650))

    log_format: str = _setting(
        "auto", "Form of log lines. auto: text on a terminal, else json.", kinds.choice("auto", "json", "text")
    )
    log_level: str = _setting(
        "info", "Least severe log lines shown.", kinds.choice("debug", "info", "warning", "error")
    )

    @property
    def storage(self) -> str:
        """The URL of the directory for finished models."""
        return self.storage_url or (self.data_dir / "finished").as_uri()


@dataclass(frozen=True, slots=True)
class MasterSettingSpec:
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


def master_setting_specs() -> Iterator[MasterSettingSpec]:
    """All settings in the order of their declaration."""
    for each in fields(MasterSettings):
        yield MasterSettingSpec(each.name, **each.metadata)


def load_master_settings(environ: Mapping[str, str], overrides: Mapping[str, object] | None = None) -> MasterSettings:
    """Read all settings.

    Args:
        environ: usually ``os.environ``.
        overrides: flags by field name; None means that the flag was not given.

    Raises:
        InvalidSetting: a value is not accepted, a secret is given twice, or its file can't be read.
    """
    flags = {name: value for name, value in (overrides or {}).items() if value is not None}
    values: dict[str, Any] = {}
    for spec in master_setting_specs():
        found = _find(spec, environ, flags)
        if found is not None:
            values[spec.name] = _read(spec, *found)
    settings = MasterSettings(**values)
    _check(settings)
    return settings


def secret_values(settings: MasterSettings) -> tuple[str, ...]:
    """The secrets in use, for the filter that keeps them out of the logs."""
    return tuple(value for spec in master_setting_specs() if spec.secret and (value := getattr(settings, spec.name)))


def _check(settings: MasterSettings) -> None:
    needed = {"static": ("nodes_file", settings.nodes_file), "local": ("nodes_dir", settings.nodes_dir)}
    name, value = needed.get(settings.provider, ("", ""))
    if value is None:
        variable = PREFIX + name.upper()
        raise InvalidSetting(f"{PREFIX}PROVIDER is {settings.provider!r}, which needs {variable}. Set it.")


def _find(spec: MasterSettingSpec, environ: Mapping[str, str], flags: Mapping[str, object]) -> tuple[str, str] | None:
    """The text of a setting, and how to call its source in an error."""
    if spec.name in flags:
        given = flags[spec.name]
        return (str(given).lower() if isinstance(given, bool) else str(given)), spec.flag
    text = environ.get(spec.variable, "")
    if _SERVICE_LINK.fullmatch(text) and spec.name == "port":
        text = ""
    path = environ.get(f"{spec.variable}_FILE", "") if spec.secret else ""
    if text and path:
        raise InvalidSetting(f"{spec.variable} and {spec.variable}_FILE are both set: keep one of them.")
    if path:
        return _secret_from_file(f"{spec.variable}_FILE", path), f"the file of {spec.variable}_FILE"
    return (text, spec.variable) if text else None


def _secret_from_file(variable: str, path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(_LARGEST_SECRET_FILE).strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InvalidSetting(f"{variable} names {path!r}, which can't be read: {reason}.") from None
    if not text:
        raise InvalidSetting(f"{variable} names {path!r}, which is empty.")
    return text


def _read(spec: MasterSettingSpec, text: str, origin: str) -> Any:
    try:
        return spec.kind.read(text.strip())
    except ValueError:
        shown = f"is {text!r}" if not spec.secret else "has a value (not shown) that can't be used"
        raise InvalidSetting(f"{origin} {shown}; accepted is {spec.kind.accepts}.") from None
