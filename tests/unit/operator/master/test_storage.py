"""Files of finished models: whole or not there, under any fsspec URL."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from gridnode.declared_settings import InvalidSetting
from gridnode_operator.master.errors import StorageFailed
from gridnode_operator.master.finished.storage import Storage

CONTENT = [b"some", b"", b"thing" * 100_000]
WHOLE = b"".join(CONTENT)


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A directory of two kinds of file system."""
    return tmp_path.as_uri() if request.param == "file" else f"memory://{tmp_path}"


def test_round_trip(url: str) -> None:
    storage = Storage(url)
    stored = storage.write("7", CONTENT)
    assert (stored.size, stored.sha256) == (len(WHOLE), hashlib.sha256(WHOLE).hexdigest())
    assert b"".join(storage.read(stored.path)) == WHOLE
    storage.delete(stored.path)
    storage.delete(stored.path)
    with pytest.raises(StorageFailed):
        storage.read(stored.path)


def test_two_files_of_one_model_do_not_meet(url: str) -> None:
    storage = Storage(url)
    assert storage.write("7", [b"a"]).path != storage.write("7", [b"b"]).path


def test_broken_source_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        Storage(tmp_path.as_uri()).write("7", broken())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "7").write_text("a file where the directory should be")
    with pytest.raises(StorageFailed, match="can't be kept"):
        Storage(tmp_path.as_uri()).write("7", [b"x"])


def test_what_reads_back_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(tmp_path.as_uri())
    monkeypatch.setattr(storage, "_digest", lambda _path: "0" * 64)
    with pytest.raises(StorageFailed, match="reads back"):
        storage.write("7", [b"x"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_no_bucket_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """As fsspec's own object stores are: objects need no directories, and making them makes the bucket."""

    class Bucket(MemoryFileSystem):  # type: ignore[misc]
        protocol = "az"
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]

        def makedirs(self, path: str, exist_ok: bool = False) -> None:
            raise AssertionError(f"made {path}")

        def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
            self.pseudo_dirs.append(self._parent(path))
            return super().open(path, mode, **options)

    monkeypatch.setitem(importlib.import_module("fsspec.registry")._registry, "az", Bucket)
    storage = Storage("az://models/finished")
    assert b"".join(storage.read(storage.write("7", CONTENT).path)) == WHOLE


def test_unknown_kind_of_url() -> None:
    with pytest.raises(InvalidSetting, match="STORAGE_URL"):
        Storage("nonsense://bucket")
