"""A GridNode as it is read, from the API server or a file, and what is wrong with one that can't be worked with."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from gridnode_operator.api.names import MANAGED_VARIABLES, ROTATE_ANNOTATION, SCRATCH_VOLUME
from gridnode_operator.api.spec import GridNodeSpec
from gridnode_operator.api.status import GridNodeStatus, ModelsStatus


class InvalidSpec(Exception):
    """A GridNode that the operator can't work with.

    Attributes:
        field: Path of the field, such as ``spec.database.schema``.
        why: What is wrong with it.
    """

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why


class GridNode(Struct, frozen=True):
    """A GridNode as it was read from the API server."""

    namespace: str
    name: str
    uid: str
    generation: int
    labels: dict[str, str]
    annotations: dict[str, str]
    finalizers: tuple[str, ...]
    deleted_at: datetime | None
    spec: GridNodeSpec
    status: dict[str, Any]

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def deleting(self) -> bool:
        """Whether somebody has deleted it, so that only its finalizer keeps it."""
        return self.deleted_at is not None

    @property
    def replicas(self) -> int | None:
        """Pods wanted; None while an autoscaler decides."""
        return self.spec.replicas if self.spec.autoscaling is None else None

    @property
    def rotation(self) -> str:
        """Text whose change asks for a new database password; empty when none was ever asked for."""
        wishes = (self.spec.database.rotate, self.annotations.get(ROTATE_ANNOTATION))
        return "\n".join(wish or "" for wish in wishes).strip("\n")


# msgspec works out what a struct needs when it is first used, and threads that do so at the same time crash (seen with
# 0.22): so it is done here, once. An empty spec is one; the others only have to be looked at.
for _kind in (GridNodeSpec, GridNodeStatus, ModelsStatus):
    msgspec.convert({}, _kind)


def parse(resource: Mapping[str, Any]) -> GridNode:
    """A GridNode from the API server's JSON, or from a manifest that never saw one.

    Raises:
        InvalidSpec: the spec is not one; normally the API server has refused it before.
    """
    metadata = resource["metadata"]
    spec = parse_spec(resource.get("spec") or {})
    deleted_at = metadata.get("deletionTimestamp")
    return GridNode(
        namespace=metadata.get("namespace") or "default",
        name=metadata["name"],
        uid=metadata.get("uid") or "",
        generation=int(metadata.get("generation") or 0),
        labels=dict(metadata.get("labels") or {}),
        annotations=dict(metadata.get("annotations") or {}),
        finalizers=tuple(metadata.get("finalizers") or ()),
        deleted_at=None if deleted_at is None else datetime.fromisoformat(deleted_at),
        spec=spec,
        status=dict(resource.get("status") or {}),
    )


def parse_spec(spec: Mapping[str, Any]) -> GridNodeSpec:
    """The spec alone.

    Raises:
        InvalidSpec: names the first field that is wrong.
    """
    try:
        parsed = msgspec.convert(_without_nulls(spec), GridNodeSpec)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at ")
        path = path.replace("`key` in ", "").strip("`").removeprefix("$").removesuffix("[...]")
        raise InvalidSpec(f"spec{path}", problem) from None
    for path, why in _broken_rules(parsed):
        raise InvalidSpec(path, why)
    return parsed


def _without_nulls(value: Any) -> Any:
    """As the API server reads it: a null is a field that is not there, and so gets its default."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, (list, tuple)):
        return [_without_nulls(entry) for entry in value]
    return value


def _broken_rules(spec: GridNodeSpec) -> Iterator[tuple[str, str]]:
    """What no single field's bounds say; the API server checks the same by the CEL rules of :mod:`.crd`."""
    scaling, budget, template = spec.autoscaling, spec.disruption_budget, spec.pod_template
    if scaling is not None and spec.replicas != 1:
        yield "spec.replicas", "autoscaling decides how many pods there are: leave replicas out"
    if scaling is not None and scaling.min_replicas > scaling.max_replicas:
        yield "spec.autoscaling.minReplicas", "must not be greater than maxReplicas"
    if _is_reserved_schema(spec.database.schema):
        yield "spec.database.schema", "is a schema of PostgreSQL's own"
    if spec.exposure.ingress is not None and spec.exposure.http_route is not None:
        yield "spec.exposure", "ingress and httpRoute exclude each other"
    if budget is not None and (budget.min_available is None) == (budget.max_unavailable is None):
        yield "spec.disruptionBudget", "needs exactly one of minAvailable and maxUnavailable"
    for variable in template.env:
        if variable.get("name") in MANAGED_VARIABLES:
            yield "spec.podTemplate.env", f"{variable['name']} is set by the operator: use the spec's field for it"
    if any(volume.get("name") == SCRATCH_VOLUME for volume in template.volumes):
        yield "spec.podTemplate.volumes", f"{SCRATCH_VOLUME} is the operator's own volume"
    yield from _bad_networks(spec.limits.trusted_proxies)
    yield from _line_breaks(spec, "spec")


def _is_reserved_schema(schema: str | None) -> bool:
    return schema is not None and (schema.startswith("pg_") or schema in ("public", "information_schema"))


def _bad_networks(networks: list[str]) -> Iterator[tuple[str, str]]:
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            yield "spec.limits.trustedProxies", str(error)


def _line_breaks(struct: Struct, path: str) -> Iterator[tuple[str, str]]:
    """Texts that end with a line break: '$' in a pattern lets one through in Python, but not at the API server."""
    for name, encoded_name in zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True):
        value = getattr(struct, name)
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, Struct):
                yield from _line_breaks(entry, f"{path}.{encoded_name}")
            elif isinstance(entry, str) and entry.endswith("\n"):
                yield f"{path}.{encoded_name}", "must not end with a line break"
