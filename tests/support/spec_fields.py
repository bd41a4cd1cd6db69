"""Every field of a GridNode's spec: values for it, and where a child shows them. And the fields of a CRD's schema."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gridnode_operator.api import SECRETS_HASH_ANNOTATION
from tests.support.one_gridnode import MASTER_URL, OneGridNode
from tests.support.operator_process import IMAGE, Object

Spec = dict[str, Any]

_OWN_LABELS = ("app.kubernetes.io/", "gridnode.io/")
_KEEPS_UNKNOWN = "x-kubernetes-preserve-unknown-fields"


class Look:
    """A look at a GridNode's children; each is read once."""

    def __init__(self, one: OneGridNode) -> None:
        self._one = one
        self._read: dict[tuple[str, str], Object | None] = {}

    def child(self, kind: str, suffix: str = "") -> Object | None:
        """See :meth:`OneGridNode.child`."""
        if (kind, suffix) not in self._read:
            self._read[kind, suffix] = self._one.child(kind, suffix)
        return self._read[kind, suffix]


See = Callable[[Look], Any]


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of the spec.

    Attributes:
        path: Of the field, from the spec on.
        values: The two that it is given, one after the other; objects and lists stand for all that is in them.
        see: What the children show of it.
        shown: What they show of a value.
        default: What they show without it.
        beside: What must stand in the spec beside it.
        without: What is removed with it, where the field is required: what it is a part of.
    """

    path: str
    values: tuple[Any, ...]
    see: See
    shown: Callable[[Any], Any] = lambda value: value
    default: Any = None
    beside: Spec = field(default_factory=dict)
    without: str = ""

    def spec(self, value: Any) -> Spec:
        """A spec in which the field has a value."""
        return with_value(self.beside, self.path, value)

    def spec_without(self) -> Spec:
        """A spec without the field."""
        changed = copy.deepcopy(self.beside)
        *parents, last = (self.without or self.path).split(".")
        at: Any = changed
        for step in parents:
            at = at.get(step, {})
        at.pop(last, None)
        return changed


def with_value(spec: Spec, path: str, value: Any) -> Spec:
    """A spec in which the field at ``path`` has a value."""
    changed = copy.deepcopy(spec)
    *parents, last = path.split(".")
    at = changed
    for step in parents:
        at = at.setdefault(step, {})
    at[last] = copy.deepcopy(value)
    return changed


def reach(value: Any, path: str) -> Any:
    """The value at a path such as ``spec.ports.0``; None if there is none."""
    for step in path.split("."):
        if isinstance(value, list):
            value = value[int(step)] if int(step) < len(value) else None
        else:
            value = (value or {}).get(step)
    return value


def _in(kind: str, path: str, suffix: str = "") -> See:
    return lambda look: reach(look.child(kind, suffix), path)


def _annotations(kind: str) -> See:
    """Those that the spec gives; None if the child has none of its own either."""

    def see(look: Look) -> Any:
        found = reach(look.child(kind), "metadata.annotations") or {}
        return {key: value for key, value in found.items() if not key.startswith(_OWN_LABELS)} or None

    return see


def _exists(kind: str, suffix: str = "") -> See:
    return lambda look: look.child(kind, suffix) is not None


def _pod(path: str) -> See:
    return _in("Deployment", f"spec.template.{path}")


def _container(path: str) -> See:
    return _pod(f"spec.containers.0.{path}")


def _variable(name: str) -> See:
    """The value of an environment variable, or where it comes from."""

    def see(look: Look) -> Any:
        for each in _container("env")(look) or []:
            if each["name"] == name:
                return each.get("valueFrom", {}).get("secretKeyRef") or each.get("value")
        return None

    return see


def _all(*sees: See) -> See:
    return lambda look: [see(look) for see in sees]


def _without(see: See, *names: str) -> See:
    """What is in a map beside the names that begin so."""
    return lambda look: {
        key: value for key, value in (see(look) or {}).items() if not key.startswith(names)
    }  # fmt: skip


def _some(see: See, first: int) -> See:
    """The entries of a list from one on: those before it are the operator's own."""
    return lambda look: (see(look) or [])[first:]


def _tls_mode(look: Look) -> Any:
    secret = look.child("Secret", "-database")
    url = base64.b64decode(secret["data"]["url"]).decode() if secret else ""
    return parse_qs(urlsplit(url).query).get("sslmode")


