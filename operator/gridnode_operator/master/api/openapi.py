"""The description of ``/api/v1``, made from the table of its operations and the types that they answer with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

import msgspec

from gridnode import __version__
from gridnode_operator.master.api.bodies import NewDataset, NewKey, NewModel
from gridnode_operator.master.datasets.service import DatasetView
from gridnode_operator.master.devices.losses import CycleLoss
from gridnode_operator.master.finished.service import FinishedView
from gridnode_operator.master.keys.access import RULES
from gridnode_operator.master.keys.service import KeyView
from gridnode_operator.master.models.history import CycleView, EventView
from gridnode_operator.master.models.queries import ModelDetail, ModelView
from gridnode_operator.master.nodes.queries import NodeView
from gridnode_operator.master.overview.service import Overview


@dataclass(frozen=True, slots=True)
class Problem:
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class ProgressView:
    """How far a model is."""

    id: int
    node_id: str
    name: str
    version: str
    state: str
    percent: int
    completed_cycles: int
    num_cycles: int | None
    revision: int


@dataclass(frozen=True, slots=True)
class CallerView:
    """Whom the key belongs to."""

    scope: str
    owner: str | None
    node_id: str | None


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """A node, and reports counted in each of the last sixty minutes."""

    node: NodeView
    reports: list[tuple[datetime, int]]


@dataclass(frozen=True, slots=True)
class KeyAnswer:
    """A new key: the only time it is shown."""

    key: str
    view: KeyView


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation.

    Attributes:
        endpoint: Flask's name of it, by which :data:`RULES` says who may.
        answer: Type of the answer; ``page`` makes it a page of them. A text is a content type.
        query: Parameters of the query by name.
        also: Another status with the same answer.
    """

    endpoint: str
    method: str
    path: str
    summary: str
    answer: Any = None
    page: bool = False
    status: int = 200
    body: Any = None
    query: tuple[str, ...] = ()
    also: int | None = None


_PARAMETERS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "after": ({"type": "integer", "minimum": 0}, "Where the page begins: 'next' of the page before."),
    "limit": ({"type": "integer", "minimum": 0, "maximum": 1000, "default": 100}, "Entries at most."),
    "state": ({"type": "string"}, "Only what is in this state."),
    "name": ({"type": "string"}, "Only what has this name."),
    "node": ({"type": "integer", "minimum": 0}, "Only what is of the node with this id."),
    "model": ({"type": "integer", "minimum": 0}, "Only what is of the model with this id."),
    "dataset": ({"type": "integer", "minimum": 0}, "Only what is of the dataset with this id."),
    "newest": ({"type": "boolean"}, "The last entries instead of the first."),
}
_PAGE: Final = ("after", "limit")

