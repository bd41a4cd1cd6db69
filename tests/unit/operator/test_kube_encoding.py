"""What an apply sends is JSON and YAML alike: the API server reads it as YAML."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gridnode_operator.kube import to_json_and_yaml

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


ODD = [
    "",
    "größer",
    "🦜",
    "\U0010ffff",
    "\\ud83e\\udd9c",
    "\x00\t\n\r\x1f",
    "\x7f\x85\x9f",
    "\u2028",
    "\ufeff",
    "\uffff",
]


@pytest.mark.parametrize("text", ODD)
def test_odd_characters(text: str) -> None:
    encoded = to_json_and_yaml({"value": text, text: "key"})
    assert json.loads(encoded) == {"value": text, text: "key"}
    assert yaml.safe_load(encoded.decode()) == {"value": text, text: "key"}


@given(st.dictionaries(_TEXTS, _TEXTS | st.integers() | st.booleans() | st.none() | st.lists(_TEXTS, max_size=3)))
def test_any_manifest_is_the_same_in_both(manifest: dict[str, object]) -> None:
    encoded = to_json_and_yaml(manifest)
    assert json.loads(encoded) == manifest
    assert yaml.safe_load(encoded.decode()) == manifest
