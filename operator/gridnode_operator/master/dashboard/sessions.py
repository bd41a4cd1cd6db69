"""Who is signed in: sessions in the database, so that signing out ends them, and every replica knows them."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal, cast

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from gridnode.db.session import Database
from gridnode_operator.master.db.models import ApiKey, DashboardSession
from gridnode_operator.master.keys.access import Principal, Scope
from gridnode_operator.master.settings import MasterSettings

Method = Literal["token", "key", "oidc"]

_LONGEST: Final = 128
_SEEN_NOTED_EVERY: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is signed in.

    Attributes:
        name: Who it is, for the person to see.
        principal: What they may see and do.
        session: The secret that their browser shows.
    """

    name: str
    principal: Principal
    session: str = field(repr=False)


class Sessions:
    """Opens, finds and ends sessions.

    A session is good only as long as what opened it is: its key is neither revoked nor expired, or the settings
    that let its visitor in are the same.

    Args:
        database: The master node's.
        settings: Of lifetimes, the administrator's token and OpenID Connect.
    """

    def __init__(self, database: Database, settings: MasterSettings) -> None:
        self._database = database
        self._idle = timedelta(seconds=settings.session_idle)
        self._lifetime = timedelta(seconds=settings.session_lifetime)
        self._proofs = _proofs(settings)

    def open(self, method: Method, visitor: str, *, key_id: int | None = None) -> str:
        """Begin a session; gives its secret, which nobody has had before.

        Args:
            method: How the visitor showed who they are.
            visitor: Who it is.
            key_id: Row of the key, for ``key``.

        Raises:
            Unavailable: the database is away.
        """
        session = secrets.token_urlsafe(32)
        row = {"method": method, "visitor": visitor, "key_id": key_id, "proof": self._proofs.get(method)}

        def work(transaction: Session) -> None:
            self._delete_ended(transaction)
            transaction.merge(DashboardSession(digest=_digest(session), **row))

        self._database.transaction(work)
        return session

    def find(self, session: str | None) -> Visitor | None:
        """Whose session it is; None if it is none, or has ended.

        Raises:
            Unavailable: the database is away.
        """
        if not session or len(session) > _LONGEST:
            return None
        return self._database.transaction(lambda transaction: self._find(transaction, session))

    def end(self, session: str | None) -> None:
        """End a session, whether or not there is one.

        Raises:
            Unavailable: the database is away.
        """
        if session:
            ended = delete(DashboardSession).where(DashboardSession.digest == _digest(session))
            self._database.transaction(lambda transaction: transaction.execute(ended))

    def _find(self, transaction: Session, session: str) -> Visitor | None:
        found = transaction.execute(
            select(DashboardSession, ApiKey, func.now())
            .outerjoin(ApiKey, ApiKey.id == DashboardSession.key_id)
            .where(DashboardSession.digest == _digest(session))
        ).one_or_none()
        if found is None:
            return None
        row, key, now = found
        if not self._is_good(row, key, now):
            return None
        if now - row.seen_at > min(_SEEN_NOTED_EVERY, self._idle / 4):
            transaction.execute(
                update(DashboardSession)
                .where(DashboardSession.digest == row.digest)
                .values(seen_at=now)
                .execution_options(synchronize_session=False)
            )
        return Visitor(row.visitor, _principal(key), session)

    def _is_good(self, row: DashboardSession, key: ApiKey | None, now: datetime) -> bool:
        if now >= row.created_at + self._lifetime or now >= row.seen_at + self._idle:
            return False
        if row.method == "key":
            return key is not None and key.revoked_at is None and (key.expires_at is None or key.expires_at > now)
        proof = self._proofs.get(cast(Method, row.method))
        return proof is not None and row.proof is not None and hmac.compare_digest(proof, row.proof)

    def _delete_ended(self, transaction: Session) -> None:
        ended = or_(
            DashboardSession.created_at <= func.now() - self._lifetime,
            DashboardSession.seen_at <= func.now() - self._idle,
        )
        transaction.execute(delete(DashboardSession).where(ended).execution_options(synchronize_session=False))


def _principal(key: ApiKey | None) -> Principal:
    if key is None:
        return Principal("admin")
    return Principal(cast(Scope, key.scope), owner=key.owner, node_id=key.node_id, key_id=key.id)


def _proofs(settings: MasterSettings) -> Mapping[Method, bytes]:
    """Digests of what lets visitors in without a key of the database: another token or list ends their sessions."""
    proofs: dict[Method, bytes] = {}
    if settings.admin_token is not None:
        proofs["token"] = _digest(f"token {settings.admin_token}")
    if settings.oidc_issuer is not None:
        let_in = (
            settings.oidc_issuer,
            settings.oidc_client_id,
            sorted(settings.oidc_emails),
            sorted(settings.oidc_groups),
            settings.oidc_groups_claim,
        )
        proofs["oidc"] = _digest(f"oidc {json.dumps(let_in)}")
    return proofs


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