def _given_variables(look: Look) -> list[Any]:
    return [each for each in _container("env")(look) or [] if not each["name"].startswith("GRIDNODE_")]


def _text(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: str(entry) for key, entry in value.items()}
    return str(value)


def _flag(value: bool) -> str | None:
    return "true" if value else None


def _own_key(name: str, key: str) -> dict[str, str]:
    return {"name": f"demo-{name}", "key": key}


def _parents(references: list[Spec]) -> list[Spec]:
    return [{"group": "gateway.networking.k8s.io", "kind": "Gateway", **each} for each in references]


def _peers() -> list[Any]:
    expressions = [{"key": "role", "operator": "In", "values": ["a", "b"]}, {"key": "x", "operator": "Exists"}]
    selector = {"matchLabels": {"app": "prometheus"}, "matchExpressions": expressions}
    return [
        {"podSelector": selector, "namespaceSelector": selector},
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
    ]


_HOST: Spec = {"exposure": {"ingress": {"host": "demo.example"}}}
_ROUTE: Spec = {"exposure": {"httpRoute": {"parentRefs": [{"name": "public"}], "hostnames": ["demo.example"]}}}
_SCALING: Spec = {"autoscaling": {"maxReplicas": 9}}
_FIRST, _SECOND = {"name": "first", "key": "one"}, {"name": "second", "key": "two"}
_TERM: Spec = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}
_NEAR: Spec = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"team": "vision"}}}
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_NEARBY: Spec = {"weight": 1, "podAffinityTerm": {**_NEAR, "namespaces": ["a"]}}
_NEARBY_ANYWHERE: Spec = {"weight": 1, "podAffinityTerm": _NEAR}
_VOLUMES: Spec = {"podTemplate": {"volumes": [{"name": "one", "emptyDir": {}}, {"name": "two", "emptyDir": {}}]}}
_SPREAD: Spec = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
_SPREAD_FULLY: Spec = {
    "maxSkew": 2,
    "topologyKey": "host",
    "whenUnsatisfiable": "DoNotSchedule",
    "labelSelector": {
        "matchLabels": {"team": "vision"},
        "matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["y"]}],
    },
    "minDomains": 2,
    "nodeAffinityPolicy": "Ignore",
    "nodeTaintsPolicy": "Honor",
    "matchLabelKeys": ["pod-template-hash"],
}

_WORKLOAD = [
    Field(
        path="image",
        values=("registry.example/gridnode:2", "registry.example/gridnode:3"),
        see=_all(_container("image"), _in("Job", "spec.template.spec.containers.0.image")),
        shown=lambda value: [value, value],
        default=[IMAGE, IMAGE],
    ),
    Field(
        path="imagePullPolicy",
        values=("Always", "Never"),
        see=_container("imagePullPolicy"),
        default="IfNotPresent",
    ),
    Field(
        path="imagePullSecrets",
        values=(["login"], ["other-login", "login"]),
        see=_pod("spec.imagePullSecrets"),
        shown=lambda names: [{"name": name} for name in names],
    ),
    Field(path="replicas", values=(2, 3), see=_in("Deployment", "spec.replicas"), default=1),
    Field(
        path="resources.requests",
        values=({"cpu": "250m"}, {"cpu": 2, "memory": "512Mi"}),
        see=_container("resources.requests"),
        shown=_text,
        default={"cpu": "100m", "memory": "256Mi"},
    ),
    Field(
        path="resources.limits",
        values=({"memory": "1Gi"}, {"memory": "2Gi", "cpu": 3}),
        see=_container("resources.limits"),
        shown=_text,
    ),
    Field(
        path="processesPerPod",
        values=(3, 4),
        see=_variable("GRIDNODE_WORKER_PROCESSES"),
        shown=_text,
        default="1",
    ),
    Field(
        path="drainTimeoutSeconds",
        values=(60, 3600),
        see=_all(_variable("GRIDNODE_DRAIN_TIMEOUT"), _pod("spec.terminationGracePeriodSeconds")),
        shown=lambda seconds: [str(seconds), seconds + 20],
        default=["30", 50],
    ),
    Field(path="legacyHosting", values=(True, False), see=_variable("GRIDNODE_LEGACY_HOSTING"), shown=_flag),
]

