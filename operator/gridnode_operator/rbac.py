"""What the operator may do at the API server: nothing that it does not do. Pure.

It needs three sets of rules: for the namespaces whose GridNodes it looks after, for its own namespace, and, where it
looks after all namespaces, for the whole cluster. An install for some namespaces has no right outside of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gridnode_operator.api import GROUP, PLURAL
from gridnode_operator.desired import CHILD_KINDS
from gridnode_operator.kube import PLURALS
from gridnode_operator.leadership import NAME as LEASE_NAME

Manifest = dict[str, Any]
Rule = dict[str, list[str]]

#: Name of the roles and their bindings.
NAME: Final = "gridnode-operator"
#: Name of the role in the operator's own namespace, which may be one with GridNodes as well.
OWN_NAME: Final = f"{NAME}-own"

_API: Final = "rbac.authorization.k8s.io/v1"
_API_GROUP: Final = "rbac.authorization.k8s.io"
_APPLIED: Final = ("get", "list", "watch", "create", "patch", "delete")
#: A Job is never changed.
_JOB: Final = ("get", "list", "watch", "create", "delete")


def gridnode_rules() -> list[Rule]:
    """Where GridNodes are."""
    return [
        _rule(GROUP, [PLURAL], ["get", "list", "watch", "patch"]),
        _rule(GROUP, [f"{PLURAL}/status"], ["patch"]),
        # Where OwnerReferencesPermissionEnforcement is on, children's references to their GridNode need it.
        _rule(GROUP, [f"{PLURAL}/finalizers"], ["update"]),
        *(
            _rule(_group(api_version), [PLURALS[api_version, kind]], _JOB if kind == "Job" else _APPLIED)
            for api_version, kind in CHILD_KINDS
        ),
        _rule("", ["pods"], ["list"]),
        _rule("", ["pods/log"], ["get"]),
        _rule("", ["events"], ["create"]),
    ]


def own_rules() -> list[Rule]:
    """In the namespace of the operator: its Lease, and Secrets of database administrators, which GridNodes name."""
    return [
        _rule("", ["secrets"], ["get"]),
        # Who may create can't be limited to a name.
        _rule("coordination.k8s.io", ["leases"], ["create"]),
        {**_rule("coordination.k8s.io", ["leases"], ["get", "update"]), "resourceNames": [LEASE_NAME]},
    ]


def cluster_rules() -> list[Rule]:
    """In all of the cluster, for an operator of all namespaces: it notices new kinds without being restarted."""
    crds = _rule("apiextensions.k8s.io", ["customresourcedefinitions"], ["list", "watch"])
    return [*gridnode_rules(), crds]


def manifests(service_account: str, namespace: str, watch_namespaces: Sequence[str] = ()) -> list[Manifest]:
    """Roles and bindings of an install.

    Args:
        service_account: The operator's.
        namespace: The operator's.
        watch_namespaces: Those whose GridNodes it looks after; all if there are none.
    """
    subject = {"kind": "ServiceAccount", "name": service_account, "namespace": namespace}
    if watch_namespaces:
        made = [
            each for watched in watch_namespaces for each in _granted(NAME, watched, gridnode_rules(), subject)
        ]  # fmt: skip
    else:
        made = _granted(NAME, None, cluster_rules(), subject)
    return [*made, *_granted(OWN_NAME, namespace, own_rules(), subject)]


def _granted(name: str, namespace: str | None, rules: list[Rule], subject: Manifest) -> list[Manifest]:
    kind = "ClusterRole" if namespace is None else "Role"
    metadata = {"name": name} if namespace is None else {"name": name, "namespace": namespace}
    return [
        {"apiVersion": _API, "kind": kind, "metadata": metadata, "rules": rules},
        {
            "apiVersion": _API,
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "roleRef": {"apiGroup": _API_GROUP, "kind": kind, "name": name},
            "subjects": [subject],
        },
    ]


def _rule(group: str, resources: Sequence[str], verbs: Sequence[str]) -> Rule:
    return {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]
