"""The dashboard as a browser without scripts uses it: pages, forms, and a jar of cookies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import requests

ROOT = "/dashboard"


class DashboardClient:
    """One visitor's browser.

    Args:
        port: Of a master node on this machine.
    """

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.session = requests.Session()

    def get(self, path: str = "", **headers: str) -> requests.Response:
        """A page, below the dashboard's own path; redirects are not followed."""
        return self.session.get(self.base + ROOT + path, headers=headers, allow_redirects=False, timeout=30)

    def page(self, path: str = "") -> str:
        """The HTML of a page that must be shown."""
        answer = self.get(path)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:500]}"
        return answer.text

    def post(self, path: str, data: Mapping[str, Any] | None = None, *, token: str | None = None) -> requests.Response:
        """Send a form as the page at ``/keys``, or the one to sign in with, would; ``token`` is another form token."""
        if token is None:
            token = self.form_token()
        form = {"form_token": token, **(data or {})}
        return self.session.post(self.base + ROOT + path, data=form, allow_redirects=False, timeout=30)

    def form_token(self) -> str:
        """The token of this visitor's forms."""
        found = re.search(
            r'name="form_token" value="(\w+)"', self.session.get(f"{self.base}{ROOT}/keys", timeout=30).text
        )
        assert found is not None
        return found.group(1)

    def sign_in(self, key: str, wanted: str = ROOT) -> requests.Response:
        """Show a key."""
        return self.post("/login", {"key": key, "next": wanted})

    def signed_in(self, key: str) -> DashboardClient:
        """The same after a key was shown, which must be good."""
        answer = self.sign_in(key)
        assert answer.status_code == 303, answer.text
        return self

    @property
    def session_cookie(self) -> str | None:
        """The secret of the session."""
        return self.session.cookies.get("gridnode_session")

    def is_signed_in(self) -> bool:
        """Whether pages are shown."""
        return self.get("/keys").status_code == 200
