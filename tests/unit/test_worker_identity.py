"""Worker ids: UUIDs that only the process they were made for accepts."""

from __future__ import annotations

import hmac
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.security.mac import REQUEST_KEY, WORKER, process_mac
from gridnode.workers.identity import is_worker_of, new_worker_id

SECRET = bytes(range(32))
OTHER_SECRET = bytes(range(1, 33))

secrets_of_processes = st.binary(min_size=16, max_size=64)


@given(secrets_of_processes)
def test_worker_id_is_accepted_by_its_own_process(secret: bytes) -> None:
    assert is_worker_of(secret, new_worker_id(secret))


@given(secrets_of_processes, secrets_of_processes)
def test_worker_id_is_nothing_to_another_process(mine: bytes, other: bytes) -> None:
    if mine.rstrip(b"\0") != other.rstrip(b"\0"):  # HMAC pads keys with zeros, so these two are the same key
        assert not is_worker_of(other, new_worker_id(mine))


@given(secrets_of_processes)
def test_worker_id_is_a_version_4_uuid_in_canonical_text(secret: bytes) -> None:
    worker_id = new_worker_id(secret)
    parsed = uuid.UUID(worker_id)
    assert str(parsed) == worker_id
    assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)


def test_worker_id_is_64_random_bits_then_58_bits_of_mac() -> None:
    bits = f"{uuid.UUID(new_worker_id(SECRET)).int:0128b}"
    free = bits[:48] + bits[52:64] + bits[66:]
    random, mac = int(free[:64], 2).to_bytes(8, "big"), free[64:]
    digest = hmac.new(SECRET, b"worker" + random, "sha256").digest()
    assert mac == f"{int.from_bytes(digest, 'big'):0256b}"[:58]


def test_worker_ids_differ_and_every_free_bit_varies() -> None:
    ids = {uuid.UUID(new_worker_id(SECRET)).int for _ in range(2000)}
    assert len(ids) == 2000
    always_set = ~0
    ever_set = 0
    for value in ids:
        always_set &= value
        ever_set |= value
    fixed = 0b1111 << 76 | 0b11 << 62
    assert ever_set & ~fixed == ((1 << 128) - 1) & ~fixed
    assert always_set == 4 << 76 | 0b10 << 62


@pytest.mark.parametrize("bit", range(128))
def test_no_single_bit_of_a_worker_id_can_be_changed(bit: int) -> None:
    forged = uuid.UUID(int=uuid.UUID(new_worker_id(SECRET)).int ^ 1 << bit)
    assert not is_worker_of(SECRET, str(forged))


def _wrong_forms() -> list[object]:
    good = new_worker_id(SECRET)
    plain = good.replace("-", "")
    return [
        None,
        0,
        uuid.UUID(good),
        good.encode(),
        [good],
        {"worker_id": good},
        "",
        plain,
        f"{{{good}}}",
        f"urn:uuid:{good}",
        f" {good}",
        f"{good} ",
        f"{good}\n",
        f"{good}\0",
        f"\0{good}",
        good[:-1],
        good + "0",
        good * 1000,
        good[:-1] + "\N{FULLWIDTH DIGIT ZERO}",
        good[:-1] + "\N{ARABIC-INDIC DIGIT ONE}",
        good[:-1] + "\ud800",
        good[:8] + good[9:] + "-",
        good[:8] + "_" + good[9:],
        str(uuid.UUID(plain)).replace("-4", "-1", 1),
        str(uuid.UUID(int=0)),
    ]


@pytest.mark.parametrize("worker_id", _wrong_forms(), ids=lambda value: repr(value)[:50])
def test_what_is_not_exactly_a_worker_id_is_refused(worker_id: object) -> None:
    assert is_worker_of(SECRET, worker_id) is False


def test_worker_id_has_one_spelling() -> None:
    worker_id = next(text for text in iter(lambda: new_worker_id(SECRET), None) if text.upper() != text)
    assert not is_worker_of(SECRET, worker_id.upper())


@given(st.one_of(st.text(), st.uuids(version=4).map(str), st.integers(), st.none()))
def test_strangers_are_refused(worker_id: object) -> None:
    assert is_worker_of(SECRET, worker_id) is False


def test_macs_of_different_purposes_differ() -> None:
    assert process_mac(SECRET, WORKER, b"12345678") != process_mac(SECRET, REQUEST_KEY, b"12345678")
    assert not WORKER.startswith(REQUEST_KEY)
    assert not REQUEST_KEY.startswith(WORKER)


@pytest.mark.parametrize("secret", [b"", b"fifteen bytes !"])
def test_process_without_a_proper_secret_makes_no_ids(secret: bytes) -> None:
    with pytest.raises(ValueError, match="at least 16"):
        new_worker_id(secret)
    with pytest.raises(ValueError, match="at least 16"):
        is_worker_of(secret, new_worker_id(SECRET))
