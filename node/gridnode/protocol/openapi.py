"""The OpenAPI document of both listeners, as the management listener serves it."""

from __future__ import annotations

from typing import Any

from gridnode import __version__

Document = dict[str, Any]

_JSON = "application/json"
_BINARY = "application/octet-stream"
_LARGEST_ID = 2**63 - 1


def openapi_document() -> Document:
    """OpenAPI 3.1 of every HTTP endpoint; tags tell which listener an endpoint is on."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "GridNode",
            "version": __version__,
            "summary": "Federated learning server for phones.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [
            {"name": "device", "description": "The device listener: what phones reach. Any origin may call it."},
            {"name": "management", "description": "The management listener: inside the cluster only, with a token."},
        ],
        "paths": {**_device_paths(), **_hosting_paths(), **_process_paths(), **_health_paths()},
        "components": {
            "securitySchemes": {"managementToken": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
            "responses": _error_responses(),
        },
    }


def _device_paths() -> Document:
    return {
        "/model-centric/authenticate": {
            "post": _device(
                "Get a worker id for a process.",
                _answer("The worker id.", "Authenticated"),
                "400",
                "401",
                body="AuthenticateRequest",
            )
        },
        "/model-centric/cycle-request": {
            "post": _device(
                "Ask for a place in the running cycle.",
                _answer("Accepted or rejected.", "CycleAnswer"),
                "400",
                body="CycleRequest",
            )
        },
        "/model-centric/report": {
            "post": _device(
                "Report a diff. Answered once it is durable; repeating it counts once.",
                _answer("Counted.", "Success"),
                "400",
                "401",
                "409",
                body="ReportRequest",
            )
        },
        "/model-centric/get-model": _download("Download the checkpoint of the worker's cycle.", "model_id"),
        "/model-centric/get-plan": _download(
            "Download a training plan.",
            "plan_id",
            _query("receive_operations_as", {"type": "string"}, "list (default), torchscript or tfjs", required=False),
        ),
        "/model-centric/get-protocol": _download("Download a protocol.", "protocol_id"),
        "/model-centric/speed-test": _speed_test(),
    }


def _hosting_paths() -> Document:
    upload = {_JSON: {"schema": _ref("HostRequest")}, "multipart/form-data": {"schema": _ref("HostForm")}}
    return {
        "/model-centric/host-training": {
            "post": _management(
                "Host a process. Everything is checked first; all of it is stored, or nothing.",
                _answer("Hosted.", "Hosted"),
                "400",
                "409",
                content=upload,
            )
        },
        "/model-centric/retrieve-model": {
            "get": _management(
                "Download a checkpoint.",
                _binary_answer("The State; its number is in the header x-checkpoint."),
                "400",
                "404",
                parameters=[
                    _query("name", {"type": "string", "minLength": 1}, "client_config.name"),
                    _query(
                        "version", {"type": "string"}, "client_config.version; the newest if absent", required=False
                    ),
                    _query("checkpoint", {"type": "string"}, "a number, or latest (default)", required=False),
                ],
            )
        },
    }


def _process_paths() -> Document:
    process_id = {
        "name": "process_id",
        "in": "path",
        "required": True,
        "schema": {"type": "integer", "minimum": 1, "maximum": _LARGEST_ID},
    }
    status = _answer("The process.", "Process")
    listing = _management(
        "List processes with state and progress, in the order in which they were hosted.",
        _answer("One page.", "ProcessList"),
        "400",
        parameters=[
            _query("name", {"type": "string"}, "only processes of this name", required=False),
            _query("version", {"type": "string"}, "only processes of this version", required=False),
            _query(
                "after", {"type": "integer", "minimum": 0}, "id of the last process of the page before", required=False
            ),
            _query("limit", {"type": "integer", "minimum": 0, "maximum": 1000}, "entries at most", required=False),
        ],
    )
    force = _query("force", {"type": "boolean"}, "delete it although devices have reported", required=False)
    moves = {
        "pause": ("Accept no more devices.", status),
        "resume": ("Go on with a paused process, or try a failed averaging again.", status),
        "finish": ("Finish before the last cycle.", _answer("What becomes of the running cycle.", "Finishing")),
    }
    paths: Document = {"/processes": {"get": listing}}
    for move, (summary, answer) in moves.items():
        paths[f"/processes/{{process_id}}/{move}"] = {
            "post": _management(summary, answer, "404", "409", parameters=[process_id])
        }
    paths["/processes/{process_id}"] = {
        "delete": _management(
            "Delete a process with its checkpoints.",
            _answer("Deleted.", "Success"),
            "404",
            "409",
            parameters=[process_id, force],
        )
    }
    return paths


def _health_paths() -> Document:
    metrics = {"200": {"description": "Prometheus text format.", "content": {"text/plain": {}}}}
    return {
        "/healthz": {"get": _open("The process is alive; the database is not asked.", _answer("Alive.", "Success"))},
        "/readyz": {"get": _open("Devices can be served.", _answer("Ready.", "Success"), "503")},
        "/openapi.json": {"get": _open("This document.", {"200": {"description": "OpenAPI.", "content": {_JSON: {}}}})},
        "/metrics": {"get": _management("Metrics of all worker processes of this pod.", metrics)},
    }


def _download(summary: str, id_name: str, *more: Document) -> Document:
    parameters = [
        _query("worker_id", {"type": "string"}, "as authenticate gave it"),
        _query("request_key", {"type": "string"}, "as cycle-request gave it"),
        _query(id_name, {"type": "integer", "minimum": 0, "maximum": _LARGEST_ID}, "as cycle-request gave it"),
        *more,
    ]
    return {"get": _device(summary, _binary_answer("The message."), "400", "401", parameters=parameters)}


def _speed_test() -> Document:
    parameters = [
        _query("worker_id", {"type": "string", "minLength": 1, "maxLength": 64}, "as authenticate gave it"),
        _query("random", {"type": "string", "minLength": 1}, "anything that defeats caches"),
    ]
    ping = _query("is_ping", {"type": "string"}, "only measure the round trip", required=False)
    sample = {"200": {"description": "64 MiB, or {} for a ping.", "content": {"multipart/form-data": {}, _JSON: {}}}}
    upload = _device("Measure the upload.", _answer("Received.", "Empty"), "400", parameters=parameters)
    upload["requestBody"] = {"required": False, "content": {_BINARY: {}}}
    return {
        "get": _device("Measure ping or download.", sample, "400", parameters=[*parameters, ping]),
        "post": upload,
    }


def _device(
    summary: str, answer: Document, *errors: str, body: str | None = None, parameters: list[Document] | None = None
) -> Document:
    content = None if body is None else {_JSON: {"schema": _ref(body)}}
    return _operation("device", summary, answer, (*errors, "413", "429", "503"), content, parameters)


def _management(
    summary: str,
    answer: Document,
    *errors: str,
    content: Document | None = None,
    parameters: list[Document] | None = None,
) -> Document:
    operation = _operation("management", summary, answer, (*errors, "401", "413", "503"), content, parameters)
    return operation | {"security": [{"managementToken": []}]}


def _open(summary: str, answer: Document, *errors: str) -> Document:
    return _operation("management", summary, answer, errors, None, None)


def _operation(
    tag: str,
    summary: str,
    answer: Document,
    errors: tuple[str, ...],
    content: Document | None,
    parameters: list[Document] | None,
) -> Document:
    responses = answer | {code: {"$ref": f"#/components/responses/{code}"} for code in sorted(set(errors))}
    operation: Document = {"tags": [tag], "summary": summary, "responses": responses}
    if content is not None:
        operation["requestBody"] = {"required": True, "content": content}
    if parameters:
        operation["parameters"] = parameters
    return operation


def _answer(description: str, schema: str) -> Document:
    return {"200": {"description": description, "content": {_JSON: {"schema": _ref(schema)}}}}


def _binary_answer(description: str) -> Document:
    return {"200": {"description": description, "content": {_BINARY: {}}}}


def _query(name: str, schema: Document, description: str, *, required: bool = True) -> Document:
    return {"name": name, "in": "query", "required": required, "schema": schema, "description": description}


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


def _error_responses() -> Document:
    meanings = {
        "400": "The request is wrong in itself.",
        "401": "Not authenticated, or no such process.",
        "404": "There is none.",
        "409": "It contradicts the present state.",
        "413": "The body is too large.",
        "429": "Too many requests; Retry-After says when to come back.",
        "503": "The database is away or the node is busy; Retry-After says when to come back.",
    }
    content = {_JSON: {"schema": _ref("Error")}}
    return {code: {"description": meaning, "content": content} for code, meaning in meanings.items()}


def _object(required: Document, optional: Document | None = None, *, closed: bool = False) -> Document:
    schema: Document = {"type": "object", "properties": required | (optional or {}), "required": list(required)}
    if closed:
        schema["additionalProperties"] = False
    return schema


def _schemas() -> Document:
    text = {"type": "string", "maxLength": 1024}
    optional_number = {"type": ["number", "null"]}
    optional_text = {"type": ["string", "null"], "maxLength": 1024}
    ids = {"type": "object", "additionalProperties": {"type": "integer"}}
    base64 = {"type": "string", "contentEncoding": "base64"}
    blobs = {"type": "object", "additionalProperties": base64}
    any_object = {"type": "object"}
    speed = {"type": ["number", "null"], "minimum": -1}
    success = {"status": {"type": "string"}}
    configs = {"client_config": any_object, "server_config": any_object}
    return {
        "Error": _object({"error": {"type": "string"}}),
        "Success": _object(success),
        "Empty": {"type": "object", "maxProperties": 0},
        "AuthenticateRequest": _object({"model_name": text}, {"model_version": optional_text, "auth_token": {}}),
        "Authenticated": _object(
            success | {"worker_id": {"type": "string", "format": "uuid"}, "requires_speed_test": {"type": "boolean"}},
            closed=True,
        ),
        "CycleRequest": _object(
            {"worker_id": text, "model": text},
            {"version": optional_text, "ping": speed, "download": speed, "upload": speed},
        ),
        "CycleAnswer": {"oneOf": [_ref("Accepted"), _ref("Rejected")]},
        "Accepted": _object(
            {
                "status": {"const": "accepted"},
                "request_key": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                "version": {"type": "string"},
                "model": {"type": "string"},
                "plans": ids,
                "protocols": ids,
                "client_config": any_object,
                "model_id": {"type": "integer"},
            },
            closed=True,
        ),
        "Rejected": _object(
            {"status": {"const": "rejected"}},
            {"timeout": {"type": "integer", "minimum": 0}, "error": {"type": "string"}},
            closed=True,
        ),
        "ReportRequest": _object(
            {"worker_id": text, "request_key": text, "diff": base64},
            {
                "num_samples": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1e9},
                "loss": optional_number,
                "accuracy": optional_number,
            },
        ),
        "HostRequest": _object(
            configs | {"model": base64, "plans": blobs}, {"protocols": blobs, "averaging_plan": base64}, closed=True
        ),
        "HostForm": _object(configs | {"model": {"type": "string", "format": "binary"}}),
        "Hosted": _object(
            success | {"process_id": {"type": "integer"}, "name": {"type": "string"}, "version": {"type": "string"}}
        ),
        "Finishing": _object({"averaging": {"type": "boolean"}, "dropped_reports": {"type": "integer"}}),
        "ProcessList": _object({"processes": {"type": "array", "items": _ref("Process")}}),
        "Process": _process_schema(),
        "Cycle": _cycle_schema(),
    }


def _process_schema() -> Document:
    integer, text, moment = {"type": "integer"}, {"type": "string"}, {"type": "string", "format": "date-time"}
    return _object(
        {
            "id": integer,
            "name": text,
            "version": text,
            "state": {"enum": ["active", "paused", "failed", "finished"]},
            "failure": {"type": ["string", "null"]},
            "completed_cycles": integer,
            "num_cycles": integer,
            "progress": {"type": ["integer", "null"], "minimum": 0, "maximum": 100},
            "latest_checkpoint": integer,
            "created_at": moment,
            "finished_at": {"type": ["string", "null"], "format": "date-time"},
            "refused_events": integer,
            "cycle": {"oneOf": [_ref("Cycle"), {"type": "null"}]},
            "client_config": {"type": "object"},
            "server_config": {"type": "object"},
        }
    )


def _cycle_schema() -> Document:
    integer, moment = {"type": "integer"}, {"type": "string", "format": "date-time"}
    return _object(
        {
            "number": integer,
            "state": {"enum": ["open", "averaging"]},
            "started_at": moment,
            "deadline": {"type": ["string", "null"], "format": "date-time"},
            "accepted": integer,
            "working": integer,
            "reports": integer,
            "min_diffs": integer,
            "max_diffs": {"type": ["integer", "null"]},
            "starved": {"type": "boolean"},
        }
    )
