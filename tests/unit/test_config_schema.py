"""Every key of server_config and client_config is honoured, or refused with its name and what to do."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gridnode.errors import InvalidRequest
from gridnode.processes.schema import (
    Aggregation,
    ServerConfig,
    parse_client_config,
    parse_server_config,
)

DEFAULTS: dict[str, Any] = {
    "min_workers": 1,
    "max_workers": None,
    "pool_selection": "iterate",
    "do_not_reuse_workers_until_cycle": 1,
    "cycle_length": None,
    "num_cycles": 0,
    "min_diffs": None,
    "max_diffs": None,
    "minimum_upload_speed": 0,
    "minimum_download_speed": 0,
    "iterative_plan": False,
    "authentication": None,
    "assignment_lease": 3600,
    "aggregation": Aggregation("mean"),
    "targets": [],
}
HONOURED: dict[str, Any] = {
    "min_workers": 3,
    "max_workers": 100,
    "pool_selection": "random",
    "do_not_reuse_workers_until_cycle": 4,
    "cycle_length": 28800,
    "num_cycles": 5,
    "min_diffs": 3,
    "max_diffs": 50,
    "minimum_upload_speed": 0.5,
    "minimum_download_speed": 4,
    "iterative_plan": True,
    "authentication": {"secret": "x" * 32},
    "assignment_lease": 12.5,
    "aggregation": {"strategy": "weighted_mean"},
    "targets": ["kotlinsyft", "syft.js-0.1.4"],
}
CLIENT: dict[str, Any] = {"name": "mnist", "version": "1.0", "batch_size": 64, "lr": 0.01, "max_updates": 100}


def server(**values: Any) -> ServerConfig:
    config, _ = parse_server_config(values)
    return config


def test_tables_here_are_complete() -> None:
    assert list(DEFAULTS) == list(HONOURED) == list(ServerConfig.__struct_fields__)


@pytest.mark.parametrize("key", DEFAULTS)
def test_key_that_is_absent_or_null_has_its_default(key: str) -> None:
    assert getattr(server(), key) == getattr(server(**{key: None}), key) == DEFAULTS[key]


def test_every_key_is_honoured() -> None:
    config, authentication = parse_server_config(HONOURED)
    expected = {**HONOURED, "aggregation": Aggregation("weighted_mean")}
    assert {key: getattr(config, key) for key in HONOURED} == expected
    assert authentication is not None


_NO_COUNT = [-1, 1.5, "3", True, [], 10**10]
REFUSED = [
    *(("min_workers", value) for value in [0, *_NO_COUNT]),
    *(("max_workers", value) for value in [0, *_NO_COUNT]),
    *(("min_diffs", value) for value in [0, *_NO_COUNT]),
    *(("max_diffs", value) for value in [0, *_NO_COUNT]),
    *(("num_cycles", value) for value in _NO_COUNT),
    *(("do_not_reuse_workers_until_cycle", value) for value in _NO_COUNT),
    *(("cycle_length", value) for value in [0, -1, "60", True, math.nan, math.inf, 1e10]),
    *(("assignment_lease", value) for value in [0, -1, "60", True, math.nan, math.inf, 1e10]),
    *(("minimum_upload_speed", value) for value in [-0.1, "fast", True, math.nan, math.inf]),
    *(("minimum_download_speed", value) for value in [-0.1, "fast", True, math.nan, math.inf]),
    *(("pool_selection", value) for value in ["first", "", 1]),
    *(("iterative_plan", value) for value in ["yes", 1, 0]),
    *(("authentication", value) for value in ["secret", {"sekret": "x"}, {"type": "jwt"}, {"secret": 7}]),
    *(("targets", value) for value in ["kotlinsyft", ["android"], [1]]),
    *(("aggregation", value) for value in ["mean", {"strategy": "median"}, {"strategy": "mean", "trim": 1}]),
]


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_value_that_can_not_be_honoured_is_refused_with_its_key(key: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=rf"^server_config\.{key}\b"):
        server(**{key: value})


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("max_worker", "did you mean max_workers?"),
        ("cycle_lenght", "did you mean cycle_length?"),
        ("dp_epsilon", "Known keys: min_workers, "),
        ("", "Known keys"),
    ],
)
def test_unknown_key_is_refused_with_a_hint(key: str, hint: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        server(**{key: 1})
    assert f"server_config.{key} is not a key this node knows" in caught.value.message
    assert hint in caught.value.message


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"min_workers": 5, "max_workers": 4}, ["max_workers is 4", "min_workers is 5"]),
        ({"min_diffs": 5, "max_diffs": 3}, ["max_diffs is 3", "min_diffs is 5", "Raise max_diffs to at least 5"]),
        ({"min_diffs": 5, "max_workers": 4}, ["max_workers is 4", "min_diffs is 5"]),
        ({"max_diffs": 5, "max_workers": 4}, ["max_workers is 4", "max_diffs is 5", "cycle_length is not set"]),
    ],
)
def test_cycle_that_could_never_end_is_refused_with_what_to_do(values: dict[str, int], words: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        server(**values)
    assert all(word in caught.value.message for word in [*words, "could never"])
    assert caught.value.message.startswith("server_config.")


@pytest.mark.parametrize(
    "values",
    [
        {"min_workers": 4, "max_workers": 4, "min_diffs": 4, "max_diffs": 4},
        {"max_diffs": 5, "max_workers": 4, "cycle_length": 60},
        {"max_diffs": 5, "max_workers": 4, "min_diffs": 1, "cycle_length": 60},
    ],
)
def test_cycle_that_can_just_end_is_accepted(values: dict[str, int]) -> None:
    server(**values)


@pytest.mark.parametrize(
    ("values", "required", "closing"),
    [
        ({}, 1, 1),
        ({"min_diffs": 3}, 3, 3),
        ({"max_diffs": 7}, 1, 7),
        ({"min_diffs": 3, "max_diffs": 7}, 3, 7),
        ({"cycle_length": 60}, 1, None),
        ({"min_diffs": 3, "cycle_length": 60}, 3, None),
        ({"max_diffs": 7, "cycle_length": 60}, 1, 7),
    ],
)
def test_what_a_cycle_needs_and_what_closes_it(values: dict[str, int], required: int, closing: int | None) -> None:
    config = server(**values)
    assert (config.required_diffs, config.closing_diffs) == (required, closing)


@pytest.mark.parametrize(
    ("values", "requires"),
    [
        ({}, False),
        ({"minimum_upload_speed": 0, "minimum_download_speed": 0}, False),
        ({"minimum_upload_speed": 0.1}, True),
        ({"minimum_download_speed": 2}, True),
    ],
)
def test_speed_is_only_measured_where_it_matters(values: dict[str, float], requires: bool) -> None:
    assert server(**values).requires_speed_test is requires


@pytest.mark.parametrize("parse", [parse_server_config, parse_client_config])
@pytest.mark.parametrize("value", [None, [], "{}", 7])
def test_config_that_is_no_object_is_refused(parse: Any, value: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^(server|client)_config is .*: it must be an object$"):
        parse(value)


def test_client_config_may_hold_whatever_the_app_reads() -> None:
    more = {"optimizer": {"name": "adam", "betas": [0.9, 0.99]}, "note": "ünïcode ✓", "flag": True, "nothing": None}
    config = parse_client_config({**CLIENT, **more})
    assert (config.name, config.version, config.batch_size, config.lr, config.max_updates) == tuple(CLIENT.values())


@pytest.mark.parametrize("lr", [1, 0, 0.5, -0.1])
def test_learning_rate_is_any_finite_number(lr: float) -> None:
    assert parse_client_config({**CLIENT, "lr": lr}).lr == lr


@pytest.mark.parametrize("key", CLIENT)
def test_key_that_the_ios_library_needs_must_be_there(key: str) -> None:
    values = {name: value for name, value in CLIENT.items() if name != key}
    with pytest.raises(InvalidRequest, match=rf"^client_config\b.*`{key}`"):
        parse_client_config(values)
    with pytest.raises(InvalidRequest, match=rf"^client_config\.{key}\b"):
        parse_client_config({**CLIENT, key: None})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("name", value) for value in ["", "x" * 256, 7, "a\x00b", "a\nb", "\ud800"]),
        *(("version", value) for value in ["", "x" * 256, 1.0, "a\x00b", "\u202e"]),
        *(("batch_size", value) for value in [0, -1, 1.5, "3", True, 10**10]),
        *(("max_updates", value) for value in [0, -1, 1.5, "3", True, 10**10]),
        *(("lr", value) for value in ["0.1", True, math.nan, math.inf]),
    ],
)
def test_value_that_the_ios_library_can_not_read_is_refused_with_its_key(key: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=rf"^client_config\.{key}\b"):
        parse_client_config({**CLIENT, key: value})


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ("a\x00b", r"client_config\.extra"),
        (math.nan, r"client_config\.extra"),
        ([1, {"deep": math.inf}], r"client_config\.extra\[1\]\.deep"),
        ({"key\x00": 1}, r"client_config\.extra"),
        ("\ud800", r"client_config\.extra"),
        ({"\udfff": 1}, r"client_config\.extra"),
        (2**64, r"client_config\.extra"),
        ([-(2**63) - 1], r"client_config\.extra\[0\]"),
    ],
)
def test_value_that_no_phone_could_be_sent_is_refused_with_its_place(value: object, where: str) -> None:
    """Neither the database's JSON nor the phones' parsers hold it; each answer to a cycle request would fail."""
    with pytest.raises(InvalidRequest, match=where):
        parse_client_config({**CLIENT, "extra": value})


def test_config_that_nests_too_deep_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(InvalidRequest, match="client_config"):
        parse_client_config({**CLIENT, "extra": nested})
