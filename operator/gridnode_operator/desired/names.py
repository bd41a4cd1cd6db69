"""Names of a GridNode's children, and of its schema and roles on the database server.

Names of children are DNS-1035 labels of at most 63 characters, unique in the namespace: a GridNode's own name where it
is one, else a shortened one with a hash. Names on the server are unique among all namespaces and installations.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Final

_LABEL_LENGTH: Final = 63
_IDENTIFIER_LENGTH: Final = 63
#: Hexadecimal digits: nobody finds a name with the hash of a given other one.
_CHILD_HASH: Final = 20
_DATABASE_HASH: Final = 24
_JOB_HASH: Final = 10
_REVISION: Final = 16

_DATABASE: Final = "-database"
_MANAGEMENT: Final = "-management"
_MASTER: Final = "-master"
_SUFFIXES: Final = (_DATABASE, _MANAGEMENT, _MASTER)
_LONGEST_BASE: Final = _LABEL_LENGTH - max(map(len, _SUFFIXES))

_DNS_1035: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?", re.ASCII)
#: Such a name of a GridNode could be one that another's was shortened to, or another's child's.
_TAKEN: Final = re.compile(rf".*(-[0-9a-f]{{{_CHILD_HASH}}}|{'|'.join(_SUFFIXES)})", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class ChildNames:
    """Names of the children of one GridNode.

    Attributes:
        base: Deployment, device Service and everything of which there is one. Also the value of the labels.
    """

    base: str

    @property
    def database_secret(self) -> str:
        """Secret with the URL of the node's database."""
        return self.base + _DATABASE

    @property
    def management_secret(self) -> str:
        """Secret with the generated token of the management port."""
        return self.base + _MANAGEMENT

    @property
    def master_secret(self) -> str:
        """Secret with the key that the node shows to the operator's master node."""
        return self.base + _MASTER

    @property
    def management_service(self) -> str:
        """Service of the management port."""
        return self.base + _MANAGEMENT

    def migration_job(self, revision: str, inputs: object) -> str:
        """Job that migrates the schema.

        Args:
            revision: Schema revision that the operator's release knows.
            inputs: JSON value of everything that asks for another migration when it changes; the image, above all.
        """
        readable = _dns_label(revision)[:_REVISION].strip("-")
        suffix = f"-migrate-{readable or 'x'}-{_hash([revision, inputs], _JOB_HASH)}"
        base = self.base
        if len(base) + len(suffix) > _LABEL_LENGTH:
            base = _shortened(base, base, _LABEL_LENGTH - len(suffix))
        return base + suffix


def child_names(name: str) -> ChildNames:
    """Names of the children of the GridNode ``name``, the same for ever: Services' names are in clients' hands."""
    if len(name) <= _LONGEST_BASE and _DNS_1035.fullmatch(name) and not _TAKEN.fullmatch(name):
        return ChildNames(name)
    return ChildNames(_shortened(name, name, _LONGEST_BASE))


@dataclass(frozen=True, slots=True)
class DatabaseNames:
    """What belongs to one GridNode on the database server. None of it needs other quoting than an identifier's.

    Attributes:
        gridnode: ``namespace/name`` (and the installation, if it has a name), to be noted on the schema.
        schema: The schema.
        owner: Role that owns it, without login.
        logins: Two login roles, members of the owner; they take turns when the password is changed.
    """

    gridnode: str
    schema: str
    owner: str
    logins: tuple[str, str]


def database_names(namespace: str, name: str, *, schema: str | None = None, installation: str = "") -> DatabaseNames:
    """Names for one GridNode.

    Args:
        namespace: The GridNode's.
        name: The GridNode's.
        schema: ``spec.database.schema``; derived if None.
        installation: Tells installs apart that share one server.
    """
    key = _hash([installation, namespace, name], _DATABASE_HASH)
    room = _IDENTIFIER_LENGTH - len("gn_") - len(f"_{key}") - len("_a")
    readable = re.sub(r"[^a-z0-9]", "_", f"{namespace}_{name}", flags=re.ASCII)[:room]
    owner = f"gn_{readable}_{key}"
    gridnode = f"{namespace}/{name}"
    return DatabaseNames(
        gridnode=f"{installation}:{gridnode}" if installation else gridnode,
        schema=owner if schema is None else schema,
        owner=owner,
        logins=(f"{owner}_a", f"{owner}_b"),
    )


def _shortened(readable: str, identity: str, length: int) -> str:
    suffix = f"-{_hash([identity], _CHILD_HASH)}"
    label = _dns_label(readable)
    if not label[:1].isalpha():
        label = f"gridnode-{label}"
    return label[: length - len(suffix)].rstrip("-") + suffix


def _dns_label(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower(), flags=re.ASCII).strip("-")


def _hash(identity: list[object], digits: int) -> str:
    # JSON keeps ["a", "b-c"] and ["a-b", "c"] apart.
    text = json.dumps(identity, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
