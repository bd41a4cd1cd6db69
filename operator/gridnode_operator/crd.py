"""The CustomResourceDefinition of GridNode, generated from the types of :mod:`.api`.

``python -m gridnode_operator.crd [FILE]`` writes it. Every object is structural: the API server prunes unknown fields.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml
from msgspec import inspect

from gridnode_operator.api import GROUP, KIND, MANAGED_VARIABLES, PLURAL, SCRATCH_VOLUME, SHORT_NAME, SINGULAR, VERSION
from gridnode_operator.api.spec import Autoscaling, Database, DisruptionBudget, Exposure, GridNodeSpec, PodTemplate
from gridnode_operator.api.status import GridNodeStatus

Schema = dict[str, Any]

#: The file in a checkout.
FILE: Final = Path(__file__).parents[2] / "crds" / f"{PLURAL}.{GROUP}.yaml"

_RULES: Final = "x-kubernetes-validations"
_INT_OR_STRING: Final = "x-kubernetes-int-or-string"
_QUOTED_VARIABLES: Final = ", ".join(f"'{name}'" for name in MANAGED_VARIABLES)


def _rule(rule: str, message: str, **more: str) -> dict[str, str]:
    return {"rule": rule, "message": message, **more}


#: CEL rules by the struct whose objects they are checked on. :func:`.api.parse_spec` checks the same in Python.
RULES: Final[dict[type[msgspec.Struct], list[dict[str, str]]]] = {
    GridNodeSpec: [
        _rule(
            "!has(self.autoscaling) || self.replicas == 1",
            "autoscaling decides how many pods there are: leave replicas out",
            fieldPath=".replicas",
        )
    ],
    Autoscaling: [
        _rule("self.minReplicas <= self.maxReplicas", "must not be greater than maxReplicas", fieldPath=".minReplicas")
    ],
    Database: [
        _rule(
            "has(self.schema) == has(oldSelf.schema) && (!has(self.schema) || self.schema == oldSelf.schema)",
            "can't be changed: delete the GridNode with reclaimPolicy Retain, and name the schema in a new one",
            fieldPath=".schema",
        ),
        _rule(
            "!has(self.schema) || !(self.schema.startsWith('pg_') || self.schema in ['public', 'information_schema'])",
            "is a schema of PostgreSQL's own",
            fieldPath=".schema",
        ),
    ],
    Exposure: [_rule("!(has(self.ingress) && has(self.httpRoute))", "ingress and httpRoute exclude each other")],
    DisruptionBudget: [
        _rule(
            "has(self.minAvailable) != has(self.maxUnavailable)",
            "needs exactly one of minAvailable and maxUnavailable",
        )
    ],
    PodTemplate: [
        _rule(
            f"!has(self.env) || self.env.all(variable, !(variable.name in [{_QUOTED_VARIABLES}]))",
            "one of the variables is set by the operator: use the spec's field for it",
            fieldPath=".env",
        ),
        _rule(
            f"!has(self.volumes) || self.volumes.all(volume, volume.name != '{SCRATCH_VOLUME}')",
            f"{SCRATCH_VOLUME} is the operator's own volume",
            fieldPath=".volumes",
        ),
    ],
}


def custom_resource_definition() -> Schema:
    """The manifest of the CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT_NAME],
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _root_schema()},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": _columns(),
                }
            ],
        },
    }


def to_yaml(manifest: Schema) -> str:
    """A manifest as a YAML document, in the order of its keys."""
    text: str = yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    return text


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _root_schema() -> Schema:
    return {
        "description": _docstring(GridNodeSpec),
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"{KIND}."},
            "metadata": {"type": "object"},  # the API server allows no description here
            "spec": {**_schema_of(GridNodeSpec), "description": "What is wanted.", "default": {}},
            "status": {**_schema_of(GridNodeStatus), "description": "What the operator has observed."},
        },
    }


