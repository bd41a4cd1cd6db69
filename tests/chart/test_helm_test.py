"""What `helm test` runs, with the rights that the chart gives it: a real node trains, but without its Services."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.chart import CHART, Installed, Manifest
from tests.support.kubelet import Kubelet, migrate
from tests.support.node import NodeProcess
from tests.support.operator_process import GROUP_PATH

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

ACCOUNT = "gridnode-test"
NAME = "gridnode-trial"


@pytest.mark.parametrize("installed", [4], indirect=True)
def test_a_model_is_trained_to_the_end_and_nothing_is_left(installed: Installed, tmp_path: Path) -> None:
    control_plane, namespace = installed.control_plane, installed.namespace
    node = NodeProcess("", tmp_path)

    def migrate_and_serve(environment: dict[str, str]) -> None:
        """The node is there before its pods are: the script asks it as soon as the GridNode is Ready."""
        migrate(environment)
        node._environment["GRIDNODE_DATABASE_URL"] = environment["GRIDNODE_DATABASE_URL"]
        node._environment["GRIDNODE_MANAGEMENT_TOKEN"] = installed.secret(f"{NAME}-management")["token"]
        node.start()

    hooks: list[Manifest] = [each for each in yaml.safe_load_all(installed.helm("get hooks")) if each]
    rights = [each for each in hooks if each["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
    control_plane.kubectl("apply", "-f", "-", given=yaml.safe_dump_all(rights))
    account = control_plane.service_account_kubeconfig(namespace, ACCOUNT)
    try:
        with Kubelet(control_plane, migrate_and_serve), installed.operator(tmp_path) as operator:
            done = subprocess.run(
                [
                    sys.executable, str(CHART / "files" / "train.py"), "--namespace", namespace, "--name", NAME,
                    "--timeout", "60",
                    "--device-url", f"http://127.0.0.1:{node.device_port}",
                    "--management-url", f"http://127.0.0.1:{node.management_port}",
                ],
                env={**os.environ, "KUBECONFIG": str(account)},
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )  # fmt: skip
            log = operator.log_path.read_text()[-4000:]
    finally:
        node.kill()
    assert done.returncode == 0, done.stdout + done.stderr + log
    assert "is trained: 2 cycles, 8 reports" in done.stdout
    assert installed.gridnodes.get(f"{GROUP_PATH}/gridnodes", NAME) is None
