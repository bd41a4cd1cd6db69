"""Worker ids that prove by themselves which process they were made for.

A worker id is a UUID of version 4 (RFC 9562). Its 122 free bits are 64 random bits and the first 58 bits of a MAC over
them under the secret of the process. So authenticating stores nothing, a flood of it costs the database nothing, and an
id is good for no other process. Version 4 and not 8, because the ids of 2020 were of version 4 and a client may look.
"""

from __future__ import annotations

import hmac
import re
import secrets
import uuid
from typing import Final

from gridnode.security.mac import WORKER, process_mac

_RANDOM_BYTES: Final = 8
_MAC_BITS: Final = 58

# Where RFC 9562 splits the free bits of version 4: 48 before the version, 12 up to the variant, 62 after it.
_LOW_BITS: Final = 62
_MIDDLE_BITS: Final = 12
_WORKER_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new_worker_id(secret: bytes) -> str:
    """A new worker id for the process with this secret: lower-case UUID text, 36 characters."""
    return _worker_id(secret, secrets.token_bytes(_RANDOM_BYTES))


def is_worker_of(secret: bytes, worker_id: object) -> bool:
    """Whether ``worker_id`` was made by :func:`new_worker_id` with the same secret.

    Only the text as it was handed out is accepted. Upper case, braces or a missing hyphen are not: one worker has one
    id, so that no two spellings of it can be assigned or counted as two workers. The comparison takes the same time
    wherever the texts differ.
    """
    if not isinstance(worker_id, str) or _WORKER_ID.fullmatch(worker_id) is None:
        return False
    random = _free_bits(uuid.UUID(worker_id)) >> _MAC_BITS
    return hmac.compare_digest(_worker_id(secret, random.to_bytes(_RANDOM_BYTES, "big")), worker_id)


def _worker_id(secret: bytes, random: bytes) -> str:
    mac = int.from_bytes(process_mac(secret, WORKER, random)[:8], "big") >> (64 - _MAC_BITS)
    return str(_uuid4(int.from_bytes(random, "big") << _MAC_BITS | mac))


def _uuid4(free_bits: int) -> uuid.UUID:
    high = free_bits >> (_LOW_BITS + _MIDDLE_BITS)
    middle = free_bits >> _LOW_BITS & (1 << _MIDDLE_BITS) - 1
    low = free_bits & (1 << _LOW_BITS) - 1
    return uuid.UUID(int=high << 80 | 4 << 76 | middle << 64 | 0b10 << 62 | low)


def _free_bits(value: uuid.UUID) -> int:
    high = value.int >> 80
    middle = value.int >> 64 & (1 << _MIDDLE_BITS) - 1
    low = value.int & (1 << _LOW_BITS) - 1
    return (high << _MIDDLE_BITS | middle) << _LOW_BITS | low
