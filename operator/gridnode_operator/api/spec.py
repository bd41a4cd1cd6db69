"""The spec of a GridNode as types. crds/ is generated from them (:mod:`gridnode_operator.crd`).

Each field's description is what ``kubectl explain`` shows; the API server enforces the bounds and defaults given here.
Constraints of a value that may be absent stand on its inner type: msgspec applies them to the value alone.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from gridnode_operator.kubernetes_types import (
    Affinity,
    Annotations,
    EnvironmentVariable,
    Labels,
    NetworkPolicyPeer,
    Quantities,
    Toleration,
    TopologySpreadConstraint,
    Volume,
    VolumeMount,
)

Text = Annotated[str, Meta(min_length=1, max_length=253)]
#: Printable, without spaces or line breaks.
ImageName = Annotated[str, Meta(min_length=1, max_length=1024, pattern=r"^[!-~]+$")]
_SUBDOMAIN: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
Host = Annotated[str, Meta(min_length=1, max_length=253, pattern=rf"^(\*\.)?{_SUBDOMAIN}$")]
ObjectName = Annotated[str, Meta(min_length=1, max_length=253, pattern=rf"^{_SUBDOMAIN}$")]
SecretKeyName = Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
Url = Annotated[str, Meta(max_length=2048, pattern=r"^https?://[!-~]+$")]
#: At most 63, for PostgreSQL cuts longer names without an error.
SchemaName = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[a-z_][-a-z0-9_]*$")]
Network = Annotated[str, Meta(min_length=1, max_length=49, pattern=r"^[0-9a-fA-F:.]+(/[0-9]{1,3})?$")]
Pods = Annotated[int, Meta(ge=0, le=100)]
PodsAtLeastOne = Annotated[int, Meta(ge=1, le=100)]


class SecretKey(Struct, rename="camel", frozen=True):
    """A key of a Secret."""

    name: Annotated[ObjectName, Meta(description="Name of the Secret.")]
    key: Annotated[SecretKeyName, Meta(description="Key within it.")]


class Autoscaling(Struct, rename="camel", frozen=True):
    """Bounds of a HorizontalPodAutoscaler on CPU."""

    max_replicas: Annotated[PodsAtLeastOne, Meta(description="Pods at most.")]
    min_replicas: Annotated[PodsAtLeastOne, Meta(description="Pods at least.")] = 1
    target_cpu_utilization_percentage: Annotated[
        int, Meta(ge=1, le=100, description="Mean CPU use, in percent of the request, that the autoscaler aims at.")
    ] = 70


class Database(Struct, rename="camel", frozen=True):
    """The node's schema and login role on the shared PostgreSQL server."""

    admin_secret_ref: Annotated[
        SecretKey | None,
        Meta(
            description="URL of an administrator's login, in a Secret of the operator's namespace that has the label "
            "gridnode.io/database-admin=true. The operator's default server if absent."
        ),
    ] = None
    schema: Annotated[
        SchemaName | None,
        Meta(
            description="Name of the schema, derived from namespace and name if absent. Can't be changed. "
            "A GridNode of the same namespace and name adopts the models that a deleted one left in it.",
        ),
    ] = None
    reclaim_policy: Annotated[
        Literal["Retain", "Delete"],
        Meta(description="What becomes of the schema and all models in it when the GridNode is deleted."),
    ] = "Retain"
    pool_size: Annotated[
        int, Meta(ge=1, le=100, description="Database connections that each worker process keeps at most.")
    ] = 4
    tls_mode: Annotated[
        Literal["disable", "prefer", "require", "verify-ca", "verify-full"] | None,
        Meta(description="sslmode of the node's connections; that of the administrator's URL if absent."),
    ] = None
    iam_authentication: Annotated[
        bool,
        Meta(
            description="Log in with AWS IAM tokens instead of a password. "
            "podTemplate.serviceAccountName then names an account with the AWS role."
        ),
    ] = False
    rotate: Annotated[
        Annotated[str, Meta(max_length=253)] | None,
        Meta(description="Any text; changing it replaces the node's database password without downtime."),
    ] = None


class Master(Struct, rename="camel", frozen=True):
    """The master node that progress is reported to."""

    url: Annotated[Url | None, Meta(description="Its base URL; the operator's default if absent.")] = None
    key_secret_ref: Annotated[
        SecretKey | None,
        Meta(description="The key that the node shows to it. The operator's, for the operator's default, if absent."),
    ] = None


