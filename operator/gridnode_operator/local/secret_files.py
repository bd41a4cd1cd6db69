"""Secrets as files that only their owner can read: ``<namespace>/<name>/<key>``."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gridnode_operator.api import SecretKey

#: No key of a Secret can have this name.
_ANNOTATIONS: Final = "@annotations"


class SecretFiles:
    """Reads and writes them; as manifests where the operator's code works with those.

    Args:
        directory: made when something is written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, namespace: str, source: SecretKey) -> Path:
        """Where a key of a Secret is, whether it exists or not."""
        return self._directory / namespace / source.name / source.key

    def read(self, namespace: str, source: SecretKey) -> str | None:
        """The value, None if there is none."""
        return _text(self.path(namespace, source))

    def find(self, namespace: str, name: str) -> dict[str, Any] | None:
        """A Secret as the API server would give it, None if there is none."""
        directory = self._directory / namespace / name
        if not directory.is_dir():
            return None
        values = {path.name: _text(path) or "" for path in sorted(directory.iterdir())}
        version = hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
        annotations = json.loads(values.pop(_ANNOTATIONS, "") or "{}")
        return {
            "metadata": {"name": name, "resourceVersion": version, "annotations": annotations},
            "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
        }

    def apply(self, namespace: str, manifest: Mapping[str, Any]) -> None:
        """Have a Secret as its manifest says; writes what differs."""
        metadata = manifest["metadata"]
        values = {key: base64.b64decode(value).decode() for key, value in manifest["data"].items()}
        # At the end: they say what the values are of.
        values[_ANNOTATIONS] = json.dumps(metadata.get("annotations") or {})
        for key, value in values.items():
            path = self._directory / namespace / metadata["name"] / key
            if _text(path) != value:
                write_private(path, value)

    def remove(self, namespace: str, name: str) -> None:
        """Remove a Secret with all its keys."""
        shutil.rmtree(self._directory / namespace / name, ignore_errors=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, at once and as a whole; directories are made as needed."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Made with mode 600; hidden, for whoever lists the directory.
    descriptor, name = tempfile.mkstemp(prefix=".", dir=path.parent)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
