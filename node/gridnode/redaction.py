"""What must never be shown: in logs, in `gridnode config`, in errors.

Masks by three signs, because a secret reaches text in many ways: the name beside it (``auth_token=…``, also in a query
string, JSON or a printed dict), its own form (URL password, bearer token, JWT, request key), and its value where it is
known (the node's own tokens).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence, Set

HIDDEN = "***"
LONGEST_TEXT = 10_000
_DEEPEST = 6

# Every pattern starts only where a word starts and has bounded or exclusive repetitions: what is searched comes from
# clients, and must not be able to make the search slow.
_NAMES = (
    r"(?:[a-z0-9]+[_-])*"
    r"(?:auth_?token|token|request_?key|api_?key|master_key|private_key|(?:ssl)?passw(?:or)?d|secret)"
)
_NAMED = re.compile(
    rf"(?i)(?<![a-z0-9_-])({_NAMES})(\\*[\"']?\s*[:=]\s*)"
    r"(?:b?\\*\"[^\"\\]*(?:\\.[^\"\\]*)*\"?|b?\\*'[^'\\]*(?:\\.[^'\\]*)*'?|[^\s,;&}\]\"']+)"
)
_HEADER_NAMES = r"(?:proxy-)?authorization|(?:set-)?cookie"
_HEADER = re.compile(rf"(?i)(?<![a-z0-9_-])({_HEADER_NAMES})(\\*[\"']?\s*[:=]\s*\\*[\"']?)[^\"'\r\n,}}]+")
_SECRET_NAME = re.compile(rf"(?i){_NAMES}|{_HEADER_NAMES}")
# Greedy up to the last '@': a password may hold '@' and '/' that somebody forgot to percent-encode.
_URL_PASSWORD = re.compile(r"(?<=://)([^:/?#@\s\"']{0,256}):[^\s\"'<>]{0,512}@")
_BEARER = re.compile(r"(?i)\b(bearer)\s+[A-Za-z0-9._~+/=-]{8,}")
_JWT = re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?")
_REQUEST_KEY = re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{64}(?![0-9A-Za-z])")


def masked_url(text: str) -> str:
    """Text with the password of every URL in it hidden, in the authority or as a query parameter."""
    return _NAMED.sub(rf"\1\2{HIDDEN}", _URL_PASSWORD.sub(rf"\1:{HIDDEN}@", text))


class Redactor:
    """Masks secrets in text and in structured values.

    Args:
        known: secret values of this process, masked wherever they stand.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        # The longest first: one secret may contain another.
        self._known = sorted({secret for secret in known if len(secret) >= 4}, key=len, reverse=True)

    def text(self, text: str) -> str:
        """The text with secrets masked; of a long one only the beginning and the end, ``LONGEST_TEXT`` characters."""
        shown = _shortened(text)
        for secret in self._known:
            shown = shown.replace(secret, HIDDEN)
        shown = _BEARER.sub(rf"\1 {HIDDEN}", _HEADER.sub(rf"\1\2{HIDDEN}", masked_url(shown)))
        return _REQUEST_KEY.sub(HIDDEN, _JWT.sub(HIDDEN, shown))

    def value(self, name: str, value: object, depth: int = 0) -> object:
        """A value as JSON can hold it, masked as a whole if ``name`` tells that it is secret."""
        if _SECRET_NAME.fullmatch(name):
            return None if value is None else HIDDEN
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        if isinstance(value, Mapping) and depth < _DEEPEST:
            return {self.text(str(key)): self.value(str(key), item, depth + 1) for key, item in value.items()}
        if isinstance(value, Sequence | Set) and not isinstance(value, str) and depth < _DEEPEST:
            return [self.value(name, item, depth + 1) for item in value]
        return self.text(str(value))


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    kept = LONGEST_TEXT // 2
    head, tail = text[:kept], text[-kept:]
    # Cut between words: half a secret, or one whose name was cut off, would not be recognised any more.
    head = head.rsplit(maxsplit=1)[0] if len(head.split(maxsplit=1)) > 1 else ""
    tail = tail.split(maxsplit=1)[1] if len(tail.split(maxsplit=1)) > 1 else ""
    return f"{head} … ({len(text)} characters) … {tail}"
