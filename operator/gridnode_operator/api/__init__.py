"""GridNode, the custom resource: its spec and status, and reading one."""

from __future__ import annotations

from gridnode_operator.api.names import (
    ADOPT_ANNOTATION,
    API_VERSION,
    APPLIED_ANNOTATION,
    DATABASE_ADMIN_LABEL,
    FINALIZER,
    GROUP,
    KIND,
    MANAGED_VARIABLES,
    PLURAL,
    ROTATE_ANNOTATION,
    ROTATION_ANNOTATION,
    SCRATCH_VOLUME,
    SECRETS_HASH_ANNOTATION,
    SHORT_NAME,
    SINGULAR,
    TEMPLATE_HASH_ANNOTATION,
    VERSION,
)
from gridnode_operator.api.resource import GridNode, InvalidSpec, parse, parse_spec
from gridnode_operator.api.spec import GridNodeSpec, ParentRef, RouteExposure, SecretKey
from gridnode_operator.api.status import (
    Condition,
    ConditionStatus,
    DatabaseStatus,
    Display,
    GridNodeStatus,
    ModelsStatus,
)

__all__ = [
    "ADOPT_ANNOTATION",
    "API_VERSION",
    "APPLIED_ANNOTATION",
    "DATABASE_ADMIN_LABEL",
    "FINALIZER",
    "GROUP",
    "KIND",
    "MANAGED_VARIABLES",
    "PLURAL",
    "ROTATE_ANNOTATION",
    "ROTATION_ANNOTATION",
    "SCRATCH_VOLUME",
    "SECRETS_HASH_ANNOTATION",
    "SHORT_NAME",
    "SINGULAR",
    "TEMPLATE_HASH_ANNOTATION",
    "VERSION",
    "Condition",
    "ConditionStatus",
    "DatabaseStatus",
    "Display",
    "GridNode",
    "GridNodeSpec",
    "GridNodeStatus",
    "InvalidSpec",
    "ModelsStatus",
    "ParentRef",
    "RouteExposure",
    "SecretKey",
    "parse",
    "parse_spec",
]
