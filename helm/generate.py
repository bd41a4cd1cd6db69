"""Write what the chart holds a copy of, or says twice: ``python -m helm.generate``.

From crds/ its CustomResourceDefinition; from :mod:`gridnode_operator.rbac` the operator's rules; from values.yaml
values.schema.json, the table in README.md and docs/values.md; from :mod:`helm.dashboards` Grafana's JSON.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import yaml

from gridnode_operator import rbac
from helm import values_reference
from helm.dashboards import dashboards

ROOT: Final = Path(__file__).parents[1]
CHART: Final = ROOT / "helm" / "gridnode"
_CRD: Final = "gridnodes.gridnode.io.yaml"
_TABLE: Final = re.compile(r"(?<=<!-- values -->\n).*(?=<!-- /values -->)", re.DOTALL)


def generated() -> dict[Path, str]:
    """Content by file."""
    values = values_reference.read((CHART / "values.yaml").read_text(encoding="utf-8"))
    table = values_reference.table(values)
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    return {
        CHART / "files" / "crds" / _CRD: (ROOT / "crds" / _CRD).read_text(encoding="utf-8"),
        CHART / "files" / "operator-rules.yaml": _rules(),
        CHART / "values.schema.json": _json(values_reference.schema(values)),
        CHART / "README.md": _TABLE.sub(lambda _: f"\n{table}\n", readme),
        ROOT / "docs" / "values.md": _page(table),
        **{CHART / "files" / "dashboards" / f"{name}.json": _json(each) for name, each in dashboards().items()},
    }


def _rules() -> str:
    rules = {"gridnodes": rbac.gridnode_rules(), "own": rbac.own_rules(), "cluster": rbac.cluster_rules()}
    head = "# The operator's rights. Generated from gridnode_operator/rbac.py: python -m helm.generate\n"
    return head + yaml.dump(rules, sort_keys=False, width=120, Dumper=_WithoutAliases)


class _WithoutAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _page(table: str) -> str:
    return (
        "# Values of the chart\n\n"
        "```sh\nhelm show values helm/gridnode\n```\n\n"
        "shows every value of the chart with its default. Unknown ones are refused. How they go together is in\n"
        "[Install](install.md). This page is generated from that file: `python -m helm.generate`.\n\n"
        f"{table}"
    )


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all files."""
    for path, content in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