_SCALING_AND_EVICTION = [
    Field(
        path="autoscaling.maxReplicas",
        values=(5, 6),
        see=_in("HorizontalPodAutoscaler", "spec.maxReplicas"),
        without="autoscaling",
    ),
    Field(
        path="autoscaling.minReplicas",
        values=(2, 3),
        see=_in("HorizontalPodAutoscaler", "spec.minReplicas"),
        default=1,
        beside=_SCALING,
    ),
    Field(
        path="autoscaling.targetCpuUtilizationPercentage",
        values=(50, 60),
        see=_in("HorizontalPodAutoscaler", "spec.metrics.0.resource.target.averageUtilization"),
        default=70,
        beside=_SCALING,
    ),
    *(
        Field(
            path=f"disruptionBudget.{name}",
            values=(1, 0),
            see=_all(_exists("PodDisruptionBudget"), _in("PodDisruptionBudget", f"spec.{name}")),
            shown=lambda pods: [True, pods],
            default=[False, None],
            without="disruptionBudget",
        )
        for name in ("minAvailable", "maxUnavailable")
    ),
]

_CONNECTIONS = [
    Field(
        path="database.poolSize",
        values=(5, 6),
        see=_variable("GRIDNODE_DATABASE_POOL_SIZE"),
        shown=_text,
        default="4",
    ),
    Field(path="database.tlsMode", values=("disable", "prefer"), see=_tls_mode, shown=lambda mode: [mode]),
    Field(
        path="database.iamAuthentication",
        values=(True, False),
        see=_variable("GRIDNODE_DATABASE_IAM_AUTHENTICATION"),
        shown=_flag,
    ),
    Field(
        path="master.url",
        values=("https://master.example/grid", "http://10.0.0.1:5001"),
        see=_all(_variable("GRIDNODE_MASTER_URL"), _exists("Secret", "-master")),
        shown=lambda url: [url, False],
        default=[MASTER_URL, True],
    ),
    Field(
        path="master.keySecretRef",
        values=(_FIRST, _SECOND),
        see=_all(_variable("GRIDNODE_MASTER_KEY"), _exists("Secret", "-master")),
        shown=lambda reference: [reference, False],
        default=[_own_key("master", "key"), True],
    ),
    Field(
        path="managementTokenSecretRef",
        values=(_FIRST, _SECOND),
        see=_all(_variable("GRIDNODE_MANAGEMENT_TOKEN"), _exists("Secret", "-management")),
        shown=lambda reference: [reference, False],
        default=[_own_key("management", "token"), True],
    ),
    *(
        Field(path=f"limits.{name}", values=(4096, 8192), see=_variable(f"GRIDNODE_{variable}"), shown=_text)
        for name, variable in {
            "bodyBytes": "BODY_LIMIT",
            "connections": "CONNECTION_LIMIT",
            "connectionsPerAddress": "CONNECTION_LIMIT_PER_ADDRESS",
            "requestsPerSecondPerAddress": "REQUEST_RATE_PER_ADDRESS",
        }.items()
    ),
    Field(
        path="limits.trustedProxies",
        values=(["10.0.0.0/8"], ["fd00::/8", "192.168.0.1"]),
        see=_variable("GRIDNODE_TRUSTED_PROXIES"),
        shown=",".join,
    ),
]

_ANNOTATIONS = ({"a.example/b": "1"}, {"a.example/b": "größer; '2'", "c": ""})
_EXPOSURE = [
    Field(
        path="exposure.service.type",
        values=("NodePort", "LoadBalancer"),
        see=_in("Service", "spec.type"),
        default="ClusterIP",
    ),
    Field(path="exposure.service.port", values=(80, 8080), see=_in("Service", "spec.ports.0.port"), default=5000),
    Field(path="exposure.service.annotations", values=_ANNOTATIONS, see=_annotations("Service")),
    Field(
        path="exposure.ingress.host",
        values=("a.example", "*.b.example"),
        see=_all(_exists("Ingress"), _in("Ingress", "spec.rules.0.host")),
        shown=lambda host: [True, host],
        default=[False, None],
        without="exposure.ingress",
    ),
    Field(
        path="exposure.ingress.className",
        values=("public", "private"),
        see=_in("Ingress", "spec.ingressClassName"),
        beside=_HOST,
    ),
    Field(
        path="exposure.ingress.tlsSecretName",
        values=("certificate", "other"),
        see=_in("Ingress", "spec.tls"),
        shown=lambda name: [{"hosts": ["demo.example"], "secretName": name}],
        beside=_HOST,
    ),
    Field(
        path="exposure.ingress.annotations",
        values=_ANNOTATIONS,
        see=_annotations("Ingress"),
        beside=_HOST,
    ),
    Field(
        path="exposure.httpRoute.parentRefs",
        values=([{"name": "a"}], [{"name": "b", "namespace": "c", "sectionName": "https"}, {"name": "d"}]),
        see=_in("HTTPRoute", "spec.parentRefs"),
        shown=_parents,
        beside=_ROUTE,
        without="exposure.httpRoute",
    ),
    Field(
        path="exposure.httpRoute.hostnames",
        values=(["a.example"], ["*.b.example", "c.example"]),
        see=_all(_exists("HTTPRoute"), _in("HTTPRoute", "spec.hostnames")),
        shown=lambda names: [True, names],
        default=[False, None],
        beside=_ROUTE,
        without="exposure.httpRoute",
    ),
]

