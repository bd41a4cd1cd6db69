"""What the chart holds twice is the same twice, and what it names is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric

from gridnode import __version__
from gridnode.reporting import database_metrics, instruments
from gridnode_operator.metrics import OperatorMetrics
from helm import values_reference
from helm.dashboards import dashboards
from helm.generate import CHART, ROOT, generated
from helm.values_reference import Undocumented

ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
RUNBOOKS = ROOT / "docs" / "runbooks"


def series() -> dict[str, set[str]]:
    """All series that a node or the operator has, with their labels."""
    found: dict[str, set[str]] = {}
    for each in (*instruments.CATALOGUE, *database_metrics.CATALOGUE):
        names = (
            [f"{each.name}_{end}" for end in ("bucket", "sum", "count")] if each.type == "histogram" else [each.name]
        )
        found |= {name: set(each.labels) for name in names}
    operator = OperatorMetrics()
    operator.observe_reconcile(0.1, "Problem")
    families: list[Metric] = list(operator.registry.collect())
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return {**found, "up": {"container", "endpoint"}}


#: Labels that scraping adds.
SCRAPED = {"namespace", "job", "pod", "le"}
QUERIES = {
    **{f"alert {rule['alert']}": rule["expr"] for rule in ALERTS},
    **{
        f"{name}: {panel['title']} {target['refId']}": target["expr"]
        for name, each in dashboards().items()
        for panel in each["panels"]
        for target in panel["targets"]
    },
}


@pytest.mark.parametrize("path", sorted(generated()), ids=lambda path: path.name)
def test_generated_file_is_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == generated()[path], "Run python -m helm.generate."


@pytest.mark.parametrize("query", QUERIES)
def test_query_asks_for_series_and_labels_that_exist(query: str) -> None:
    known = series()
    expression = QUERIES[query]
    used = set(re.findall(r"\b(?:gridnode_\w+|up)\b(?!\")", expression))
    assert used, expression
    assert used <= set(known), expression
    for name, selected in re.findall(r"\b(gridnode_\w+|up){(.*?)}", expression):
        labels = set(re.findall(r"(\w+)=", selected))
        assert labels <= known[name] | SCRAPED, expression
    for grouped in re.findall(r"by \((.*?)\)", expression):
        labels = set(re.split(r", *", grouped))
        assert labels <= set.union(*(known[name] for name in used)) | SCRAPED, expression


def test_variables_of_dashboards_exist_and_are_asked_for_of_series_that_do() -> None:
    for each in dashboards().values():
        variables = {variable["name"]: variable for variable in each["templating"]["list"]}
        used = set(re.findall(r"\$(\w+)", " ".join(t["expr"] for p in each["panels"] for t in p["targets"])))
        assert used - {"__rate_interval"} <= set(variables)
        for variable in variables.values():
            if variable["type"] == "query":
                [asked] = re.findall(r"label_values\((gridnode_\w+)", variable["query"]["query"])
                assert asked in series()


def test_each_alert_has_a_page_and_a_row_in_the_docs() -> None:
    names = {rule["alert"] for rule in ALERTS}
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == names
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| \[(\w+)\]\(runbooks/\1\.md\)", page, re.MULTILINE)) == names
    for path in RUNBOOKS.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {path.stem}\n")
        for link in re.findall(r"\]\(([^)]+\.md)\)", text):
            assert (path.parent / link).exists(), link


def test_chart_is_of_the_release() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["version"] == chart["appVersion"] == __version__
    for name in ("node", "operator"):
        assert f"ARG VERSION={__version__}\n" in (ROOT / f"Dockerfile.{name}").read_text(encoding="utf-8")


def test_images_name_extras_that_there_are() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in ("node", "operator"):
        [extras] = re.findall(
            r"^ARG EXTRAS=(.*)$", (ROOT / f"Dockerfile.{name}").read_text(encoding="utf-8"), re.MULTILINE
        )
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_value_without_a_description_is_refused() -> None:
    with pytest.raises(Undocumented, match=r"operator\.workers"):
        values_reference.read("operator:\n  # -- What is logged\n  level: info\n  workers: 8\n")


def test_description_goes_on_over_lines_and_a_schema_adds_to_the_default() -> None:
    text = '# -- One\n# and two.\n# @schema {"minimum": 1}\nworkers: 8\nempty:\n  # -- Any\n  map: {}\n'
    values = values_reference.read(text)
    assert "| `workers` | `8` | One and two. |" in values_reference.table(values)
    made = values_reference.schema(values)["properties"]
    assert made["workers"] == {"type": "integer", "description": "One and two.", "minimum": 1}
    assert made["empty"]["additionalProperties"] is False
    assert made["empty"]["properties"]["map"] == {"type": "object", "description": "Any"}
