"""Whether applying a manifest would change anything, read from the live object and its ``managedFields``. Pure.

An apply that changes nothing is still a write for API server and audit log. So what would be applied is compared
first: with the fields that the operator owns (is each of them still wanted, and each wanted one owned?) and with their
values. See the Kubernetes documentation on server-side apply for the format of ``fieldsV1``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

Fields = Mapping[str, Any]

#: Not in managedFields, or only to tell that the object itself is there.
_IDENTITY: Final = ("apiVersion", "kind")
_IDENTITY_METADATA: Final = ("name", "namespace")
_SUFFIXES: Final = {
    "": Decimal(1),
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}  # fmt: skip

_THOUSANDTH: Final = Decimal("0.001")


def is_applied(desired: Mapping[str, Any], live: Mapping[str, Any], manager: str) -> bool:
    """Whether ``manager`` owns exactly what ``desired`` names, and the live object has the same values."""
    owned = owned_fields(live, manager)
    if owned is None:
        return False
    content = {key: value for key, value in desired.items() if key not in _IDENTITY}
    metadata = {key: value for key, value in desired["metadata"].items() if key not in _IDENTITY_METADATA}
    return _matches({**content, "metadata": metadata}, live, owned)


def owned_fields(live: Mapping[str, Any], manager: str) -> Fields | None:
    """The fields that ``manager`` has applied; None if it never did."""
    for entry in live["metadata"].get("managedFields") or []:
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource"):
            fields: Fields = entry.get("fieldsV1") or {}
            return fields
    return None


def owns(fields: Fields | None, *path: str) -> bool:
    """Whether a field, named by its keys from the root on, is among ``fields``."""
    for key in path:
        fields = (fields or {}).get(f"f:{key}")
    return fields is not None


def _matches(desired: Any, live: Any, owned: Fields, path: tuple[str, ...] = ()) -> bool:
    """Compare one value; ``owned`` empty means that it is owned as a whole."""
    children = {key: value for key, value in owned.items() if key != "."}
    if not children:
        return _same(desired, live, path)
    if isinstance(desired, Mapping):
        return _matches_map(desired, live, children, path)
    if isinstance(desired, list):
        return _matches_list(desired, live, children, path)
    return False


def _matches_map(desired: Mapping[str, Any], live: Any, owned: Fields, path: tuple[str, ...]) -> bool:
    if not isinstance(live, Mapping) or {f"f:{key}" for key in desired} != set(owned):
        return False
    return all(_matches(value, live.get(key), owned[f"f:{key}"], (*path, key)) for key, value in desired.items())


def _matches_list(desired: list[Any], live: Any, owned: Fields, path: tuple[str, ...]) -> bool:
    """A list whose items are owned one by one: by the values of their keys (``k:``), or each as it is (``v:``)."""
    if not isinstance(live, list) or len(desired) != len(owned):
        return False
    for name, fields in owned.items():
        kind, _, text = name.partition(":")
        key = json.loads(text)
        if kind == "v":
            if key not in desired or key not in live:
                return False
            continue
        wanted, found = _item(desired, key), _item(live, key)
        if wanted is None or found is None or not _matches(wanted, found, fields, path):
            return False
    return True


def _item(items: list[Any], key: Mapping[str, Any]) -> Any:
    return next((item for item in items if all(item.get(name) == value for name, value in key.items())), None)


def _same(desired: Any, live: Any, path: tuple[str, ...]) -> bool:
    """Whether the live value is the desired one, with what the server may have filled in."""
    if live is None:
        return not desired  # the server leaves out what is empty
    if isinstance(desired, Mapping):
        is_map = isinstance(live, Mapping)
        return is_map and all(_same(value, live.get(key), (*path, key)) for key, value in desired.items())
    if isinstance(desired, list):
        same_length = isinstance(live, list) and len(desired) == len(live)
        return same_length and all(_same(wanted, found, path) for wanted, found in zip(desired, live, strict=True))
    return bool(desired == live) or (_is_quantity(path) and _quantity(desired) == _quantity(live) is not None)


def _is_quantity(path: tuple[str, ...]) -> bool:
    """The server writes 1000m as 1, and 1024Mi as 1Gi."""
    return path[-1:] in (("divisor",), ("sizeLimit",)) or path[-2:-1] in (("requests",), ("limits",))


def _quantity(value: Any) -> Decimal | None:
    text = str(value)
    number = text.rstrip("numkKMGTPEi")
    factor = _SUFFIXES.get(text[len(number) :])
    try:
        # The server rounds up what is less than a thousandth.
        return None if factor is None else (Decimal(number) * factor).quantize(_THOUSANDTH, ROUND_CEILING)
    except ArithmeticError:
        return None
