"""Settings as fields of a frozen dataclass, read from flags, the environment and secret files, alike in every program.

A field ``x`` is set by its flag, else by the variable ``PREFIX_X``, else (secrets only) by the content of the file that
``PREFIX_X_FILE`` names, else it has its default. An empty variable counts as not set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from gridnode.errors import GridNodeError
from gridnode.setting_kinds import Kind

T = TypeVar("T")
Source = Literal["default", "environment", "file", "flag"]

_LARGEST_SECRET_FILE: Final = 65_536
# Kubernetes puts such variables into every pod for each Service of the namespace; one called 'gridnode-device' gives
# GRIDNODE_DEVICE_PORT=tcp://10.0.0.7:5000, which is nobody's setting.
_SERVICE_LINK: Final = re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+")


class InvalidSetting(GridNodeError):
    """A setting can't be used. The message names it, its value unless secret, and what is accepted."""


@dataclass(frozen=True, slots=True)
class SettingSpec:
    """What a setting is, whatever its value."""

    prefix: str
    name: str
    description: str
    kind: Kind[Any]
    secret: bool = False

    @property
    def variable(self) -> str:
        """The environment variable."""
        return self.prefix + self.name.upper()

    @property
    def flag(self) -> str:
        """The command-line flag."""
        return "--" + self.name.replace("_", "-")

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        return self.kind.is_switch


def setting(default: T, description: str, kind: Kind[Any], *, secret: bool = False) -> T:
    """Declare a field that is a setting."""
    metadata = {"description": description, "kind": kind, "secret": secret}
    # field() is typed as its default so that type checkers see the dataclass with defaults.
    return field(default=default, repr=not secret, metadata=metadata)


def found_setting(find: Callable[[], T], description: str, kind: Kind[Any]) -> T:
    """Declare a setting whose default depends on the machine."""
    return field(default_factory=find, metadata={"description": description, "kind": kind})


def specs_of(settings: type, prefix: str) -> tuple[SettingSpec, ...]:
    """All settings of a dataclass in the order of their declaration."""
    return tuple(
        SettingSpec(prefix, each.name, **each.metadata) for each in fields(settings) if "kind" in each.metadata
    )


def read_settings(
    specs: Iterable[SettingSpec], environ: Mapping[str, str], flags: Mapping[str, object] | None = None
) -> tuple[dict[str, Any], dict[str, Source]]:
    """The values of all settings that have not their default, and where each came from.

    Args:
        specs: What there is to be set.
        environ: Usually ``os.environ``.
        flags: By field name; None means that the flag was not given.

    Raises:
        InvalidSetting: a value is not accepted, a secret is given twice, or its file can't be read.
    """
    by_name = {spec.name: spec for spec in specs}
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    if unknown := given.keys() - by_name.keys():
        raise TypeError(f"no such settings: {', '.join(sorted(unknown))}")
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for spec in by_name.values():
        found = _find(spec, environ, given)
        if found is not None:
            text, sources[spec.name], origin = found
            values[spec.name] = _read(spec, text, origin)
    return values, sources


def secrets_in(settings: object, specs: Iterable[SettingSpec]) -> tuple[str, ...]:
    """The secrets in use, for the filter that keeps them out of the logs."""
    return tuple(value for spec in specs if spec.secret and (value := getattr(settings, spec.name)))


def is_service_link(text: str) -> bool:
    """Whether the text of a variable was put there by Kubernetes for a Service."""
    return _SERVICE_LINK.fullmatch(text) is not None


def default_data_dir() -> Path:
    """Where programs of this product keep data on a laptop."""
    # XDG base directory specification: relative paths in the variable are to be ignored.
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "gridnode"


def _find(spec: SettingSpec, environ: Mapping[str, str], flags: Mapping[str, object]) -> tuple[str, Source, str] | None:
    """The text of a setting, its source, and how to call that source in an error."""
    if spec.name in flags:
        value = flags[spec.name]
        return value if isinstance(value, str) else spec.kind.show(value), "flag", spec.flag
    text = environ.get(spec.variable, "")
    if is_service_link(text) and (spec.name == "port" or spec.name.endswith("_port")):
        text = ""
    file_variable = f"{spec.variable}_FILE"
    path = environ.get(file_variable, "") if spec.secret else ""
    if text and path:
        raise InvalidSetting(f"{spec.variable} and {file_variable} are both set: keep one of them.")
    if path:
        return _secret_from_file(file_variable, path), "file", f"the file of {file_variable}"
    return (text, "environment", spec.variable) if text else None


def _secret_from_file(variable: str, path: str) -> str:
    try:
        with Path(path).expanduser().open(encoding="utf-8") as file:
            text = file.read(_LARGEST_SECRET_FILE).strip()
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
