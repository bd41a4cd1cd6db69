"""Command lines of the control plane's servers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests.support.control_plane import audit
from tests.support.control_plane.certificates import CertificateAuthority, signing_key

SERVICE_ADDRESSES = "10.96.0.0/16"
ISSUER = "https://kubernetes.default.svc.cluster.local"


@dataclass(frozen=True, slots=True)
class Files:
    """What servers find in the directory: certificates, the key of ServiceAccount tokens, the audit policy."""

    directory: Path
    address: str = "127.0.0.1"

    @property
    def authority(self) -> Path:
        return self.directory / "authority.crt"

    @property
    def audit_log(self) -> Path:
        return self.directory / "audit.log"

    def write(self, authority: CertificateAuthority) -> None:
        """Make them all."""
        self.authority.write_bytes(authority.certificate)
        hosts = sorted({self.address, "127.0.0.1", "localhost", "kubernetes.default.svc", "10.96.0.1"})
        authority.server("kube-apiserver", hosts).write(self.directory, "server")
        authority.user("kubelet-client", ["system:masters"]).write(self.directory, "kubelet-client")
        signing_key().write(self.directory, "service-accounts")
        (self.directory / "audit-policy.json").write_text(json.dumps(audit.policy()), encoding="utf-8")


def etcd(binaries: Path, files: Files, port: int) -> list[str]:
    """etcd that does not wait for the disk: its data need not survive the machine."""
    url = f"http://127.0.0.1:{port}"
    return [
        str(binaries / "etcd"),
        f"--data-dir={files.directory / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        "--listen-peer-urls=http://127.0.0.1:0",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def kube_apiserver(binaries: Path, files: Files, port: int, etcd_port: int) -> list[str]:
    """An API server with RBAC, the usual admission and an audit log."""
    folder = files.directory
    # The Service "kubernetes" can't have a loopback address behind it.
    endpoints = "none" if files.address == "127.0.0.1" else "lease"
    return [
        str(binaries / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--bind-address={files.address}",
        f"--advertise-address={files.address}",
        f"--secure-port={port}",
        f"--endpoint-reconciler-type={endpoints}",
        f"--kubelet-certificate-authority={files.authority}",
        f"--kubelet-client-certificate={folder / 'kubelet-client.crt'}",
        f"--kubelet-client-key={folder / 'kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--cert-dir={folder}",
        f"--tls-cert-file={folder / 'server.crt'}",
        f"--tls-private-key-file={folder / 'server.key'}",
        f"--client-ca-file={files.authority}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--service-cluster-ip-range={SERVICE_ADDRESSES}",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={folder / 'service-accounts.crt'}",
        f"--service-account-signing-key-file={folder / 'service-accounts.key'}",
        f"--audit-policy-file={folder / 'audit-policy.json'}",
        f"--audit-log-path={files.audit_log}",
        # An event is written before its request ends; positions in the log hold as long as it is one file.
        "--audit-log-mode=blocking",
        "--audit-log-maxsize=100000",
        # Else it waits a minute for watches to end by themselves.
        "--shutdown-watch-termination-grace-period=1s",
        "--profiling=false",
    ]


def kube_controller_manager(binaries: Path, files: Files, port: int, kubeconfig: Path) -> list[str]:
    """All controllers but the one that gives addresses to nodes, each with its own ServiceAccount."""
    folder = files.directory
    return [
        str(binaries / "kube-controller-manager"),
        *_client(files, port, kubeconfig),
        "--controllers=*,-node-ipam-controller",
        f"--root-ca-file={files.authority}",
        f"--service-account-private-key-file={folder / 'service-accounts.key'}",
        "--use-service-account-credentials=true",
        # By default 20 requests a second, which would be what a test of many objects measures.
        "--kube-api-qps=1000",
        "--kube-api-burst=2000",
    ]


def kube_scheduler(binaries: Path, files: Files, port: int, kubeconfig: Path) -> list[str]:
    """A scheduler, which without nodes finds no place for any pod."""
    return [str(binaries / "kube-scheduler"), *_client(files, port, kubeconfig)]


def _client(files: Files, port: int, kubeconfig: Path) -> list[str]:
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={files.directory / 'server.crt'}",
        f"--tls-private-key-file={files.directory / 'server.key'}",
        f"--client-ca-file={files.authority}",
    ]
