"""Prometheus reads the rules and the dashboards' queries, and its own test runner fires each alert when it should."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm.dashboards import dashboards
from tests.support.chart import CHART
from tests.support.prometheus_programs import prometheus_program

pytestmark = [pytest.mark.cluster]

RULES = CHART / "files" / "alerts.yaml"
NODE = 'namespace="apps", job="apps/demo"'
MODEL = f'{NODE}, model="digits", version="1.0"'
OPERATOR = 'namespace="gridnode-system", job="gridnode-system/gridnode-operator"'

#: By alert: series, one value a minute, in which it fires; minutes until then; and labels that it then has.
FIRING: dict[str, tuple[dict[str, str], int, dict[str, str]]] = {
    "GridNodeDown": (
        {
            f'up{{{NODE}, container="node", endpoint="management", pod="a"}}': "1x2 0x30",
            f'up{{{NODE}, container="node", endpoint="management", pod="b"}}': "0x30",
        },
        8,
        {"namespace": "apps", "job": "apps/demo"},
    ),
    "GridNodeDatabaseDown": (
        {f'gridnode_database_up{{{NODE}, pod="a"}}': "0x30"},
        2,
        {"namespace": "apps", "job": "apps/demo"},
    ),
    "GridNodeCycleStarved": (
        {f"gridnode_cycle_starved{{{MODEL}}}": "1x60"},
        30,
        {"namespace": "apps", "job": "apps/demo", "model": "digits", "version": "1.0"},
    ),
    "GridNodeAveragingFailed": (
        {f'gridnode_process_state{{{MODEL}, state="failed"}}': "1x5"},
        0,
        {"namespace": "apps", "job": "apps/demo", "model": "digits", "version": "1.0"},
    ),
    "GridNodeOutboxOld": (
        {f"gridnode_outbox_age_seconds{{{NODE}}}": "0+60x60"},
        16,
        {"namespace": "apps", "job": "apps/demo"},
    ),
    "GridNodeOutboxRefused": (
        {f"gridnode_outbox_refused{{{NODE}}}": "2x5"},
        0,
        {"namespace": "apps", "job": "apps/demo"},
    ),
    "GridNodeErrorRatio": (
        {
            f'gridnode_requests_total{{{NODE}, status="200"}}': "0+90x60",
            f'gridnode_requests_total{{{NODE}, status="503"}}': "0+10x60",
        },
        11,
        {"namespace": "apps", "job": "apps/demo"},
    ),
    "GridNodeDatabasePoolFull": (
        {
            f'gridnode_database_pool_in_use{{{NODE}, pod="a"}}': "4x60",
            f'gridnode_database_pool_size{{{NODE}, pod="a"}}': "4x60",
        },
        15,
        {"namespace": "apps", "job": "apps/demo"},
    ),
    "GridNodeOperatorDown": ({f"gridnode_operator_leading{{{OPERATOR}}}": "0x60"}, 10, {}),
    "GridNodeOperatorDeaf": (
        {f"gridnode_operator_missed_changes_total{{{OPERATOR}}}": "0x5 1x60"},
        6,
        {"namespace": "gridnode-system", "job": "gridnode-system/gridnode-operator"},
    ),
    "GridNodeOperatorErrors": (
        {f'gridnode_operator_errors_total{{{OPERATOR}, reason="NotPermitted"}}': "0+2x60"},
        # More than ten after six minutes, and then 15 minutes more.
        21,
        {
            "namespace": "gridnode-system",
            "job": "gridnode-system/gridnode-operator",
            "reason": "NotPermitted",
        },
    ),
    "GridNodeDegraded": (
        {f'gridnode_operator_gridnodes{{{OPERATOR}, state="Degraded"}}': "1x60"},
        15,
        {"namespace": "gridnode-system", "job": "gridnode-system/gridnode-operator", "state": "Degraded"},
    ),
}
#: The value in the texts of those that show one.
VALUES = {
    "GridNodeOutboxOld": "16m 0s",
    "GridNodeOutboxRefused": "2",
    "GridNodeErrorRatio": "10%",
    "GridNodeDegraded": "1",
}
#: A healthy hour, in which nothing fires.
HEALTHY = {
    f'up{{{NODE}, container="node", endpoint="management", pod="a"}}': "1x60",
    f'up{{{NODE}, container="node", endpoint="management", pod="b"}}': "0x60",
    f'gridnode_database_up{{{NODE}, pod="a"}}': "1x60",
    f'gridnode_database_up{{{NODE}, pod="b"}}': "0x60",
    f"gridnode_cycle_starved{{{MODEL}}}": "0x20 1x20 0x20",
    f'gridnode_process_state{{{MODEL}, state="failed"}}': "0x60",
    f'gridnode_process_state{{{MODEL}, state="active"}}': "1x60",
    f"gridnode_outbox_age_seconds{{{NODE}}}": "0+20x20 0x40",
    f"gridnode_outbox_refused{{{NODE}}}": "0x60",
    f'gridnode_requests_total{{{NODE}, status="200"}}': "0+990x60",
    f'gridnode_requests_total{{{NODE}, status="503"}}': "0+10x60",
    f'gridnode_requests_total{{{NODE}, status="404"}}': "0+500x60",
    f'gridnode_database_pool_in_use{{{NODE}, pod="a"}}': "4x10 1x50",
    f'gridnode_database_pool_size{{{NODE}, pod="a"}}': "4x60",
    f"gridnode_operator_leading{{{OPERATOR}}}": "1x60",
    f"gridnode_operator_missed_changes_total{{{OPERATOR}}}": "3x60",
    f'gridnode_operator_errors_total{{{OPERATOR}, reason="NotPermitted"}}': "0+0.5x60",
    f'gridnode_operator_gridnodes{{{OPERATOR}, state="Degraded"}}': "0x20 1x10 0x30",
    f'gridnode_operator_gridnodes{{{OPERATOR}, state="Ready"}}': "5x60",
}


def promtool(*arguments: str) -> str:
    """What promtool prints.

    Raises:
        AssertionError: it failed; holds what it said.
    """
    done = subprocess.run(
        [prometheus_program("promtool"), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(directory: Path, series: dict[str, str], expectations: list[dict[str, Any]]) -> None:
    """Run the rules on series, with one value a minute."""
    test = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": expectations,
            }
        ],
    }
    file = directory / "test.yaml"
    file.write_text(yaml.safe_dump(test), encoding="utf-8")
    promtool("test", "rules", str(file))


def rendered(text: str, labels: dict[str, str], value: str) -> str:
    """An annotation as people see it."""
    for name, label in labels.items():
        text = text.replace(f"{{{{ $labels.{name} }}}}", label)
    return re.sub(r"{{ \$value.*? }}", value, text)


def rules() -> dict[str, dict[str, Any]]:
    """All alerts by name."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_prometheus_reads_the_rules() -> None:
    assert f"SUCCESS: {len(rules())} rules found" in promtool("check", "rules", str(RULES))


