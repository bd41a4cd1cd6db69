"""Finished models in a bucket: whole or not there, over the protocol of S3."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import fsspec  # type: ignore[import-untyped]
import pytest

from gridnode_operator.master.errors import StorageFailed
from gridnode_operator.master.finished.storage import Storage
from tests.support.object_store import ObjectStore

MIB = 1 << 20
#: Sent in several parts.
LARGE = [bytes([number]) * MIB for number in range(23)]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """One with the bucket ``models``."""
    with ObjectStore("models") as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        Storage("memory://registers-the-protocol")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield running


@pytest.mark.parametrize("content", [[b"some", b"", b"thing"], LARGE], ids=["small", "large"])
def test_model_is_stored_read_and_deleted(store: ObjectStore, content: list[bytes]) -> None:
    storage = Storage("s3://models/finished")
    whole = b"".join(content)
    stored = storage.write("7", content)
    assert (stored.size, stored.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert store.objects == {f"models/finished/{stored.path}": whole}
    assert b"".join(storage.read(stored.path)) == whole
    storage.delete(stored.path)
    storage.delete(stored.path)
    assert (store.objects, store.uploads) == ({}, {})
    with pytest.raises(StorageFailed):
        storage.read(stored.path)


@pytest.mark.parametrize("pieces", [1, 12])
def test_source_that_breaks_off_leaves_nothing(store: ObjectStore, pieces: int) -> None:
    def broken() -> Iterator[bytes]:
        yield from LARGE[:pieces]
        raise ConnectionError("the node is gone")

    with pytest.raises(ConnectionError):
        Storage("s3://models/finished").write("7", broken())
    assert store.objects == {}
    assert store.uploads == {}


def test_bucket_that_is_not_there_is_told_and_not_made(store: ObjectStore) -> None:
    with pytest.raises(StorageFailed, match="finished models can't be kept"):
        Storage("s3://modles/finished").write("7", [b"a"])
    assert store.objects == {}
