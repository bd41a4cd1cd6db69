"""The one place where a process's secret is used as a key."""

from __future__ import annotations

import hmac
from typing import Final

MINIMUM_SECRET_BYTES: Final = 16

# A MAC made for one purpose must never pass for another. No purpose may be a prefix of another one.
WORKER: Final = b"worker"
REQUEST_KEY: Final = b"request-key"


def process_mac(secret: bytes, purpose: bytes, message: bytes) -> bytes:
    """HMAC-SHA256 of ``purpose + message`` under a process's secret, 32 bytes.

    Args:
        secret: the process's own random secret, at least :data:`MINIMUM_SECRET_BYTES` bytes.
        purpose: :data:`WORKER` or :data:`REQUEST_KEY`.
        message: what is authenticated; its fields must be of fixed length, except for the last.

    Raises:
        ValueError: the secret is too short, which is a fault of the node and not of a caller.
    """
    if len(secret) < MINIMUM_SECRET_BYTES:
        raise ValueError(f"a process's secret has {len(secret)} bytes, at least {MINIMUM_SECRET_BYTES} are needed")
    return hmac.digest(secret, purpose + message, "sha256")
