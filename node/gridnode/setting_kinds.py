"""What a setting's text may be: how it is read, and how it is shown.

Every kind reads text, whether it came from the environment, a secret's file or a flag, so that all sources obey the
same rules. A reader raises :class:`ValueError`; :mod:`gridnode.settings` adds the variable's name and what is accepted.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Longer names are cut by PostgreSQL without an error, so two nodes could come to share a schema.
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One kind of value.

    Attributes:
        accepts: what is accepted, as it completes the sentence "accepted is …".
        read: from text to value; raises ValueError.
        show: from a value to text that ``read`` gives the same value for.
        none: how the value None is shown.
        is_switch: whether it is on or off.
    """

    accepts: str
    read: Callable[[str], T]
    show: Callable[[T], str] = str
    none: str = ""
    is_switch: bool = False


def whole(unit: str, minimum: int, maximum: int | None = None) -> Kind[int]:
    """A whole number of ``unit`` (empty for a plain count)."""

    def read(text: str) -> int:
        # int() also takes '1_000' and Arabic digits, which no other tool that reads the variable would understand.
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise ValueError("not a whole number")
        value = int(text)
        if value < minimum or (maximum is not None and value > maximum):
            raise ValueError("out of range")
        return value

    return Kind(f"a whole number{_of(unit)} {_range(minimum, maximum)}", read)


def number(unit: str, *, above: float | None = None, minimum: float | None = None) -> Kind[float]:
    """A finite number of ``unit``, greater than ``above`` or at least ``minimum``."""

    def read(text: str) -> float:
        if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
            raise ValueError("not a number")
        value = float(text)
        if not math.isfinite(value) or (above is not None and value <= above):
            raise ValueError("out of range")
        if minimum is not None and value < minimum:
            raise ValueError("out of range")
        return value

    bound = f"greater than {above:g}" if above is not None else f"of at least {minimum:g}"
    return Kind(f"a number{_of(unit)} {bound}", read, lambda value: f"{value:g}")


def flag() -> Kind[bool]:
    """A switch."""
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}

    def read(text: str) -> bool:
        try:
            return words[text.lower()]
        except KeyError:
            raise ValueError("neither on nor off") from None

    return Kind("true or false (also yes, no, on, off, 1, 0)", read, lambda value: str(value).lower(), is_switch=True)


def choice(*words: str) -> Kind[str]:
    """One of some words, in lower or upper case."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError("not one of the words")
        return text.lower()

    return Kind(f"one of {', '.join(words)}", read)


def port() -> Kind[int]:
    """A TCP port; 0 lets the kernel choose."""
    return Kind("a port from 1 to 65535, or 0 for any free one", whole("", 0, 65535).read)


def listen_host() -> Kind[str]:
    """An address or name to listen on."""

    def read(text: str) -> str:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            # All digits and dots was meant as an address; it must not go on as a name.
            if not _HOST.fullmatch(text) or re.fullmatch(r"[0-9.]+", text):
                raise ValueError("neither an address nor a name") from None
        return text

    return Kind("an IP address or a host name without port, such as 0.0.0.0, :: or localhost", read)


def text(accepts: str, *, minimum: int = 1, maximum: int = 4096) -> Kind[str]:
    """Printable text of a bounded length, in characters."""

    def read(value: str) -> str:
        if not minimum <= len(value) <= maximum or not value.isprintable():
            raise ValueError("too short, too long, or not printable")
        return value

    return Kind(accepts, read)


def http_url() -> Kind[str]:
    """The address of an HTTP server, kept without a closing slash."""

    def read(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("no such URL")
        _ = parts.port  # raises ValueError when out of range
        return value.rstrip("/")

    return Kind("a URL such as http://master.gridnode.svc:5001, with no query", read)


def database_url() -> Kind[str]:
    """A PostgreSQL URL, given back in the form that SQLAlchemy takes for psycopg2."""

    def read(value: str) -> str:
        scheme, separator, rest = value.partition("://")
        if scheme not in ("postgresql", "postgres", "postgresql+psycopg2") or not separator or not rest:
            raise ValueError("no such URL")
        if any(not character.isprintable() or character.isspace() for character in value):
            raise ValueError("not printable")
        return f"postgresql+psycopg2://{rest}"

    return Kind("a URL such as postgresql://user:password@host:5432/database (PostgreSQL only)", read)


def schema() -> Kind[str]:
    """The name of a PostgreSQL schema."""

    def read(value: str) -> str:
        if not _SCHEMA.fullmatch(value) or value.lower().startswith("pg_"):
            raise ValueError("no such name")
        return value

    return Kind(
        "a schema name of at most 63 letters, digits, '_' and '-' that starts with a letter or '_' and not with 'pg_'",
        read,
    )


def directory() -> Kind[Path]:
    """A directory, made when it is first needed; ``~`` is the home of the user."""

    def read(value: str) -> Path:
        if "\0" in value:
            raise ValueError("no such path")
        return Path(value).expanduser().absolute()

    return Kind("the path of a directory", read)


def networks() -> Kind[tuple[Network, ...]]:
    """Addresses and networks, separated by commas."""

    def read(value: str) -> tuple[Network, ...]:
        return tuple(ipaddress.ip_network(part.strip()) for part in value.split(",") if part.strip())

    return Kind(
        "addresses and networks separated by commas, such as 10.0.0.0/8,fd00::/8 (no host bits set)",
        read,
        lambda value: ",".join(str(network) for network in value),
    )


def all_or_last() -> Kind[int | None]:
    """How many of a series to keep: None is all."""

    def read(value: str) -> int | None:
        return None if value.lower() == "all" else whole("", 1).read(value)

    return Kind("'all', or how many to keep, at least 1", read, none="all")


def _of(unit: str) -> str:
    return f" of {unit}" if unit else ""


def _range(minimum: int, maximum: int | None) -> str:
    return f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
