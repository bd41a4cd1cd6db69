"""An OpenID provider as the dashboard knows one, whose answers a test may spoil."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

CLIENT_ID = "gridnode-dashboard"
CLIENT_SECRET = "secret-of-the-client-0123456789-abcdef"


class OpenIdProviderForTests:
    """Discovery, keys, tokens and user information, on a port of its own.

    Attributes:
        person: Claims of whoever signs in.
        userinfo: Claims that only the userinfo endpoint tells.
        spoil: Changes the claims of a token before it is signed.
        sign: Signs claims; by default with the provider's RSA key.
        requests: Forms that came to the token endpoint.
    """

    def __init__(self) -> None:
        self.person: dict[str, Any] = {"sub": "1", "email": "ann@example.org", "email_verified": True}
        self.userinfo: dict[str, Any] = {}
        self.spoil: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
        self.sign: Callable[[dict[str, Any]], str] = self.sign_with_rsa
        self.requests: list[dict[str, str]] = []
        self.key = RSAKey.generate_key(2048, {"kid": "one"})
        self._codes: dict[str, dict[str, str]] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider._answer(self, provider._get(urlsplit(self.path).path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body).items()}
                provider._answer(self, provider._token(form, self.headers.get("Authorization", "")))

            def log_message(self, *_: object) -> None:
                """Nothing to the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def settings(self, port: int, **more: str) -> dict[str, str]:
        """Settings of a master node that trusts this provider."""
        return {
            "oidc_issuer": self.issuer,
            "oidc_client_id": CLIENT_ID,
            "oidc_client_secret": CLIENT_SECRET,
            "public_url": f"http://127.0.0.1:{port}",
            "oidc_emails": "ann@example.org",
            **more,
        }

    def authorize(self, url: str) -> str:
        """What the provider does when somebody comes and signs in: gives the query with which they go back."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        code = f"code-{len(self._codes)}"
        self._codes[code] = asked
        return urlencode({"code": code, "state": asked["state"], "iss": self.issuer})

    def sign_with_rsa(self, claims: Mapping[str, Any]) -> str:
        """As it should be."""
        return jwt.encode({"alg": "RS256", "kid": "one"}, dict(claims), self.key, algorithms=["RS256"])

    def sign_with_secret(self, claims: Mapping[str, Any]) -> str:
        """With what the client knows, too."""
        key = OctKey.import_key(CLIENT_SECRET)
        return jwt.encode({"alg": "HS256"}, dict(claims), key, algorithms=["HS256"])

    def sign_not(self, claims: Mapping[str, Any]) -> str:
        """Not at all: algorithm none."""
        parts = [json.dumps({"alg": "none", "typ": "JWT"}), json.dumps(dict(claims))]
        encoded = [base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts]
        return f"{encoded[0]}.{encoded[1]}."

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _get(self, path: str) -> dict[str, Any] | None:
        if path == "/.well-known/openid-configuration":
            return {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "userinfo_endpoint": f"{self.issuer}/userinfo",
            }
        if path == "/keys":
            return {"keys": [self.key.as_dict(private=False)]}
        return {"sub": self.person["sub"], **self.userinfo} if path == "/userinfo" else None

    def _token(self, form: dict[str, str], authorization: str) -> dict[str, Any] | None:
        self.requests.append(form)
        asked = self._codes.pop(form.get("code", ""), None)
        shown = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        if asked is None or authorization != f"Basic {shown}" or asked["redirect_uri"] != form["redirect_uri"]:
            return None
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != asked["code_challenge"]:
            return None
        now = int(time.time())
        claims = {
            "iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"], **self.person,
        }  # fmt: skip
        return {"access_token": "at", "token_type": "Bearer", "id_token": self.sign(self.spoil(claims))}

    def _answer(self, handler: BaseHTTPRequestHandler, value: dict[str, Any] | None) -> None:
        body = json.dumps({"error": "invalid_grant"} if value is None else value).encode()
        handler.send_response(400 if value is None else 200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
