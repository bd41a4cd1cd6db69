"""The chart's values as its values.yaml tells them: a row of the reference each, and the strict JSON Schema.

``# --`` begins the description of the value below it, which goes on over further comment lines; ``# @schema {…}`` adds
to what follows from the default. A map with entries is an object that takes no other keys; an empty one takes any.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

Json = dict[str, Any]
_Comments = dict[tuple[str, ...], tuple[str, Json]]

_KEY: Final = re.compile(r"^( *)([A-Za-z_][\w.-]*):(?:\s|$)")


class Undocumented(Exception):
    """A value has no description, or a comment that can't be read."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value, or a map of values.

    Attributes:
        path: Keys from the top.
        default: What values.yaml says.
        description: In one line; empty for a map of values.
        schema: What the comment adds to its schema.
    """

    path: tuple[str, ...]
    default: Any
    description: str = ""
    schema: Json = field(default_factory=dict)

    @property
    def is_map_of_values(self) -> bool:
        """Whether its entries are values of their own."""
        return isinstance(self.default, dict) and bool(self.default) and not self.description


def read(text: str) -> list[Value]:
    """All values in their order.

    Raises:
        Undocumented: names the first that has no description.
    """
    content = yaml.safe_load(text)
    return [each for each in _values(content, _comments(text)) if each.path]


def table(values: list[Value]) -> str:
    """The reference as a Markdown table."""
    lines = ["| value | default | what it is |", "| --- | --- | --- |"]
    for each in values:
        if not each.is_map_of_values:
            default = json.dumps(each.default, ensure_ascii=False)
            lines.append(f"| `{'.'.join(each.path)}` | `{default}` | {each.description} |")
    return "\n".join(lines) + "\n"


def schema(values: list[Value]) -> Json:
    """The JSON Schema of values.yaml."""
    # Helm gives these to every chart that is another's dependency.
    root = _object({"global": {"type": "object"}})
    objects: dict[tuple[str, ...], Json] = {(): root}
    for each in values:
        made = _object({}) if each.is_map_of_values else _schema_of(each)
        objects[each.path] = objects[each.path[:-1]]["properties"][each.path[-1]] = made
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the chart gridnode", **root}


def _object(properties: Json) -> Json:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _schema_of(value: Value) -> Json:
    types = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    made = {"type": types[type(value.default)], "description": value.description, **value.schema}
    if value.path[-1] == "resources":
        amounts = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
        made |= _object({"requests": amounts, "limits": amounts, "claims": {"type": "array"}})
    return made


def _values(content: Any, comments: _Comments, path: tuple[str, ...] = ()) -> Iterator[Value]:
    description, more = comments.get(path, ("", {}))
    found = Value(path, content, description, more)
    yield found
    if path and not description and not found.is_map_of_values:
        raise Undocumented(f"values.yaml says nothing about {'.'.join(path)}: write '# -- …' above it.")
    if isinstance(content, dict) and not description:
        for key, entry in content.items():
            yield from _values(entry, comments, (*path, key))


def _comments(text: str) -> _Comments:
    found: _Comments = {}
    parents: list[tuple[int, str]] = []
    description: list[str] = []
    more: Json = {}
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# @schema "):
            more = json.loads(stripped.removeprefix("# @schema "))
        elif stripped.startswith("# -- "):
            description = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("# ") and description:
            description.append(stripped.removeprefix("# "))
        elif key := _KEY.match(line):
            indent = len(key[1])
            parents = [each for each in parents if each[0] < indent] + [(indent, key[2])]
            if description or more:
                found[tuple(name for _, name in parents)] = (" ".join(description), more)
            description, more = [], {}
        else:
            description, more = [], {}
    return found
