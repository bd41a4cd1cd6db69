"""The Job that brings the node's schema to the revision of its image, before the Deployment gets that image.

A Job can't be changed. Its name tells what is migrated, so one that succeeded stays for good; one that did not is
replaced when its pods would be made otherwise now (:func:`must_be_replaced`): other pull secrets, more memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from gridnode_operator.api import TEMPLATE_HASH_ANNOTATION, GridNode
from gridnode_operator.desired.context import DesiredContext
from gridnode_operator.desired.environment import environment_variables
from gridnode_operator.desired.labels import Manifest, labels, metadata
from gridnode_operator.desired.names import child_names
from gridnode_operator.desired.pods import container, image, pod_spec

_RETRIES: Final = 3
_DEADLINE_SECONDS: Final = 1800
_DATABASE_WAIT_SECONDS: Final = 60
_GRACE_SECONDS: Final = 30
_ENVIRONMENT: Final = ("GRIDNODE_DATABASE_URL", "GRIDNODE_DATABASE_IAM_AUTHENTICATION", "GRIDNODE_LOG_FORMAT")


def migration_job_name(gridnode: GridNode, context: DesiredContext) -> str:
    """Name of the Job that must have succeeded before the Deployment is touched."""
    return child_names(gridnode.name).migration_job(context.schema_revision, _inputs(gridnode, context))


def build_migration_job(gridnode: GridNode, context: DesiredContext) -> Manifest:
    """``gridnode migrate`` in the image of the node. To be created, never to be applied again; kept when it is done."""
    template = _pod_template(gridnode, context)
    name, annotations = migration_job_name(gridnode, context), {TEMPLATE_HASH_ANNOTATION: _hash(template)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(gridnode, name, component="migration", annotations=annotations),
        "spec": {"backoffLimit": _RETRIES, "activeDeadlineSeconds": _DEADLINE_SECONDS, "template": template},
    }


def must_be_replaced(live: Mapping[str, Any], desired: Mapping[str, Any]) -> bool:
    """Whether a live Job has to be deleted and made anew: it has not succeeded, and would be another one now."""
    return not has_succeeded(live) and _template_hash(live) != _template_hash(desired)


def has_succeeded(job: Mapping[str, Any]) -> bool:
    """Whether the schema is migrated."""
    return _has_condition(job, "Complete")


def has_failed(job: Mapping[str, Any]) -> bool:
    """Whether the Job has given up."""
    return _has_condition(job, "Failed")


def _has_condition(job: Mapping[str, Any], kind: str) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(each.get("type") == kind and each.get("status") == "True" for each in conditions)


def _template_hash(job: Mapping[str, Any]) -> str | None:
    annotations: Mapping[str, str] = job["metadata"].get("annotations") or {}
    return annotations.get(TEMPLATE_HASH_ANNOTATION)


def _hash(template: Manifest) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:32]


def _pod_template(gridnode: GridNode, context: DesiredContext) -> Manifest:
    given = gridnode.spec.pod_template
    return {
        "metadata": {
            "labels": {**given.labels, **labels(gridnode, "migration")},
            **({"annotations": given.annotations} if given.annotations else {}),
        },
        "spec": {
            **pod_spec(gridnode),
            **_affinity(gridnode),
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": _GRACE_SECONDS,
            "containers": [_container(gridnode, context)],
        },
    }


def _container(gridnode: GridNode, context: DesiredContext) -> Manifest:
    command = ["gridnode", "migrate", "--wait", str(_DATABASE_WAIT_SECONDS)]
    return {
        **container(gridnode, context, "migrate", command),
        "env": environment_variables(gridnode, context, *_ENVIRONMENT),
        # The last lines of the log, for the status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _affinity(gridnode: GridNode) -> Manifest:
    # Rules on being near other pods, or away from them, are about the node's pods.
    affinity = (gridnode.spec.pod_template.affinity or {}).get("nodeAffinity")
    return {"affinity": {"nodeAffinity": affinity}} if affinity else {}


def _inputs(gridnode: GridNode, context: DesiredContext) -> dict[str, Any]:
    url = urlsplit(context.secrets.database_url)
    return {
        "gridnode": gridnode.key,
        "image": image(gridnode, context),
        # Not the login: a new password needs no migration.
        "database": [url.hostname, url.port, url.path, gridnode.spec.database.schema],
    }
