"""docs/metrics.md lists exactly the metrics that a node has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from gridnode.processes.states import ProcessState
from gridnode.reporting import database_metrics, instruments
from gridnode.reporting.instruments import MetricDescription
from gridnode.reporting.metrics import MAXIMUM_ENDPOINTS, MAXIMUM_MODELS, RejectionReason

PAGE = (Path(__file__).parent.parent.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
METRICS = {each.name: each for each in (*instruments.CATALOGUE, *database_metrics.CATALOGUE)}


def row(metric: MetricDescription) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
    return f"| `{metric.name}` | {metric.type} | {labels} | {metric.meaning} |"


def described(label: str) -> str:
    (line,) = re.findall(rf"^\| `{label}` \| (.+) \|$", PAGE, re.MULTILINE)
    return str(line)


def test_page_lists_each_metric_with_its_type_labels_and_meaning() -> None:
    listed = re.findall(r"^\| `gridnode_.*$", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted(row(metric) for metric in METRICS.values())


def test_registry_has_no_metric_beside_the_catalogue() -> None:
    registered = {
        (family.name + ("_total" if family.type == "counter" else ""), family.type)
        for family in instruments.REGISTRY.collect()
    }
    assert registered == {(metric.name, metric.type) for metric in instruments.CATALOGUE}


def test_examples_use_metrics_and_labels_that_exist() -> None:
    examples = "\n".join(re.findall(r"```promql\n(.*?)```", PAGE, re.DOTALL))
    used = set(re.findall(r"gridnode_\w+", examples))
    series = set(METRICS)
    for metric in METRICS.values():
        if metric.type == "histogram":
            series |= {f"{metric.name}_{suffix}" for suffix in ("bucket", "sum", "count")}
    assert used
    assert used <= series
    selected = re.findall(r"(gridnode_\w+)\{(\w+)", examples)
    assert selected
    assert all(label in METRICS[name].labels for name, label in selected)


def test_page_lists_the_values_of_bounded_labels() -> None:
    assert re.findall(r"`(\w+)`", described("reason")) == [reason.value for reason in RejectionReason]
    assert re.findall(r"`(\w+)`", described("state")) == list(get_args(ProcessState))
    assert f"At most {MAXIMUM_MODELS} pairs" in PAGE
    assert f"At most {MAXIMUM_ENDPOINTS}, then" in PAGE
