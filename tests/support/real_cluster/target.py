"""A cluster that an end-to-end test is told to use, wherever it came from: a kubeconfig, and a way to load images."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.control_plane.build import binaries
from tests.support.real_cluster.cluster import RealCluster
from tests.support.real_cluster.images import Images

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """A cluster.

    Attributes:
        kubeconfig: That of an administrator.
        load_image: Lets the cluster's nodes have an image of :class:`Images`.
        service_type: How Services are opened to the outside: NodePort or LoadBalancer.
        own: The cluster if it is one of this machine's, whose processes a test may stop.
    """

    kubeconfig: Path
    load_image: Callable[[str], None]
    service_type: str = "NodePort"
    own: RealCluster | None = None

    # Requests

    def kubectl(self, *arguments: str, given: str | None = None, seconds: float = 120.0) -> str:
        """What kubectl prints; ``given`` is its standard input.

        Raises:
            AssertionError: It failed; holds what it said.
        """
        done = subprocess.run(
            [*self._kubectl(), *arguments],
            env=self.environment(),
            input=given,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}"
        return done.stdout

    def get(self, what: str, name: str, namespace: str) -> Object:
        """An object that must be there."""
        found: Object = json.loads(self.kubectl("get", what, name, "-n", namespace, "-o", "json"))
        return found

    def items(self, what: str, namespace: str, selector: str = "") -> list[Object]:
        """The objects of a namespace, all or with certain labels."""
        flags = [f"--selector={selector}"] if selector else []
        found: list[Object] = json.loads(self.kubectl("get", what, "-n", namespace, "-o", "json", *flags))["items"]
        return found

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Create or change objects."""
        self.kubectl("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def logs(self, namespace: str) -> str:
        """What there is in a namespace, and the ends of its pods' logs, for a person who looks why a test failed."""
        said = [self.kubectl("get", "pods,events", "-n", namespace, "-o", "wide")]
        for pod in self.items("pods", namespace):
            name = pod["metadata"]["name"]
            with contextlib.suppress(AssertionError):
                said.append(f"== {name}\n{self.kubectl('logs', name, '-n', namespace, '--tail=40')}")
        return "\n".join(said)

    def environment(self) -> dict[str, str]:
        """Environment of commands that use the cluster."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    # Reaching what is in it

    def url(self, service: str, namespace: str) -> str:
        """Where a Service of :attr:`service_type` is reached from outside."""
        found = self.get("service", service, namespace)
        port = found["spec"]["ports"][0]
        if self.service_type == "LoadBalancer":
            address = found["status"]["loadBalancer"]["ingress"][0]
            return f"http://{address.get('hostname') or address['ip']}:{port['port']}"
        nodes = json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]
        addresses = {each["type"]: each["address"] for each in nodes[0]["status"]["addresses"]}
        return f"http://{addresses['InternalIP']}:{port['nodePort']}"

    @contextlib.contextmanager
    def forwarded(self, name: str, namespace: str, port: int) -> Iterator[str]:
        """The URL of a port here, behind which is a pod (``pod/…``), or one of a Service that is not open."""
        what = name if "/" in name else f"service/{name}"
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(
                [*self._kubectl(), "port-forward", "-n", namespace, what, f":{port}"],
                env=self.environment(),
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            try:
                yield f"http://127.0.0.1:{self._forwarded_port(process, said)}"
            finally:
                process.terminate()
                process.wait(10)

    @staticmethod
    def _forwarded_port(process: subprocess.Popen[bytes], said: Any) -> int:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            said.seek(0)
            if found := re.search(r"127\.0\.0\.1:(\d+) ->", said.read()):
                return int(found[1])
            time.sleep(0.05)
        said.seek(0)
        raise AssertionError(f"kubectl port-forward did not begin: {said.read()}")

    def _kubectl(self) -> list[str]:
        return [str(binaries(("kubectl",)) / "kubectl"), "--request-timeout=60s"]


def by_command(command: str, images: Images) -> Callable[[str], None]:
    """Load images as a user says.

    Args:
        command: ``{archive}`` in it is a file, as ``docker save`` makes them, and ``{image}`` the image's name:
            ``kind load image-archive {archive}``, ``k3s ctr images import {archive}``.
    """

    def load(image: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "image.tar"
            images.archive(image, archive)
            words = [word.format(archive=archive, image=image) for word in shlex.split(command)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}"

    return load


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 60.0, pause: float = 0.5) -> None:
    """Wait until something is so.

    Raises:
        AssertionError: It is not so in time; says what.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(pause)
