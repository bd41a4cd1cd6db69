"""Making, finding and revoking keys."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, cast

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from gridnode.db.session import Database
from gridnode.errors import InvalidRequest, NotFound, TooManyRequests, Unauthorized
from gridnode_operator.master.db.models import ApiKey
from gridnode_operator.master.keys.access import SCOPES, Principal, Scope
from gridnode_operator.master.keys.guard import FailureGuard
from gridnode_operator.master.texts import owner_text, plain_text

PREFIX: Final = "gnk_"
#: Keys of one owner that are not revoked.
MOST_KEYS: Final = 1000
_SHOWN: Final = 12
_LONGEST: Final = 256
#: Seconds for which a key that was good is taken to be good still, in the processes that did not revoke it.
_FRESH: Final = 5.0
_REMEMBERED: Final = 10_000
_USE_NOTED_EVERY: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyView:
    """A key as lists show it; never the key itself."""

    id: int
    prefix: str
    scope: str
    owner: str | None
    node_id: str | None
    note: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key that was just made: the only time it is shown."""

    key: str = field(repr=False)
    view: KeyView


def random_key() -> str:
    """A key that nobody has: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def create_key(
    session: Session,
    key: str,
    scope: str,
    *,
    owner: str | None = None,
    node_id: str | None = None,
    note: str = "",
    expires_at: datetime | None = None,
) -> NewKey:
    """Give out a key.

    Args:
        session: One transaction, committed by the caller before the key is shown.
        key: A :func:`random_key`, made before the transaction: repeating that makes no second one.
        scope: What it is good for; see :data:`gridnode_operator.master.keys.access.RULES`.
        owner: For whom it acts: needed for ``app`` and ``notebook``, and for those only.
        node_id: For ``node``: the only node that it speaks for.
        note: What it is for, for people.
        expires_at: When it stops to work; None is never.

    Raises:
        InvalidRequest: says what does not go together.
        TooManyRequests: the owner has as many keys as anybody may.
    """
    if scope not in SCOPES:
        raise InvalidRequest(f"scope is {scope!r}; it must be one of {', '.join(SCOPES)}")
    if (scope in ("app", "notebook")) != (owner is not None):
        raise InvalidRequest("keys for apps and notebooks have an owner, and no others")
    if node_id is not None and scope != "node":
        raise InvalidRequest("only a key of scope node is bound to a node")
    existing = session.scalars(select(ApiKey).where(ApiKey.digest == _digest(key))).one_or_none()
    if existing is not None:
        return NewKey(key=key, view=_view(existing))
    if owner is not None:
        _check_number(session, owner_text(owner))
    row = ApiKey(
        digest=_digest(key),
        prefix=key[:_SHOWN],
        scope=scope,
        owner=None if owner is None else owner_text(owner),
        node_id=None if node_id is None else plain_text("node_id", node_id, longest=253),
        note=plain_text("note", note, longest=200, shortest=0),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return NewKey(key=key, view=_view(row))


def _check_number(session: Session, owner: str) -> None:
    good = select(func.count()).where(ApiKey.owner == owner, ApiKey.revoked_at.is_(None))
    if (session.scalar(good) or 0) >= MOST_KEYS:
        raise TooManyRequests(f"{owner} has {MOST_KEYS} keys, which is the most: revoke some", retry_after=3600)


def list_keys(
    session: Session, principal: Principal, *, after: int = 0, limit: int = 100, revoked: bool = True
) -> list[KeyView]:
    """Keys that the caller may see, in the order in which they were made."""
    query = select(ApiKey).where(ApiKey.id > after).order_by(ApiKey.id).limit(limit)
    if not principal.sees_all:
        query = query.where(ApiKey.owner == principal.owner)
    if not revoked:
        query = query.where(ApiKey.revoked_at.is_(None))
    return [_view(row) for row in session.scalars(query)]


def revoke_key(session: Session, principal: Principal, key_id: int) -> KeyView:
    """Make a key useless for good; one that is already stays as it is.

    Raises:
        NotFound: there is no such key that the caller may see.
    """
    row = session.get(ApiKey, key_id, with_for_update=True)
    if row is None or not (principal.sees_all or (row.owner is not None and row.owner == principal.owner)):
        raise NotFound(f"there is no key {key_id}")
    if row.revoked_at is None:
        row.revoked_at = session.scalar(select(func.now()))
        session.flush()
    return _view(row)


class Keys:
    """Finds out who a key belongs to, without a query for each request.

    Args:
        database: The master node's.
        configured: Further keys from the settings, by scope; they are in no database.
        guard: Counts wrong keys.
    """

    def __init__(
        self,
        database: Database,
        *,
        configured: Mapping[Scope, str | None],
        guard: FailureGuard | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._configured = [(_digest(key), Principal(scope)) for scope, key in configured.items() if key is not None]
        self._guard = guard or FailureGuard()
        self._now = now
        self._lock = threading.Lock()
        self._fresh: dict[bytes, tuple[float, Principal]] = {}

    def principal(self, key: str, address: str) -> Principal:
        """Whom a key belongs to.

        Raises:
            Unauthorized: it is nobody's, expired, or revoked.
            TooManyRequests: the address has shown too many wrong ones.
            Unavailable: the database is away.
        """
        digest = _digest(key[:_LONGEST])
        known = self._remembered(digest)
        if known is not None:
            return known
        self._guard.check(address)
        principal = self._look_up(digest)
        if principal is None:
            self._guard.failed(address)
            raise Unauthorized("This key is not valid: it is unknown, has expired or was revoked.")
        self._remember(digest, principal)
        return principal

    def forget(self) -> None:
        """Look every key up again: one was revoked."""
        with self._lock:
            self._fresh.clear()

    def _look_up(self, digest: bytes) -> Principal | None:
        for configured, principal in self._configured:
            if hmac.compare_digest(digest, configured):
                return principal
        return self._database.transaction(lambda session: find_principal(session, digest))

    def _remembered(self, digest: bytes) -> Principal | None:
        with self._lock:
            until, principal = self._fresh.get(digest, (0.0, None))
        return principal if until > self._now() else None

    def _remember(self, digest: bytes, principal: Principal) -> None:
        with self._lock:
            if len(self._fresh) >= _REMEMBERED:
                self._fresh.clear()
            self._fresh[digest] = (self._now() + _FRESH, principal)


def find_principal(session: Session, digest: bytes) -> Principal | None:
    """Whom the key of a digest belongs to, None if it is good for nothing (any more); notes that it was used."""
    row = session.execute(
        select(ApiKey, func.now()).where(
            ApiKey.digest == digest,
            ApiKey.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
        )
    ).one_or_none()
    if row is None:
        return None
    key, now = row
    if key.last_used_at is None or now - key.last_used_at > _USE_NOTED_EVERY:
        session.execute(update(ApiKey).where(ApiKey.id == key.id).values(last_used_at=now))
    return Principal(cast(Scope, key.scope), owner=key.owner, node_id=key.node_id, key_id=key.id)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _view(row: ApiKey) -> KeyView:
    return KeyView(
        id=row.id,
        prefix=row.prefix,
        scope=row.scope,
        owner=row.owner,
        node_id=row.node_id,
        note=row.note,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
