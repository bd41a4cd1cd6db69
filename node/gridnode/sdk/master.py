"""The master node from a notebook: datasets with nodes of their own, keys for apps, and finished models."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from numpy.typing import NDArray

from gridnode.protocol.syft_proto import decode_state
from gridnode.sdk.connection import Connection, GridFailed, Server

_V1: Final = "/api/v1"
_PAGE: Final = 1000
_SERVER: Final = Server(
    kind="master node",
    address="master node's address",
    default_url="http://127.0.0.1:5001",
    url_variable="GRIDNODE_MASTER_URL",
    token_variable="GRIDNODE_MASTER_API_KEY",  # noqa: S106 - a name, no token
    error_key="detail",
    start="gridnode master",
    hints={
        401: "Give Master a key, or set GRIDNODE_MASTER_API_KEY; `gridnode keys create --scope notebook` makes one.",
        403: "Another scope of key may do that: see the scopes in docs/master.md.",
    },
)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: the only time it can be seen, so ``repr`` leaves it out.

    Attributes:
        id: by which it can be revoked.
        key: what callers show.
    """

    id: int
    key: str
    scope: str

    def __repr__(self) -> str:
        return f"<key {self.id} of scope {self.scope}>"


class Master(Connection):
    """One master node.

    Args:
        url: if not given, ``GRIDNODE_MASTER_URL``, or a master node on this machine.
        key: of scope notebook or admin; if not given, ``GRIDNODE_MASTER_API_KEY`` or the file that
            ``GRIDNODE_MASTER_API_KEY_FILE`` names.
        attempts: how often a request is tried.

    Example::

        with Master() as master:
            dataset = master.create_dataset("steps", features=["hour"], labels=["steps"])
            dataset.register_model("steps-mlp")
            print(dataset.wait_until_ready().node_host)
    """

    def __init__(self, url: str | None = None, key: str | None = None, *, attempts: int = 4) -> None:
        super().__init__(_SERVER, url, key, attempts)

    def create_dataset(
        self,
        name: str,
        *,
        features: Sequence[str] = (),
        labels: Sequence[str] = (),
        node: bool = True,
        owner: str | None = None,
    ) -> MasterDataset:
        """Make a dataset, and have its node made; one of this name that is there stays as it is.

        Args:
            name: what apps know it by, their ``dataset_id``.
            node: whether to have a node made at once.
            owner: whose it is; for keys of scope admin, which must say so.
        """
        body = {"name": name, "features": list(features), "labels": list(labels), "node": node}
        if owner is not None:
            body["owner"] = owner
        answer = self.request("POST", f"{_V1}/datasets", json=body, repeat=True)
        return MasterDataset(self, self.object_of(answer))

    def datasets(self) -> list[MasterDataset]:
        """All datasets of the key's owner."""
        return [MasterDataset(self, view) for view in self.items("datasets")]

    def dataset(self, name: str) -> MasterDataset:
        """The dataset of this name.

        Raises:
            GridFailed: there is none.
        """
        found = [dataset for dataset in self.datasets() if dataset.name == name]
        if not found:
            raise GridFailed(f"no dataset {name} is at {self.url}; create_dataset makes it.")
        return found[0]

    def create_key(
        self, scope: str, *, note: str = "", owner: str | None = None, expires_at: datetime | None = None
    ) -> NewKey:
        """Make a key: ``app`` for apps on phones, ``notebook`` for a colleague of the same owner.

        Args:
            owner: for whom it acts; for keys of scope admin, which must say so.
            expires_at: with a time zone; None: it never expires.
        """
        body: dict[str, Any] = {"scope": scope, "note": note, "owner": owner}
        if expires_at is not None:
            body["expires_at"] = expires_at.isoformat()
        given = {name: value for name, value in body.items() if value is not None}
        made = self.object_of(self.request("POST", f"{_V1}/keys", json=given))
        return NewKey(int(made["view"]["id"]), str(made["key"]), str(made["view"]["scope"]))

    def keys(self) -> list[dict[str, Any]]:
        """The owner's keys, without the keys themselves."""
        return self.items("keys")

    def revoke_key(self, key: int) -> None:
        """Let a key work no more, by its id."""
        self.request("DELETE", f"{_V1}/keys/{key}", repeat=True)

    def models(self) -> list[dict[str, Any]]:
        """The owner's models with their progress, as `gridnode models` shows them."""
        return self.items("models")

    def finished_model(self, name: str, version: str | None = None) -> list[NDArray[Any]]:
        """The parameters of a finished model, in the plan's order; of several versions the one that finished last.

        Raises:
            GridFailed: there is none, or it is not stored yet.
        """
        finished = [
            view
            for view in self.items("finished-models")
            if view["name"] == name and version in (None, view["version"])
        ]
        if not finished:
            raise GridFailed(f"no finished model {name}{f' {version}' if version else ''} is at {self.url}.")
        model = max(finished, key=lambda view: (view["finished_at"] or "", view["model"]))["model"]
        content = self.request("GET", f"{_V1}/finished-models/{model}/content").content
        return list(decode_state(content).tensors)

    def items(self, path: str) -> list[dict[str, Any]]:
        """All entries of a list of ``/api/v1``, page after page."""
        found: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            page = self.read(f"{_V1}/{path}", params={"after": after, "limit": _PAGE})
            found += page["items"]
            after = page["next"]
        return found


class MasterDataset:
    """A dataset at the master node. What it says of itself is as of the last :meth:`refresh`."""

    def __init__(self, master: Master, view: Mapping[str, Any]) -> None:
        self._master = master
        self.view = dict(view)

    def __repr__(self) -> str:
        return f"<dataset {self.name}: {self.state}>"

    @property
    def id(self) -> int:
        """Its number at the master node."""
        return int(self.view["id"])

    @property
    def name(self) -> str:
        """What apps know it by."""
        return str(self.view["name"])

    @property
    def state(self) -> str:
        """``registered`` without a node, ``creating`` until the node is ready, ``ready``."""
        return str(self.view["state"])

    @property
    def node_host(self) -> str | None:
        """The host that phones call, once there is one."""
        host = self.view["node_host"]
        return None if host is None else str(host)

    def refresh(self) -> MasterDataset:
        """Ask the master node again."""
        self.view = self._master.read(f"{_V1}/datasets/{self.id}")
        return self

    def wait_until_ready(self, seconds: float = 300.0, every: float = 1.0) -> MasterDataset:
        """Wait until its node is ready.

        Raises:
            GridFailed: it was not in time; the message says what it waits for.
        """
        deadline = time.monotonic() + seconds
        while self.refresh().state != "ready":
            if time.monotonic() >= deadline:
                waits_for = self.view["waits_for"] or "nothing that the master node knows of"
                raise GridFailed(
                    f"the node of {self.name} is not ready after {seconds:g} s. It waits for: {waits_for}."
                )
            time.sleep(every)
        return self

    def register_model(self, name: str, *, features: Sequence[str] = (), labels: Sequence[str] = ()) -> None:
        """Announce a model, so that apps with this dataset are told to train it; again changes features and labels."""
        body = {"features": list(features), "labels": list(labels)}
        path = f"{_V1}/datasets/{self.id}/models/{quote(name, safe='')}"
        self.view = self._master.object_of(self._master.request("PUT", path, json=body, repeat=True))

    def delete(self) -> None:
        """Delete the dataset and have its node removed. The history of its models stays."""
        self._master.request("DELETE", f"{_V1}/datasets/{self.id}")