_MONITORING_AND_POLICY = [
    Field(path="networkPolicy.enabled", values=(True, False), see=_exists("NetworkPolicy"), default=False),
    Field(
        path="networkPolicy.managementFrom",
        values=([{"podSelector": {}}], _peers()),
        see=_some(_in("NetworkPolicy", "spec.ingress.1.from"), 1),
        default=[],
        beside={"networkPolicy": {"enabled": True}},
    ),
    Field(path="monitoring.enabled", values=(True, False), see=_exists("PodMonitor"), default=False),
    Field(
        path="monitoring.interval",
        values=("5s", "1m"),
        see=_in("PodMonitor", "spec.podMetricsEndpoints.0.interval"),
        default="30s",
        beside={"monitoring": {"enabled": True}},
    ),
    Field(
        path="monitoring.labels",
        values=({"release": "a"}, {"release": "b", "c": ""}),
        see=_without(_in("PodMonitor", "metadata.labels"), *_OWN_LABELS),
        default={},
        beside={"monitoring": {"enabled": True}},
    ),
]

_ENV: list[Any] = [
    {"name": "A", "valueFrom": {"secretKeyRef": {**_FIRST, "optional": True}}},
    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "k", "optional": False}}},
    {"name": "C", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
    {
        "name": "D",
        "valueFrom": {
            "resourceFieldRef": {"containerName": "node", "resource": "requests.memory", "divisor": "1Mi"}
        },
    },
]  # fmt: skip
_POD = [
    Field(
        path="podTemplate.labels",
        values=({"team": "vision"}, {"team": "speech", "x.example/y": ""}),
        see=_without(_pod("metadata.labels"), *_OWN_LABELS),
        default={},
    ),
    Field(
        path="podTemplate.annotations",
        values=_ANNOTATIONS,
        see=_without(_pod("metadata.annotations"), SECRETS_HASH_ANNOTATION),
        default={},
    ),
    Field(
        path="podTemplate.nodeSelector",
        values=({"kubernetes.io/arch": "arm64"}, {"disk": "ssd"}),
        see=_pod("spec.nodeSelector"),
    ),
    Field(
        path="podTemplate.tolerations",
        values=(
            [{"operator": "Exists"}],
            [
                {"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute", "tolerationSeconds": 60},
                {"key": "c", "effect": "NoSchedule", "operator": "Exists"},
            ],
        ),
        see=_pod("spec.tolerations"),
    ),
    Field(
        path="podTemplate.affinity",
        values=(
            {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_TERM]}}},
            {
                "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [_NEAR]},
                "podAntiAffinity": {_PREFERRED: [_NEARBY]},
            },
        ),
        see=_pod("spec.affinity"),
    ),
    Field(
        path="podTemplate.topologySpreadConstraints",
        values=([{**_SPREAD, "labelSelector": {"matchLabels": {"a": "b"}}}], [_SPREAD_FULLY]),
        see=_pod("spec.topologySpreadConstraints"),
    ),
    Field(path="podTemplate.priorityClassName", values=("high", "low"), see=_pod("spec.priorityClassName")),
    Field(
        path="podTemplate.serviceAccountName",
        values=("one-account", "other-account"),
        see=_all(_pod("spec.serviceAccountName"), _exists("ServiceAccount")),
        shown=lambda name: [name, False],
        default=["demo", True],
    ),
    Field(
        path="podTemplate.env",
        values=([{"name": "A", "value": "1"}, {"name": "B", "value": "$(A) '2'"}], _ENV),
        see=_given_variables,
        default=[],
    ),
    Field(
        path="podTemplate.volumes",
        values=(
            [{"name": "one", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}],
            [{"name": "one", "emptyDir": {}}, {"name": "two", "secret": {"secretName": "first", "defaultMode": 256}}],
        ),
        see=_some(_pod("spec.volumes"), 1),
        default=[],
    ),
    Field(
        path="podTemplate.volumeMounts",
        values=(
            [{"name": "one", "mountPath": "/one", "subPath": "a"}],
            [
                {
                    "name": "one",
                    "mountPath": "/one",
                    "readOnly": True,
                    "recursiveReadOnly": "Disabled",
                    "mountPropagation": "None",
                },
                {"name": "two", "mountPath": "/two", "subPathExpr": "$(GRIDNODE_NODE_ID)"},
            ],
        ),
        see=_some(_container("volumeMounts"), 1),
        default=[],
        beside=_VOLUMES,
    ),
]

