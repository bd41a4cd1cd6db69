"""What must be there before replicas can run: schema and login, Secrets, the migration, and the environment."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from gridnode.db.revision import REVISION
from gridnode.errors import GridNodeError
from gridnode_operator.api import GridNode, SecretKey
from gridnode_operator.desired.context import DesiredContext, NodeSecrets
from gridnode_operator.desired.environment import (
    MANAGEMENT_TOKEN_KEY,
    MASTER_KEY_KEY,
    database_secret_key,
    node_id,
)
from gridnode_operator.desired.labels import Manifest
from gridnode_operator.desired.names import child_names
from gridnode_operator.desired.secret import build_database_secret, build_management_secret, build_master_secret
from gridnode_operator.local.data_directory import DataDirectory
from gridnode_operator.local.environment import node_variables, with_secrets
from gridnode_operator.local.migration import migrate
from gridnode_operator.local.secret_files import SecretFiles
from gridnode_operator.tenants import Prepared, Tenants, wished_rotation

_TOKEN_BYTES: Final = 24


class NotPrepared(GridNodeError):
    """The database server can't be used as it should; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all GridNodes of a machine share.

    Attributes:
        node_key: Has the master node make a key for the node of this id.
        tell: Given what happened, for people.
    """

    data: DataDirectory
    tenants: Tenants
    context: DesiredContext
    node_key: Callable[[str], Awaitable[str]]
    tell: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What there is now.

    Attributes:
        variables: Of the node's processes.
        has_other_login: Whether a login that was replaced is still there.
        rotation_waits: Whether a new password is wished that waits for that login to go.
    """

    variables: dict[str, str]
    has_other_login: bool
    rotation_waits: bool


async def prepare(
    gridnode: GridNode, around: Surroundings, tell: Callable[[str], None], *, migrated: bool
) -> Preparation:
    """Have all of it. Changes nothing if all is there.

    Args:
        gridnode: Whose.
        around: See :class:`Surroundings`.
        tell: Given what was done.
        migrated: Whether it was prepared before.

    Raises:
        GridNodeError: one of them is not to be had; what is there already stays.
    """
    files, names = around.data.secrets, child_names(gridnode.name)
    live = files.find(gridnode.namespace, names.database_secret)
    prepared = await asyncio.to_thread(around.tenants.prepare, gridnode, live, migrated=migrated)
    if prepared.observation.problem is not None or prepared.url is None:
        problem = prepared.observation.problem
        raise NotPrepared(problem.message if problem is not None else "there is no database login yet")
    for _, what in prepared.done:
        tell(what)
    secrets_without_key = _secrets(gridnode, around, prepared)
    context = with_secrets(around.context, secrets_without_key)
    _apply(files, gridnode, context, build_database_secret, build_management_secret)
    revision = prepared.observation.revision
    # It can't be read while replicas that are to go hold more connections than the login may have from now on.
    if not migrated if revision is None else revision < REVISION:
        tell(f"schema migrated to revision {await migrate(gridnode, context, around.data)}")
    # Last: the master node may just be starting, too.
    master_key = await _master_key(gridnode, around)
    context = with_secrets(around.context, dataclasses.replace(secrets_without_key, master_key=master_key))
    _apply(files, gridnode, context, build_master_secret)
    has_password = not gridnode.spec.database.iam_authentication
    return Preparation(
        variables=node_variables(gridnode, context, files),
        has_other_login=prepared.has_other_login,
        rotation_waits=has_password and wished_rotation(gridnode) != prepared.rotation,
    )


async def retire(gridnode: GridNode, around: Surroundings) -> bool:
    """Drop the login from before a rotation, once no process uses it; gives whether it is gone."""
    url = around.data.secrets.read(gridnode.namespace, database_secret_key(gridnode))
    return url is None or await asyncio.to_thread(around.tenants.retire, gridnode, url)


async def leave(gridnode: GridNode, around: Surroundings) -> None:
    """Do with the data of a GridNode that is no more as its reclaim policy says, and forget its Secrets.

    Raises:
        DatabaseError: the server does not answer, or refuses; nothing is forgotten then.
    """
    await asyncio.to_thread(around.tenants.leave, gridnode)
    names = child_names(gridnode.name)
    for name in (names.database_secret, names.management_secret, names.master_secret):
        around.data.secrets.remove(gridnode.namespace, name)


def _apply(
    files: SecretFiles,
    gridnode: GridNode,
    context: DesiredContext,
    *builders: Callable[[GridNode, DesiredContext], Manifest | None],
) -> None:
    for build in builders:
        manifest = build(gridnode, context)
        if manifest is not None:
            files.apply(gridnode.namespace, manifest)


def _secrets(gridnode: GridNode, around: Surroundings, prepared: Prepared) -> NodeSecrets:
    own = SecretKey(child_names(gridnode.name).management_secret, MANAGEMENT_TOKEN_KEY)
    token = around.data.secrets.read(gridnode.namespace, own) or secrets.token_urlsafe(_TOKEN_BYTES)
    return NodeSecrets(
        database_url=prepared.url or "",
        management_token=token,
        rotation=prepared.rotation,
    )


async def _master_key(gridnode: GridNode, around: Surroundings) -> str | None:
    """The node's own key for the master node of this machine; None if it reports elsewhere, or has another."""
    master = gridnode.spec.master
    if master.url is not None or master.key_secret_ref is not None:
        return None
    own = SecretKey(child_names(gridnode.name).master_secret, MASTER_KEY_KEY)
    return around.data.secrets.read(gridnode.namespace, own) or await around.node_key(node_id(gridnode))
