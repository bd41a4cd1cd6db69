"""``client_config`` and ``server_config`` of a hosted process: types, defaults, bounds and how they go together.

The keys are PyGrid's; each is honoured here or refused with the reason. docs/configuration.md explains them to authors.
"""

from __future__ import annotations

import difflib
import math
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from gridnode.errors import InvalidRequest
from gridnode.plans.gate import check_targets
from gridnode.security.tokens import Authentication, parse_authentication

AtLeastOne = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=10 * 365 * 86400)]
Speed = Annotated[float, Meta(ge=0)]
Name = Annotated[str, Meta(min_length=1, max_length=255)]

S = TypeVar("S", bound=Struct)

#: Levels of objects and lists in client_config; the encoder of answers stops at 254.
_DEEPEST = 50


class Aggregation(Struct, forbid_unknown_fields=True, frozen=True):
    """How reports are averaged when no averaging plan is hosted."""

    strategy: Literal["mean", "weighted_mean"] = "mean"


class ServerConfig(Struct, forbid_unknown_fields=True, frozen=True):
    """What the author asks of the server. Absent and null mean the same, except where a default is given."""

    # A cycle's deadline doesn't close it before this many devices have been accepted into it.
    min_workers: AtLeastOne = 1
    # Devices that may hold a place in a cycle at once; None = as many as ask.
    max_workers: AtLeastOne | None = None
    # iterate: in order of arrival; random: drawn among those that ask at the same moment.
    pool_selection: Literal["random", "iterate"] = "iterate"
    # A worker of cycle k may be accepted again from cycle k + N on.
    do_not_reuse_workers_until_cycle: Count = 1
    # Seconds until a cycle's deadline; None = no deadline.
    cycle_length: Seconds | None = None
    # Cycles until the process is finished; 0 = without end.
    num_cycles: Count = 0
    min_diffs: AtLeastOne | None = None
    max_diffs: AtLeastOne | None = None
    minimum_upload_speed: Speed = 0
    minimum_download_speed: Speed = 0
    # Whether the averaging plan folds one diff at a time or takes the list of all.
    iterative_plan: bool = False
    authentication: dict[str, Any] | None = None
    # Seconds after which a device that was accepted and has not reported gives its place back.
    assignment_lease: Seconds = 3600
    aggregation: Aggregation = Aggregation()
    # Phone runtimes that must be able to run each training plan, or hosting is refused.
    targets: Annotated[list[str], Meta(max_length=100)] = []

    @property
    def requires_speed_test(self) -> bool:
        """Whether devices must measure their connection: only for a minimum above 0, since the test moves 128 MB."""
        return self.minimum_upload_speed > 0 or self.minimum_download_speed > 0

    @property
    def required_diffs(self) -> int:
        """Diffs without which a cycle is not averaged."""
        return self.min_diffs or 1

    @property
    def closing_diffs(self) -> int | None:
        """Diffs at which a cycle closes at once: max_diffs; min_diffs where no deadline would close it."""
        if self.max_diffs is not None:
            return self.max_diffs
        return self.required_diffs if self.cycle_length is None else None


class ClientConfig(Struct, frozen=True):
    """The keys that SwiftSyft can't do without. Others are passed to devices as they are."""

    name: Name
    version: Name
    batch_size: AtLeastOne
    lr: float
    max_updates: AtLeastOne


# Worked out here and not by the first two threads at the same time, which would crash (seen with msgspec 0.22).
for _kind in (ServerConfig, ClientConfig):
    msgspec.json.Decoder(_kind)


def parse_server_config(value: object) -> tuple[ServerConfig, Authentication | None]:
    """Check a server_config and give it typed.

    Raises:
        InvalidRequest: names the key, what it is and what is accepted.
    """
    values = _object(value, "server_config")
    _refuse_unknown(values)
    # PyGrid's notebooks write None for "not set".
    given = {key: item for key, item in values.items() if item is not None}
    config = _convert(given, ServerConfig, "server_config")
    authentication = parse_authentication(config.authentication)
    check_targets(config.targets, "server_config.targets")
    _check_relations(config)
    return config, authentication


def parse_client_config(value: object) -> ClientConfig:
    """Check a client_config and give its required part typed.

    Raises:
        InvalidRequest: names the key, what it is and what is accepted.
    """
    values = _object(value, "client_config")
    config = _convert(values, ClientConfig, "client_config")
    for key, item in (("name", config.name), ("version", config.version)):
        if any(not character.isprintable() for character in item):
            raise InvalidRequest(f"client_config.{key} holds a control character: use printable text")
    if not math.isfinite(config.lr):
        raise InvalidRequest("client_config.lr must be a finite number")
    _refuse_unstorable(values, "client_config")
    return config


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        kind = "missing" if value is None else f"a {type(value).__name__}"
        raise InvalidRequest(f"{where} is {kind}: it must be an object")
    return value


def _convert(values: dict[str, Any], kind: type[S], where: str) -> S:
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$.")
        field = f"{where}.{path.rstrip('`')}" if path else where
        raise InvalidRequest(f"{field}: {problem[:1].lower()}{problem[1:]}") from None


def _refuse_unknown(values: dict[str, Any]) -> None:
    known = ServerConfig.__struct_fields__
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f". Known keys: {', '.join(known)}."
            raise InvalidRequest(f"server_config.{key} is not a key this node knows{hint}")


def _refuse_unstorable(values: dict[str, Any], where: str) -> None:
    """Refuse what the database's JSON doesn't hold or phones can't be sent: each of their requests would fail."""

    def walk(item: object, path: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise InvalidRequest(f"{where} is nested deeper than {_DEEPEST} levels")
        if isinstance(item, str):
            _check_text(item, path)
        elif isinstance(item, float) and not math.isfinite(item):
            raise InvalidRequest(f"{path} must be a finite number")
        elif isinstance(item, int) and not -(2**63) <= item < 2**63:
            raise InvalidRequest(f"{path} must fit into 64 bits: write larger numbers with a decimal point")
        elif isinstance(item, dict):
            for key, child in item.items():
                walk(key, path, depth + 1)
                walk(child, f"{path}.{key}", depth + 1)
        elif isinstance(item, list):
            for index, child in enumerate(item):
                walk(child, f"{path}[{index}]", depth + 1)

    walk(values, where, 0)


def _check_text(value: str, path: str) -> None:
    if "\x00" in value:
        raise InvalidRequest(f"{path} holds a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidRequest(f"{path} holds half a surrogate pair, which is no text")


def _check_relations(config: ServerConfig) -> None:
    if config.max_workers is not None and config.max_workers < config.min_workers:
        raise InvalidRequest(
            f"server_config.max_workers is {config.max_workers} but min_workers is {config.min_workers}: "
            "a cycle could never have enough devices. Raise max_workers, or lower min_workers."
        )
    if config.max_diffs is not None and config.max_diffs < config.required_diffs:
        raise InvalidRequest(
            f"server_config.max_diffs is {config.max_diffs} but min_diffs is {config.required_diffs}: "
            f"a cycle could never end. Raise max_diffs to at least {config.required_diffs}, or lower min_diffs."
        )
    if config.max_workers is not None and config.max_workers < config.required_diffs:
        raise InvalidRequest(
            f"server_config.max_workers is {config.max_workers} but min_diffs is {config.required_diffs}: "
            "more reports are needed than devices are accepted, so a cycle could never end. "
            "Raise max_workers, or lower min_diffs."
        )
    if config.cycle_length is None and config.max_workers is not None and config.max_diffs is not None:
        _check_closable(config.max_workers, config.max_diffs)
    for key in ("minimum_upload_speed", "minimum_download_speed"):
        if not math.isfinite(getattr(config, key)):
            raise InvalidRequest(f"server_config.{key} must be a finite number")


def _check_closable(max_workers: int, max_diffs: int) -> None:
    if max_workers < max_diffs:
        raise InvalidRequest(
            f"server_config.max_workers is {max_workers} but max_diffs is {max_diffs} and cycle_length is not set: "
            "a cycle could never end. Raise max_workers, lower max_diffs, or set cycle_length."
        )
