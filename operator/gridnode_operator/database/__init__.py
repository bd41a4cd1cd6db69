"""Schemas and login roles on the shared PostgreSQL server: one of each per GridNode, and nothing in common.

Each node's schema belongs to an owner role that can't log in. Its login roles, of which there are two while a password
is being changed, become the owner at the start of each session (``ALTER ROLE … SET role``), so that whatever either
creates belongs to the owner. See :class:`AdminDatabase`.
"""

from __future__ import annotations

from gridnode_operator.database.admin import AdminDatabase
from gridnode_operator.database.budget import Budget, connection_demand
from gridnode_operator.database.errors import DatabaseError, DatabaseRefused, DatabaseUnavailable
from gridnode_operator.database.session import Timeouts
from gridnode_operator.database.tenant import Credentials, Ensured, Login, Tenant

__all__ = [
    "AdminDatabase",
    "Budget",
    "Credentials",
    "DatabaseError",
    "DatabaseRefused",
    "DatabaseUnavailable",
    "Ensured",
    "Login",
    "Tenant",
    "Timeouts",
    "connection_demand",
]