class ServiceExposure(Struct, rename="camel", frozen=True):
    """The Service that phones reach, directly or through an Ingress or route."""

    type: Annotated[
        Literal["ClusterIP", "NodePort", "LoadBalancer"], Meta(description="Type of the device Service.")
    ] = "ClusterIP"
    port: Annotated[
        int, Meta(ge=1, le=65535, description="Port of the device Service. Clients of 2020 expect 5000.")
    ] = 5000
    annotations: Annotated[Annotations, Meta(description="Annotations of the device Service.")] = field(
        default_factory=dict
    )


class IngressExposure(Struct, rename="camel", frozen=True):
    """An Ingress for the device Service. Clients drop base paths, so each node needs a host of its own."""

    host: Annotated[Host, Meta(description="Host name of this node.")]
    class_name: Annotated[
        ObjectName | None, Meta(description="ingressClassName; the cluster's default class if absent.")
    ] = None
    tls_secret_name: Annotated[
        ObjectName | None, Meta(description="Secret with the certificate; plain HTTP if absent.")
    ] = None
    annotations: Annotated[Annotations, Meta(description="Annotations of the Ingress.")] = field(default_factory=dict)


class ParentRef(Struct, rename="camel", frozen=True):
    """A Gateway that an HTTPRoute attaches to."""

    name: Annotated[ObjectName, Meta(description="Name of the Gateway.")]
    namespace: Annotated[ObjectName | None, Meta(description="Its namespace; the GridNode's if absent.")] = None
    section_name: Annotated[
        ObjectName | None,
        Meta(description="Its listener; all if absent. Named https…, it makes the URL in status https."),
    ] = None


class RouteExposure(Struct, rename="camel", frozen=True):
    """A Gateway API HTTPRoute for the device Service."""

    parent_refs: Annotated[list[ParentRef], Meta(min_length=1, max_length=8, description="Gateways to attach to.")]
    hostnames: Annotated[list[Host], Meta(min_length=1, max_length=16, description="Host names of this node.")]


class Exposure(Struct, rename="camel", frozen=True):
    """How phones reach the node."""

    service: Annotated[ServiceExposure, Meta(description="The device Service.")] = field(
        default_factory=ServiceExposure
    )
    ingress: Annotated[IngressExposure | None, Meta(description="An Ingress; excludes httpRoute.")] = None
    http_route: Annotated[RouteExposure | None, Meta(description="An HTTPRoute; excludes ingress.")] = None


class Limits(Struct, rename="camel", frozen=True):
    """Bounds on what devices may do; the node's defaults where absent."""

    body_bytes: Annotated[
        Annotated[int, Meta(ge=1024, le=1 << 40)] | None, Meta(description="Bytes a device request's body may have.")
    ] = None
    connections: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None, Meta(description="Open connections per worker process.")
    ] = None
    connections_per_address: Annotated[
        Annotated[int, Meta(ge=0, le=1_000_000)] | None,
        Meta(description="Open connections from one address per worker process; 0 is no limit."),
    ] = None
    requests_per_second_per_address: Annotated[
        Annotated[int, Meta(ge=0, le=1_000_000)] | None,
        Meta(description="Requests per second from one address per worker process; 0 is no limit."),
    ] = None
    trusted_proxies: Annotated[
        list[Network],
        Meta(
            max_length=64,
            description="Networks whose X-Forwarded-For is believed, such as 10.0.0.0/8. "
            "Without it all phones behind an Ingress or Gateway count as one address.",
        ),
    ] = field(default_factory=list)


class Monitoring(Struct, rename="camel", frozen=True):
    """A PodMonitor, where the cluster has the Prometheus operator's API."""

    enabled: Annotated[bool, Meta(description="Whether Prometheus should scrape the pods.")] = False
    interval: Annotated[
        str, Meta(pattern=r"^[1-9][0-9]*(ms|s|m)$", max_length=10, description="Time between scrapes.")
    ] = "30s"
    labels: Annotated[Labels, Meta(description="Labels by which a Prometheus selects the PodMonitor.")] = field(
        default_factory=dict
    )


class NetworkPolicy(Struct, rename="camel", frozen=True):
    """Who may reach the pods: devices from anywhere, management only from the places named."""

    enabled: Annotated[bool, Meta(description="Whether a NetworkPolicy is made.")] = False
    management_from: Annotated[
        list[NetworkPolicyPeer],
        Meta(
            max_length=16,
            description="Who may reach the management port beside the operator; Prometheus, for instance.",
        ),
    ] = field(default_factory=list)


class DisruptionBudget(Struct, rename="camel", frozen=True):
    """A PodDisruptionBudget; exactly one of the two."""

    min_available: Annotated[Pods | None, Meta(description="Pods that must stay.")] = None
    max_unavailable: Annotated[Pods | None, Meta(description="Pods that may be away.")] = None


