"""The OpenAPI document describes the node: whatever it allows or forbids to send, answers are the documented ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CheckFunction
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.ledger import counters
from tests.support.node import TOKEN, Management, NodeProcess
from tests.support.postgres import PostgresForTests
from tests.support.recordings import load_model

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

EXAMPLES = 25
# Seconds that all examples of one operation may take.
BOUND = 60.0
CHECKS: list[CheckFunction] = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

PREFIX = "/model-centric/"
DEVICE = {
    ("post", PREFIX + "authenticate"),
    ("post", PREFIX + "cycle-request"),
    ("get", PREFIX + "get-model"),
    ("get", PREFIX + "get-plan"),
    ("get", PREFIX + "get-protocol"),
    ("post", PREFIX + "report"),
    ("get", PREFIX + "speed-test"),
    ("post", PREFIX + "speed-test"),
}
MANAGEMENT = {
    ("post", PREFIX + "host-training"),
    ("get", PREFIX + "retrieve-model"),
    ("get", "/processes"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("get", "/openapi.json"),
}
METHODS = {"get", "post", "put", "delete", "patch"}


@pytest.fixture(scope="module")
def described(
    postgres: PostgresForTests, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[NodeProcess, str, dict[str, Any]]]:
    """A node with one hosted process, its database, and its OpenAPI document."""
    directory = tmp_path_factory.mktemp("openapi")
    with (
        postgres.database() as url,
        NodeProcess(url, directory, speed_test_bytes=1000, request_rate_per_address=0) as node,
    ):
        node.management.host(load_model("tiny").named("described"))
        yield node, url, node.management.request("GET", "/openapi.json").json()


def operations_of(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method, path) for path, item in document["paths"].items() for method in item if method in METHODS}


def test_document_lists_every_endpoint(described: tuple[NodeProcess, str, dict[str, Any]]) -> None:
    operations = operations_of(described[2])
    assert operations >= DEVICE | MANAGEMENT
    process_actions = {path.rpartition("/")[2] for method, path in operations if path.startswith("/processes/{")}
    assert {"pause", "resume", "finish"} <= process_actions
    assert any(method == "delete" for method, path in operations if path.startswith("/processes/{"))


def test_document_needs_no_token_and_the_endpoints_do(described: tuple[NodeProcess, str, dict[str, Any]]) -> None:
    node, _, document = described
    stranger = Management(node.management_port, None)
    for method, path in operations_of(document) - DEVICE:
        answer = stranger.request(method.upper(), path.replace("{process_id}", "1"))
        open_to_all = path in ("/healthz", "/readyz", "/openapi.json")
        assert answer.status == (200 if open_to_all else 401), f"{method} {path}: {answer.status}"


def test_every_operation_documents_its_errors(described: tuple[NodeProcess, str, dict[str, Any]]) -> None:
    _, _, document = described
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method not in METHODS or path in ("/healthz", "/openapi.json"):
                continue
            codes = {code for code in operation["responses"] if code[0] in "45d"}
            assert codes, f"{method} {path} documents no error"
            for code in codes:
                schema = error_schema(document, operation["responses"][code])
                jsonschema.validate({"error": "what and why"}, schema)
                with pytest.raises(jsonschema.ValidationError):
                    jsonschema.validate({"reason": "another key"}, schema)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
@pytest.mark.parametrize("listener", ["device", "management"])
def test_answers_are_as_documented(
    described: tuple[NodeProcess, str, dict[str, Any]],
    listener: str,
    mode: schemathesis.GenerationMode,
    subtests: pytest.Subtests,
) -> None:
    node, url, document = described
    port = node.device_port if listener == "device" else node.management_port
    headers = {} if listener == "device" else {"Authorization": f"Bearer {TOKEN}"}
    before = counters(url)
    unforeseen = node.unforeseen_errors()
    schema = schemathesis.openapi.from_dict(document)
    tested = 0
    for found in schema.get_all_operations():
        if not isinstance(found, Ok):
            pytest.fail(f"an operation can't be read: {found.err()}")
        operation = found.ok()
        if mode.is_negative and not takes_anything(operation):
            continue
        if ((operation.method.lower(), operation.path) in DEVICE) != (listener == "device"):
            continue
        with subtests.test(operation.label):
            tested += 1
            try_operation(operation, mode, f"http://127.0.0.1:{port}", headers)
    assert tested >= (len(DEVICE) if listener == "device" else 6)
    if listener == "device":
        assert counters(url) == before
    assert node.unforeseen_errors() == unforeseen


def takes_anything(operation: schemathesis.APIOperation[Any, Any, Any, Any]) -> bool:
    """Whether there is a parameter or a body that could be wrong."""
    return any(True for _ in operation.iter_parameters()) or len(list(operation.body)) > 0


def try_operation(
    operation: schemathesis.APIOperation[Any, Any, Any, Any],
    mode: schemathesis.GenerationMode,
    url: str,
    headers: dict[str, str],
) -> None:
    """Send what the document allows (or, in the negative mode, forbids), and compare the answers with it."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case[Any]) -> None:
        response = case.call(base_url=url, headers=headers, timeout=30)
        case.validate_response(response, checks=CHECKS)

    started = time.monotonic()
    send()
    assert time.monotonic() - started < BOUND


def error_schema(document: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    """The schema of an error's body with its references resolvable."""
    while "$ref" in response:
        response = resolved(document, response["$ref"])
    schema: dict[str, Any] = response["content"]["application/json"]["schema"]
    while "$ref" in schema:
        schema = resolved(document, schema["$ref"])
    return {**schema, "components": document.get("components", {})}


def resolved(document: dict[str, Any], reference: str) -> dict[str, Any]:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    result: dict[str, Any] = found
    return result