@pytest.mark.parametrize("alert", sorted(rules()))
def test_alert_fires_in_time_and_not_before(alert: str, tmp_path: Path) -> None:
    series, minute, labels = FIRING[alert]
    rule = rules()[alert]
    fired = {"exp_labels": {**labels, **rule["labels"]}}
    before = [{"eval_time": f"{minute - 1}m", "alertname": alert, "exp_alerts": []}] if minute else []
    fired["exp_annotations"] = {
        name: rendered(text, labels, VALUES.get(alert, "")) for name, text in rule["annotations"].items()
    }
    check(tmp_path, series, [*before, {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": [fired]}])


def test_nothing_fires_in_a_healthy_hour(tmp_path: Path) -> None:
    expectations = [
        {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": []}
        for alert in rules()
        for minute in range(10, 60, 5)
    ]
    check(tmp_path, HEALTHY, expectations)


def test_prometheus_reads_the_queries_of_all_dashboards(tmp_path: Path) -> None:
    queries = [
        target["expr"] for each in dashboards().values() for panel in each["panels"] for target in panel["targets"]
    ]
    replaced = [query.replace("$__rate_interval", "5m").replace("$", "") for query in queries]
    group = {"name": "queries", "rules": [{"record": f"query:{n}", "expr": q} for n, q in enumerate(replaced)]}
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [group]}), encoding="utf-8")
    assert f"{len(queries)} rules found" in promtool("check", "rules", str(file))