class PodTemplate(Struct, rename="camel", frozen=True):
    """What is passed on to the pods."""

    labels: Annotated[Labels, Meta(description="Labels added to the pods; the operator's own are kept.")] = field(
        default_factory=dict
    )
    annotations: Annotated[Annotations, Meta(description="Annotations added to the pods.")] = field(
        default_factory=dict
    )
    node_selector: Annotated[Labels, Meta(description="Labels of the machines that pods may run on.")] = field(
        default_factory=dict
    )
    tolerations: Annotated[list[Toleration], Meta(max_length=64, description="Taints that pods tolerate.")] = field(
        default_factory=list
    )
    affinity: Annotated[Affinity | None, Meta(description="Affinity of the pods.")] = None
    topology_spread_constraints: Annotated[
        list[TopologySpreadConstraint], Meta(max_length=16, description="How pods are spread over machines and zones.")
    ] = field(default_factory=list)
    priority_class_name: Annotated[ObjectName | None, Meta(description="PriorityClass of the pods.")] = None
    service_account_name: Annotated[
        ObjectName | None, Meta(description="An existing ServiceAccount; one without rights, made for it, if absent.")
    ] = None
    env: Annotated[
        list[EnvironmentVariable],
        Meta(
            max_length=128,
            description="Further environment variables of the node: settings that the spec has no field for.",
            extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = field(default_factory=list)
    volumes: Annotated[
        list[Volume],
        Meta(
            max_length=64,
            description="Further volumes of the pods.",
            extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = field(default_factory=list)
    volume_mounts: Annotated[
        list[VolumeMount],
        Meta(
            max_length=64,
            description="Where the node mounts them.",
            extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["mountPath"]},
        ),
    ] = field(default_factory=list)


class Resources(Struct, rename="camel", frozen=True):
    """CPU and memory of each pod."""

    requests: Annotated[Quantities, Meta(description="What is reserved.")] = field(
        default_factory=lambda: {"cpu": "100m", "memory": "256Mi"}
    )
    limits: Annotated[Quantities, Meta(description="What is allowed at most.")] = field(default_factory=dict)


class GridNodeSpec(Struct, rename="camel", frozen=True):
    """A federated-learning server for the phones of one app."""

    image: Annotated[ImageName | None, Meta(description="Image of the node; the operator's default if absent.")] = None
    image_pull_policy: Annotated[
        Literal["Always", "IfNotPresent", "Never"], Meta(description="When the image is pulled.")
    ] = "IfNotPresent"
    image_pull_secrets: Annotated[
        list[ObjectName], Meta(max_length=16, description="Names of Secrets for pulling the image.")
    ] = field(default_factory=list)
    replicas: Annotated[Pods, Meta(description="Pods. Leave it out with autoscaling.")] = 1
    autoscaling: Annotated[Autoscaling | None, Meta(description="Scale on CPU use. Excludes replicas.")] = None
    resources: Annotated[Resources, Meta(description="CPU and memory of each pod.")] = field(default_factory=Resources)
    processes_per_pod: Annotated[
        int, Meta(ge=1, le=64, description="Worker processes in each pod; each uses one core at most.")
    ] = 1
    drain_timeout_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=3600,
            description="Seconds that running requests get to end before a pod stops. "
            "Slow phones need minutes for large models.",
        ),
    ] = 30
    database: Annotated[Database, Meta(description="Schema and login role on the shared server.")] = field(
        default_factory=Database
    )
    master: Annotated[Master, Meta(description="Where progress is reported.")] = field(default_factory=Master)
    management_token_secret_ref: Annotated[
        SecretKey | None,
        Meta(description="Token of the management port, in the GridNode's namespace; generated if absent."),
    ] = None
    exposure: Annotated[Exposure, Meta(description="How phones reach the node.")] = field(default_factory=Exposure)
    limits: Annotated[Limits, Meta(description="Bounds on what devices may do.")] = field(default_factory=Limits)
    legacy_hosting: Annotated[
        bool, Meta(description="Let notebooks of 2020 host models through the device port, without a token.")
    ] = False
    monitoring: Annotated[Monitoring, Meta(description="Scraping by the Prometheus operator.")] = field(
        default_factory=Monitoring
    )
    network_policy: Annotated[NetworkPolicy, Meta(description="Who may reach the pods.")] = field(
        default_factory=NetworkPolicy
    )
    disruption_budget: Annotated[DisruptionBudget | None, Meta(description="Pods that evictions must leave.")] = None
    pod_template: Annotated[PodTemplate, Meta(description="What is passed on to the pods.")] = field(
        default_factory=PodTemplate
    )
    paused: Annotated[bool, Meta(description="Leave everything as it is: the operator only reports the status.")] = (
        False
    )
