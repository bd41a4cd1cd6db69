"""The APIs that a cluster may lack, in short: with the defaults, bounds and lists that decide how an apply is merged.

HTTPRoute as in the Gateway API 1.2 to 1.4, PodMonitor as in the Prometheus operator 0.80; only fields that are used.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.cluster import ControlPlane

Schema = dict[str, Any]

_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_TEXT: Schema = {"type": "string"}
_PORT: Schema = {"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535}
_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 253}
_NAMESPACE: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": 63,
    "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
}


def _object(properties: Schema, *required: str, **more: Any) -> Schema:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {}), **more}


def _list(items: Schema, longest: int, **more: Any) -> Schema:
    return {"type": "array", "items": items, "maxItems": longest, "x-kubernetes-list-type": "atomic", **more}


def _crd(group: str, kind: str, spec: Schema) -> dict[str, Any]:
    plural = f"{kind.lower()}s"
    status = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            # Without it, the API server serves nobody's definitions in a group of Kubernetes' own.
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _object({"spec": spec, "status": status}, "spec")},
                    "subresources": {"status": {}},
                }
            ],
        },
    }


_PARENT_REF = _object(
    {
        "group": {"type": "string", "default": "gateway.networking.k8s.io", "pattern": rf"^$|^{_SUBDOMAIN}$"},
        "kind": {"type": "string", "default": "Gateway", "minLength": 1},
        "name": _NAME,
        "namespace": _NAMESPACE,
        "port": _PORT,
        "sectionName": {**_NAME, "pattern": rf"^{_SUBDOMAIN}$"},
    },
    "name",
)
_BACKEND_REF = _object(
    {
        "group": {"type": "string", "default": ""},
        "kind": {"type": "string", "default": "Service"},
        "name": _NAME,
        "namespace": _NAMESPACE,
        "port": _PORT,
        "weight": {"type": "integer", "format": "int32", "default": 1, "minimum": 0},
    },
    "name",
)
_ANY_PATH = {"type": "PathPrefix", "value": "/"}
_MATCH = _object({
    "path": _object(
        {"type": {"type": "string", "default": "PathPrefix"}, "value": {"type": "string", "default": "/"}},
        default=_ANY_PATH,
    )
})  # fmt: skip
_RULE = _object({
    "name": _NAME,
    "matches": _list(_MATCH, 64, default=[{"path": _ANY_PATH}]),
    "backendRefs": _list(_BACKEND_REF, 16),
})  # fmt: skip
_HOSTNAME = {**_NAME, "pattern": rf"^(\*\.)?{_SUBDOMAIN}$"}
HTTP_ROUTE_CRD = _crd(
    "gateway.networking.k8s.io",
    "HTTPRoute",
    _object({
        "parentRefs": _list(_PARENT_REF, 32),
        "hostnames": _list(_HOSTNAME, 16),
        "rules": _list(_RULE, 16, default=[{"matches": [{"path": _ANY_PATH}]}]),
    }),
)  # fmt: skip

_SECRET_KEY = _object(
    {"name": {"type": "string", "default": ""}, "key": _TEXT, "optional": {"type": "boolean"}},
    "key",
    **{"x-kubernetes-map-type": "atomic"},
)
_ENDPOINT = _object({
    "port": _TEXT,
    "path": _TEXT,
    "interval": {"type": "string", "pattern": "^(0|([0-9]+(ms|s|m|h|d|w|y))+)$"},
    "authorization": _object({"type": _TEXT, "credentials": _SECRET_KEY}),
})  # fmt: skip
_SELECTOR = _object(
    {"matchLabels": {"type": "object", "additionalProperties": _TEXT}}, **{"x-kubernetes-map-type": "atomic"}
)
POD_MONITOR_CRD = _crd(
    "monitoring.coreos.com",
    "PodMonitor",
    _object({"selector": _SELECTOR, "podMetricsEndpoints": {"type": "array", "items": _ENDPOINT}}, "selector"),
)


@contextmanager
def optional_apis(control_plane: ControlPlane) -> Iterator[None]:
    """Have the API server know HTTPRoute and PodMonitor for a while."""
    crds = [HTTP_ROUTE_CRD, POD_MONITOR_CRD]
    control_plane.install_crds(crds)
    try:
        yield
    finally:
        for crd in crds:
            control_plane.expect("DELETE", f"{_CRDS}/{crd['metadata']['name']}")
        deadline = time.monotonic() + 30
        while any(control_plane.request("GET", f"{_CRDS}/{crd['metadata']['name']}").status == 200 for crd in crds):
            assert time.monotonic() < deadline, "the definitions don't go"
            time.sleep(0.05)
