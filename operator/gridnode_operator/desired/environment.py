"""The node's settings that follow from a GridNode, as environment variables of a pod or a process."""

from __future__ import annotations

from typing import Final

from gridnode_operator.api import GridNode, SecretKey
from gridnode_operator.desired.context import DesiredContext
from gridnode_operator.desired.labels import Manifest
from gridnode_operator.desired.names import child_names

DEVICE_PORT: Final = 5000
MANAGEMENT_PORT: Final = 5050

DATABASE_URL_KEY: Final = "url"
MANAGEMENT_TOKEN_KEY: Final = "token"  # noqa: S105 - name of a key
MASTER_KEY_KEY: Final = "key"

_LONGEST_NODE_ID: Final = 253


def node_environment(gridnode: GridNode, context: DesiredContext) -> dict[str, str]:
    """Settings by variable, without secrets."""
    spec = gridnode.spec
    settings: dict[str, str | int | None] = {
        "GRIDNODE_HOST": "0.0.0.0",  # noqa: S104 - of a pod
        "GRIDNODE_DEVICE_PORT": DEVICE_PORT,
        "GRIDNODE_MANAGEMENT_HOST": "0.0.0.0",  # noqa: S104
        "GRIDNODE_MANAGEMENT_PORT": MANAGEMENT_PORT,
        "GRIDNODE_NODE_ID": node_id(gridnode),
        "GRIDNODE_WORKER_PROCESSES": spec.processes_per_pod,
        "GRIDNODE_DRAIN_TIMEOUT": spec.drain_timeout_seconds,
        "GRIDNODE_DATABASE_POOL_SIZE": spec.database.pool_size,
        "GRIDNODE_DATABASE_IAM_AUTHENTICATION": "true" if spec.database.iam_authentication else None,
        "GRIDNODE_MASTER_URL": spec.master.url or context.master_url,
        "GRIDNODE_LEGACY_HOSTING": "true" if spec.legacy_hosting else None,
        "GRIDNODE_BODY_LIMIT": spec.limits.body_bytes,
        "GRIDNODE_CONNECTION_LIMIT": spec.limits.connections,
        "GRIDNODE_CONNECTION_LIMIT_PER_ADDRESS": spec.limits.connections_per_address,
        "GRIDNODE_REQUEST_RATE_PER_ADDRESS": spec.limits.requests_per_second_per_address,
        "GRIDNODE_TRUSTED_PROXIES": ",".join(spec.limits.trusted_proxies) or None,
        "GRIDNODE_LOG_FORMAT": "json",
    }
    return {name: str(value) for name, value in settings.items() if value is not None}


def node_id(gridnode: GridNode) -> str:
    """Name of the node in progress events, the same for all its pods."""
    full = gridnode.key
    return full if len(full) <= _LONGEST_NODE_ID else f"{gridnode.namespace}/{child_names(gridnode.name).base}"


def secret_environment(gridnode: GridNode, context: DesiredContext) -> dict[str, SecretKey]:
    """Which key of which Secret each secret setting is read from."""
    sources = {
        "GRIDNODE_DATABASE_URL": database_secret_key(gridnode),
        "GRIDNODE_MANAGEMENT_TOKEN": management_secret_key(gridnode),
        "GRIDNODE_MASTER_KEY": master_secret_key(gridnode, context),
    }
    return {name: source for name, source in sources.items() if source is not None}


def database_secret_key(gridnode: GridNode) -> SecretKey:
    """Where the URL of the node's database is."""
    return SecretKey(child_names(gridnode.name).database_secret, DATABASE_URL_KEY)


def management_secret_key(gridnode: GridNode) -> SecretKey:
    """Where the token of the management port is."""
    own = SecretKey(child_names(gridnode.name).management_secret, MANAGEMENT_TOKEN_KEY)
    return gridnode.spec.management_token_secret_ref or own


def master_secret_key(gridnode: GridNode, context: DesiredContext) -> SecretKey | None:
    """Where the key for the master node is; None if it needs none."""
    master = gridnode.spec.master
    if master.key_secret_ref is not None:
        return master.key_secret_ref
    # The operator's key is for the operator's master node: it must not be sent to wherever a spec points.
    if master.url is not None or context.master_url is None or context.secrets.master_key is None:
        return None
    return SecretKey(child_names(gridnode.name).master_secret, MASTER_KEY_KEY)


def secret_references(gridnode: GridNode, context: DesiredContext) -> list[SecretKey]:
    """Every key of a Secret that the pods' environment is read from: when one changes, the pods must restart."""
    own = secret_environment(gridnode, context).values()
    return sorted({*own, *_passed_references(gridnode)}, key=lambda each: (each.name, each.key))


def optional_secret_references(gridnode: GridNode) -> frozenset[SecretKey]:
    """Those of them that pods start without."""
    return frozenset(key for key, is_optional in _passed_references(gridnode).items() if is_optional)


def has_foreign_secrets(gridnode: GridNode) -> bool:
    """Whether the pods read Secrets that the operator did not make."""
    spec = gridnode.spec
    named = (spec.management_token_secret_ref, spec.master.key_secret_ref)
    return any(each is not None for each in named) or bool(_passed_references(gridnode))


def _passed_references(gridnode: GridNode) -> dict[SecretKey, bool]:
    """The spec's own, and whether each may be missing."""
    found: dict[SecretKey, bool] = {}
    for variable in gridnode.spec.pod_template.env:
        if reference := (variable.get("valueFrom") or {}).get("secretKeyRef"):
            key = SecretKey(reference["name"], reference["key"])
            found[key] = found.get(key, True) and bool(reference.get("optional"))
    return found


def environment_variables(gridnode: GridNode, context: DesiredContext, *names: str) -> list[Manifest]:
    """``env`` of a container: the operator's variables (only ``names``, if given) and the spec's."""
    plain: list[Manifest] = [
        {"name": name, "value": value} for name, value in node_environment(gridnode, context).items()
    ]
    secret: list[Manifest] = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": source.name, "key": source.key}}}
        for name, source in secret_environment(gridnode, context).items()
    ]
    own = [each for each in plain + secret if not names or each["name"] in names]
    return own + [dict(variable) for variable in gridnode.spec.pod_template.env]
