"""Texts that callers send and people read: bounded, and such that PostgreSQL can hold them."""

from __future__ import annotations

from typing import Final

from gridnode.errors import InvalidRequest

LONGEST_NAME: Final = 255
_MOST_NAMES: Final = 10_000


def plain_text(field: str, value: object, *, longest: int = LONGEST_NAME, shortest: int = 1) -> str:
    """Text without control characters.

    Raises:
        InvalidRequest: names the field and the bounds.
    """
    if isinstance(value, str) and shortest <= len(value) <= longest and is_storable(value):
        return value
    raise InvalidRequest(f"{field} must be text of {shortest} to {longest} characters, without control characters")


def owner_text(value: object) -> str:
    """Name of an owner; numbers count as their text, as some notebooks number their users."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return plain_text("user_id", value)


def names(field: str, value: object) -> list[str]:
    """A list of names, such as features; absent is none.

    Raises:
        InvalidRequest: it is no list of texts, or holds too many.
    """
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > _MOST_NAMES:
        raise InvalidRequest(f"{field} must be a list of at most {_MOST_NAMES} texts")
    return [plain_text(f"each of {field}", entry) for entry in value]


def is_storable(value: str) -> bool:
    """Whether the text holds no control characters, and is Unicode that has an encoding."""
    return not any(ord(each) < 32 or 0x7F <= ord(each) < 0xA0 or 0xD800 <= ord(each) < 0xE000 for each in value)