#: Values of which only a part goes, from within what Kubernetes takes as one value.
PARTS = [
    Field(
        path="podTemplate.tolerations",
        values=([{"key": "a", "operator": "Exists"}], [{"operator": "Exists"}]),
        see=_pod("spec.tolerations"),
    ),
    Field(
        path="podTemplate.affinity",
        values=({"podAntiAffinity": {_PREFERRED: [_NEARBY]}}, {"podAntiAffinity": {_PREFERRED: [_NEARBY_ANYWHERE]}}),
        see=_pod("spec.affinity"),
    ),
    Field(
        path="podTemplate.topologySpreadConstraints",
        values=(
            [{**_SPREAD, "labelSelector": {"matchLabels": {"a": "b", "c": "d"}}}],
            [{**_SPREAD, "labelSelector": {"matchLabels": {"a": "b"}}}],
        ),
        see=_pod("spec.topologySpreadConstraints"),
    ),
    Field(
        path="podTemplate.env",
        values=(
            [{"name": "A", "valueFrom": {"secretKeyRef": {**_FIRST, "optional": True}}}],
            [{"name": "A", "valueFrom": {"secretKeyRef": _FIRST}}],
        ),
        see=_given_variables,
    ),
    Field(
        path="networkPolicy.managementFrom",
        values=(
            [{"podSelector": {"matchLabels": {"a": "b"}}, "namespaceSelector": {}}],
            [{"podSelector": {"matchLabels": {"a": "b"}}}],
        ),
        see=_some(_in("NetworkPolicy", "spec.ingress.1.from"), 1),
        beside={"networkPolicy": {"enabled": True}},
    ),
    Field(
        path="exposure.httpRoute.parentRefs",
        values=([{"name": "b", "namespace": "c", "sectionName": "https"}], [{"name": "b"}]),
        see=_in("HTTPRoute", "spec.parentRefs"),
        shown=_parents,
        beside=_ROUTE,
    ),
]

#: All of them but those that are about the database alone, or about the operator doing nothing.
FIELDS = [*_WORKLOAD, *_SCALING_AND_EVICTION, *_CONNECTIONS, *_EXPOSURE, *_MONITORING_AND_POLICY, *_POD]


def leaf_fields(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The fields of a structural schema that hold a value, such as ``podTemplate.env[].name``.

    What may be in an object that keeps unknown fields counts as one, ``….*``.
    """
    if "properties" in schema:
        for name, each in schema["properties"].items():
            yield from leaf_fields(each, f"{path}.{name}" if path else name)
        if schema.get(_KEEPS_UNKNOWN):
            yield f"{path}.*"
    elif schema.get("type") == "array":
        yield from leaf_fields(schema["items"], f"{path}[]")
    else:
        yield path


def given_fields(schema: Mapping[str, Any], value: Any, path: str = "") -> Iterator[str]:
    """Which of these a value of that schema gives."""
    if "properties" in schema and isinstance(value, Mapping):
        for name, each in value.items():
            if name in schema["properties"]:
                yield from given_fields(schema["properties"][name], each, f"{path}.{name}" if path else name)
            elif schema.get(_KEEPS_UNKNOWN):
                yield f"{path}.*"
    elif schema.get("type") == "array":
        for each in value:
            yield from given_fields(schema["items"], each, f"{path}[]")
    else:
        yield path
