"""Where GridNodes come from: the file that a person writes, and a directory in which the master node makes some."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gridnode_operator.api import GridNode
from gridnode_operator.local.manifests import InvalidManifest, parse_manifests
from gridnode_operator.local.secret_files import write_private

_MANIFESTS: Final = "*.yaml"
_STATUS_SUFFIX: Final = ".status.json"


class Sources:
    """Both, as they were when they were last correct.

    Args:
        file: Of a person.
        gridnodes: What the file held when it was first read.
        directory: With a manifest in each file; need not exist.
    """

    def __init__(self, file: Path, gridnodes: Sequence[GridNode], directory: Path) -> None:
        self._file = file
        self._directory = directory
        self._texts: dict[Path, str] = {}
        self.gridnodes = gridnodes

    def changed(self) -> Sequence[GridNode] | None:
        """What they hold now if that is new, None if it is not.

        Raises:
            InvalidManifest: it is new, and can't be used.
        """
        texts = {path: text for path in self._paths() if (text := _text(path)) is not None}
        # It may just be written anew; to remove all GridNodes, one stops.
        if self._file not in texts or texts == self._texts:
            return None
        self._texts = texts
        found = [gridnode for path, text in texts.items() for gridnode in parse_manifests(text, str(path))]
        _check_names(found)
        return found if found != self.gridnodes else None

    def _paths(self) -> list[Path]:
        return [self._file, *sorted(self._directory.glob(_MANIFESTS))]


class StatusFiles:
    """What the master node reads of GridNodes: ``<name>.status.json`` beside the manifests, with the token in it.

    Args:
        directory: made when something is written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._written: dict[Path, str] = {}

    def write(self, statuses: Iterable[Mapping[str, Any]]) -> None:
        """Have exactly these; each has a ``nodeId``, ``namespace/name``."""
        wanted = {self._path(str(status["nodeId"])): json.dumps(dict(status)) for status in statuses}
        for path in self._written.keys() - wanted.keys():
            path.unlink(missing_ok=True)
        for path, text in wanted.items():
            if self._written.get(path) != text:
                write_private(path, text)
        self._written = wanted

    def clear(self) -> None:
        """Have none, not even those of a run that was killed."""
        for path in self._directory.glob(f"*{_STATUS_SUFFIX}"):
            path.unlink(missing_ok=True)
        self._written = {}

    def _path(self, node_id: str) -> Path:
        namespace, _, name = node_id.partition("/")
        return self._directory / f"{name if namespace == 'default' else f'{namespace}.{name}'}{_STATUS_SUFFIX}"


def _check_names(gridnodes: Sequence[GridNode]) -> None:
    seen = set()
    for gridnode in gridnodes:
        if gridnode.key in seen:
            raise InvalidManifest(f"there are two GridNodes {gridnode.key}: one of them was made by the master node")
        seen.add(gridnode.key)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
