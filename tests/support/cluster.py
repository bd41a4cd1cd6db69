"""A real Kubernetes control plane for tests: etcd, API server and controller manager as processes on loopback.

There are no nodes: a pod stays Pending until a test says otherwise in its status, and one that is deleted is gone.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

import kubernetes
from kubernetes.client import Configuration

from tests.support.control_plane import commands
from tests.support.control_plane.audit import AuditEvent, AuditLog
from tests.support.control_plane.build import binaries
from tests.support.control_plane.certificates import CertificateAuthority
from tests.support.control_plane.connection import ApiAnswer, Connection, kubeconfig, write_private
from tests.support.control_plane.process import ServerProcess, Starter, free_port

ADMIN = "admin"


class ControlPlane:
    """An API server with RBAC on and everything it needs, and users to speak to it.

    Args:
        directory: existing; for data, certificates, kubeconfig files and logs.
        crds: CustomResourceDefinitions to begin with. The garbage collector knows these at once, and those of
            :meth:`install_crds`; of others only within 40 seconds.
        scheduler: whether kube-scheduler runs as well.
        address: where the API server listens; one that nodes reach if there shall be any.

    Raises:
        BinariesMissing: see :func:`tests.support.control_plane.build.binaries`, which may have to build them.
    """

    def __init__(
        self,
        directory: Path,
        *,
        crds: Sequence[Mapping[str, Any]] = (),
        scheduler: bool = False,
        address: str = "127.0.0.1",
    ) -> None:
        self.binaries = binaries()
        self.directory = directory
        self.port = free_port()
        self.url = f"https://{address}:{self.port}"
        self._crds = crds
        self.authority = CertificateAuthority()
        self._files = commands.Files(directory, address)
        self._files.write(self.authority)
        self._groups: dict[str, tuple[str, ...]] = {}
        self._kubeconfigs: dict[str, Path] = {}
        self._connections: dict[str, Connection] = {}
        self.user(ADMIN, ["system:masters"])
        self._starter = Starter()
        self._etcd_port = free_port()
        self.etcd = self._process(commands.etcd(self.binaries, self._files, self._etcd_port))
        self.api_server = self._process(
            commands.kube_apiserver(self.binaries, self._files, self.port, self._etcd_port)
        )  # fmt: skip
        self._controller_port = free_port()
        self.controller_manager = self._process(
            commands.kube_controller_manager(
                self.binaries, self._files, self._controller_port, self.user("system:kube-controller-manager")
            )
        )
        self.scheduler = (
            self._process(
                commands.kube_scheduler(self.binaries, self._files, free_port(), self.user("system:kube-scheduler"))
            )
            if scheduler
            else None
        )
        self.audit_log = AuditLog(self._files.audit_log, self._mark)

    # Life

    def start(self) -> None:
        """Start everything and wait until it is ready: some seconds.

        Raises:
            StartFailed: with the log of what did not start.
        """
        self.etcd.start()
        self.etcd.wait_until(self._etcd_is_healthy)
        self.start_api_server()
        self._create_crds(self._crds)
        self._start_controller_manager()
        if self.scheduler is not None:
            self.scheduler.start()

    def stop(self) -> None:
        """End what was started, for good; harmless if nothing was. Logs stay in the directory, data don't."""
        # An API server that has lost its etcd hangs when it shall end.
        for process in (self.scheduler, self.controller_manager, self.api_server, self.etcd):
            if process is not None:
                process.stop()
        self._starter.close()
        shutil.rmtree(self.directory / "etcd", ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def memory(self) -> dict[str, int]:
        """Resident bytes of each process that runs."""
        processes = (self.etcd, self.api_server, self.controller_manager, self.scheduler)
        return {process.name: process.memory() for process in processes if process and process.is_running()}

    # Faults

    def start_api_server(self) -> None:
        """Start the API server and wait until it is ready."""
        self.api_server.start()
        self.api_server.wait_until(lambda: self.request("GET", "/readyz", timeout=5).status == 200)

    def stop_api_server(self, *, kill: bool = False) -> None:
        """End the API server; etcd keeps the data.

        Args:
            kill: SIGKILL, so that requests under way get no answer; else it lets them end.
        """
        if kill:
            self.api_server.kill()
        else:
            self.api_server.stop()

    def restart_api_server(self, *, kill: bool = False) -> None:
        """Stop and start the API server, which is away for about two seconds and has the same address again."""
        self.stop_api_server(kill=kill)
        self.start_api_server()

    def pause_etcd(self) -> None:
        """Let nothing be stored or found any more: requests hang until their timeout, 60 s if they bring none."""
        self.etcd.pause()

    def resume_etcd(self) -> None:
        """Let etcd go on, and wait until the API server is ready."""
        self.etcd.resume()
        self.api_server.wait_until(lambda: self.request("GET", "/readyz", timeout=5).status == 200)

    @contextmanager
    def etcd_paused(self) -> Iterator[None]:
        """Have etcd paused for a while."""
        self.pause_etcd()
        try:
            yield
        finally:
            self.resume_etcd()

    # Users

    def user(self, name: str, groups: Sequence[str] = ()) -> Path:
        """A user with a client certificate, who may do what RBAC grants to the name and the groups.

        Returns:
            the path of a kubeconfig file; the same for the same user.
        """
        known = self._groups.setdefault(name, tuple(groups))
        assert known == tuple(groups), f"{name} is of the groups {known}, and a certificate can't be changed"
        if name not in self._kubeconfigs:
            pair = self.authority.user(name, groups)
            file_name = f"user-{len(self._kubeconfigs)}"
            certificate, key = pair.write(self.directory, file_name)
            self._connections[name] = Connection(
                self.port, self._files.authority, certificate, key, self._files.address
            )
            path = self.directory / f"{file_name}.kubeconfig"
            write_private(path, kubeconfig(self.url, self.authority.certificate, pair))
            self._kubeconfigs[name] = path
        return self._kubeconfigs[name]

    def kubeconfig_path(self, user: str = ADMIN) -> Path:
        """The kubeconfig file of a user that was made by :meth:`user`; the admin is there from the beginning."""
        return self._kubeconfigs[user]

    def admin_configuration(self) -> Configuration:
        """The configuration of the official client for the admin."""
        return self.configuration(self.kubeconfig_path())

    @staticmethod
    def configuration(path: Path) -> Configuration:
        """The configuration of the official client from a kubeconfig file."""
        configuration = Configuration()
        config: Any = kubernetes.config  # not typed, unlike the rest
        config.load_kube_config(config_file=str(path), client_configuration=configuration)
        return configuration

    def create_service_account_token(self, namespace: str, name: str, seconds: int = 3600) -> str:
        """A token of a ServiceAccount that exists."""
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        answer = self.expect("POST", path, {**request, "spec": {"expirationSeconds": seconds}})
        token: str = answer["status"]["token"]
        return token

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig file of a ServiceAccount that exists."""
        token = self.create_service_account_token(namespace, name)
        path = self.directory / f"service-account-{namespace}-{name}.kubeconfig"
        write_private(path, kubeconfig(self.url, self.authority.certificate, token, namespace))
        return path

    # Requests

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        user: str = ADMIN,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> ApiAnswer:
        """One request as a user; see :meth:`tests.support.control_plane.connection.Connection.request`."""
        return self._connections[user].request(method, path, body, headers=headers, timeout=timeout)

    def expect(self, method: str, path: str, body: object = None, **more: Any) -> Any:
        """One request that must succeed; gives the JSON of its answer.

        Raises:
            AssertionError: it was refused; holds the answer.
        """
        answer = self.request(method, path, body, **more)
        assert answer.status < 300, f"{method} {path} was answered {answer.status}: {answer.body[:2000]!r}"
        return answer.json()

    def watch(self, path: str, *, user: str = ADMIN, timeout: float = 30.0) -> Iterator[dict[str, Any]]:
        """The events of a watch, until the server ends it or says nothing for ``timeout`` seconds.

        Args:
            path: of a list; all objects there are come first.
        """
        separator = "&" if "?" in path else "?"
        with contextlib.suppress(OSError, http.client.HTTPException):
            for line in self._connections[user].lines(f"{path}{separator}watch=1", timeout=timeout):
                yield json.loads(line)

    def kubectl(self, *arguments: str, user: str = ADMIN, given: str | None = None, seconds: float = 60.0) -> str:
        """What kubectl prints; ``given`` is its standard input.

        Raises:
            AssertionError: it failed; holds what it said.
        """
        folder = str(self.directory)
        environment = {"KUBECONFIG": str(self.kubeconfig_path(user)), "KUBECACHEDIR": folder, "HOME": folder}
        done = subprocess.run(
            [self.binaries / "kubectl", *arguments],
            env={"PATH": os.environ.get("PATH", os.defpath), **environment},
            input=given,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}"
        return done.stdout

    def install_crds(self, crds: Sequence[Mapping[str, Any]]) -> None:
        """Apply CustomResourceDefinitions, and wait until they are served and their owners' children are collected."""
        self._create_crds(crds)
        # The garbage collector looks for new resources when it starts, and then every 30 seconds: seen to take 41.
        self.controller_manager.stop()
        self._start_controller_manager()

    # Audit

    def audit_position(self) -> int:
        """Where the audit log ends now; for ``since`` of the other two."""
        return self.audit_log.position()

    def audit_events(self, since: int = 0) -> list[AuditEvent]:
        """All requests that have been answered by now, from a position of the log on."""
        return list(self.audit_log.events(since))

    def count_writes(self, *, user: str = "", user_agent: str = "", since: int = 0) -> int:
        """How many writes there were by users and user agents that begin so; ``audit_log.writes`` lists them."""
        return len(self.audit_log.writes(user=user, user_agent=user_agent, since=since))

    # Inside

    def _process(self, command: Sequence[str]) -> ServerProcess:
        return ServerProcess(self._starter, command, self.directory)

    def _mark(self, user_agent: str) -> None:
        self.request("GET", "/version", headers={"User-Agent": user_agent})

    def _etcd_is_healthy(self) -> bool:
        with closing(http.client.HTTPConnection("127.0.0.1", self._etcd_port, timeout=5)) as connection:
            connection.request("GET", "/health")
            return bool(json.loads(connection.getresponse().read()).get("health") == "true")

    def _start_controller_manager(self) -> None:
        self.controller_manager.start()
        health = Connection(self._controller_port, self._files.authority)
        self.controller_manager.wait_until(lambda: health.request("GET", "/healthz", timeout=5).status == 200)

    def _create_crds(self, crds: Sequence[Mapping[str, Any]]) -> None:
        headers = {"Content-Type": "application/apply-patch+yaml"}
        for crd in crds:
            path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}"
            self.expect("PATCH", f"{path}?fieldManager=tests&force=true", crd, headers=headers)
        for crd in crds:
            self._wait_until_served(crd["spec"])

    def _wait_until_served(self, spec: Mapping[str, Any], seconds: float = 30.0) -> None:
        # Established comes before this: a list is answered 404 or 429 for a moment still.
        version = next(version["name"] for version in spec["versions"] if version["served"])
        path = f"/apis/{spec['group']}/{version}/{spec['names']['plural']}"
        deadline = time.monotonic() + seconds
        while self.request("GET", path).status != 200:
            assert time.monotonic() < deadline, f"{path} is not served within {seconds} s"
            time.sleep(0.05)
