"""GridNode resources in a cluster: the operator makes nodes of them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

import kubernetes
import urllib3
from kubernetes.client import ApiException, CoreV1Api, CustomObjectsApi

from gridnode_operator.api import GROUP, PLURAL, VERSION, GridNode, InvalidSpec, parse
from gridnode_operator.desired.environment import MANAGEMENT_PORT, management_secret_key, node_id
from gridnode_operator.desired.names import child_names
from gridnode_operator.master.errors import ProviderFailed
from gridnode_operator.master.nodes.provider import (
    ManagementAccess,
    NodeRequest,
    ObservedNode,
)
from gridnode_operator.master.nodes.template import MANAGED_BY, MANAGED_BY_LABEL, NodeTemplate

T = TypeVar("T")

_OWN_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
#: Seconds to connect to the API server, and to get its answer.
_TIMEOUT: Final = (3.0, 10.0)
_PAGE: Final = 500
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


class KubernetesProvider:
    """All GridNodes of some namespaces, or of the cluster; new ones in one namespace.

    Args:
        template: Specs of new GridNodes.
        namespace: Where new ones are made; the pod's own if None.
        watched: Namespaces whose GridNodes there are, besides that one; all of the cluster if empty.
        kubeconfig: File to connect with; the pod's service account, else the user's default file, if None.
    """

    def __init__(
        self,
        template: NodeTemplate,
        *,
        namespace: str | None = None,
        watched: Collection[str] = (),
        kubeconfig: Path | None = None,
    ) -> None:
        self._template = template
        self._kubeconfig = kubeconfig
        self.namespace = namespace or _own_namespace()
        self._watched = sorted({*watched, self.namespace}) if watched else []

    def observe(self) -> list[ObservedNode]:
        """All GridNodes of the namespaces."""
        return [_observed(each) for each in self._list()]

    def create(self, request: NodeRequest) -> str:
        """Create the GridNode; one of this name that the master node made before is the same."""
        manifest = self._template.manifest(request, self.namespace)
        try:
            self._call("the GridNode can't be created", self._create, manifest)
        except _Conflict:
            existing = self._get(self.namespace, request.name)
            if existing is None or existing.labels.get(MANAGED_BY_LABEL) != MANAGED_BY:
                raise ProviderFailed(
                    f"a GridNode {self.namespace}/{request.name} is there already that this master node did not make"
                ) from None
        return node_id(parse(manifest))

    def delete(self, node_id: str) -> None:
        """Delete the GridNode if the master node made it; its finalizer applies the reclaim policy."""
        gridnode = self._find(node_id)
        if gridnode is None:
            return
        if gridnode.labels.get(MANAGED_BY_LABEL) != MANAGED_BY:
            raise ProviderFailed(f"GridNode {gridnode.key} was not made by a master node: delete it with kubectl")
        self._call("the GridNode can't be deleted", self._delete, gridnode)

    def management(self, node_id: str) -> ManagementAccess | None:
        """The node's management Service, and the token from its Secret."""
        gridnode = self._find(node_id)
        if gridnode is None:
            return None
        key = management_secret_key(gridnode)
        secret = self._call("the node's management token can't be read", self._secret, gridnode.namespace, key.name)
        try:
            token = base64.b64decode((secret.data or {})[key.key]).decode()
        except (KeyError, binascii.Error, ValueError):
            raise ProviderFailed(f"Secret {gridnode.namespace}/{key.name} has no key {key.key}") from None
        service = child_names(gridnode.name).management_service
        return ManagementAccess(url=f"http://{service}.{gridnode.namespace}.svc:{MANAGEMENT_PORT}", token=token.strip())

    def _find(self, wanted: str) -> GridNode | None:
        namespace, _, name = wanted.partition("/")
        if not name or (self._watched and namespace not in self._watched):
            return None
        gridnode = self._get(namespace, name)
        if gridnode is not None and node_id(gridnode) == wanted:
            return gridnode
        # The id of a long name is a shortened one.
        return next((each for each in self._list() if node_id(each) == wanted), None)

    def _list(self) -> list[GridNode]:
        namespaces: list[str | None] = [*self._watched] or [None]
        return [each for namespace in namespaces for each in self._list_of(namespace)]

    def _list_of(self, namespace: str | None) -> Iterator[GridNode]:
        token: str | None = None
        while True:
            page = self._call("GridNodes can't be listed", self._list_page, namespace, token)
            yield from (each for item in page.get("items", []) if (each := _parsed(item)) is not None)
            token = page.get("metadata", {}).get("continue")
            if not token:
                return

    def _get(self, namespace: str, name: str) -> GridNode | None:
        try:
            return _parsed(self._call("the GridNode can't be read", self._read, namespace, name))
        except _NotFound:
            return None

    def _read(self, namespace: str, name: str) -> Any:
        return self._custom.get_namespaced_custom_object(
            GROUP, VERSION, namespace, PLURAL, name, _request_timeout=_TIMEOUT
        )

    def _list_page(self, namespace: str | None, token: str | None) -> Any:
        options: dict[str, Any] = {"limit": _PAGE, "_request_timeout": _TIMEOUT}
        if token:
            options["_continue"] = token
        if namespace is not None:
            return self._custom.list_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, **options)
        return self._custom.list_cluster_custom_object(GROUP, VERSION, PLURAL, **options)

    def _create(self, manifest: dict[str, Any]) -> Any:
        return self._custom.create_namespaced_custom_object(
            GROUP, VERSION, self.namespace, PLURAL, manifest, field_manager=MANAGED_BY, _request_timeout=_TIMEOUT
        )

    def _delete(self, gridnode: GridNode) -> None:
        body = kubernetes.client.V1DeleteOptions(preconditions=kubernetes.client.V1Preconditions(uid=gridnode.uid))
        try:
            self._custom.delete_namespaced_custom_object(
                GROUP, VERSION, gridnode.namespace, PLURAL, gridnode.name, body=body, _request_timeout=_TIMEOUT
            )
        except ApiException as error:
            if error.status != _NOT_FOUND:
                raise

    def _secret(self, namespace: str, name: str) -> Any:
        return self._core.read_namespaced_secret(name, namespace, _request_timeout=_TIMEOUT)

    def _call(self, what: str, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return function(*arguments)
        except ApiException as error:
            if error.status == _NOT_FOUND:
                raise _NotFound(f"{what}: not found") from None
            if error.status == _CONFLICT:
                raise _Conflict(f"{what}: there is another") from None
            raise ProviderFailed(f"{what}: the API server answers {error.status} {error.reason}") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ProviderFailed(f"{what}: the API server does not answer ({type(error).__name__})") from None

    @cached_property
    def _client(self) -> Any:
        configuration = kubernetes.client.Configuration()
        try:
            if self._kubeconfig is None and _OWN_NAMESPACE.exists():
                kubernetes.config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
            else:
                file = None if self._kubeconfig is None else str(self._kubeconfig)
                kubernetes.config.load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=file, client_configuration=configuration
                )
        except kubernetes.config.ConfigException as error:
            raise ProviderFailed(f"no cluster to connect to: {error}") from None
        # A retry of the library's own would multiply the timeout.
        configuration.retries = False
        return kubernetes.client.ApiClient(configuration)

    @cached_property
    def _custom(self) -> CustomObjectsApi:
        return CustomObjectsApi(self._client)

    @cached_property
    def _core(self) -> CoreV1Api:
        return CoreV1Api(self._client)


class _NotFound(ProviderFailed):
    """The object is not there."""


class _Conflict(ProviderFailed):
    """An object of the name is there."""


def _parsed(resource: Mapping[str, Any]) -> GridNode | None:
    try:
        return parse(resource)
    except (InvalidSpec, KeyError):
        return None  # the API server refuses such; one of another release may have fields that are not known here


def _observed(gridnode: GridNode) -> ObservedNode:
    status = gridnode.status
    conditions = [dict(each) for each in status.get("conditions") or []]
    is_ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
    return ObservedNode(
        node_id=node_id(gridnode),
        ready=is_ready and not gridnode.deleting,
        url=status.get("url"),
        conditions=conditions,
        replicas=status.get("replicas"),
        ready_replicas=status.get("readyReplicas"),
    )


def _own_namespace() -> str:
    try:
        return _OWN_NAMESPACE.read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"
