"""What all pages have in common: who visits, the frame around a page, and how an error looks."""

from __future__ import annotations

import logging
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from flask import Response, g, redirect, request
from markupsafe import Markup
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from gridnode import __version__
from gridnode.errors import GridNodeError, Unauthorized
from gridnode_operator.master.dashboard.access import PAGES, PUBLIC
from gridnode_operator.master.dashboard.assets import Assets
from gridnode_operator.master.dashboard.cookies import SESSION, Cookies, check_form, form_token
from gridnode_operator.master.dashboard.rendering import ROOT, make_templates, render
from gridnode_operator.master.dashboard.sessions import Sessions, Visitor
from gridnode_operator.master.errors import INTERNAL, Forbidden, retry_after, status_of
from gridnode_operator.master.services import Services

log = logging.getLogger(__name__)

#: Only files of this host, no code or style within a page, no frames around it, and forms that end here.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
#: Header of a request for what is within a page's frame only.
FRAGMENT: Final = "X-Fragment"
_SECONDS_BETWEEN: Final = 2

_HEADINGS: Final = {
    400: "That can't be done",
    401: "You are signed out",
    403: "Not for you",
    404: "Nothing is here",
    409: "Not now",
    413: "Too large",
    429: "Too many attempts",
    503: "Not available just now",
}


class Site:
    """The dashboard of one process.

    Args:
        services: What pages show.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self.sessions = Sessions(services.database, services.settings)
        self.cookies = Cookies(services.settings.public_url)
        self.assets = Assets()
        self.templates = make_templates(self.assets)

    def admit(self) -> AnyResponse | None:
        """Let a visitor in, or send them to sign in.

        Raises:
            Unauthorized: nobody is signed in, and what was asked for is no page.
            Forbidden: this is not for their key.
            InvalidRequest: a form is not of this session.
        """
        endpoint = (request.endpoint or "").rpartition(".")[2]
        if endpoint in PUBLIC and endpoint != "missing":
            return None
        visitor = self.visitor()
        if endpoint == "missing":
            # Whoever is signed in keeps the frame with its navigation around the error.
            if visitor is not None:
                g.visitor = visitor
            return None
        if visitor is None:
            if request.method in ("GET", "HEAD") and FRAGMENT not in request.headers and endpoint != "stream":
                return redirect(f"{ROOT}/login?{urlencode({'next': here()})}", 303)
            raise Unauthorized("Nobody is signed in, or the session has ended. Sign in again.")
        if visitor.principal.scope not in PAGES.get(endpoint, frozenset()):
            raise Forbidden(f"A key of scope {visitor.principal.scope} is not for this.")
        if request.method == "POST":
            check_form(request, visitor.session)
        g.visitor = visitor
        return None

    def visitor(self) -> Visitor | None:
        """Who is signed in, None if nobody is.

        Raises:
            Unavailable: the database is away.
        """
        return self.sessions.find(self.cookies.get(request, SESSION))

    def content(self, template: str, **values: Any) -> Markup:
        """What is within a page's frame."""
        return render(self.templates, template, **values)

    def page(self, template: str, *, title: str, current: str, status: int = 200, **values: Any) -> Response:
        """A page for whoever is signed in; see :meth:`framed` for ``stream`` among the values."""
        stream = values.pop("stream", None)
        visitor = signed_in()
        values |= {"visitor": visitor, "token": form_token(visitor.session)}
        return self.framed(self.content(template, **values), title=title, current=current, status=status, stream=stream)

    def framed(
        self,
        content: Markup,
        *,
        title: str,
        current: str,
        status: int = 200,
        stream: str | None = None,
        seconds: int = _SECONDS_BETWEEN,
    ) -> Response:
        """A page: its content with the frame around it, or without where only that was asked for.

        Args:
            content: As HTML.
            title: Of the page.
            current: Its entry in the navigation.
            status: Of the answer.
            stream: Query of the event stream on whose changes the content is read anew; None: it does not change.
            seconds: How long it is shown at least before that.
        """
        if FRAGMENT in request.headers:
            answer = html(content, status)
            answer.headers["X-Assets"] = self.assets.digest
            return answer
        visitor = signed_in()
        frame = render(
            self.templates,
            "page.html",
            content=content,
            title=title,
            current=current,
            visitor=visitor,
            token=form_token(visitor.session),
            stream=None if stream is None else f"{ROOT}/stream?{stream}",
            seconds=seconds,
            version=__version__,
            assets=self.assets.digest,
        )
        return html(frame, status)

    def bare(self, template: str, *, title: str, status: int = 200, **values: Any) -> Response:
        """A page for somebody who is not signed in."""
        content = self.content(template, **values)
        return html(render(self.templates, "bare.html", content=content, title=title), status)

    def domain_error(self, error: GridNodeError) -> AnyResponse:
        """The page of a domain error."""
        status = status_of(error)
        log.info("page refused", extra={"status": status, "reason": error.message, "path": request.path})
        answer = self._error(status, error.message if status != 500 else INTERNAL)
        after = retry_after(error)
        if after is not None:
            answer.headers["Retry-After"] = after
        return answer

    def http_error(self, error: HTTPException) -> AnyResponse:
        """The page of what Flask refuses by itself."""
        return self._error(error.code or 500, (error.description or error.name).rstrip(".") + ".")

    def unexpected_error(self, error: Exception) -> AnyResponse:
        """The page of a failure that nobody foresaw; the log has the traceback."""
        log.error("page failed", exc_info=error, extra={"path": request.path})
        return self._error(500, INTERNAL)

    def _error(self, status: int, message: str) -> Response:
        heading = _HEADINGS.get(status, "Something went wrong")
        values = {"heading": heading, "message": message[:1].upper() + message[1:], "code": status}
        if "visitor" in g:
            return self.page("error.html", title=heading, current="", status=status, **values)
        return self.bare("error.html", title=heading, status=status, **values)


def harden(answer: Response) -> Response:
    """Headers that every answer of the dashboard has."""
    answer.headers["Content-Security-Policy"] = POLICY
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["X-Frame-Options"] = "DENY"
    answer.headers["Referrer-Policy"] = "same-origin"
    answer.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    answer.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    answer.headers.setdefault("Cache-Control", "no-store")
    return answer


def html(content: Markup, status: int = 200) -> Response:
    """An HTML answer."""
    return Response(content, status, content_type="text/html; charset=utf-8")


def signed_in() -> Visitor:
    """Whoever was let in."""
    found: Visitor = g.visitor
    return found


def here() -> str:
    """The path and query of the request."""
    query = request.query_string.decode("latin-1")
    return f"{request.path}?{query}" if query else request.path


def own_path(path: str | None) -> str:
    """Where to go after signing in: a page of the dashboard, whatever a link says."""
    if not path or not path.isprintable() or "\\" in path:
        return ROOT
    parts = urlsplit(path)
    is_own = not parts.scheme and not parts.netloc and (parts.path == ROOT or parts.path.startswith(f"{ROOT}/"))
    return path if is_own and not parts.path.startswith(f"{ROOT}/login") else ROOT