def _columns() -> list[dict[str, Any]]:
    ready = '.status.conditions[?(@.type=="Ready")]'
    columns = [
        ("Ready", "string", f"{ready}.status", "Whether everything is as declared and phones are served.", 0),
        ("Replicas", "string", ".status.display.replicas", "Ready of wanted pods.", 0),
        ("Models", "integer", ".status.models.count", "Models hosted.", 0),
        ("Progress", "string", ".status.display.progress", "Completed cycles of all models.", 0),
        ("URL", "string", ".status.url", "Where phones reach the node.", 0),
        ("Age", "date", ".metadata.creationTimestamp", "Time since it was created.", 0),
        ("Image", "string", ".status.image", "Image of the pods.", 1),
        ("Revision", "string", ".status.schemaRevision", "Revision of the database schema.", 1),
        ("Message", "string", f"{ready}.message", "Why it is ready or not.", 1),
    ]
    keys = ("name", "type", "jsonPath", "description", "priority")
    return [dict(zip(keys, column, strict=True)) for column in columns]


def _schema_of(type_: Any) -> Schema:
    return _convert(inspect.type_info(type_))


def _convert(kind: inspect.Type) -> Schema:
    match kind:
        case inspect.Metadata():
            return _convert_metadata(kind)
        case inspect.StructType():
            return _convert_struct(kind)
        case inspect.UnionType():
            return _convert_union(kind)
        case inspect.ListType():
            bounds = {"minItems": kind.min_length, "maxItems": kind.max_length}
            return {"type": "array", "items": _convert(kind.item_type), **_present(bounds)}
        case inspect.DictType():
            bounds = {"maxProperties": kind.max_length}
            return {"type": "object", "additionalProperties": _convert(kind.value_type), **_present(bounds)}
        case inspect.LiteralType():
            # msgspec sorts them; the order they are written in says more, but is not kept.
            return {"type": "string", "enum": list(kind.values)}
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.IntType():
            return {"type": "integer", "format": "int64", **_present({"minimum": kind.ge, "maximum": kind.le})}
        case inspect.StrType():
            bounds = {"minLength": kind.min_length, "maxLength": kind.max_length}
            return {"type": "string", **_present({**bounds, "pattern": kind.pattern})}
        case _:
            raise TypeError(f"{kind} has no structural schema")


def _convert_metadata(kind: inspect.Metadata) -> Schema:
    extra = dict(kind.extra_json_schema or {})
    if "properties" in extra:  # an object that Kubernetes defines, with a schema of its own
        return extra
    schema = {**_convert(kind.type), **extra}
    return {"description": extra["description"], **schema} if "description" in extra else schema


def _convert_union(kind: inspect.UnionType) -> Schema:
    types = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
    if len(types) == 1:
        return _convert(types[0])
    bounds = [_convert(each) for each in types]
    schema: Schema = {_INT_OR_STRING: True, "anyOf": [{"type": each.pop("type")} for each in bounds]}
    for each in bounds:
        schema |= {key: value for key, value in each.items() if key != "format"}
    return schema


def _convert_struct(kind: inspect.StructType) -> Schema:
    properties = {each.encode_name: _convert_field(each) for each in kind.fields}
    required = [each.encode_name for each in kind.fields if each.required]
    schema: Schema = {"type": "object", "description": _docstring(kind.cls), "properties": properties}
    if required:
        schema["required"] = required
    if kind.cls in RULES:
        schema[_RULES] = RULES[kind.cls]
    return schema


def _convert_field(each: inspect.Field) -> Schema:
    schema = _convert(each.type)
    default = each.default if each.default_factory is msgspec.NODEFAULT else each.default_factory()
    if isinstance(default, msgspec.Struct):
        # The defaults within apply only to objects that exist; rules on changes, only if the old one did.
        if _has_defaults(schema) or any("oldSelf" in each["rule"] for each in schema.get(_RULES, [])):
            schema["default"] = {}
    elif default is not msgspec.NODEFAULT and default is not None and default not in ([], {}):
        schema["default"] = default
    return schema


def _has_defaults(schema: Schema) -> bool:
    return any("default" in each for each in schema.get("properties", {}).values())


def _docstring(cls: type[Any]) -> str:
    return " ".join((cls.__doc__ or "").split())


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def main(arguments: list[str]) -> None:
    """Write the manifest to the file named, or to its place in the checkout."""
    target = Path(arguments[0]) if arguments else FILE
    target.write_text(to_yaml(custom_resource_definition()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
