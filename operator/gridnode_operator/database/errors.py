"""Why the database server could not be asked, or said no."""

from __future__ import annotations

from typing import Final

import psycopg2

_LONGEST_MESSAGE: Final = 500

# SQLSTATE classes and codes after which the same call may succeed later: connection exceptions, insufficient
# resources, operator intervention, object in use, rollbacks, lock timeouts, and read-only, which Aurora answers for a
# second after a failover. XX000 is how PostgreSQL says that two sessions changed one catalog row; the duplicates are
# two sessions that created the same thing.
_TRANSIENT_CLASSES: Final = ("08", "40", "53", "57")
_TRANSIENT_CODES: Final = ("25006", "55006", "55P03", "XX000", "23505", "42710", "42P06")

# PostgreSQL gives no SQLSTATE for a login that failed. A server that speaks another language is called unavailable.
_REFUSED_LOGINS: Final = (
    "authentication failed",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects",
    "does not exist",
    "is not permitted to log in",
    "permission denied for database",
    "no password supplied",
)


class DatabaseError(Exception):
    """Base of both; the message is for people and holds no secret.

    Attributes:
        reason: One word for a condition, such as ``SchemaTaken``.
        message: What, where, and what to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class DatabaseUnavailable(DatabaseError):
    """The server does not answer, or is busy with the same thing: the same call may succeed later."""

    def __init__(self, message: str) -> None:
        super().__init__("DatabaseUnavailable", message)


class DatabaseRefused(DatabaseError):
    """Repeating the call can't help until a person has changed something."""


def is_wrong_password(error: psycopg2.Error) -> bool:
    """Whether a login failed because of its password."""
    return "password authentication failed" in str(error)


def error_of_connecting(error: psycopg2.Error, place: str) -> DatabaseError:
    """What a failed login means; libpq does not always say where it was tried."""
    message = f"The database at {place} refuses the administrator's login or does not answer: {_one_line(str(error))}"
    if any(sign in str(error) for sign in _REFUSED_LOGINS) and "could not translate" not in str(error):
        return DatabaseRefused("LoginRefused", message)
    return DatabaseUnavailable(message)


def error_of_statement(error: psycopg2.Error) -> DatabaseError:
    """What a failed statement means. Only the server's own sentences are passed on, never the statement."""
    code = error.pgcode
    if code is None:
        return DatabaseUnavailable(f"The connection to the database was lost: {_one_line(str(error))}")
    parts = (error.diag.message_primary, error.diag.message_detail, error.diag.message_hint)
    sentences = _one_line(". ".join(part.rstrip(".") for part in parts if part) or type(error).__name__)
    if code.startswith(_TRANSIENT_CLASSES) or code in _TRANSIENT_CODES:
        return DatabaseUnavailable(f"The database can't do it now: {sentences}.")
    if code == "42501":
        return DatabaseRefused("NotPermitted", f"The database administrator's login may not do it: {sentences}.")
    return DatabaseRefused("DatabaseRefused", f"The database says no: {sentences}.")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}…"
