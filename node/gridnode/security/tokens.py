"""Tokens of phones: what ``server_config.authentication`` may say, and whether a token satisfies it.

The rules are those of PyGrid's model-centric node, which apps of 2020 rely on:

1. Without ``authentication`` every request is let in, whatever token it carries.
2. ``secret`` and ``pub_key`` are alternatives. The token must be a JWT that one of them verifies; ``secret`` is tried
   first, and ``pub_key`` only if that fails.
3. ``endpoint`` comes on top: where it is set it is asked as well, after rule 2 has passed, and must answer 200. Where
   it is the only one, the token need not be a JWT.

Each key is bound to its own family of algorithms, so a token can't choose how it is checked. ``exp`` and ``nbf`` are
checked to the second, but not required. A token with a non-empty ``aud`` is refused, as it always was: no audience can
be configured, so it is meant for somebody else. Other claims are not looked at.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import HMACAlgorithm

from gridnode.errors import InvalidRequest

AskEndpoint = Callable[[str, dict[str, str]], int]
"""Posts a JSON body to a URL and gives the status of the answer; raises ``Unavailable`` where there is none."""

MAXIMUM_TOKEN_LENGTH: Final = 16_384
MINIMUM_RSA_BITS: Final = 2048

_FIELD: Final = "server_config.authentication"
_KEYS: Final = ("type", "secret", "pub_key", "endpoint")
_MAXIMUM_LENGTHS: Final = {"type": 16, "secret": 4096, "pub_key": 16_384, "endpoint": 2048}
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*\.?")

_HMAC_ALGORITHMS: Final = ["HS256", "HS384", "HS512"]
_RSA_ALGORITHMS: Final = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
# An issuer's clock may be ahead of ours, and issuers write numbers into 'sub' and 'jti'. Nothing here uses them.
_CLAIMS_NOT_CHECKED: Final[jwt.types.Options] = {"verify_iat": False, "verify_sub": False, "verify_jti": False}
# HMAC pads keys with zeros to the hash's block (RFC 2104), so this changes no MAC. It keeps PyJWT from a warning for
# each token that is checked with a short secret, which apps of 2020 have.
_HMAC_BLOCK: Final = 64

# The words that clients of 2020 were shown; the transcripts have them.
_REQUIRED: Final = "Authentication is required, please pass an 'auth_token'."
_INVALID: Final = "The 'auth_token' you sent is invalid."
_NOT_CONFIRMED: Final = "The 'auth_token' you sent did not pass 3rd party validation."

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Authentication:
    """How the phones of a process prove who they are; at least one of the three is set."""

    # Not in the repr, and so in no log line: also an endpoint's query may hold a key.
    secret: str | None = field(default=None, repr=False)
    pub_key: RSAPublicKey | None = field(default=None, repr=False)
    endpoint: str | None = field(default=None, repr=False)


def parse_authentication(config: object) -> Authentication | None:
    """Check ``server_config.authentication`` and read it.

    Args:
        config: the value as it came; None and ``{}`` mean that no authentication is wanted.

    Returns:
        None where every phone is let in.

    Raises:
        InvalidRequest: something in it can't be honoured. The message names the field and never its value.
    """
    if config is None or config == {}:
        return None
    if not isinstance(config, dict):
        raise InvalidRequest(f"{_FIELD} must be an object with {_listed(_KEYS)}, or left out.")
    if unknown := [key for key in config if key not in _KEYS]:
        raise InvalidRequest(f"{_FIELD} has an unknown key {str(unknown[0])[:64]!r}. Known are {_listed(_KEYS)}.")

    values = {key: _text(key, config.get(key)) for key in _KEYS}
    if values["type"] not in (None, "jwt"):
        raise InvalidRequest(f"{_FIELD}.type must be 'jwt' or left out.")
    secret, pub_key, endpoint = values["secret"], values["pub_key"], values["endpoint"]
    if secret is None and pub_key is None and endpoint is None:
        raise InvalidRequest(
            f"{_FIELD} has none of {_listed(_KEYS[1:])}, so it would let everybody in. Set one, or leave it out."
        )
    return Authentication(
        secret=None if secret is None else _checked_secret(secret),
        pub_key=None if pub_key is None else _rsa_public_key(pub_key),
        endpoint=None if endpoint is None else _checked_endpoint(endpoint),
    )


def verify_token(authentication: Authentication | None, auth_token: object, ask_endpoint: AskEndpoint) -> None:
    """Let a phone pass that shows this token.

    Args:
        authentication: of the process that the phone wants to join; None lets everybody in.
        auth_token: the value as the phone sent it, None where it sent none.
        ask_endpoint: called at most once, and only with a token that passed ``secret`` or ``pub_key``, if set.

    Raises:
        InvalidRequest: the token is missing, invalid, or refused by the endpoint.
        Unavailable: the endpoint gave no answer.
    """
    if authentication is None:
        return
    token = _checked_token(auth_token)
    if (authentication.secret is not None or authentication.pub_key is not None) and not _is_verified(
        authentication, token
    ):
        raise InvalidRequest(_INVALID)
    if authentication.endpoint is not None:
        status = ask_endpoint(authentication.endpoint, {"auth_token": token})
        if status != 200:
            _log.info("auth_token refused: its endpoint answered %d", status)
            raise InvalidRequest(_NOT_CONFIRMED)


def _checked_token(auth_token: object) -> str:
    if auth_token is None:
        raise InvalidRequest(_REQUIRED)
    if not isinstance(auth_token, str):
        raise InvalidRequest("auth_token must be a string.")
    if len(auth_token) > MAXIMUM_TOKEN_LENGTH:
        raise InvalidRequest(f"auth_token is longer than {MAXIMUM_TOKEN_LENGTH} characters.")
    if not auth_token.strip():
        raise InvalidRequest(_REQUIRED)
    return auth_token


def _is_verified(authentication: Authentication, token: str) -> bool:
    secret, pub_key = authentication.secret, authentication.pub_key
    if secret is not None and _decodes(token, secret.encode().ljust(_HMAC_BLOCK, b"\0"), _HMAC_ALGORITHMS, "secret"):
        return True
    return pub_key is not None and _decodes(token, pub_key, _RSA_ALGORITHMS, "pub_key")


def _decodes(token: str, key: bytes | RSAPublicKey, algorithms: list[str], name: str) -> bool:
    try:
        jwt.decode(token, key, algorithms=algorithms, options=_CLAIMS_NOT_CHECKED)
    # A token is whatever a stranger sends: nested without end, numbers without bounds. Should its decoder raise
    # something else than its own errors, the token is no more verified for it, and the node has not failed.
    except Exception as error:
        _log.info("auth_token was not verified with %s (%s)", name, type(error).__name__)
        return False
    return True


def _text(key: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{_FIELD}.{key} must be a string that is not blank, or left out.")
    if len(value) > _MAXIMUM_LENGTHS[key]:
        raise InvalidRequest(f"{_FIELD}.{key} is longer than {_MAXIMUM_LENGTHS[key]} characters.")
    # PostgreSQL stores no NUL, and a lone surrogate has no bytes.
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidRequest(f"{_FIELD}.{key} must not hold NUL characters or lone surrogates.")
    return value


def _checked_secret(secret: str) -> str:
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise InvalidRequest(
            f"{_FIELD}.secret is a key or certificate and not a secret: whoever knows its public part could make "
            f"tokens. An RSA public key in PEM form belongs into {_FIELD}.pub_key."
        ) from None
    return secret


def _rsa_public_key(pem: str) -> RSAPublicKey:
    # Keys written as an indented literal in a notebook arrive with that indentation.
    lines = "\n".join(line.strip() for line in pem.strip().splitlines())
    if "PRIVATE KEY" in lines:
        raise InvalidRequest(
            f"{_FIELD}.pub_key holds a private key. Don't give it away: replace it, and host its public key "
            "(openssl rsa -in private.pem -pubout)."
        )
    try:
        key = load_pem_public_key(lines.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidRequest(
            f"{_FIELD}.pub_key is no RSA public key in PEM form ('-----BEGIN PUBLIC KEY-----' …). "
            "A certificate is not accepted; take its key out with openssl x509 -pubkey -noout."
        ) from None
    if not isinstance(key, RSAPublicKey):
        raise InvalidRequest(f"{_FIELD}.pub_key is a key of another kind; only RSA is supported.")
    if key.key_size < MINIMUM_RSA_BITS:
        raise InvalidRequest(
            f"{_FIELD}.pub_key has {key.key_size} bits, which is too weak: at least {MINIMUM_RSA_BITS} are needed."
        )
    return key


def _checked_endpoint(url: str) -> str:
    # Parsers of URLs disagree about control characters, white space and backslashes, so none of them is let through.
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise InvalidRequest(f"{_FIELD}.endpoint must be written in printable ASCII without spaces or backslashes.")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        usable = parts.scheme in ("http", "https") and parts.port != 0 and _is_host(host, "[" in parts.netloc)
    except ValueError:
        usable = False
    if not usable:
        raise InvalidRequest(f"{_FIELD}.endpoint must be an http or https URL with a host.")
    if "@" in parts.netloc:
        raise InvalidRequest(f"{_FIELD}.endpoint must not hold a user or password.")
    return url


def _is_host(host: str, in_brackets: bool) -> bool:
    if not in_brackets:
        return _HOST.fullmatch(host) is not None
    try:
        return "%" not in host and ipaddress.IPv6Address(host) is not None
    except ValueError:
        return False


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + " or " + names[-1]
