"""The chart in tests: rendered or installed by a real helm, and its objects shown to a real API server."""

from __future__ import annotations

import base64
import copy
import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support.cluster import ControlPlane
from tests.support.control_plane.build import kubernetes_version
from tests.support.helm.build import Major, helm
from tests.support.master_process import MasterProcess
from tests.support.operator_process import GridNodes, OperatorProcess
from tests.support.optional_apis import POD_MONITOR_CRD

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "gridnode"
RELEASE = "gridnode"
NAMESPACE = "gridnode-system"

Manifest = dict[str, Any]

#: Values by what they are for: what docs/install.md and docs/monitoring.md tell to set, alone and together.
COMBINATIONS: dict[str, Mapping[str, Any]] = {
    "default": {},
    "embedded database": {"database": {"embedded": {"enabled": True}}},
    "embedded database, nothing kept": {
        "crds": {"keep": False},
        "database": {"embedded": {"enabled": True, "keep": False, "storageClassName": "fast", "runAsUser": None}},
        "master": {"storage": {"keep": False}},
    },
    "databases of one's own": {
        "database": {"existingSecret": {"name": "aurora", "key": "admin"}},
        "master": {"database": {"existingSecret": {"name": "aurora", "key": "master"}}, "existingSecret": "keys"},
    },
    "some namespaces": {"watchNamespaces": ["team-a", "team-b"], "rbac": {"aggregate": False}},
    "no rights made": {
        "rbac": {"create": False, "aggregate": False},
        "crds": {"install": False},
        "operator": {"serviceAccount": {"create": False, "name": "given"}},
        "master": {"serviceAccount": {"create": False}},
    },
    "no master node": {"master": {"enabled": False}},
    "master node elsewhere": {
        "master": {"enabled": False, "external": {"url": "https://master.example", "existingSecret": "elsewhere"}}
    },
    "master node for many": {
        "master": {
            "replicas": 3,
            "storage": {"url": "s3://bucket/models"},
            "disruptionBudget": {"enabled": True},
            "legacyAccess": True,
            "trustedProxies": ["10.0.0.0/8", "fd00::/8"],
            "nodeTemplate": {"exposure": {"ingress": {"host": "{name}.example"}}},
            "service": {"type": "LoadBalancer", "port": 80, "annotations": {"example/scheme": "internal"}},
            "topologySpreadConstraints": [{"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 2}],
        }
    },
    "Ingress": {
        "master": {"ingress": {"enabled": True, "host": "m.example", "className": "nginx", "tlsSecretName": "tls"}}
    },
    "OpenID Connect": {
        "master": {
            "publicUrl": "https://grid.example",
            "oidc": {
                "issuer": "https://login.example/realms/staff",
                "existingSecret": "dashboard-client",
                "emails": ["ann@example.org", "@grid.example.org"],
                "groups": ["sre"],
            },
        }
    },
    "HTTPRoute": {
        "master": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["m.example"]}}
    },
    "monitoring": {
        "monitoring": {
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "rules": {"enabled": True, "runbookBase": "https://example/runbooks/", "disabled": ["GridNodeDegraded"]},
            "dashboards": {"enabled": True, "annotations": {"folder": "GridNode"}},
        },
        "networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]},
    },
    "private registry": {
        "images": {
            "registry": "registry.example:5000/mirror/",
            "pullSecrets": ["registry"],
            "operator": {"digest": f"sha256:{'0' * 64}"},
            "node": {"tag": "2"},
        }
    },
    "OpenShift": {"fsGroup": None, "database": {"embedded": {"enabled": True, "runAsUser": None}}},
    "no NetworkPolicies": {"networkPolicy": {"enabled": False}},
    "all that pods may be given": {
        "commonLabels": {"team": "phones"},
        "operator": {
            "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
            "volumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}],
            "podLabels": {"sidecar": "no", "app.kubernetes.io/name": "not-this"},
            "podAnnotations": {"note": "x"},
            "nodeSelector": {"kubernetes.io/arch": "amd64"},
            "tolerations": [{"key": "dedicated", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {}},
            "priorityClassName": "system-cluster-critical",
            "installation": "blue",
        },
        "master": {
            "env": [{"name": "GRIDNODE_MASTER_THREADS", "value": "8"}],
            "podAnnotations": {"note": "y"},
            "nodeSelector": {"kubernetes.io/arch": "amd64"},
        },
    },
}  # fmt: skip


def _prometheus_rule_crd() -> Manifest:
    """In short: only fields that are used, all others are refused."""
    crd = copy.deepcopy(POD_MONITOR_CRD)
    text = {"type": "string"}
    texts = {"type": "object", "additionalProperties": text}
    rule = {"alert": text, "expr": text, "for": text, "labels": texts, "annotations": texts}
    groups = {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": text,
                "rules": {"type": "array", "items": {"type": "object", "required": ["expr"], "properties": rule}},
            },
        },
    }
    crd["metadata"]["name"] = "prometheusrules.monitoring.coreos.com"
    names = {"kind": "PrometheusRule", "listKind": "PrometheusRuleList"}
    crd["spec"]["names"] = {**names, "plural": "prometheusrules", "singular": "prometheusrule"}
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"] = {"type": "object", "properties": {"groups": groups}}
    return crd


PROMETHEUS_RULE_CRD = _prometheus_rule_crd()


class HelmRefused(AssertionError):
    """Helm failed; holds what it said."""


