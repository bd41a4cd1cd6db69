"""The environment of a node's processes: what the operator gives the pod, with the Secrets' values filled in."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, Final

from gridnode.db.revision import REVISION
from gridnode.errors import NotFound
from gridnode_operator.api import GridNode, SecretKey
from gridnode_operator.desired.context import DesiredContext, NodeSecrets
from gridnode_operator.desired.environment import environment_variables
from gridnode_operator.local.paths import shown_path
from gridnode_operator.local.secret_files import SecretFiles

_PREFIX: Final = "GRIDNODE_"


class MissingSecret(NotFound):
    """A Secret that a GridNode needs is not there; the message says where to put it."""


def local_context(master_url: str) -> DesiredContext:
    """What desired state depends on here, but for the Secrets: see :func:`with_secrets`."""
    return DesiredContext(
        default_image="",
        schema_revision=REVISION,
        secrets=NodeSecrets(database_url="", management_token=""),
        master_url=master_url,
    )


def with_secrets(context: DesiredContext, secrets: NodeSecrets) -> DesiredContext:
    """The context for one GridNode."""
    return dataclasses.replace(context, secrets=secrets)


def node_variables(gridnode: GridNode, context: DesiredContext, secrets: SecretFiles, *names: str) -> dict[str, str]:
    """Variables of a pod's container, those of ``podTemplate.env`` included.

    Args:
        gridnode: Whose.
        context: See :func:`local_context`.
        secrets: Where the values of Secrets are.
        names: Only these of the operator's own, if given.

    Raises:
        MissingSecret: one that is not optional is not there.
    """
    values: dict[str, str] = {}
    for variable in environment_variables(gridnode, context, *names):
        value = _value(variable, gridnode, secrets)
        if value is not None:
            values[variable["name"]] = value
    return values


def process_environment(variables: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """This process's environment with the node's variables, and without settings meant for another node."""
    return {**{name: value for name, value in environ.items() if not name.startswith(_PREFIX)}, **variables}


def template_of(variables: Mapping[str, str]) -> str:
    """Tells replicas apart that are made differently."""
    return hashlib.sha256(json.dumps(dict(variables), sort_keys=True).encode()).hexdigest()[:16]


def _value(variable: Mapping[str, Any], gridnode: GridNode, secrets: SecretFiles) -> str | None:
    source = variable.get("valueFrom")
    if not source:
        return str(variable.get("value") or "")
    reference = source.get("secretKeyRef")
    if not reference:
        return None  # of the pod or a ConfigMap, which there are none of here
    key = SecretKey(reference["name"], reference["key"])
    value = secrets.read(gridnode.namespace, key) if _is_safe(key) else None
    if value is None and not reference.get("optional"):
        raise MissingSecret(
            f"{variable['name']} is read from the key {key.key} of the Secret {key.name}. Write it to the file "
            f"{shown_path(secrets.path(gridnode.namespace, key))}"
        )
    return value


def _is_safe(key: SecretKey) -> bool:
    """References in podTemplate.env are passed on as they are; the API server would refuse such names."""
    return not any("/" in part or part in ("", ".", "..") for part in (key.name, key.key))
