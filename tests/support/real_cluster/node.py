"""A Kubernetes node on a machine: containerd, kubelet, kube-proxy, and who enforces NetworkPolicies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.support.control_plane.build import binaries
from tests.support.control_plane.certificates import KeyPair
from tests.support.real_cluster.images import PAUSE
from tests.support.real_cluster.machine import Machine, MachineProcess
from tests.support.real_cluster.programs import program

NAME = "node-1"
POD_ADDRESSES = "10.244.0.0/16"
DNS_ADDRESS = "10.96.0.10"
_PLUGINS = "/usr/lib/cni"
_NEEDED = (
    "buildah", "catatonit", "conntrack", "containerd", "debootstrap", "ip", "ipset", "iptables", "nsenter",
    "prometheus", "runc", "unshare",
)  # fmt: skip

_CONTAINERD = """\
version = 2
root = "{folder}/containerd"
state = "/run/containerd-state"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""
_NETWORK = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": POD_ADDRESSES}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


class Node:
    """The processes of one node.

    Args:
        machine: Where it runs; started.
        authority: File of the certificate authority.
        serving: The kubelet's certificate as a server.
        kubelet, proxy, firewall: kubeconfig files of their users.
    """

    def __init__(
        self, machine: Machine, authority: Path, serving: KeyPair, *, kubelet: Path, proxy: Path, firewall: Path
    ) -> None:
        self._machine = machine
        self._folder = machine.directory / "node"
        self._socket = "/run/containerd.sock"
        (self._folder / "cni").mkdir(parents=True)
        self._write("containerd.toml", _CONTAINERD.format(
            folder=self._folder, socket=self._socket, pause=PAUSE, plugins=_PLUGINS
        ))  # fmt: skip
        self._write("cni/10-pods.conflist", json.dumps(_NETWORK))
        certificate, key = serving.write(self._folder, "kubelet")
        self._write("kubelet.yaml", json.dumps(self._kubelet_settings(authority, certificate, key)))
        self._write("kube-proxy.yaml", json.dumps(self._proxy_settings(proxy)))
        folder = binaries(("kubelet", "kube-proxy"))
        self.containerd = MachineProcess(
            machine, ["/usr/bin/containerd", f"--config={self._folder / 'containerd.toml'}"]
        )
        self.kubelet = MachineProcess(
            machine,
            [
                str(folder / "kubelet"), f"--config={self._folder / 'kubelet.yaml'}", f"--kubeconfig={kubelet}",
                f"--hostname-override={NAME}", f"--node-ip={machine.address}",
            ],
            # Else it asks for seconds whether this is Amazon's.
            {"AWS_EC2_METADATA_DISABLED": "true"},
        )  # fmt: skip
        self.proxy = MachineProcess(
            machine, [str(folder / "kube-proxy"), f"--config={self._folder / 'kube-proxy.yaml'}"]
        )
        self.firewall = MachineProcess(
            machine,
            [
                str(program("kube-router")), "--run-firewall=true", "--run-router=false", "--run-service-proxy=false",
                f"--kubeconfig={firewall}", f"--hostname-override={NAME}", "--metrics-port=0",
            ],
            {"NODE_NAME": NAME},
        )  # fmt: skip

    def containerd_answers(self) -> bool:
        """Whether containerd is ready for requests."""
        try:
            self._machine.run("ctr", f"--address={self._socket}", "version")
        except AssertionError:
            return False
        return True

    def import_image(self, archive: Path) -> None:
        """Give containerd an image that buildah, docker or podman saved."""
        self._machine.run("ctr", f"--address={self._socket}", "--namespace=k8s.io", "images", "import", str(archive))

    def volume(self, name: str) -> Path:
        """A new directory for a local volume."""
        path = self._machine.directory / "volumes" / name
        path.mkdir(parents=True)
        path.chmod(0o777)
        return path

    def logs(self) -> str:
        """The ends of the logs of all processes."""
        return "".join(f"== {each.name}\n{each.log_tail()}" for each in (self.containerd, self.kubelet, self.proxy))

    def _write(self, name: str, content: str) -> None:
        (self._folder / name).write_text(content, encoding="utf-8")

    def _kubelet_settings(self, authority: Path, certificate: Path, key: Path) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self._machine.address,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority)},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self._machine.control_group,
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            # The disk is the host's, and is nobody's business here.
            "evictionHard": {"memory.available": "50Mi"},
            "imageGCHighThresholdPercent": 100,
            "imageMinimumGCAge": "24h",
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "registerNode": True,
            "resolvConf": "",
            "tlsCertFile": str(certificate),
            "tlsPrivateKeyFile": str(key),
        }

    def _proxy_settings(self, kubeconfig: Path) -> dict[str, object]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "clusterCIDR": POD_ADDRESSES,
            "conntrack": {"maxPerCore": 0, "min": 0},
            "hostnameOverride": NAME,
            "mode": "iptables",
        }


def missing_commands() -> list[str]:
    """What this machine lacks for a node."""
    return [command for command in _NEEDED if shutil.which(command, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
