"""A whole cluster on this machine: the control plane of the other tests, and one node with a real kubelet."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Self

from tests.support.cluster import ControlPlane
from tests.support.control_plane.build import binaries
from tests.support.real_cluster.images import Images
from tests.support.real_cluster.machine import Machine
from tests.support.real_cluster.node import NAME, Node

_ADDONS = Path(__file__).parent / "cluster.yaml"
_VOLUMES = 30


class RealCluster:
    """Pods really run, Services reach them, volumes keep what is written, and NetworkPolicies are enforced.

    Needs root. What it starts ends with the process that made it, however that ends.

    Args:
        directory: Empty; for everything that is written.
        images: Where those of the cluster itself come from.
    """

    def __init__(self, directory: Path, images: Images) -> None:
        self._directory = directory
        self._images = images
        for name in ("machine", "control-plane"):
            (directory / name).mkdir()
        self.machine = Machine(directory / "machine")
        self.control_plane = ControlPlane(
            directory / "control-plane", scheduler=True, address=self.machine.host_address
        )
        self.node: Node | None = None

    @property
    def kubeconfig(self) -> Path:
        """That of an administrator."""
        return self.control_plane.kubeconfig_path()

    @property
    def address(self) -> str:
        """Where ports of nodes are reached."""
        return self.machine.address

    def start(self) -> None:
        """Start it, and wait until the node is ready and names are resolved."""
        binaries(("kubelet", "kube-proxy"))
        self.machine.start()
        self.control_plane.start()
        plane = self.control_plane
        self.node = Node(
            self.machine,
            plane.directory / "authority.crt",
            plane.authority.server(f"system:node:{NAME}", [self.machine.address, NAME]),
            kubelet=plane.user(f"system:node:{NAME}", ["system:nodes"]),
            proxy=plane.user("system:kube-proxy"),
            firewall=plane.user("kube-router"),
        )
        self.node.containerd.start()
        self._wait("containerd", self.node.containerd_answers)
        # A kubelet that finds no containerd ends.
        self.node.kubelet.start()
        self.node.proxy.start()
        for image in (self._images.pause(), self._images.coredns()):
            self.load_image(image)
        plane.kubectl("apply", "-f", str(_ADDONS))
        for number in range(_VOLUMES):
            self._add_volume(f"local-{number}")
        plane.kubectl("wait", f"node/{NAME}", "--for=create", "--timeout=60s", seconds=70)
        plane.kubectl("wait", f"node/{NAME}", "--for=condition=Ready", "--timeout=60s", seconds=70)
        plane.kubectl("rollout", "status", "-n", "kube-system", "daemonset/coredns", "--timeout=90s", seconds=100)
        self.node.firewall.start()

    def stop(self) -> None:
        """End it, and put everything back. Harmless if it was not started."""
        # In this order: with the machine goes the interface that the API server listens on.
        self.control_plane.stop()
        self.machine.stop()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException as error:
            if self.node is not None:
                error.add_note(self.node.logs())
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def load_image(self, image: str) -> None:
        """Let the node have an image that was built here."""
        assert self.node is not None
        archive = self._directory / "machine" / "image.tar"
        self._images.archive(image, archive)
        self.node.import_image(archive)
        archive.unlink()

    def _add_volume(self, name: str) -> None:
        assert self.node is not None
        node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}
        volume: dict[str, Any] = {
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "10Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "standard",
                "local": {"path": str(self.node.volume(name))},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [node]}]}},
            },
        }
        self.control_plane.expect("POST", "/api/v1/persistentvolumes", volume)

    def _wait(self, what: str, condition: Any, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            logs = self.node.logs() if self.node is not None else ""
            assert time.monotonic() < deadline, f"{what} was not ready within {seconds} s:\n{logs}"
            time.sleep(0.2)
