"""GridNodes from a YAML file, checked as strictly as ``kubectl apply`` does it."""

from __future__ import annotations

import difflib
import re
import zlib
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from gridnode.errors import InvalidRequest
from gridnode_operator.api import API_VERSION, KIND, GridNode, InvalidSpec, parse
from gridnode_operator.crd import custom_resource_definition

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_LONGEST_NAME: Final = 253
_KEYS: Final = ("apiVersion", "kind", "metadata", "spec", "status")
_KEEPS_UNKNOWN: Final = "x-kubernetes-preserve-unknown-fields"


class InvalidManifest(InvalidRequest):
    """A file can't be used; the message names file, document and field."""


def read_manifests(path: Path) -> list[GridNode]:
    """All GridNodes of a file, in its order, as they can run on this machine.

    Raises:
        InvalidManifest: at the first thing that is wrong. Nothing of the file may be used then.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidManifest(f"{path} can't be read: {reason}") from None
    return parse_manifests(text, str(path))


def parse_manifests(text: str, source: str) -> list[GridNode]:
    """All GridNodes of a YAML text.

    Args:
        text: Documents of YAML; empty ones are left out.
        source: Its name, for errors.

    Raises:
        InvalidManifest: see :func:`read_manifests`.
    """
    found: dict[str, GridNode] = {}
    for number, document in enumerate(_documents(text, source), start=1):
        if document is None:
            continue
        where = f"{source}, document {number}"
        gridnode = _parse(document, where)
        if gridnode.key in found:
            raise InvalidManifest(f"{where}: there is a {KIND} {gridnode.key} already in a document before")
        found[gridnode.key] = gridnode
    if not found:
        raise InvalidManifest(f"{source} holds no {KIND}: write one as in examples/gridnode.yaml")
    return list(found.values())


def on_this_machine(gridnode: GridNode) -> GridNode:
    """The GridNode without what is about another database server than the embedded one.

    There is no API server to give it a uid and to count its generations: whoever has the data directory is the same
    GridNode, and each spec has a number of its own.
    """
    database = msgspec.structs.replace(
        gridnode.spec.database, admin_secret_ref=None, tls_mode=None, iam_authentication=False
    )
    spec = msgspec.structs.replace(gridnode.spec, database=database)
    generation = zlib.crc32(msgspec.json.encode(spec))
    return msgspec.structs.replace(gridnode, uid=f"local:{gridnode.key}", generation=generation, spec=spec)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: which of the values counts is a matter of luck."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key} stands here twice", key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _documents(text: str, source: str) -> Iterator[Any]:
    try:
        yield from yaml.load_all(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise InvalidManifest(f"{source}{where}: no YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidManifest(f"{source}: no YAML: {error}") from None


def _parse(document: Any, where: str) -> GridNode:
    if not isinstance(document, dict):
        raise InvalidManifest(f"{where}: a manifest is expected, with apiVersion, kind, metadata and spec")
    kind, version = document.get("kind"), document.get("apiVersion")
    if kind != KIND:
        raise InvalidManifest(f"{where}: kind is {_shown(kind)}; without a cluster there is only {KIND}")
    if version != API_VERSION:
        raise InvalidManifest(f"{where}: apiVersion is {_shown(version)}; this release reads {API_VERSION}")
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        raise InvalidManifest(f"{where}: metadata is missing: it needs at least a name")
    _check_metadata(metadata, where)
    where = f"{where} ({KIND} {metadata.get('namespace') or 'default'}/{metadata['name']})"
    if not isinstance(document.get("spec") or {}, dict):
        raise InvalidManifest(f"{where}: spec must be an object")
    for path, suggestion in _unknown_fields(document):
        hint = f"; did you mean {suggestion}?" if suggestion else ""
        raise InvalidManifest(f"{where}: there is no field {path}{hint}")
    try:
        # The status is the cluster's; a manifest that was read from one may hold it.
        return on_this_machine(parse({"metadata": metadata, "spec": document.get("spec")}))
    except InvalidSpec as error:
        raise InvalidManifest(f"{where}: {error.field}: {error.why}") from None


def _check_metadata(metadata: Mapping[str, Any], where: str) -> None:
    name, namespace = metadata.get("name"), metadata.get("namespace")
    if not isinstance(name, str) or len(name) > _LONGEST_NAME or not _SUBDOMAIN.fullmatch(name):
        raise InvalidManifest(
            f"{where}: metadata.name is {_shown(name)}; accepted are lower-case letters, digits, '-' and '.'"
        )
    if namespace is not None and (not isinstance(namespace, str) or not _LABEL.fullmatch(namespace)):
        raise InvalidManifest(
            f"{where}: metadata.namespace is {_shown(namespace)}; accepted are lower-case letters, digits and '-'"
        )
    for key in ("labels", "annotations"):
        entries = metadata.get(key) or {}
        if not isinstance(entries, dict) or not all(
            isinstance(entry, str) for pair in entries.items() for entry in pair
        ):
            raise InvalidManifest(f"{where}: metadata.{key} must hold texts: put numbers and true or false in quotes")


def _unknown_fields(document: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Path of each field that no schema knows, with the name that was probably meant."""
    for key in document:
        if key not in _KEYS:
            yield str(key), _closest(key, _KEYS)
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    yield from _unknown_within(document.get("spec"), schema["properties"]["spec"], "spec")


def _unknown_within(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str | None]]:
    if isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _unknown_within(entry, schema.get("items") or {}, f"{path}[{index}]")
    elif isinstance(value, dict) and not schema.get(_KEEPS_UNKNOWN):
        properties: Mapping[str, Any] | None = schema.get("properties")
        for key, entry in value.items():
            if properties is not None and key not in properties:
                yield f"{path}.{key}", _closest(key, properties)
            elif properties is not None:
                yield from _unknown_within(entry, properties[key], f"{path}.{key}")


def _closest(key: object, known: Any) -> str | None:
    return next(iter(difflib.get_close_matches(str(key), list(known), n=1)), None)


def _shown(value: object) -> str:
    return "missing" if value is None else f"{value!r:.100}"
