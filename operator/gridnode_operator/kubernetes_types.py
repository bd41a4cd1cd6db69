"""Objects that Kubernetes defines and the operator passes on unchanged, with the structural schema of each in short.

The API server prunes what a schema does not name, so each names every field of the API (v1.30 to v1.36). Three are too
deep for that and keep unknown fields instead: parts of an affinity, and the source of a volume.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta

Schema = dict[str, Any]

KEEP_UNKNOWN: Final = "x-kubernetes-preserve-unknown-fields"
LIST_TYPE: Final = "x-kubernetes-list-type"
LIST_MAP_KEYS: Final = "x-kubernetes-list-map-keys"

LABEL_VALUE_PATTERN: Final = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"


def _text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def _number(description: str, **more: Any) -> Schema:
    return {"type": "integer", "description": description, **more}


def _flag(description: str) -> Schema:
    return {"type": "boolean", "description": description}


def _object(description: str, properties: Schema, *required: str, **more: Any) -> Schema:
    schema: Schema = {"type": "object", "description": description, "properties": properties, **more}
    return schema | {"required": list(required)} if required else schema


def _list(description: str, items: Schema, **more: Any) -> Schema:
    return {"type": "array", "description": description, "items": items, **more}


def _unknown(description: str) -> Schema:
    return {"type": "object", "description": description, KEEP_UNKNOWN: True}


def _label_selector(description: str) -> Schema:
    requirement = _object(
        "One requirement; all must be met.",
        {
            "key": _text("Label that is looked at."),
            "operator": _text("How it is compared.", enum=["In", "NotIn", "Exists", "DoesNotExist"]),
            "values": _list("Values to compare with.", _text("One of them.")),
        },
        "key",
        "operator",
    )
    return _object(
        description,
        {
            "matchLabels": {
                "type": "object",
                "description": "Labels that must have these values.",
                "additionalProperties": _text("Value."),
            },
            "matchExpressions": _list("Further requirements.", requirement),
        },
        **{"x-kubernetes-map-type": "atomic"},
    )


def _reference(description: str) -> Schema:
    return _object(
        description,
        {
            "name": _text("Name of the object."),
            "key": _text("Key within it."),
            "optional": _flag("Whether it may be absent."),
        },
        "name",
        "key",
        **{"x-kubernetes-map-type": "atomic"},
    )


_VALUE_FROM = _object(
    "Where the value comes from, instead of value.",
    {
        "secretKeyRef": _reference("A key of a Secret in the GridNode's namespace."),
        "configMapKeyRef": _reference("A key of a ConfigMap in the GridNode's namespace."),
        "fieldRef": _object(
            "A field of the pod.",
            {"apiVersion": _text("Version of the path; v1 if absent."), "fieldPath": _text("Path of the field.")},
            "fieldPath",
            **{"x-kubernetes-map-type": "atomic"},
        ),
        "resourceFieldRef": _object(
            "CPU or memory of a container.",
            {
                "containerName": _text("Name of the container."),
                "resource": _text("Such as limits.memory."),
                "divisor": {
                    "description": "Unit of the value; 1 if absent.",
                    "x-kubernetes-int-or-string": True,
                    "anyOf": [{"type": "integer"}, {"type": "string"}],
                },
            },
            "resource",
            **{"x-kubernetes-map-type": "atomic"},
        ),
    },
)

_ENV = _object(
    "An environment variable.",
    {
        "name": _text("Its name.", minLength=1, maxLength=253, pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"),
        "value": _text("Its value.", maxLength=32768),
        "valueFrom": _VALUE_FROM,
    },
    "name",
)

_TOLERATION = _object(
    "A toleration.",
    {
        "key": _text("Key of the taint; all if absent."),
        "operator": _text("Exists, or Equal if absent.", enum=["Exists", "Equal", "Lt", "Gt"]),
        "value": _text("Value of the taint."),
        "effect": _text("Its effect; all if absent.", enum=["NoSchedule", "PreferNoSchedule", "NoExecute"]),
        "tolerationSeconds": _number("Seconds that a NoExecute taint is tolerated; for ever if absent."),
    },
)

_TOPOLOGY_SPREAD_CONSTRAINT = _object(
    "A topology spread constraint.",
    {
        "maxSkew": _number("By how many pods two domains may differ.", minimum=1),
        "topologyKey": _text("Label of machines whose values are the domains.", minLength=1),
        "whenUnsatisfiable": _text("What to do otherwise.", enum=["DoNotSchedule", "ScheduleAnyway"]),
        "labelSelector": _label_selector("Pods that are counted; those of this GridNode if absent."),
        "minDomains": _number("Domains at least.", minimum=1),
        "nodeAffinityPolicy": _text("Whether nodeAffinity narrows the domains.", enum=["Honor", "Ignore"]),
        "nodeTaintsPolicy": _text("Whether taints narrow the domains.", enum=["Honor", "Ignore"]),
        "matchLabelKeys": _list("Labels by whose values pods are told apart.", _text("Name of a label.")),
    },
    "maxSkew",
    "topologyKey",
    "whenUnsatisfiable",
)

_AFFINITY = _object(
    "Affinity of the pods.",
    {
        "nodeAffinity": _unknown("Which machines to prefer or require (NodeAffinity of core/v1)."),
        "podAffinity": _unknown("Which pods to be near (PodAffinity of core/v1)."),
        "podAntiAffinity": _unknown("Which pods to be away from (PodAntiAffinity of core/v1)."),
    },
)

_VOLUME = _object(
    "A volume: its name and one source, as in core/v1.",
    {"name": _text("Its name.", minLength=1, maxLength=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")},
    "name",
    **{KEEP_UNKNOWN: True},
)

_VOLUME_MOUNT = _object(
    "Where a volume is mounted.",
    {
        "name": _text("Name of the volume.", minLength=1, maxLength=63),
        "mountPath": _text("Path in the container.", minLength=1, maxLength=4096),
        "readOnly": _flag("Whether it can't be written to."),
        "recursiveReadOnly": _text(
            "Whether that holds for mounts below it.", enum=["Disabled", "IfPossible", "Enabled"]
        ),
        "subPath": _text("Path within the volume; its root if absent."),
        "subPathExpr": _text("The same, with variables expanded."),
        "mountPropagation": _text("How mounts are passed on.", enum=["None", "HostToContainer", "Bidirectional"]),
    },
    "name",
    "mountPath",
)

_NETWORK_POLICY_PEER = _object(
    "A NetworkPolicyPeer: pods, namespaces or addresses.",
    {
        "podSelector": _label_selector("Pods, of the GridNode's namespace unless namespaceSelector is there."),
        "namespaceSelector": _label_selector("Namespaces."),
        "ipBlock": _object(
            "A network.",
            {"cidr": _text("Such as 10.0.0.0/8."), "except": _list("Parts that are left out.", _text("A network."))},
            "cidr",
        ),
    },
)

EnvironmentVariable = Annotated[dict[str, Any], Meta(extra_json_schema=_ENV)]
Toleration = Annotated[dict[str, Any], Meta(extra_json_schema=_TOLERATION)]
TopologySpreadConstraint = Annotated[dict[str, Any], Meta(extra_json_schema=_TOPOLOGY_SPREAD_CONSTRAINT)]
Affinity = Annotated[dict[str, Any], Meta(extra_json_schema=_AFFINITY)]
Volume = Annotated[dict[str, Any], Meta(extra_json_schema=_VOLUME)]
VolumeMount = Annotated[dict[str, Any], Meta(extra_json_schema=_VOLUME_MOUNT)]
NetworkPolicyPeer = Annotated[dict[str, Any], Meta(extra_json_schema=_NETWORK_POLICY_PEER)]

LabelKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=317,
        pattern=r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
    ),
]
LabelValue = Annotated[str, Meta(max_length=63, pattern=LABEL_VALUE_PATTERN)]
Labels = Annotated[dict[LabelKey, LabelValue], Meta(max_length=64)]
Annotations = Annotated[dict[LabelKey, Annotated[str, Meta(max_length=65536)]], Meta(max_length=64)]
#: Such as 250m, 0.5 or 1Gi; whole numbers may stand without quotes.
QUANTITY_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?$"
Quantity = Annotated[int, Meta(ge=0)] | Annotated[str, Meta(max_length=64, pattern=QUANTITY_PATTERN)]
Quantities = Annotated[dict[LabelKey, Quantity], Meta(max_length=16)]
