"""The dashboard's cookies, and the tokens that its forms carry."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from flask import Request
from werkzeug.wrappers import Response

from gridnode.errors import InvalidRequest

#: The field of every form that changes something.
TOKEN_FIELD: Final = "form_token"  # noqa: S105 - a name
#: Who is signed in; who is about to sign in.
SESSION: Final = "gridnode_session"
LOGIN: Final = "gridnode_login"
#: The state of a sign-in that has gone to the OpenID provider.
STATE: Final = "gridnode_oidc"

_STATE_SECONDS: Final = 600


class Cookies:
    """Reads and sets cookies.

    Args:
        public_url: Where people reach the dashboard; with https the cookies are Secure and bound to its host.
    """

    def __init__(self, public_url: str | None) -> None:
        self._is_https = (public_url or "").startswith("https:")

    def get(self, request: Request, name: str) -> str | None:
        """The value of a cookie, None where there is none."""
        return request.cookies.get(self._named(name, request)) or None

    def set(self, request: Request, answer: Response, name: str, value: str) -> None:
        """Set a cookie that scripts can't read and other sites don't send."""
        answer.set_cookie(
            self._named(name, request),
            value,
            max_age=_STATE_SECONDS if name == STATE else None,
            path="/",
            secure=self._secure(request),
            httponly=True,
            samesite="Lax",
        )

    def delete(self, request: Request, answer: Response, name: str) -> None:
        """Have a cookie forgotten."""
        secure = self._secure(request)
        answer.delete_cookie(
            self._named(name, request), path="/", secure=secure, httponly=True, samesite="Lax"
        )  # fmt: skip

    def _secure(self, request: Request) -> bool:
        # Whoever makes this header up makes their own cookie stricter, nothing else: so it is believed from anybody.
        forwarded = request.headers.get("X-Forwarded-Proto", "").split(",")[0].strip().lower()
        return self._is_https or request.is_secure or forwarded == "https"

    def _named(self, name: str, request: Request) -> str:
        # Browsers take this prefix only from the host itself and over https: no other host of the domain can set it.
        return f"__Host-{name}" if self._secure(request) else name


def form_token(secret: str) -> str:
    """The token of forms for a session, or for a visitor who is about to sign in; whoever has it can't tell that."""
    return hmac.new(secret.encode(), b"form", hashlib.sha256).hexdigest()


def check_form(request: Request, secret: str | None) -> None:
    """Make sure that a form is one of ours, sent by the visitor to whom it was given.

    Raises:
        InvalidRequest: it is not.
    """
    given = request.form.get(TOKEN_FIELD, "")
    if secret is None or not hmac.compare_digest(given.encode(), form_token(secret).encode()):
        raise InvalidRequest("This form is not from this session. Open the page again, and send it from there.")
