"""A process gets what a pod gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gridnode.settings import load_settings
from gridnode_operator.api import SecretKey
from gridnode_operator.desired import NodeSecrets
from gridnode_operator.desired.environment import environment_variables
from gridnode_operator.desired.secret import build_database_secret, build_management_secret
from gridnode_operator.local.environment import (
    MissingSecret,
    local_context,
    node_variables,
    process_environment,
    template_of,
    with_secrets,
)
from gridnode_operator.local.replica import listen_addresses
from gridnode_operator.local.secret_files import SecretFiles, write_private
from tests.support.gridnode_manifests import DATABASE_URL, EVERYTHING, gridnode

CONTEXT = with_secrets(
    local_context("http://127.0.0.1:5001"),
    NodeSecrets(database_url=DATABASE_URL, management_token="a-token-of-sixteen-or-more"),
)


@pytest.fixture
def files(tmp_path: Path) -> SecretFiles:
    """With the Secrets of the GridNode apps/demo."""
    found = SecretFiles(tmp_path)
    for build in (build_database_secret, build_management_secret):
        manifest = build(gridnode(), CONTEXT)
        assert manifest is not None
        found.apply("apps", manifest)
    return found


def test_process_has_every_variable_of_the_pod(files: SecretFiles) -> None:
    spec = {**EVERYTHING, "podTemplate": {"env": [{"name": "A", "value": "b"}]}}
    one = gridnode({key: spec[key] for key in spec if key not in ("managementTokenSecretRef", "master")})

    variables = node_variables(one, CONTEXT, files)

    assert variables.keys() == {each["name"] for each in environment_variables(one, CONTEXT)}
    assert variables["GRIDNODE_DATABASE_URL"].startswith("postgresql://gn_login_a:opensesame@")
    assert variables["GRIDNODE_MANAGEMENT_TOKEN"] == "a-token-of-sixteen-or-more"
    assert variables["A"] == "b"


def test_node_accepts_it_all_and_listens_on_loopback(files: SecretFiles) -> None:
    variables = node_variables(gridnode(), CONTEXT, files)

    settings = load_settings({**variables, **listen_addresses(8001, 8002)})

    assert (settings.host, settings.device_port) == ("127.0.0.1", 8001)
    assert (settings.management_host, settings.management_port) == ("127.0.0.1", 8002)
    assert (settings.node_id, settings.master_url) == ("apps/demo", "http://127.0.0.1:5001")
    assert settings.warnings == ()


def test_settings_of_another_node_do_not_reach_it() -> None:
    environ = {"PATH": "/bin", "GRIDNODE_DATABASE_URL": "postgresql://other", "GRIDNODE_LOG_LEVEL": "debug"}

    assert process_environment({"GRIDNODE_NODE_ID": "a"}, environ) == {"PATH": "/bin", "GRIDNODE_NODE_ID": "a"}


def test_replicas_of_other_variables_are_of_another_template() -> None:
    assert template_of({"a": "1", "b": "2"}) == template_of({"b": "2", "a": "1"}) != template_of({"a": "1", "b": "3"})


def reading(name: str, **reference: Any) -> dict[str, Any]:
    source = {"secretKeyRef": {"name": name, "key": "value", **reference}}
    return {"podTemplate": {"env": [{"name": "A", "valueFrom": source}]}}


def test_secret_of_a_person_is_read_from_its_file(files: SecretFiles) -> None:
    one = gridnode(reading("mine"))
    path = files.path("apps", SecretKey("mine", "value"))
    with pytest.raises(MissingSecret, match=rf"A is read from the key value of the Secret mine\. .*{path}"):
        node_variables(one, CONTEXT, files)

    write_private(path, "opensesame\n")

    assert node_variables(one, CONTEXT, files)["A"] == "opensesame"


def test_optional_secret_may_be_missing(files: SecretFiles) -> None:
    assert "A" not in node_variables(gridnode(reading("mine", optional=True)), CONTEXT, files)


@pytest.mark.parametrize("name", ["..", ".", "../apps", "a/b"])
def test_reference_does_not_lead_out_of_the_directory(files: SecretFiles, name: str) -> None:
    write_private(files.path("apps", SecretKey("..", "value")), "somebody else's")

    with pytest.raises(MissingSecret):
        node_variables(gridnode(reading(name)), CONTEXT, files)


def test_what_is_of_a_pod_is_left_out(files: SecretFiles) -> None:
    field = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}

    assert "POD_IP" not in node_variables(gridnode({"podTemplate": {"env": [field]}}), CONTEXT, files)
