"""The Secrets that the operator fills: database URL, management token, master key."""

from __future__ import annotations

import base64
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from gridnode_operator.api import ROTATION_ANNOTATION, GridNode
from gridnode_operator.desired.context import DesiredContext
from gridnode_operator.desired.environment import (
    DATABASE_URL_KEY,
    MANAGEMENT_TOKEN_KEY,
    MASTER_KEY_KEY,
    master_secret_key,
)
from gridnode_operator.desired.labels import Manifest, metadata
from gridnode_operator.desired.names import child_names


def build_database_secret(gridnode: GridNode, context: DesiredContext) -> Manifest:
    """The URL of the node's own login."""
    url = with_tls_mode(context.secrets.database_url, gridnode.spec.database.tls_mode)
    rotation = {ROTATION_ANNOTATION: context.secrets.rotation} if context.secrets.rotation else {}
    return _secret(gridnode, child_names(gridnode.name).database_secret, {DATABASE_URL_KEY: url}, rotation)


def build_management_secret(gridnode: GridNode, context: DesiredContext) -> Manifest | None:
    """The generated token of the management port; None where the spec names a Secret."""
    if gridnode.spec.management_token_secret_ref is not None:
        return None
    token = context.secrets.management_token
    return _secret(gridnode, child_names(gridnode.name).management_secret, {MANAGEMENT_TOKEN_KEY: token})


def build_master_secret(gridnode: GridNode, context: DesiredContext) -> Manifest | None:
    """The key for the operator's master node; None where the node reports elsewhere, or needs none."""
    name = child_names(gridnode.name).master_secret
    source, key = master_secret_key(gridnode, context), context.secrets.master_key
    if source is None or key is None or gridnode.spec.master.key_secret_ref is not None:
        return None
    return _secret(gridnode, name, {MASTER_KEY_KEY: key})


def with_tls_mode(url: str, mode: str | None) -> str:
    """The URL with another ``sslmode``; unchanged if ``mode`` is None."""
    if mode is None:
        return url
    parts = urlsplit(url)
    query = [(key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if key != "sslmode"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("sslmode", mode)])))


def _secret(
    gridnode: GridNode, name: str, values: dict[str, str], annotations: dict[str, str] | None = None
) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(gridnode, name, annotations=annotations),
        "type": "Opaque",
        # Not stringData: the API server never gives that back, so that an apply would always look like a change.
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }
