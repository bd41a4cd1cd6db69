"""Whether and where phones reach a node, read from Service, Ingress and HTTPRoute alone. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gridnode_operator.api import ConditionStatus, GridNode, RouteExposure
from gridnode_operator.desired.labels import is_owned_by

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Exposed:
    """The condition Exposed, and the URL; None where it isn't known yet."""

    status: ConditionStatus
    reason: str
    message: str
    url: str | None = None


def observe_exposure(
    gridnode: GridNode, service: Object | None, ingress: Object | None, http_route: Object | None
) -> Exposed:
    """Judge by the outermost of what the spec wants: Ingress, HTTPRoute, else the Service."""
    if service is None or not is_owned_by(service, gridnode):
        return Exposed("False", "NoService", "There is no Service yet.")
    if gridnode.spec.exposure.ingress is not None:
        return _by_ingress(gridnode, ingress)
    if gridnode.spec.exposure.http_route is not None:
        return _by_route(gridnode, gridnode.spec.exposure.http_route, http_route)
    return _by_service(gridnode, service)


def _by_service(gridnode: GridNode, service: Object) -> Exposed:
    port = gridnode.spec.exposure.service.port
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    inside = f"http://{name}.{namespace}.svc:{port}"
    match gridnode.spec.exposure.service.type:
        case "LoadBalancer":
            address = _address(service)
            if address is None:
                return Exposed("False", "NoLoadBalancer", "The load balancer has no address yet.")
            return Exposed("True", "LoadBalancer", f"The load balancer is at {address}.", _url("http", address, port))
        case "NodePort":
            ports = ", ".join(str(each.get("nodePort")) for each in service["spec"]["ports"])
            return Exposed("True", "NodePort", f"Port {ports} of every machine; the URL is for the cluster.", inside)
        case _:
            return Exposed("True", "InCluster", "Reachable within the cluster.", inside)


def _by_ingress(gridnode: GridNode, ingress: Object | None) -> Exposed:
    wanted = gridnode.spec.exposure.ingress
    if wanted is None or ingress is None or not is_owned_by(ingress, gridnode):
        return Exposed("False", "NoIngress", "There is no Ingress yet.")
    url = _host_url("http" if wanted.tls_secret_name is None else "https", [wanted.host])
    address = _address(ingress)
    if address is None:
        # Not every controller says so.
        return Exposed("Unknown", "NoAddress", "No Ingress controller has written its address to the Ingress.", url)
    return Exposed("True", "Ingress", f"The Ingress controller serves {wanted.host} at {address}.", url)


def _by_route(gridnode: GridNode, wanted: RouteExposure, route: Object | None) -> Exposed:
    if route is None or not is_owned_by(route, gridnode):
        message = "There is no HTTPRoute: it is not made yet, or the cluster lacks the Gateway API."
        return Exposed("False", "NoHTTPRoute", message)
    secure = any((parent.section_name or "").startswith("https") for parent in wanted.parent_refs)
    url = _host_url("https" if secure else "http", wanted.hostnames)
    answers = list(_route_conditions(route))
    for name, condition in answers:
        if condition["status"] == "False":
            message = f"Gateway {name}: {condition.get('message') or condition.get('reason')}"
            return Exposed("False", str(condition.get("reason") or "NotAccepted"), message, url)
    accepted = {name for name, condition in answers if condition["type"] == "Accepted"}
    if not accepted:
        return Exposed("Unknown", "NoGateway", "No Gateway has answered for the HTTPRoute.", url)
    return Exposed("True", "HTTPRoute", f"Accepted by {', '.join(sorted(accepted))}.", url)


def _route_conditions(route: Object) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Conditions by the Gateway that they are of, those about the present spec only."""
    generation = route["metadata"].get("generation", 0)
    for parent in (route.get("status") or {}).get("parents") or []:
        for condition in parent.get("conditions") or []:
            current = condition.get("observedGeneration", generation) >= generation
            if current and condition.get("type") in ("Accepted", "ResolvedRefs"):
                yield parent.get("parentRef", {}).get("name", ""), condition


def _address(live: Object) -> str | None:
    for entry in ((live.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []:
        if address := entry.get("hostname") or entry.get("ip"):
            return str(address)
    return None


def _host_url(scheme: str, hosts: list[str]) -> str | None:
    names = [host for host in hosts if not host.startswith("*.")]
    return f"{scheme}://{names[0]}" if names else None


def _url(scheme: str, address: str, port: int) -> str:
    return f"{scheme}://[{address}]:{port}" if ":" in address else f"{scheme}://{address}:{port}"
