"""The GridNode that is made for a dataset: a manifest from a template of the platform team's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from gridnode.declared_settings import InvalidSetting
from gridnode_operator.api import API_VERSION, KIND, InvalidSpec, parse_spec
from gridnode_operator.master.nodes.provider import NodeRequest

#: On every GridNode that a master node made: it removes no others.
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "gridnode-master"
DATASET_ANNOTATION: Final = "gridnode.io/dataset"
OWNER_ANNOTATION: Final = "gridnode.io/owner"
_NAME: Final = "{name}"


class NodeTemplate:
    """Specs of new GridNodes.

    Args:
        path: YAML file with a GridNode's spec; ``{name}`` in its texts stands for the GridNode's name, so that each can
            have a host of its own. None is an empty spec.

    Raises:
        InvalidSetting: it is no spec.
    """

    def __init__(self, path: Path | None) -> None:
        self._spec: Any = {}
        if path is None:
            return
        try:
            self._spec = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            parse_spec(_filled(self._spec, "name"))
        except OSError as error:
            raise InvalidSetting(f"the node template {path} can't be read: {error.strerror}.") from None
        except (yaml.YAMLError, ValueError, InvalidSpec, AttributeError, TypeError) as error:
            raise InvalidSetting(f"the node template {path} is no GridNode spec: {error}.") from None

    def manifest(self, request: NodeRequest, namespace: str) -> dict[str, Any]:
        """The whole GridNode."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {
                "name": request.name,
                "namespace": namespace,
                "labels": {MANAGED_BY_LABEL: MANAGED_BY},
                "annotations": {DATASET_ANNOTATION: request.dataset, OWNER_ANNOTATION: request.owner},
            },
            "spec": _filled(self._spec, request.name),
        }


def _filled(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: _filled(entry, name) for key, entry in value.items()}
    if isinstance(value, list):
        return [_filled(entry, name) for entry in value]
    return value.replace(_NAME, name) if isinstance(value, str) else value