def run_helm(*arguments: str, major: Major = 4, kubeconfig: Path | None = None, given: str | None = None) -> str:
    """What helm prints; ``given`` is its standard input.

    Raises:
        HelmRefused: it failed.
    """
    command = helm(major)
    folder = str(command.parent / "home")
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": folder}
    done = subprocess.run(
        [str(command), *arguments],
        env=environment | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig is not None else {}),
        input=given,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    if done.returncode:
        raise HelmRefused(f"helm {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def template(values: Mapping[str, Any] | None = None, *, major: Major = 4, hooks: bool = True) -> list[Manifest]:
    """All objects of the chart as helm renders them, without a cluster."""
    flags = [] if hooks else ["--no-hooks"]
    # Without a cluster, Helm 3 takes one of 2020.
    version = ["--kube-version", kubernetes_version()]
    text = run_helm(
        "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--values", "-", *version, *flags,
        major=major, given=json.dumps(dict(values or {})),
    )  # fmt: skip
    return [each for each in yaml.safe_load_all(text) if each]


def one(manifests: Sequence[Manifest], kind: str, name: str) -> Manifest:
    """The only object of a kind and name."""
    [found] = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def apply_dry(control_plane: ControlPlane, manifests: Sequence[Manifest]) -> str:
    """Have the API server look at objects as if they were applied; gives its warnings, which are none if all is well.

    Raises:
        AssertionError: it refused one; holds what it said.
    """
    done = subprocess.run(
        [
            control_plane.binaries / "kubectl", "apply", "--server-side", "--force-conflicts", "--dry-run=server",
            "--validate=strict", "--field-manager=helm", "-f", "-",
        ],
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            "KUBECONFIG": str(control_plane.kubeconfig_path()),
            "HOME": str(control_plane.directory),
        },
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(manifests), done.stdout
    return done.stderr


def manifest_in_notes(notes: str) -> str:
    """The GridNode that the notes tell to apply."""
    found = re.search(r"<<'MANIFEST'\n(.*?)\nMANIFEST\n", notes, re.DOTALL)
    assert found is not None, notes
    return found[1]


class Installed:
    """A release in a namespace of its own."""

    def __init__(self, control_plane: ControlPlane, namespace: str, major: Major) -> None:
        self.control_plane = control_plane
        self.namespace = namespace
        self.gridnodes = GridNodes(control_plane, namespace)
        self._major = major

    def helm(self, verb: str, *arguments: str, values: Mapping[str, Any] | None = None) -> str:
        """Run a command of helm on the release."""
        flags = [] if values is None else ["--values", "-"]
        return run_helm(
            *verb.split(), RELEASE, *arguments, "--namespace", self.namespace, *flags,
            major=self._major,
            kubeconfig=self.control_plane.kubeconfig_path(),
            given=None if values is None else json.dumps(dict(values)),
        )  # fmt: skip

    def object(self, path: str, name: str) -> dict[str, Any]:
        """An object of the namespace that must be there."""
        found = self.gridnodes.get(path, name)
        assert found is not None, f"there is no {name}"
        return found

    def secret(self, name: str) -> dict[str, str]:
        """The values of a Secret."""
        data = self.object("/api/v1/secrets", name)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def operator(self, directory: Path) -> OperatorProcess:
        """The operator as its Deployment says, with its ServiceAccount's token."""
        account, settings = self._pod("operator", directory)
        process = OperatorProcess(account, "", directory, {**settings, "LEADER_ELECTION": "true"})
        # Everything is as in the pod but the address of its metrics.
        process._environment["GRIDNODE_OPERATOR_PORT"] = str(process.port)
        return process

    def master(self, directory: Path) -> MasterProcess:
        """The master node likewise."""
        account, settings = self._pod("master", directory)
        process = MasterProcess("", directory)
        own = {name: process._environment[f"GRIDNODE_MASTER_{name}"] for name in ("PORT", "HOST", "DATA_DIR")}
        kept = {name: value for name, value in process._environment.items() if not name.startswith("GRIDNODE_")}
        given = {f"GRIDNODE_MASTER_{name}": value for name, value in {**settings, **own}.items()}
        process._environment = {**kept, **given, "KUBECONFIG": str(account), "GRIDNODE_MASTER_OBSERVE_INTERVAL": "0.3"}
        return process

    def _pod(self, component: str, directory: Path) -> tuple[Path, dict[str, str]]:
        """What a Deployment gives its pod: kubeconfig of its ServiceAccount, and settings without their prefix.

        Files of Secrets and ConfigMaps are written below the directory, and their paths are put in.
        """
        spec = self.object("/apis/apps/v1/deployments", f"{RELEASE}-{component}")["spec"]["template"]["spec"]
        [container] = spec["containers"]
        folders = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        files = {}
        for volume in spec["volumes"]:
            for file, content in self._files(volume):
                path = directory / component / volume["name"] / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content, encoding="utf-8")
                files[f"{folders[volume['name']]}/{file}"] = str(path)
        settings = {}
        for variable in container["env"]:
            value = variable.get("value") or self.namespace
            settings[variable["name"].removeprefix(f"GRIDNODE_{component.upper()}_")] = files.get(value, value)
        return self.control_plane.service_account_kubeconfig(self.namespace, spec["serviceAccountName"]), settings

    def _files(self, volume: Manifest) -> list[tuple[str, str]]:
        if "configMap" in volume:
            return list(self.object("/api/v1/configmaps", volume["configMap"]["name"])["data"].items())
        secret = volume.get("secret")
        if secret is None:
            return []
        values = self.secret(secret["secretName"])
        return [(item["path"], values[item["key"]]) for item in secret["items"]]


def values_of(namespace: str, **more: Any) -> dict[str, Any]:
    """An install for one namespace."""
    database = {"existingSecret": {"name": "aurora", "key": "admin"}}
    return {"watchNamespaces": [namespace], "database": database, "crds": {"keep": False}, **more}
