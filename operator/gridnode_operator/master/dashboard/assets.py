"""Style sheets, scripts and the icon: part of the package, and named by their content, so that browsers keep them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Final

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class Asset:
    """One file.

    Attributes:
        path: Below the path of all assets; another for another content.
        kind: Its content type.
    """

    path: str
    kind: str
    content: bytes


class Assets:
    """All of them, read once.

    Attributes:
        digest: Of all: another release with other assets has another.
    """

    def __init__(self) -> None:
        self._by_name = {asset.path.partition("/")[2]: asset for asset in _read_all()}
        self._by_path = {asset.path: asset for asset in self._by_name.values()}
        self.digest = hashlib.sha256(" ".join(sorted(self._by_path)).encode()).hexdigest()[:_DIGITS]

    def path(self, name: str) -> str:
        """The path of an asset of this release.

        Raises:
            KeyError: there is none of this name.
        """
        return self._by_name[name].path

    def find(self, path: str) -> Asset | None:
        """The asset of a path; None if there is none, or it had another content."""
        return self._by_path.get(path)


def _read_all() -> list[Asset]:
    found = []
    for file in resources.files(__package__).joinpath("static").iterdir():
        kind = _TYPES.get(f".{file.name.rpartition('.')[2]}")
        if kind is not None:
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
            found.append(Asset(f"{digest}/{file.name}", kind, content))
    return found
