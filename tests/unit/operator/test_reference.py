"""The page of the documentation about GridNode's fields."""

from __future__ import annotations

from gridnode_operator.reference import FILE, reference


def test_page_is_the_generated_one() -> None:
    assert FILE.read_text(encoding="utf-8") == reference(), "run: python -m gridnode_operator.reference"


def test_page_names_nested_fields_their_bounds_and_defaults() -> None:
    lines = reference().splitlines()
    [pool] = [line for line in lines if line.startswith("| `database.poolSize` ")]
    assert "integer ≥ 1, ≤ 100" in pool
    assert "`4`" in pool
    [host] = [line for line in lines if line.startswith("| `exposure.ingress.host` ")]
    assert "required" in host
