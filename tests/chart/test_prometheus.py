"""A real Prometheus scrapes a node that trains: every panel of its dashboards shows something, and no alert fires."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm.dashboards import dashboards
from tests.support.chart import CHART
from tests.support.node import TOKEN, NodeProcess, free_port
from tests.support.operator_process import wait_for
from tests.support.prometheus_programs import prometheus_program

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

#: Nothing of this has happened: no phone was sent away, and there is no master node.
EMPTY = {"gridnode_rejections_total", "gridnode_progress_posts_total"}
VARIABLES = {"namespace": "apps", "job": "apps/demo", "model": "helm-test", "version": "1.0", "__rate_interval": "30s"}


class Prometheus:
    """``prometheus`` on loopback, scraping one node each second as docs/monitoring.md tells.

    Args:
        node: What is scraped.
        directory: For its data and log.
    """

    def __init__(self, node: NodeProcess, directory: Path) -> None:
        self._port = free_port()
        labels = {"namespace": "apps", "pod": "demo-0", "container": "node", "endpoint": "management"}
        target = {"targets": [f"127.0.0.1:{node.management_port}"], "labels": labels}
        scrape = {"job_name": "apps/demo", "authorization": {"credentials": TOKEN}, "static_configs": [target]}
        config = directory / "prometheus.yml"
        config.write_text(
            yaml.safe_dump({
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(CHART / "files" / "alerts.yaml")],
                "scrape_configs": [scrape],
            })
        )  # fmt: skip
        self._log = (directory / "prometheus.log").open("wb")
        command = prometheus_program("prometheus")
        self._process = subprocess.Popen(
            [
                command, f"--config.file={config}", f"--storage.tsdb.path={directory / 'prometheus'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    def query(self, expression: str) -> list[Any]:
        """The series that an expression gives now; none before Prometheus answers."""
        text = urllib.parse.urlencode({"query": expression})
        try:
            found: list[Any] = self.get(f"/api/v1/query?{text}")["result"]
        except OSError:
            return []
        return found

    def get(self, path: str) -> Any:
        """The data of an answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=10) as answer:
            return json.loads(answer.read())["data"]

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)
        self._log.close()


@pytest.fixture
def node(database_url: str, tmp_path: Path) -> Iterator[NodeProcess]:
    """A node."""
    started = NodeProcess(database_url, tmp_path, worker_processes=2)
    started.start()
    started.wait_until_ready()
    yield started
    started.kill()


def test_every_panel_shows_something_of_a_node_that_trains_and_no_alert_fires(
    node: NodeProcess, tmp_path: Path
) -> None:
    prometheus = Prometheus(node, tmp_path)
    try:
        wait_for(lambda: prometheus.query("up == 1"))
        run_the_chart_s_test(node)
        wait_for(lambda: prometheus.query('gridnode_model_progress_ratio{model="helm-test"} == 1'))
        wait_for(lambda: prometheus.query('sum(rate(gridnode_workers_reported_total{model="helm-test"}[30s])) > 0'))
        for name in ("node", "model"):
            for panel in dashboards()[name]["panels"]:
                for target in panel["targets"]:
                    shown = prometheus.query(substituted(target["expr"]))
                    if not any(metric in target["expr"] for metric in EMPTY):
                        assert shown, f"{name}: {panel['title']}: {target['expr']}"
        # There is no operator here, which one alert would tell in ten minutes.
        pending = {alert["labels"]["alertname"] for alert in prometheus.get("/api/v1/alerts")["alerts"]}
        assert pending <= {"GridNodeOperatorDown"}
    finally:
        prometheus.stop()


def substituted(expression: str) -> str:
    """An expression as Grafana sends it."""
    for name, value in VARIABLES.items():
        expression = expression.replace(f"${name}", value)
    return expression


def run_the_chart_s_test(node: NodeProcess) -> None:
    """Host and train what `helm test` does, without a cluster."""
    program = (
        f"import sys; sys.path.insert(0, {str(CHART / 'files')!r}); import train\n"
        f"from gridnode.commands.management_client import ManagementClient\n"
        f"train.host_model(ManagementClient('http://127.0.0.1:{node.management_port}', {TOKEN!r}))\n"
        f"assert train.train('http://127.0.0.1:{node.device_port}', 60.0) == 8\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
