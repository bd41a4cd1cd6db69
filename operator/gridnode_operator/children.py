"""The children of one GridNode on the API server: what there is, applying what should be, removing the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from gridnode_operator.api import APPLIED_ANNOTATION, GridNode
from gridnode_operator.desired import Manifest
from gridnode_operator.desired.labels import is_owned_by, owner_labels
from gridnode_operator.desired.migration_job import must_be_replaced
from gridnode_operator.field_ownership import is_applied, owned_fields, owns
from gridnode_operator.kube import FIELD_MANAGER, ApiError, Cluster, Object
from gridnode_operator.status import Problem

#: Called with the name of each step before it is done; for tests that interrupt.
Checkpoint = Callable[[str], None]

#: Owns a Deployment's replicas from the end of spec.replicas until the autoscaler writes them.
_HANDOVER_MANAGER: Final = f"{FIELD_MANAGER}-autoscaling"


class Children:
    """What belongs to one GridNode.

    Args:
        cluster: Where it is.
        gridnode: Whose it is.
        kinds: ``(apiVersion, kind)`` that the server knows.
        checkpoint: See :data:`Checkpoint`.
    """

    def __init__(
        self, cluster: Cluster, gridnode: GridNode, kinds: Iterable[tuple[str, str]], checkpoint: Checkpoint
    ) -> None:
        self._cluster = cluster
        self._gridnode = gridnode
        self._checkpoint = checkpoint
        selector = ",".join(f"{key}={value}" for key, value in owner_labels(gridnode).items())
        self._live: dict[tuple[str, str], Object] = {}
        for api_version, kind in kinds:
            for found in cluster.list(api_version, kind, gridnode.namespace, selector):
                self._live[kind, found["metadata"]["name"]] = found

    def get(self, kind: str, name: str) -> Object | None:
        """The live object, if it is this GridNode's."""
        found = self._live.get((kind, name))
        return found if found is not None and is_owned_by(found, self._gridnode) else None

    def apply(self, manifest: Manifest) -> Problem | None:
        """Make the live object as ``manifest`` says; write nothing if it is so already.

        Returns:
            Why it could not be done, if it is nothing that goes away by itself.

        Raises:
            ApiError: something that goes away by itself.
        """
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        try:
            live = self._find(manifest)
            if live is not None and not is_owned_by(live, self._gridnode):
                message = f"There is a {kind} {name} that is not this GridNode's. Delete it, or rename the GridNode."
                return Problem("NameTaken", message)
            if live is not None and live["metadata"].get("deletionTimestamp"):
                raise ApiError(409, "BeingDeleted", f"{kind} {name} is still being deleted.")
            if kind == "Job":
                self._have_job(live, manifest)
                return None
            hashed = _with_hash(manifest)
            if live is None or not is_applied(hashed, live, FIELD_MANAGER):
                self._hand_over_replicas(live, manifest)
                self._checkpoint(f"apply {kind} {name}")
                self._live[kind, name] = self._apply(live, hashed)
        except ApiError as error:
            if error.is_transient:
                raise
            return Problem("NotApplied", f"{kind} {name} can't be written: {error}")
        return None

    def differs(self, manifest: Manifest) -> bool:
        """Whether applying would change something."""
        live = self.get(manifest["kind"], manifest["metadata"]["name"])
        if live is None:
            return True
        if manifest["kind"] == "Job":
            return must_be_replaced(live, manifest)
        return not is_applied(_with_hash(manifest), live, FIELD_MANAGER)

    def prune(self, wanted: Iterable[Manifest], keep: Collection[str] = ()) -> None:
        """Delete the children that should not be there any more, but for those of the kinds ``keep``."""
        names = {(each["kind"], each["metadata"]["name"]) for each in wanted}
        for (kind, name), live in list(self._live.items()):
            is_going = live["metadata"].get("deletionTimestamp")
            if (kind, name) not in names and kind not in keep and is_owned_by(live, self._gridnode) and not is_going:
                self.delete(live)

    def delete(self, live: Object) -> None:
        """Delete a live child with everything of its own."""
        self._checkpoint(f"delete {live['kind']} {live['metadata']['name']}")
        self._cluster.delete(live)
        self._live.pop((live["kind"], live["metadata"]["name"]), None)

    def all(self) -> list[Object]:
        """Every live child."""
        return [each for each in self._live.values() if is_owned_by(each, self._gridnode)]

    def seen(self) -> list[Object]:
        """Everything that was seen or written, also what is somebody else's."""
        return list(self._live.values())

    def _find(self, manifest: Manifest) -> Object | None:
        """Also one that has lost its labels, or is somebody else's."""
        kind, metadata = manifest["kind"], manifest["metadata"]
        found = self._live.get((kind, metadata["name"]))
        return found or self._cluster.read(manifest["apiVersion"], kind, metadata["namespace"], metadata["name"])

    def _apply(self, live: Object | None, manifest: Manifest) -> Object:
        try:
            return self._cluster.apply(manifest)
        except ApiError as error:
            changed = None if live is None else _with_ports_back(live, manifest)
            if error.status != 422 or changed is None or changed == live:
                raise
        # Server-side apply tells ports apart by number: one whose number was changed by hand keeps the name.
        self._cluster.replace(changed)
        return self._cluster.apply(manifest)

    def _have_job(self, live: Object | None, manifest: Manifest) -> None:
        """A Job can't be changed: it is made once, and replaced if it has not succeeded and would be another now."""
        name = manifest["metadata"]["name"]
        if live is not None and must_be_replaced(live, manifest):
            self.delete(live)
            raise ApiError(409, "BeingDeleted", f"Job {name} is being replaced.")
        if live is None:
            self._checkpoint(f"create Job {name}")
            self._live["Job", name] = self._cluster.create(manifest)
        else:
            self._live["Job", name] = live

    def _hand_over_replicas(self, live: Object | None, manifest: Manifest) -> None:
        """Keep the number of pods when an autoscaler takes over: a field without an owner gets its default, one pod.

        See "Transferring ownership" in the Kubernetes documentation on server-side apply.
        """
        if live is None or manifest["kind"] != "Deployment" or "replicas" in manifest["spec"]:
            return
        if owns(owned_fields(live, FIELD_MANAGER), "spec", "replicas"):
            metadata = {key: manifest["metadata"][key] for key in ("name", "namespace")}
            kept = {"apiVersion": manifest["apiVersion"], "kind": "Deployment", "metadata": metadata}
            self._checkpoint(f"hand over replicas of {metadata['name']}")
            self._cluster.apply({**kept, "spec": {"replicas": live["spec"]["replicas"]}}, manager=_HANDOVER_MANAGER)


def _with_hash(manifest: Manifest) -> Manifest:
    """With a hash of itself in an annotation.

    What is gone from within a list or map that is owned as a whole shows in nothing else: the live object has it, as it
    has what the server filled in.
    """
    content = {key: value for key, value in manifest.items() if key != "data"}  # compared key by key, and secret
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED_ANNOTATION: digest}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _with_ports_back(live: Any, desired: Any) -> Any:
    """The live object with ports that have the name of a desired one, but not its number, made into that one."""
    if isinstance(live, dict) and isinstance(desired, dict):
        return {key: _with_ports_back(value, desired.get(key)) for key, value in live.items()}
    if isinstance(live, list) and isinstance(desired, list) and all(isinstance(each, dict) for each in live + desired):
        named = {each["name"]: each for each in desired if "name" in each}
        pairs = [(each, named.get(each.get("name"))) for each in live]
        return [wanted if _is_in_the_way(each, wanted) else _with_ports_back(each, wanted) for each, wanted in pairs]
    return live


def _is_in_the_way(port: Manifest, wanted: Manifest | None) -> bool:
    keys = ("port", "containerPort", "protocol")
    return wanted is not None and any(key in wanted and port.get(key) != wanted[key] for key in keys)
