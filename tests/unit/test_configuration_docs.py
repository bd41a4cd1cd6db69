"""docs/configuration.md says exactly what the node accepts: keys, types, defaults, refusals and settings."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gridnode.declared_settings import SettingSpec
from gridnode.errors import InvalidRequest
from gridnode.processes.schema import ClientConfig, ServerConfig, parse_client_config, parse_server_config
from gridnode.settings import MIB, Settings, setting_specs

PAGE = (Path(__file__).parent.parent.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
#: Settings whose default depends on the machine, in words.
FOUND_DEFAULTS = {"data_dir": "`~/.local/share/gridnode`", "node_id": "the machine's host name"}


def section(title: str) -> str:
    (text,) = re.findall(rf"^##+ {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows that begin with a name in code."""
    lines = re.findall(r"^\| (`.*) \|$", text, re.MULTILINE)
    return [[cell.replace(r"\|", "|") for cell in re.split(r" (?<!\\)\| ", line)] for line in lines]


def fields_of(kind: type[msgspec.Struct]) -> dict[str, tuple[str, str]]:
    """Type and default of each key, in the words of the page."""
    (schema,), components = msgspec.json.schema_components([kind])
    properties = components[kind.__name__]["properties"]
    assert schema
    return {name: (type_in_words(each), default_in_words(each)) for name, each in properties.items()}


def type_in_words(schema: dict[str, Any]) -> str:
    choices = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    (given,) = choices
    if "enum" in given:
        return " or ".join(f'`"{value}"`' for value in sorted(given["enum"]))
    words = {
        "integer": "whole number",
        "number": "number",
        "boolean": "true or false",
        "string": "text",
        "array": "list",
    }
    word = words.get(given.get("type", ""), "object")
    if "minLength" in given:
        return f"{word} of {given['minLength']} to {given['maxLength']} characters"
    if "exclusiveMinimum" in given:
        return f"{word} above {given['exclusiveMinimum']}, at most {given['maximum']}"
    if "maximum" in given:
        return f"{word} from {given['minimum']} to {given['maximum']}"
    return f"{word} of at least {given['minimum']}" if "minimum" in given else word


def default_in_words(schema: dict[str, Any]) -> str:
    if "default" not in schema:
        return "required"
    value = schema["default"]
    return "none" if value is None else f"`{json.dumps(value)}`"


@pytest.mark.parametrize(("title", "kind"), [("client_config", ClientConfig), ("server_config", ServerConfig)])
def test_page_lists_each_key_with_its_type_and_default(title: str, kind: type[msgspec.Struct]) -> None:
    listed = {name.strip("`"): (type_, default) for name, type_, default, _ in rows(section(title))}
    assert listed == fields_of(kind)


def test_refusals_are_those_of_the_page() -> None:
    refusals = rows(section("How keys go together"))
    assert len(refusals) >= 5
    for config, message in refusals:
        with pytest.raises(InvalidRequest) as refused:
            parse_server_config(json.loads(config.strip("`")))
        assert refused.value.message == message


def test_examples_are_accepted() -> None:
    examples = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
    servers = [example for example in examples if "batch_size" not in example]
    clients = [example for example in examples if "batch_size" in example]
    assert len(servers) >= 4
    assert clients
    for example in servers:
        parse_server_config(example)
    for example in clients:
        parse_client_config(example)


def setting_row(spec: SettingSpec) -> list[str]:
    return [f"`{spec.variable}`", default_of(spec), spec.kind.accepts, spec.description]


def default_of(spec: SettingSpec) -> str:
    if spec.name in FOUND_DEFAULTS:
        return FOUND_DEFAULTS[spec.name]
    (field,) = [each for each in dataclasses.fields(Settings) if each.name == spec.name]
    if field.default is None:
        return f"`{spec.kind.none}`" if spec.kind.none else "not set"
    shown = spec.kind.show(field.default)
    if not shown:
        return "none"
    if "bytes" in spec.kind.accepts and int(shown) % MIB == 0:
        return f"`{shown}` ({int(shown) // MIB} MiB)"
    return f"`{shown}`"


def test_page_lists_each_setting_with_default_and_meaning() -> None:
    expected = [setting_row(spec) for spec in setting_specs()]
    listed = rows(section("Settings of a node"))
    # The whole table in the message, to be pasted.
    assert listed == expected, "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in expected
    )
