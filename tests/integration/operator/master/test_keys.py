"""Keys in the database: what is kept of them, and how many there may be."""

from __future__ import annotations

import hashlib
from functools import partial

import pytest
from sqlalchemy import select

from gridnode.db.session import Database
from gridnode.errors import TooManyRequests
from gridnode_operator.master.db.models import ApiKey
from gridnode_operator.master.keys import service
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.keys.service import create_key, find_principal, list_keys, random_key, revoke_key

pytestmark = pytest.mark.integration


def make(database: Database, key: str, scope: str = "notebook", owner: str | None = "ann") -> int:
    """A key in the database; gives its number."""
    return database.transaction(partial(create_key, key=key, scope=scope, owner=owner)).view.id


def test_keys_are_long_and_no_two_alike() -> None:
    keys = {random_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert {len(key) for key in keys} == {len("gnk_") + 43}


def test_only_the_digest_is_kept(database: Database) -> None:
    key = random_key()
    make(database, key)
    row = database.transaction(lambda session: session.scalars(select(ApiKey)).one())
    assert row.digest == hashlib.sha256(key.encode()).digest()
    assert key[12:] not in repr(
        {name: getattr(row, name) for name in [column.name for column in ApiKey.__table__.columns]}
    )


def test_making_a_key_again_makes_no_second_one(database: Database) -> None:
    key = random_key()
    assert make(database, key) == make(database, key)
    assert len(database.transaction(partial(list_keys, principal=Principal("admin")))) == 1


def test_use_is_noted_and_revoking_ends_it(database: Database) -> None:
    key = random_key()
    number = make(database, key)
    digest = hashlib.sha256(key.encode()).digest()
    principal = database.transaction(partial(find_principal, digest=digest))
    assert principal == Principal("notebook", owner="ann", key_id=number)
    (view,) = database.transaction(partial(list_keys, principal=principal))
    assert view.last_used_at is not None
    revoked = database.transaction(partial(revoke_key, principal=principal, key_id=number))
    again = database.transaction(partial(revoke_key, principal=principal, key_id=number))
    assert revoked.revoked_at == again.revoked_at
    assert database.transaction(partial(find_principal, digest=digest)) is None
    assert database.transaction(partial(list_keys, principal=principal, revoked=False)) == []


def test_number_of_keys_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MOST_KEYS", 2)
    first = make(database, random_key())
    make(database, random_key())
    with pytest.raises(TooManyRequests, match="revoke some"):
        make(database, random_key())
    make(database, random_key(), owner="bob")
    make(database, random_key(), scope="node", owner=None)
    database.transaction(partial(revoke_key, principal=Principal("admin"), key_id=first))
    make(database, random_key())
