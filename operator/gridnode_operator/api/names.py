"""Names of the custom resource, and of what the operator writes on it and its children."""

from __future__ import annotations

from typing import Final

GROUP: Final = "gridnode.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "GridNode"
PLURAL: Final = "gridnodes"
SINGULAR: Final = "gridnode"
SHORT_NAME: Final = "gn"

#: Kept on the resource until its schema has been dropped or given up, by reclaimPolicy.
FINALIZER: Final = f"{GROUP}/database"
#: Its value, any text, asks for a new database password whenever it changes; same as spec.database.rotate.
ROTATE_ANNOTATION: Final = f"{GROUP}/rotate"
#: ``true``: take over the schema of a GridNode of the same name that was never properly deleted.
ADOPT_ANNOTATION: Final = f"{GROUP}/adopt"
#: On the Secret of the database: the wish for a new password that was fulfilled last, as a hash.
ROTATION_ANNOTATION: Final = f"{GROUP}/rotation"
#: On a Secret of the operator's namespace: GridNodes may name it in spec.database.adminSecretRef. Its value is "true".
DATABASE_ADMIN_LABEL: Final = f"{GROUP}/database-admin"
#: On the pods: changes when a Secret that they read does, so that they restart.
SECRETS_HASH_ANNOTATION: Final = f"{GROUP}/secrets-hash"
#: On every child but Jobs: a hash of what was applied last.
APPLIED_ANNOTATION: Final = f"{GROUP}/applied"
#: On the migration Job: what its pods are made from. One that failed is replaced when this would be another.
TEMPLATE_HASH_ANNOTATION: Final = f"{GROUP}/template-hash"

#: Variables of the node that the operator sets from the spec; podTemplate.env can't set them.
MANAGED_VARIABLES: Final = (
    "GRIDNODE_BODY_LIMIT",
    "GRIDNODE_CONNECTION_LIMIT",
    "GRIDNODE_CONNECTION_LIMIT_PER_ADDRESS",
    "GRIDNODE_DATABASE_IAM_AUTHENTICATION",
    "GRIDNODE_DATABASE_POOL_SIZE",
    "GRIDNODE_DATABASE_SCHEMA",
    "GRIDNODE_DATABASE_URL",
    "GRIDNODE_DATABASE_URL_FILE",
    "GRIDNODE_DEVICE_PORT",
    "GRIDNODE_DRAIN_TIMEOUT",
    "GRIDNODE_HOST",
    "GRIDNODE_LEGACY_HOSTING",
    "GRIDNODE_LOG_FORMAT",
    "GRIDNODE_MANAGEMENT_HOST",
    "GRIDNODE_MANAGEMENT_PORT",
    "GRIDNODE_MANAGEMENT_TOKEN",
    "GRIDNODE_MANAGEMENT_TOKEN_FILE",
    "GRIDNODE_MASTER_KEY",
    "GRIDNODE_MASTER_KEY_FILE",
    "GRIDNODE_MASTER_URL",
    "GRIDNODE_NODE_ID",
    "GRIDNODE_REQUEST_RATE_PER_ADDRESS",
    "GRIDNODE_TRUSTED_PROXIES",
    "GRIDNODE_WORKER_PROCESSES",
)
#: The operator's own volume in the pods.
SCRATCH_VOLUME: Final = "gridnode-tmp"
