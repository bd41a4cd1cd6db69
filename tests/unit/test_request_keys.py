"""Request keys: bound to a process, a worker and a cycle."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import Unauthorized
from gridnode.security.request_keys import claimed_cycle_id, cycle_of_request_key, issue_request_key
from gridnode.workers.identity import new_worker_id

SECRET = bytes(range(32))
WORKER = "77d6748a-fa43-4906-a23f-0f57c37e1278"
REFUSAL = "the request_key is not valid for this worker"

cycle_ids = st.integers(min_value=-(2**63), max_value=2**63 - 1)


@given(st.binary(min_size=16, max_size=64), st.text(st.characters(exclude_categories=["Cs"])), cycle_ids)
def test_key_gives_its_cycle_back(secret: bytes, worker_id: str, cycle_id: int) -> None:
    assert cycle_of_request_key(secret, worker_id, issue_request_key(secret, worker_id, cycle_id)) == cycle_id


def test_key_is_the_cycle_id_and_24_bytes_of_mac() -> None:
    key = issue_request_key(SECRET, WORKER, 0x0123456789ABCDEF)
    cycle = bytes.fromhex("0123456789abcdef")
    mac = hmac.new(SECRET, b"request-key" + cycle + WORKER.encode(), "sha256").digest()
    assert key == cycle.hex() + mac[:24].hex()


def test_same_worker_in_same_cycle_has_the_same_key() -> None:
    assert issue_request_key(SECRET, WORKER, 7) == issue_request_key(SECRET, WORKER, 7)


def test_key_in_upper_case_is_the_same_key() -> None:
    assert cycle_of_request_key(SECRET, WORKER, issue_request_key(SECRET, WORKER, 0xABCDEF).upper()) == 0xABCDEF


@pytest.mark.parametrize("cycle_id", [2**63, -(2**63) - 1])
def test_no_key_for_what_is_no_cycle_id(cycle_id: int) -> None:
    with pytest.raises(OverflowError):
        issue_request_key(SECRET, WORKER, cycle_id)


def test_key_is_nothing_to_another_process_or_worker() -> None:
    key = issue_request_key(SECRET, WORKER, 7)
    others = [
        (bytes(32), WORKER),
        (SECRET, new_worker_id(SECRET)),
        (SECRET, ""),
        (SECRET, WORKER + " "),
        (SECRET, WORKER.upper()),
    ]
    for secret, worker_id in others:
        with pytest.raises(Unauthorized) as refusal:
            cycle_of_request_key(secret, worker_id, key)
        assert refusal.value.message == REFUSAL


@pytest.mark.parametrize("bit", range(256))
def test_no_single_bit_of_a_key_can_be_changed(bit: int) -> None:
    forged = int(issue_request_key(SECRET, WORKER, 7), 16) ^ 1 << bit
    with pytest.raises(Unauthorized):
        cycle_of_request_key(SECRET, WORKER, f"{forged:064x}")


KEY = issue_request_key(SECRET, WORKER, 7)


@pytest.mark.parametrize(
    "request_key",
    [
        None,
        7,
        int(KEY, 16),
        KEY.encode(),
        bytes.fromhex(KEY),
        [KEY],
        "",
        KEY[:-1],
        KEY[:-2],
        KEY + "00",
        KEY * 10_000,
        f"{KEY}\n",
        f" {KEY}",
        f"{KEY}\0",
        f"0x{KEY[2:]}",
        f"{KEY[:2]} {KEY[2:]}",
        f"{KEY[:2]} {KEY[2:-1]}",
        "\N{FULLWIDTH DIGIT ZERO}" + KEY[1:],
        KEY[:-1] + "g",
        KEY[:-1] + "\ud800",
        "0" * 64,
    ],
    ids=lambda value: repr(value)[:40],
)
def test_malformed_keys_are_refused_in_the_same_words(request_key: object) -> None:
    with pytest.raises(Unauthorized) as refusal:
        cycle_of_request_key(SECRET, WORKER, request_key)
    assert refusal.value.message == REFUSAL


@given(cycle_ids, st.binary(min_size=24, max_size=24))
def test_key_claims_a_cycle_before_it_is_checked(cycle_id: int, mac: bytes) -> None:
    key = cycle_id.to_bytes(8, "big", signed=True) + mac
    assert claimed_cycle_id(key.hex()) == cycle_id
    assert claimed_cycle_id(key.hex().upper()) == cycle_id


@pytest.mark.parametrize("request_key", [None, 7, b"0" * 64, "", "0" * 63, "0" * 65, " " + "0" * 63, "g" * 64])
def test_what_is_no_key_claims_nothing(request_key: object) -> None:
    assert claimed_cycle_id(request_key) is None


@pytest.mark.parametrize("worker_id", [None, 7, WORKER.encode(), [WORKER], "\ud800", "\0"])
def test_malformed_worker_ids_are_refused_in_the_same_words(worker_id: object) -> None:
    with pytest.raises(Unauthorized) as refusal:
        cycle_of_request_key(SECRET, worker_id, KEY)
    assert refusal.value.message == REFUSAL


@given(st.one_of(st.text(), st.text("0123456789abcdefABCDEF", min_size=64, max_size=64)))
def test_guesses_are_refused(request_key: str) -> None:
    with pytest.raises(Unauthorized):
        cycle_of_request_key(SECRET, WORKER, request_key)
