"""Nodes that a file lists: for nodes that somebody runs by other means.

.. code-block:: yaml

    nodes:
      - node_id: lab-1                 # as GRIDNODE_NODE_ID of the node
        url: http://10.0.0.7:5000      # where phones reach it
        management_url: http://10.0.0.7:5050
        management_token_file: /run/secrets/lab-1
        datasets: [heart-rate]         # which datasets it may be given to; absent: any
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from gridnode.declared_settings import InvalidSetting
from gridnode_operator.master.errors import ProviderFailed
from gridnode_operator.master.nodes.provider import (
    ManagementAccess,
    NodeRequest,
    ObservedNode,
)

_Url = Annotated[str, Meta(pattern=r"^https?://[!-~]+$", max_length=2048)]


class StaticNode(Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the file."""

    node_id: Annotated[str, Meta(min_length=1, max_length=253)]
    url: _Url | None = None
    management_url: _Url | None = None
    management_token_file: str | None = None
    datasets: list[str] | None = None


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    nodes: list[StaticNode]


class StaticProvider:
    """The nodes of a file, which is read once.

    Raises:
        InvalidSetting: the file can't be used; names the entry.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._nodes = {node.node_id: node for node in msgspec.yaml.decode(path.read_bytes(), type=_File).nodes}
        except OSError as error:
            raise InvalidSetting(f"the file of nodes {path} can't be read: {error.strerror}.") from None
        except msgspec.MsgspecError as error:
            raise InvalidSetting(f"the file of nodes {path} is not valid: {error}.") from None

    def observe(self) -> list[ObservedNode]:
        """All of them; whether they answer is found out by asking them."""
        return [ObservedNode(node_id=node.node_id, ready=True, url=node.url) for node in self._nodes.values()]

    def create(self, request: NodeRequest) -> str:
        """The first entry that names the dataset, else the only one that names none.

        Raises:
            ProviderFailed: there is none for this dataset.
        """
        for node in self._nodes.values():
            if node.datasets is not None and request.dataset in node.datasets:
                return node.node_id
        free = [node.node_id for node in self._nodes.values() if node.datasets is None]
        if len(free) == 1:
            return free[0]
        raise ProviderFailed(
            f"no node is listed for dataset {request.dataset}: add it to 'datasets' of a node in the file of nodes"
        )

    def delete(self, node_id: str) -> None:
        """Nothing: whoever runs the node keeps it."""

    def management(self, node_id: str) -> ManagementAccess | None:
        """From the entry, the token read anew each time."""
        node = self._nodes.get(node_id)
        if node is None or node.management_url is None:
            return None
        token = None
        if node.management_token_file is not None:
            try:
                token = Path(node.management_token_file).read_text(encoding="utf-8").strip()
            except (OSError, ValueError):
                raise ProviderFailed(f"the management token of node {node_id} can't be read") from None
        return ManagementAccess(url=node.management_url.rstrip("/"), token=token)
