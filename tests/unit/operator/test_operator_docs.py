"""What docs/operator.md says of settings, metrics and conditions is what there is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from gridnode_operator.metrics import OperatorMetrics
from gridnode_operator.settings import OperatorSettings

PAGE = (Path(__file__).parents[3] / "docs" / "operator.md").read_text(encoding="utf-8")


def test_every_setting_is_told_with_its_default_and_text() -> None:
    for each in fields(OperatorSettings):
        default = "" if each.default in (None, "", ()) else f"`{each.metadata['kind'].show(each.default)}`"
        assert f"| `{each.name.upper()}` | {default} | {each.metadata['description']} |" in PAGE, each.name


def test_every_metric_is_told_and_no_other() -> None:
    told = set(re.findall(r"`(gridnode_operator_\w+)", PAGE))
    metrics = OperatorMetrics()
    families = [family for family in metrics.registry.collect() if family.name.startswith("gridnode_operator")]
    there = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    assert told == there
