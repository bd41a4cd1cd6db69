"""The reference of GridNode's fields as a page of the documentation, generated from the CRD.

``python -m gridnode_operator.reference [FILE]`` writes it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from gridnode_operator.crd import custom_resource_definition

Schema = dict[str, Any]

#: The file in a checkout.
FILE: Final = Path(__file__).parents[2] / "docs" / "gridnode.md"

_HEAD: Final = """# GridNode

Every field of the resource, as `kubectl explain gridnode.spec` tells them too. What they do together is in
[The operator](operator.md). This page is generated: `python -m gridnode_operator.reference`.

A manifest that can be applied as it is:

```yaml
apiVersion: gridnode.io/v1alpha1
kind: GridNode
metadata:
  name: keyboard
spec: {}
```
"""
#: Kinds of Kubernetes' own: their fields are in its documentation.
_FOREIGN: Final = ("affinity", "env", "managementFrom", "tolerations", "topologySpreadConstraints", "volumes",
                   "volumeMounts")  # fmt: skip


def reference() -> str:
    """The page."""
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    parts = [_HEAD]
    for name, intro in (("spec", "What is wanted."), ("status", "What the operator has observed.")):
        rows = [_row(path, field, required) for path, field, required in _fields(schema["properties"][name], "")]
        header = "| field | type | default | what it is |\n| --- | --- | --- | --- |"
        parts.append(f"## {name}\n\n{intro}\n\n" + "\n".join([header, *rows]) + "\n")
    return "\n".join(parts)


def _fields(schema: Schema, prefix: str) -> Iterator[tuple[str, Schema, bool]]:
    for name, field in schema["properties"].items():
        path = f"{prefix}{name}"
        yield path, field, name in schema.get("required", ())
        if name in _FOREIGN:
            continue
        if "properties" in field:
            yield from _fields(field, f"{path}.")
        elif "properties" in field.get("items", {}):
            yield from _fields(field["items"], f"{path}[].")


def _row(path: str, field: Schema, required: bool) -> str:
    default = field.get("default")
    shown = "required" if required else "" if default in (None, {}, []) else f"`{json.dumps(default)}`"
    text = " ".join(field.get("description", "").split()).replace("|", "\\|")
    return f"| `{path}` | {_type(field)} | {shown} | {text} |"


def _type(field: Schema) -> str:
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {_type(field['additionalProperties'])}"
    bounds = [f"{sign} {field[name]}" for name, sign in (("minimum", "≥"), ("maximum", "≤")) if name in field]
    return " ".join([field.get("type", "any"), *([", ".join(bounds)] if bounds else [])])


def main(arguments: list[str]) -> None:
    """Write the page to the file named, or to its place in the checkout."""
    target = Path(arguments[0]) if arguments else FILE
    target.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
