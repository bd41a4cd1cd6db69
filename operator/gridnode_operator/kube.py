"""The API server: read, apply, delete, and write status and Events. The only module that talks to it, beside kopf.

Objects are JSON as the server has it. Every call blocks and ends within its timeouts; threads may call at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import quote

import kubernetes.client
import kubernetes.config
import msgspec
import urllib3.exceptions

from gridnode_operator.api import API_VERSION, KIND, PLURAL

Object = dict[str, Any]
Read = Mapping[str, Any]

#: Who owns the fields that the operator applies.
FIELD_MANAGER: Final = "gridnode-operator"
#: Seconds to connect, and to wait for each part of an answer.
_TIMEOUTS: Final = (5.0, 30.0)
_LONGEST_EVENT_NOTE: Final = 1000
_LONGEST_LOG: Final = 16 * 1024
#: How the API server answers, with status 500, an apply of a value that is none of its kind, such as a quantity "x".
_NOT_CONVERTIBLE: Final = "failed to convert new object"
#: Characters that JSON may hold as they are, but YAML may not, or takes for the end of a line.
_NOT_IN_YAML: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")

#: What an object of the kinds that are read may be called (RFC 1123).
_POSSIBLE_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")

#: Plural names of the kinds that the operator handles; the API server's own rule for them has exceptions.
PLURALS: Final[Mapping[tuple[str, str], str]] = {
    (API_VERSION, KIND): PLURAL,
    ("v1", "Event"): "events",
    ("v1", "Pod"): "pods",
    ("v1", "Secret"): "secrets",
    ("v1", "Service"): "services",
    ("v1", "ServiceAccount"): "serviceaccounts",
    ("apps/v1", "Deployment"): "deployments",
    ("autoscaling/v2", "HorizontalPodAutoscaler"): "horizontalpodautoscalers",
    ("batch/v1", "Job"): "jobs",
    ("coordination.k8s.io/v1", "Lease"): "leases",
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): "httproutes",
    ("monitoring.coreos.com/v1", "PodMonitor"): "podmonitors",
    ("networking.k8s.io/v1", "Ingress"): "ingresses",
    ("networking.k8s.io/v1", "NetworkPolicy"): "networkpolicies",
    ("policy/v1", "PodDisruptionBudget"): "poddisruptionbudgets",
}


class ApiError(Exception):
    """The API server said no, or nothing.

    Attributes:
        status: HTTP status; 0 without an answer.
        reason: One word, such as ``Forbidden``.
        name: Of the object that it is about; empty if the server did not say.
    """

    def __init__(self, status: int, reason: str, message: str, name: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.name = name

    @property
    def is_transient(self) -> bool:
        """Whether the same call may succeed later, with nobody doing anything."""
        return self.status in (0, 408, 409, 410, 429) or self.status >= 500


class Cluster:
    """The API server as one user sees it.

    Args:
        configuration: From :func:`load_configuration`.
        connections: Kept open at most: as many as threads call at once.
    """

    def __init__(self, configuration: kubernetes.client.Configuration, *, connections: int = 8) -> None:
        configuration.connection_pool_maxsize = connections
        # The queue repeats, with backoff; urllib3 must not do so as well.
        configuration.retries = urllib3.Retry(0, read=False, redirect=False)
        self._client = kubernetes.client.ApiClient(configuration)
        self._client.user_agent = FIELD_MANAGER

    def read(self, api_version: str, kind: str, namespace: str, name: str) -> Object | None:
        """One object; None if it is not there.

        Raises:
            ApiError: as do all methods; also if the server doesn't know the kind, as for a moment after its start.
        """
        if not _POSSIBLE_NAME.fullmatch(name):
            return None  # the server would not say that it is this object which is not there
        try:
            return self._object("GET", _path(api_version, kind, namespace, name))
        except ApiError as error:
            if error.status == 404 and error.name == name:
                return None
            raise

    def list(self, api_version: str, kind: str, namespace: str | None, selector: str = "") -> Sequence[Object]:
        """All objects of a kind with the labels; none if the server doesn't know the kind.

        Args:
            namespace: All namespaces if None.
            selector: Of labels, as kubectl takes it.
        """
        query = [("labelSelector", selector)] if selector else []
        try:
            found: Sequence[Object] = self._request("GET", _path(api_version, kind, namespace), query=query)["items"]
        except ApiError as error:
            if error.status == 404:
                return []
            raise
        # Items of a list don't say what they are.
        return [{"apiVersion": api_version, "kind": kind, **each} for each in found]

    def apply(self, manifest: Read, *, manager: str = FIELD_MANAGER) -> Object:
        """Server-side apply; takes fields over from others. Creates what is not there."""
        path = _path_of(manifest)
        query = [("fieldManager", manager), ("force", "true")]
        content_type = "application/apply-patch+yaml"
        return self._object("PATCH", path, body=to_json_and_yaml(manifest), query=query, content_type=content_type)

    def create(self, manifest: Read) -> Object:
        """Create an object; status 409 if there is one of that name."""
        metadata = manifest["metadata"]
        path = _path(manifest["apiVersion"], manifest["kind"], metadata["namespace"])
        return self._object("POST", path, body=manifest, query=[("fieldManager", FIELD_MANAGER)])

    def replace(self, changed: Read) -> Object:
        """Write a whole object back, unless somebody changed it since it was read (status 409)."""
        return self._object("PUT", _path_of(changed), body=changed, query=[("fieldManager", FIELD_MANAGER)])

    def delete(self, live: Read, *, propagation: Literal["Background", "Foreground"] = "Background") -> None:
        """Delete this very object, and no later one of its name. Nothing happens if it is gone."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            "preconditions": {"uid": live["metadata"]["uid"]},
        }
        try:
            self._request("DELETE", _path_of(live), body=options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    def patch_status(self, live: Read, patch: Read) -> None:
        """Merge ``patch`` into the status of a GridNode. Nothing happens if it is gone."""
        self._merge(live, "/status", {"status": patch})

    def set_finalizers(self, live: Read, finalizers: Sequence[str]) -> Object | None:
        """Replace the finalizers of a GridNode, unless somebody changed it meanwhile (status 409).

        Returns:
            The GridNode as it is now; None if it is gone.
        """
        metadata = {"finalizers": list(finalizers), "resourceVersion": live["metadata"]["resourceVersion"]}
        return self._merge(live, "", {"metadata": {**metadata, "uid": live["metadata"]["uid"]}})

    def log_tail(self, namespace: str, pod: str, lines: int = 20) -> str:
        """The last lines that a pod has printed; empty if nobody knows them any more."""
        query = [("tailLines", str(lines)), ("limitBytes", str(_LONGEST_LOG))]
        try:
            text = self._raw("GET", f"{_path('v1', 'Pod', namespace, pod)}/log", query=query)
        except ApiError as error:
            if error.status in (400, 404, 500):  # not started yet, gone, or its machine is
                return ""
            raise
        return text.decode(errors="replace")

    def post_event(self, about: Read, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Write an Event where ``kubectl describe`` shows it; the same one only once, as long as it is kept."""
        metadata = about["metadata"]
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        digest = hashlib.sha256(f"{metadata['uid']}/{reason}/{message}".encode()).hexdigest()[:24]
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"gridnode-{digest}", "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "type": kind,
            "reason": reason,
            "message": message[:_LONGEST_EVENT_NOTE],
            "source": {"component": FIELD_MANAGER},
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "count": 1,
        }
        try:
            self.create(event)
        except ApiError as error:
            # The namespace may be on its way out; the Event may be there already.
            if error.status not in (403, 404, 409):
                raise

    def serves(self, api_version: str, kind: str) -> bool:
        """Whether the server knows a kind."""
        group = "/api/v1" if api_version == "v1" else f"/apis/{api_version}"
        try:
            resources = self._request("GET", group)["resources"]
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return any(each["kind"] == kind for each in resources)

    def _merge(self, live: Read, subresource: str, patch: Read) -> Object | None:
        try:
            return self._object(
                "PATCH", _path_of(live) + subresource, body=patch, query=[("fieldManager", FIELD_MANAGER)],
                content_type="application/merge-patch+json",
            )  # fmt: skip
        except ApiError as error:
            if error.status == 404 and error.name == live["metadata"]["name"]:
                return None
            raise

    def _object(self, method: str, path: str, **more: Any) -> Object:
        found: Object = self._request(method, path, **more)
        return found

    def _request(self, method: str, path: str, **more: Any) -> Any:
        answer = self._raw(method, path, **more)
        try:
            return msgspec.json.decode(answer)
        except msgspec.DecodeError as error:
            raise ApiError(0, "BadAnswer", f"The API server's answer to {method} {path} is no JSON: {error}") from None

    def _raw(
        self,
        method: str,
        path: str,
        *,
        body: Read | bytes | None = None,
        query: Sequence[tuple[str, str]] = (),
        content_type: str = "application/json",
    ) -> bytes:
        headers = {"Accept": "application/json, */*"} | ({"Content-Type": content_type} if body is not None else {})
        try:
            method, url, headers, *_ = self._client.param_serialize(
                method, path, query_params=list(query), header_params=headers, auth_settings=["BearerToken"]
            )
            answer = self._client.call_api(method, url, headers, body, _request_timeout=_TIMEOUTS)
            content = bytes(answer.response.data)
        except (urllib3.exceptions.HTTPError, OSError, kubernetes.client.ApiException) as error:
            raise ApiError(0, "NoAnswer", f"The API server did not answer: {type(error).__name__}: {error}") from None
        if answer.status >= 300:
            raise _error(answer.status, content, f"{method} {path}")
        return content


def to_json_and_yaml(manifest: Read) -> bytes:
    """JSON that is read the same as YAML, which is what the API server takes an apply for.

    YAML has no escapes of two halves for the characters beyond U+FFFF, which many JSON encoders write.
    """
    text = msgspec.json.encode(manifest).decode()
    return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def load_configuration() -> kubernetes.client.Configuration:
    """How to reach the API server: the pod's ServiceAccount, or what kubectl would use.

    Raises:
        kubernetes.config.ConfigException: neither is there.
    """
    configuration = kubernetes.client.Configuration()
    config: Any = kubernetes.config  # not typed, unlike the rest
    try:
        config.load_incluster_config(client_configuration=configuration)
    except kubernetes.config.ConfigException:
        config.load_kube_config(client_configuration=configuration)
    return configuration


def _error(status: int, content: bytes, what: str) -> ApiError:
    try:
        answer = msgspec.json.decode(content)
        message = str(answer.get("message") or "")
        if status == 500 and _NOT_CONVERTIBLE in message:
            return ApiError(422, "Invalid", f"{what}: {message}")
        name = str((answer.get("details") or {}).get("name") or "")
        return ApiError(status, str(answer.get("reason") or status), f"{what}: {message}", name)
    except (msgspec.DecodeError, AttributeError):
        return ApiError(status, str(status), f"{what} was answered {status}")


def _path_of(manifest: Read) -> str:
    metadata = manifest["metadata"]
    return _path(manifest["apiVersion"], manifest["kind"], metadata["namespace"], metadata["name"])


def _path(api_version: str, kind: str, namespace: str | None, name: str | None = None) -> str:
    path = "/api/v1" if api_version == "v1" else f"/apis/{api_version}"
    if namespace is not None:
        path += f"/namespaces/{quote(namespace, safe='')}"
    path += f"/{PLURALS[api_version, kind]}"
    return path if name is None else f"{path}/{quote(name, safe='')}"
