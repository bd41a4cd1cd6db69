"""The CustomResourceDefinition: equal to the file, structural, described, and with the defaults of the types."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from gridnode_operator.api import GridNodeSpec, parse_spec
from gridnode_operator.crd import FILE, custom_resource_definition, to_yaml
from tests.support.gridnode_manifests import ALTERNATIVES, EVERYTHING, leaves

CRD = custom_resource_definition()
VERSION = CRD["spec"]["versions"][0]
ROOT = VERSION["schema"]["openAPIV3Schema"]
SPEC = ROOT["properties"]["spec"]
STATUS = ROOT["properties"]["status"]

Path = tuple[str, ...]


def fields(schema: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every field of a schema."""
    for name, each in schema.get("properties", {}).items():
        yield (*path, name), each
        yield from fields(each, (*path, name))
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            yield from fields(schema[inner], (*path, "*"))


def with_defaults(value: Any, schema: dict[str, Any]) -> Any:
    """What the API server makes of a value: defaults of absent fields, from the outside inwards."""
    if isinstance(value, dict):
        filled = dict(value)
        for name, each in schema.get("properties", {}).items():
            if name not in filled and "default" in each:
                filled[name] = copy.deepcopy(each["default"])
            if name in filled:
                filled[name] = with_defaults(filled[name], each)
        return filled
    if isinstance(value, list):
        return [with_defaults(entry, schema.get("items", {})) for entry in value]
    return value


def pruned(value: Any, schema: dict[str, Any]) -> Any:
    """What the API server keeps of a value."""
    if isinstance(value, list):
        return [pruned(entry, schema["items"]) for entry in value]
    if not isinstance(value, dict):
        return value
    if "additionalProperties" in schema:
        return {name: pruned(entry, schema["additionalProperties"]) for name, entry in value.items()}
    keeps_all = schema.get("x-kubernetes-preserve-unknown-fields", False)
    known = schema.get("properties", {})
    return {
        name: pruned(entry, known[name]) if name in known else entry
        for name, entry in value.items()
        if name in known or keeps_all
    }


def test_the_file_is_generated_from_the_types() -> None:
    assert FILE.read_text(encoding="utf-8") == to_yaml(CRD), "run: python -m gridnode_operator.crd"
    assert yaml.safe_load(FILE.read_text(encoding="utf-8")) == CRD


def test_every_field_has_a_description() -> None:
    found = list(fields(ROOT))
    assert len(found) > 150
    undescribed = [path for path, each in found if not each.get("description", "").strip().endswith(".")]
    # What everybody knows of metadata the API server lets nobody say again.
    assert undescribed == [("metadata",)]
    assert ROOT["properties"]["metadata"] == {"type": "object"}


def test_every_schema_is_structural() -> None:
    for path, each in fields(ROOT):
        assert "type" in each or each.get("x-kubernetes-int-or-string"), path
        assert not {"$ref", "nullable", "oneOf", "title"} & each.keys(), path
        assert "anyOf" not in each or each.get("x-kubernetes-int-or-string"), path
        if each.get("type") == "array":
            assert "items" in each, path
        if "default" in each:
            assert with_defaults(each["default"], each) is not None, path


def test_unknown_fields_are_kept_only_where_kubernetes_defines_them() -> None:
    keeping = {"/".join(path) for path, each in fields(ROOT) if each.get("x-kubernetes-preserve-unknown-fields")}
    volumes = SPEC["properties"]["podTemplate"]["properties"]["volumes"]
    assert keeping == {
        f"spec/podTemplate/affinity/{kind}" for kind in ("nodeAffinity", "podAffinity", "podAntiAffinity")
    }
    assert volumes["items"]["x-kubernetes-preserve-unknown-fields"] is True
    assert to_yaml(CRD).count("preserve-unknown-fields") == 4


def test_defaults_are_those_of_the_types() -> None:
    filled = with_defaults({}, {"properties": {"spec": SPEC}})["spec"]
    assert filled["replicas"] == 1
    assert filled["database"] == {"reclaimPolicy": "Retain", "poolSize": 4, "iamAuthentication": False}
    assert parse_spec(filled) == parse_spec({}) == GridNodeSpec()


@pytest.mark.parametrize("spec", [EVERYTHING, ALTERNATIVES])
def test_nothing_that_the_types_read_is_pruned(spec: dict[str, Any]) -> None:
    assert pruned(spec, SPEC) == spec
    assert parse_spec(with_defaults(spec, SPEC)) == parse_spec(spec)


def test_the_example_specs_set_every_field_to_something_else_than_its_default() -> None:
    """What the tests of "every field reaches its child" rely on."""
    passed_on = {
        "tolerations",
        "affinity",
        "topologySpreadConstraints",
        "env",
        "volumes",
        "volumeMounts",
        "managementFrom",
    }
    wanted = {path for path, each in fields(SPEC) if not each.get("properties") and not passed_on & set(path[:-1])} - {
        ("exposure", "httpRoute", "parentRefs")
    }
    given = {
        tuple("*" if isinstance(step, int) else step for step in path)
        for spec in (EVERYTHING, ALTERNATIVES)
        for path, _ in leaves(spec)
    }
    missing = {path for path in wanted if not any(each[: len(path)] == path for each in given)}
    assert missing == set()
    defaults = with_defaults({}, SPEC)
    for spec in (EVERYTHING, ALTERNATIVES):
        for path, value in leaves(spec):
            default: Any = defaults
            for step in path:
                default = default.get(step) if isinstance(default, dict) else None
            assert value != default, path


def test_rules_name_fields_that_there_are() -> None:
    rules = [(path, each, rule) for path, each in fields(ROOT) for rule in each.get("x-kubernetes-validations", [])]
    assert len(rules) == 8
    for path, each, rule in rules:
        assert rule["message"], path
        for name in re.findall(r"(?:self|oldSelf)\.([a-z]\w*)", rule["rule"]):
            assert name in each["properties"], (path, name)
        if "fieldPath" in rule:
            assert rule["fieldPath"].removeprefix(".") in each["properties"], path
    changing = [path for path, _, rule in rules if "oldSelf" in rule["rule"]]
    assert changing == [("spec", "database")]
    # A rule on a change is checked only where the old object has the field.
    assert SPEC["properties"]["database"]["default"] == {}
    assert SPEC["default"] == {}


def test_columns_show_fields_that_there_are() -> None:
    names = {"/".join(path) for path, _ in fields(ROOT)}
    shown = {column["name"]: column for column in VERSION["additionalPrinterColumns"]}
    assert [name for name, column in shown.items() if column["priority"] == 0] == [
        "Ready", "Replicas", "Models", "Progress", "URL", "Age",
    ]  # fmt: skip
    assert [name for name, column in shown.items() if column["priority"] == 1] == ["Image", "Revision", "Message"]
    for column in shown.values():
        path = re.sub(r"\[\?\(@\.type==\"Ready\"\)\]", ".*", column["jsonPath"]).removeprefix(".").replace(".", "/")
        assert path in names or path == "metadata/creationTimestamp", column


def test_scale_and_status_are_subresources() -> None:
    scale = VERSION["subresources"]["scale"]
    assert VERSION["subresources"]["status"] == {}
    assert {
        "spec/replicas": scale["specReplicasPath"],
        "status/replicas": scale["statusReplicasPath"],
        "status/selector": scale["labelSelectorPath"],
    } == {path: "." + path.replace("/", ".") for path in ("spec/replicas", "status/replicas", "status/selector")}
    # Without a value there, autoscalers get an error instead of a scale.
    assert SPEC["properties"]["replicas"]["default"] == 1
