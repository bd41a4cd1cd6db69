"""Request keys: what an accepted worker shows to download and to report.

A key names its cycle and proves, without a query, that this node accepted this worker into it. It proves no more:
whether the cycle is still open, and whether the worker's report was counted already, the report's transaction decides.
"""

from __future__ import annotations

import hmac
import re
from typing import Final

from gridnode.errors import Unauthorized
from gridnode.security.mac import REQUEST_KEY, process_mac

_CYCLE_ID_BYTES: Final = 8
_MAC_BYTES: Final = 24
# bytes.fromhex alone would skip white space.
_REQUEST_KEY: Final = re.compile(rf"[0-9a-fA-F]{{{2 * (_CYCLE_ID_BYTES + _MAC_BYTES)}}}")
_REFUSAL: Final = "the request_key is not valid for this worker"


def issue_request_key(secret: bytes, worker_id: str, cycle_id: int) -> str:
    """The key of a worker in a cycle, always the same for the same three.

    Args:
        secret: the secret of the process that the cycle belongs to.
        worker_id: as :func:`gridnode.workers.identity.new_worker_id` made it.
        cycle_id: the cycle's id in the database, signed 64 bit.

    Returns:
        64 lower-case hex digits: the cycle id in 8 bytes, big endian, then 24 bytes of MAC.
    """
    cycle = cycle_id.to_bytes(_CYCLE_ID_BYTES, "big", signed=True)
    return (cycle + _mac(secret, cycle, worker_id.encode())).hex()


def cycle_of_request_key(secret: bytes, worker_id: object, request_key: object) -> int:
    """The id of the cycle that the key was issued for.

    Raises:
        Unauthorized: the key was not issued to this worker with this secret. The message is the same whatever is wrong,
            and the comparison takes the same time wherever the keys differ.
    """
    if not isinstance(worker_id, str) or not isinstance(request_key, str) or not _REQUEST_KEY.fullmatch(request_key):
        raise Unauthorized(_REFUSAL)
    key = bytes.fromhex(request_key)
    cycle, mac = key[:_CYCLE_ID_BYTES], key[_CYCLE_ID_BYTES:]
    # 'surrogatepass': JSON can hold lone surrogates, and such a worker id is merely wrong.
    if not hmac.compare_digest(_mac(secret, cycle, worker_id.encode("utf-8", "surrogatepass")), mac):
        raise Unauthorized(_REFUSAL)
    return int.from_bytes(cycle, "big", signed=True)


def claimed_cycle_id(request_key: object) -> int | None:
    """The cycle id that a key names, proved by nothing yet: it tells whose secret to check the key with.

    Returns:
        None where the text has not the form of a key.
    """
    if not isinstance(request_key, str) or not _REQUEST_KEY.fullmatch(request_key):
        return None
    return int.from_bytes(bytes.fromhex(request_key[: 2 * _CYCLE_ID_BYTES]), "big", signed=True)


def _mac(secret: bytes, cycle: bytes, worker_id: bytes) -> bytes:
    return process_mac(secret, REQUEST_KEY, cycle + worker_id)[:_MAC_BYTES]
