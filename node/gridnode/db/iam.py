"""Logging in to Amazon RDS and Aurora by IAM: a token instead of a password, made anew for each connection.

A token is a presigned ``rds-db:connect`` request for one host, port and login. It is made on this machine from the AWS
credentials that are found there, is good for 15 minutes, and is looked at only while a connection is opened.
https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/UsingWithRDS.IAMDBAuth.html
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import psycopg2
from sqlalchemy import Engine, event

from gridnode.errors import GridNodeError

_DEFAULT_PORT = 5432
_TOKEN_SECONDS = 900
# Credentials that are not in memory yet come over the network.
_CREDENTIALS_SECONDS = 10.0
# The region is in the names of all databases of RDS: cluster.cluster-abc.eu-west-1.rds.amazonaws.com
_RDS_HOST = re.compile(r"\.([a-z0-9-]+)\.rds\.amazonaws\.com(\.cn)?$")
_WITHOUT_ENCRYPTION = ("disable", "allow", "prefer")


class IamUnavailable(GridNodeError):
    """Tokens can't be made here: something has to be installed or configured first."""


class IamTokens:
    """Makes tokens. AWS credentials are looked for as by all AWS programs: environment, profile, web identity, machine.

    Args:
        now: The clock.

    Raises:
        IamUnavailable: the extra ``aws`` is not installed.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        try:
            import awscrt.auth
        except ImportError:
            raise IamUnavailable(
                "GRIDNODE_DATABASE_IAM_AUTHENTICATION needs the AWS library, which is not installed: "
                "install gridnode with the extra 'aws' (pip install 'gridnode[aws]')"
            ) from None
        self._auth = awscrt.auth
        self._now = now
        self._lock = threading.Lock()
        self._provider: Any = None

    def token(self, host: str, port: int, user: str) -> str:
        """A token that is good for the next 15 minutes.

        Raises:
            IamUnavailable: no credentials were found, or the region can't be told.
        """
        from awscrt.exceptions import AwsCrtError
        from awscrt.http import HttpHeaders, HttpRequest

        region = _region_of(host)
        address = f"{host}:{port}"
        query = f"Action=connect&DBUser={quote(user, safe='')}"
        request = HttpRequest("GET", f"/?{query}", HttpHeaders([("host", address)]))
        config = self._auth.AwsSigningConfig(
            signature_type=self._auth.AwsSignatureType.HTTP_REQUEST_QUERY_PARAMS,
            credentials_provider=self._credentials(),
            region=region,
            service="rds-db",
            date=self._now(),
            expiration_in_seconds=_TOKEN_SECONDS,
        )
        try:
            signed = self._auth.aws_sign_request(request, config).result(_CREDENTIALS_SECONDS)
        except (AwsCrtError, TimeoutError) as error:
            reason = getattr(error, "message", "") or "no AWS credentials in time"
            raise IamUnavailable(f"no IAM token could be made for {user}@{address}: {reason}") from error
        return f"{address}{signed.path}"

    def _credentials(self) -> Any:
        # Only now: it has threads, which would not live through the fork of the worker processes.
        with self._lock:
            if self._provider is None:
                self._provider = self._auth.AwsCredentialsProvider.new_default_chain()
            return self._provider


def _region_of(host: str) -> str:
    found = _RDS_HOST.search(host)
    region = found[1] if found else os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        raise IamUnavailable(
            f"the AWS region of the database is neither in its host name {host!r} nor in AWS_REGION: "
            "use the endpoint's own name, or set AWS_REGION"
        )
    return region


def log_in_by_iam(engine: Engine, tokens: IamTokens) -> None:
    """Let an engine's new connections log in with a token, encrypted, whatever password its URL has.

    Raises:
        IamUnavailable: its URL names no host or no user.
    """
    given = engine.dialect.create_connect_args(engine.url)[1]
    host, user, port = given.get("host"), given.get("user"), int(given.get("port") or _DEFAULT_PORT)
    if not host or not user:
        raise IamUnavailable("GRIDNODE_DATABASE_IAM_AUTHENTICATION: GRIDNODE_DATABASE_URL has no host or no user")

    @event.listens_for(engine, "do_connect")
    def _use_token(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        try:
            parameters["password"] = tokens.token(host, port, user)
        except IamUnavailable as error:
            # Credentials come and go like the network: to whoever connects, the database can't be reached just now.
            raise psycopg2.OperationalError(error.message) from error
        if parameters.get("sslmode", "prefer") in _WITHOUT_ENCRYPTION:
            # A token is sent to the server as it is, and RDS takes none over a connection without encryption.
            parameters["sslmode"] = "require"
