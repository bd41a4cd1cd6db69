"""Where finished models are kept: a directory, or anything else that fsspec has a URL for."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import fsspec  # type: ignore[import-untyped]

from gridnode.declared_settings import InvalidSetting
from gridnode_operator.master.errors import StorageFailed

_CHUNK: Final = 1 << 18
#: There, making directories makes buckets: a wrong name must be told, and not become one.
_OBJECT_STORES: Final = frozenset({"s3", "s3a", "gcs", "gs", "abfs", "abfss", "az"})


@dataclass(frozen=True, slots=True)
class Stored:
    """A checkpoint that is stored: where, how long, and its SHA-256 in hexadecimal."""

    path: str
    size: int
    sha256: str


class Storage:
    """One directory of an fsspec file system.

    Args:
        url: Such as ``file:///var/lib/gridnode/finished`` or ``s3://bucket/models``.

    Raises:
        InvalidSetting: there is no file system for such a URL here.
    """

    def __init__(self, url: str) -> None:
        try:
            _register_object_stores()
            self._files, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise InvalidSetting(f"GRIDNODE_MASTER_STORAGE_URL {url!r} can't be used: {error}.") from None
        self._root = str(root).rstrip("/")
        protocol = self._files.protocol
        self._has_directories = _OBJECT_STORES.isdisjoint([protocol] if isinstance(protocol, str) else protocol)

    def write(self, directory: str, chunks: Iterable[bytes]) -> Stored:
        """Store a file under a name of its own; it is there whole, or not at all.

        Args:
            directory: Below the storage's own.
            chunks: The content. What it raises is passed on.

        Raises:
            StorageFailed: the file system refused, or what can be read back is something else.
        """
        path = f"{directory}/{uuid.uuid4().hex}.bin"
        full = f"{self._root}/{path}"
        digest, size = hashlib.sha256(), 0
        with _translated():
            if self._has_directories:
                self._files.makedirs(f"{self._root}/{directory}", exist_ok=True)
            file = self._files.open(full, "wb")
        try:
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                with _translated():
                    file.write(chunk)
            with _translated():
                file.close()
            if self._digest(full) != digest.hexdigest():
                raise StorageFailed("what was stored reads back as something else")
        except BaseException:
            self._discard(file, full)
            raise
        return Stored(path, size, digest.hexdigest())

    def read(self, path: str) -> Iterator[bytes]:
        """The content of a stored file in pieces; opened before the first is asked for.

        Raises:
            StorageFailed: it can't be opened.
        """
        full = f"{self._root}/{path}"
        with _translated():
            # Asked first: obstore's file complains on standard error when there is none.
            self._files.info(full)
            file = self._files.open(full, "rb")
        return _pieces(file)

    def delete(self, path: str) -> None:
        """Remove a stored file; one that is gone is fine.

        Raises:
            StorageFailed: it can't be removed.
        """
        with _translated(), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{path}")

    def _digest(self, full: str) -> str:
        digest = hashlib.sha256()
        with _translated():
            for chunk in _pieces(self._files.open(full, "rb")):
                digest.update(chunk)
        return digest.hexdigest()

    def _discard(self, file: Any, full: str) -> None:
        # Whatever is left of it: nobody will ever know its name.
        with contextlib.suppress(Exception):
            discard = getattr(file, "discard", None)
            if callable(discard):
                discard()
        with contextlib.suppress(Exception):
            file.close()
        with contextlib.suppress(Exception):
            self._files.rm_file(full)


def _register_object_stores() -> None:
    """Use obstore where it is installed: fsspec's own need libraries that don't go together with kubernetes'."""
    try:
        from obstore.fsspec import register
    except ImportError:
        return
    for protocol in ("s3", "gs", "abfs"):
        with contextlib.suppress(ValueError):  # registered already
            register(protocol)


def _pieces(file: Any) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Every file system raises errors of its own."""
    try:
        yield
    except StorageFailed:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise StorageFailed(f"finished models can't be kept: {reason}") from error