OPERATIONS: Final = (
    Operation(endpoint="v1_openapi", method="get", path="/openapi.json", summary="This description.", answer=dict),
    Operation(
        endpoint="v1_whoami", method="get", path="/whoami", summary="Whom the key belongs to.", answer=CallerView
    ),
    Operation(
        endpoint="v1_overview", method="get", path="/overview", summary="The environment at a glance.", answer=Overview
    ),
    Operation(
        endpoint="v1_progress", method="get", path="/progress", summary="How far each model is.",
        answer=ProgressView, page=True, query=_PAGE,
    ),
    Operation(
        endpoint="v1_events", method="get", path="/events", summary="Progress events, the newest first.",
        answer=EventView, page=True, query=(*_PAGE, "node", "model"),
    ),
    Operation(
        endpoint="v1_stream", method="get", path="/stream",
        summary="Server-sent events: 'progress' with the models and nodes that have changed, 'reset' when something "
        "was left out and everything should be read anew.",
        answer="text/event-stream", query=("model", "node"),
    ),
    Operation(
        endpoint="v1_nodes", method="get", path="/nodes", summary="Nodes.", answer=NodeView, page=True, query=_PAGE
    ),
    Operation(endpoint="v1_node", method="get", path="/nodes/{node}", summary="A node.", answer=NodeAnswer),
    Operation(
        endpoint="v1_models", method="get", path="/models", summary="Models, deleted ones only if asked for.",
        answer=ModelView, page=True, query=(*_PAGE, "state", "name", "node", "dataset"),
    ),
    Operation(
        endpoint="v1_model", method="get", path="/models/{model}", summary="A model with its configuration.",
        answer=ModelDetail,
    ),
    Operation(
        endpoint="v1_model_cycles", method="get", path="/models/{model}/cycles", summary="Cycles of a model.",
        answer=CycleView, page=True, query=(*_PAGE, "newest"),
    ),
    Operation(
        endpoint="v1_model_losses", method="get", path="/models/{model}/losses",
        summary="What devices themselves said of each cycle.", answer=CycleLoss, page=True, query=_PAGE,
    ),
    Operation(
        endpoint="v1_checkpoint", method="get", path="/models/{model}/checkpoints/{checkpoint}",
        summary="A checkpoint, from the model's node: an encoded State.", answer="application/octet-stream",
    ),
    Operation(
        endpoint="v1_datasets", method="get", path="/datasets", summary="Datasets.", answer=DatasetView, page=True,
        query=_PAGE,
    ),
    Operation(
        endpoint="v1_create_dataset", method="post", path="/datasets",
        summary="Make a dataset; 200 instead of 201 if it is there already.", body=NewDataset, answer=DatasetView,
        status=201, also=200,
    ),
    Operation(
        endpoint="v1_dataset", method="get", path="/datasets/{dataset}", summary="A dataset.", answer=DatasetView
    ),
    Operation(
        endpoint="v1_delete_dataset", method="delete", path="/datasets/{dataset}",
        summary="Delete a dataset and its node.", status=204,
    ),
    Operation(
        endpoint="v1_register_model", method="put", path="/datasets/{dataset}/models/{name}",
        summary="Announce a model for a dataset.", body=NewModel, answer=DatasetView,
    ),
    Operation(
        endpoint="v1_keys", method="get", path="/keys", summary="Keys, without the keys themselves.", answer=KeyView,
        page=True, query=_PAGE,
    ),
    Operation(
        endpoint="v1_create_key", method="post", path="/keys", summary="Make a key.", body=NewKey, answer=KeyAnswer,
        status=201,
    ),
    Operation(
        endpoint="v1_revoke_key", method="delete", path="/keys/{key}", summary="Revoke a key.", answer=KeyView
    ),
    Operation(
        endpoint="v1_finished_models", method="get", path="/finished-models", summary="Finished models.",
        answer=FinishedView, page=True, query=(*_PAGE, "state"),
    ),
    Operation(
        endpoint="v1_finished_model", method="get", path="/finished-models/{model}", summary="A finished model.",
        answer=FinishedView,
    ),
    Operation(
        endpoint="v1_finished_content", method="get", path="/finished-models/{model}/content",
        summary="The final checkpoint: an encoded State.", answer="application/octet-stream",
    ),
    Operation(
        endpoint="v1_retry_finished", method="post", path="/finished-models/{model}/retry",
        summary="Fetch a final checkpoint that is not stored yet at once.", answer=FinishedView, status=202,
    ),
)  # fmt: skip


@cache
def openapi_document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    types = [each.answer for each in OPERATIONS if isinstance(each.answer, type) and each.answer is not dict]
    bodies = [each.body for each in OPERATIONS if each.body is not None]
    unique = list(dict.fromkeys([*types, *bodies, Problem]))
    schemas, components = msgspec.json.schema_components(unique, ref_template="#/components/schemas/{name}")
    by_type = dict(zip(unique, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(f"/api/v1{operation.path}", {})[operation.method] = _operation(operation, by_type)
    return {
        "openapi": "3.1.0",
        "info": {"title": "GridNode master node", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    rule = RULES[operation.endpoint]
    described: dict[str, Any] = {
        "operationId": operation.endpoint.removeprefix("v1_"),
        "summary": operation.summary,
        "security": [] if rule.public else [{"key": []}],
        "parameters": [*_path_parameters(operation.path), *(_query_parameter(name) for name in operation.query)],
        "responses": {
            **{str(each): _answer(operation, schemas) for each in (operation.status, operation.also) if each},
            "default": {"description": "Why not.", "content": {_PROBLEM: {"schema": schemas[Problem]}}},
        },
    }
    if not rule.public:
        described["description"] = f"For keys of scope {', '.join(sorted(rule.scopes))}."
    if operation.body is not None:
        content = {"application/json": {"schema": schemas[operation.body]}}
        described["requestBody"] = {"required": True, "content": content}
    return described


_PROBLEM: Final = "application/problem+json"


def _answer(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    if operation.answer is None:
        return {"description": "Done."}
    if isinstance(operation.answer, str):
        return {"description": operation.summary, "content": {operation.answer: {"schema": {"type": "string"}}}}
    schema = schemas.get(operation.answer, {"type": "object"})
    if operation.page:
        schema = {
            "type": "object",
            "properties": {
                "items": {"type": "array", "items": schema},
                "next": {"type": ["integer", "null"], "description": "'after' of the next page; null: no more."},
            },
            "required": ["items", "next"],
        }
    return {"description": operation.summary, "content": {"application/json": {"schema": schema}}}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string"} if name in ("name", "checkpoint") else {"type": "integer", "minimum": 0},
        }
        for name in re.findall(r"{(\w+)}", path)
    ]


def _query_parameter(name: str) -> dict[str, Any]:
    schema, description = _PARAMETERS[name]
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}
