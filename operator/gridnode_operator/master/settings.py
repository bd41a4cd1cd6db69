"""The settings of the master node, ``GRIDNODE_MASTER_*``, read as the node's are: :mod:`gridnode.declared_settings`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gridnode import setting_kinds as kinds
from gridnode.declared_settings import (
    InvalidSetting,
    SettingSpec,
    default_data_dir,
    found_setting,
    read_settings,
    secrets_in,
    setting,
    specs_of,
)
from gridnode.setting_kinds import Kind, Network

PREFIX: Final = "GRIDNODE_MASTER_"
MIB: Final = 1024 * 1024
DEFAULT_PORT: Final = 5001
DEFAULT_SCHEMA: Final = "gridnode_master"


def _file(what: str) -> Kind[Path]:
    return Kind(f"the path of {what}", kinds.directory().read)


def _words(accepts: str) -> Kind[tuple[str, ...]]:
    def read(value: str) -> tuple[str, ...]:
        if not value.isprintable():
            raise ValueError("not printable")
        return tuple(word.strip() for word in value.split(",") if word.strip())

    return Kind(accepts, read, ",".join)


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterSettings:
    """All settings. Direct construction checks nothing: it is for tests; programs use :func:`load_master_settings`."""

    database_url: str | None = setting(
        None, "PostgreSQL server and database. Not set: a private one is started (extra 'embedded').",
        kinds.database_url(), secret=True,
    )  # fmt: skip
    database_schema: str | None = setting(
        DEFAULT_SCHEMA, "Schema that holds the master node's tables, made where there is none.", kinds.schema()
    )
    database_pool_size: int = setting(8, "Database connections at most.", kinds.whole("connections", 2, 100))
    database_connect_timeout: float = setting(
        20.0, "Seconds to try to open one connection before giving it up.", kinds.number("seconds", above=0)
    )
    database_deadline: float = setting(
        5.0, "Seconds a request may wait for the database before it is answered 503.", kinds.number("seconds", above=0)
    )
    data_dir: Path = found_setting(
        default_data_dir, "Where the private PostgreSQL, and finished models by default, keep their files.",
        kinds.directory(),
    )  # fmt: skip

    host: str = setting("0.0.0.0", "Address to listen on.", kinds.listen_host())  # noqa: S104
    port: int = setting(DEFAULT_PORT, "Port to listen on.", kinds.port())
    threads: int = setting(32, "Threads that handle requests.", kinds.whole("threads", 1, 1024))
    viewers: int = setting(1000, "Open event streams at most.", kinds.whole("streams", 1, 100_000))
    body_limit: int = setting(MIB, "Bytes that a request's body may have.", kinds.whole("bytes", 1024))
    trusted_proxies: tuple[Network, ...] = setting(
        (), "Proxies whose X-Forwarded-For is believed. None: the address is the connection's.", kinds.networks()
    )
    drain_timeout: float = setting(
        10.0, "Seconds that running requests get to end after SIGTERM.", kinds.number("seconds", minimum=0)
    )

    admin_token: str | None = setting(
        None, "A key with the scope admin that is not in the database, to begin with.",
        kinds.text("at least 32 printable characters", minimum=32), secret=True,
    )  # fmt: skip
    node_key: str | None = setting(
        None, "A key with the scope node that is not in the database: the operator gives it to its nodes.",
        kinds.text("at least 32 printable characters", minimum=32), secret=True,
    )  # fmt: skip
    legacy_access: bool = setting(
        False,
        "Let notebooks and nodes of 2020 in without a key. Whoever reaches the port can then act for any owner.",
        kinds.flag(),
    )

    public_url: str | None = setting(
        None, "Where people reach the dashboard, such as https://grid.example.org. With https its cookies are Secure.",
        kinds.http_url(),
    )  # fmt: skip
    session_idle: float = setting(
        3600.0, "Seconds after which a session of the dashboard ends that nobody uses; a page in view uses it.",
        kinds.number("seconds", minimum=60),
    )  # fmt: skip
    session_lifetime: float = setting(
        86_400.0, "Seconds after which a session of the dashboard ends in any case.",
        kinds.number("seconds", minimum=60),
    )  # fmt: skip
    oidc_issuer: str | None = setting(
        None, "OpenID Connect: the issuer, such as https://login.example.org/realms/staff. Not set: keys only.",
        kinds.http_url(),
    )  # fmt: skip
    oidc_client_id: str | None = setting(
        None, "OpenID Connect: the client's id.", kinds.text("the id of a client", maximum=255)
    )
    oidc_client_secret: str | None = setting(
        None, "OpenID Connect: the client's secret.", kinds.text("the secret of a client"), secret=True
    )
    oidc_emails: tuple[str, ...] = setting(
        (), "OpenID Connect: who may sign in, as verified addresses, or @example.org for all of a domain.",
        _words("addresses or @domains separated by commas, such as ann@example.org,@grid.example.org"),
    )  # fmt: skip
    oidc_groups: tuple[str, ...] = setting(
        (), "OpenID Connect: groups whose members may sign in.",
        _words("names of groups separated by commas, such as platform,sre"),
    )  # fmt: skip
    oidc_groups_claim: str = setting(
        "groups", "OpenID Connect: the claim that lists groups.", kinds.text("the name of a claim", maximum=255)
    )

    provider: str = setting(
        "none",
        "Who makes nodes: kubernetes (GridNode resources), local (manifests for a running `gridnode up`), "
        "static (a file lists them), none.",
        kinds.choice("none", "static", "local", "kubernetes"),
    )
    nodes_file: Path | None = setting(None, "static: YAML file that lists the nodes.", _file("a YAML file"))
    nodes_dir: Path | None = setting(
        None, "local: directory of GridNode manifests that `gridnode up` watches.", kinds.directory()
    )
    namespace: str | None = setting(
        None, "kubernetes: where GridNodes are made. Not set: the namespace of the master node's own pod.",
        kinds.text("a namespace's name", maximum=63),
    )  # fmt: skip
    watch_namespaces: tuple[str, ...] = setting(
        (), "kubernetes: namespaces whose GridNodes there are, besides that one. Not set: all of the cluster.",
        _words("namespaces separated by commas, such as apps,ml"),
    )  # fmt: skip
    node_template: Path | None = setting(
        None, "kubernetes, local: YAML file with the spec of new GridNodes; '{name}' in it is the node's name.",
        _file("a YAML file"),
    )  # fmt: skip
    observe_interval: float = setting(10.0, "Seconds between two looks at the nodes.", kinds.number("seconds", above=0))
    silent_after: float = setting(
        120.0, "Seconds without any sign of a node after which it is shown as silent.",
        kinds.number("seconds", above=0),
    )  # fmt: skip
    stuck_after: float = setting(
        3600.0, "Seconds without a report after which a model in training is shown as stuck.",
        kinds.number("seconds", above=0),
    )  # fmt: skip

    storage_url: str | None = setting(
        None, "fsspec URL of the directory for finished models, such as s3://bucket/models. Not set: below data_dir.",
        kinds.text("a URL such as s3://bucket/models or file:///var/lib/gridnode/finished"),
    )  # fmt: skip
    fetch_interval: float = setting(
        5.0, "Seconds between two looks for finished models that are not stored yet.", kinds.number("seconds", above=0)
    )
    checkpoint_limit: int = setting(4096 * MIB, "Bytes that a finished model may have.", kinds.whole("bytes", 1024))
    event_days: int = setting(30, "Days that progress events are kept.", kinds.whole("days", 1, 3650))

    log_format: str = setting(
        "auto", "Form of log lines. auto: text on a terminal, else json.", kinds.choice("auto", "json", "text")
    )
    log_level: str = setting("info", "Least severe log lines shown.", kinds.choice("debug", "info", "warning", "error"))

    @property
    def storage(self) -> str:
        """The URL of the directory for finished models."""
        return self.storage_url or (self.data_dir / "finished").as_uri()


def master_setting_specs() -> tuple[SettingSpec, ...]:
    """All settings in the order of their declaration."""
    return specs_of(MasterSettings, PREFIX)


def load_master_settings(environ: Mapping[str, str], overrides: Mapping[str, object] | None = None) -> MasterSettings:
    """Read all settings.

    Args:
        environ: usually ``os.environ``.
        overrides: flags by field name; None means that the flag was not given.

    Raises:
        InvalidSetting: a value is not accepted, a secret is given twice, or its file can't be read.
    """
    values, _ = read_settings(master_setting_specs(), environ, overrides)
    settings = MasterSettings(**values)
    _check(settings)
    return settings


def secret_values(settings: MasterSettings) -> tuple[str, ...]:
    """The secrets in use, for the filter that keeps them out of the logs."""
    return secrets_in(settings, master_setting_specs())


def _check(settings: MasterSettings) -> None:
    needed = {"static": ("nodes_file", settings.nodes_file), "local": ("nodes_dir", settings.nodes_dir)}
    name, value = needed.get(settings.provider, ("", ""))
    if value is None:
        variable = PREFIX + name.upper()
        raise InvalidSetting(f"{PREFIX}PROVIDER is {settings.provider!r}, which needs {variable}. Set it.")
    if settings.oidc_issuer is not None:
        _check_oidc(settings)


def _check_oidc(settings: MasterSettings) -> None:
    for name in ("oidc_client_id", "oidc_client_secret", "public_url"):
        if getattr(settings, name) is None:
            raise InvalidSetting(f"{PREFIX}OIDC_ISSUER is set, which needs {PREFIX}{name.upper()}. Set it.")
    if not settings.oidc_emails and not settings.oidc_groups:
        raise InvalidSetting(
            f"{PREFIX}OIDC_ISSUER is set, but nobody may sign in: set {PREFIX}OIDC_EMAILS or {PREFIX}OIDC_GROUPS."
        )
