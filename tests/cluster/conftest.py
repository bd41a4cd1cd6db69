"""A control plane for the session and a namespace for each test; see :mod:`tests.support.cluster`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiClient

from tests.support.cluster import ControlPlane
from tests.support.control_plane.build import BinariesMissing, binaries
from tests.support.control_plane.namespaces import create_namespace, delete_namespace
from tests.support.shared_database import VERSIONS, SharedDatabase, SharedServer

CRDS = Path(__file__).parent.parent.parent / "crds"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing before the first test, whose time limit is shorter than that takes."""
    if session.config.option.collectonly or not any(item.get_closest_marker("cluster") for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            binaries()
        except BinariesMissing as error:
            print(f"\n{error}", file=sys.stderr)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The control plane that all tests share, with GridNode's CRDs; leave it as you would like to find it."""
    crds: list[dict[str, Any]] = [yaml.safe_load(path.read_text()) for path in sorted(CRDS.glob("*.yaml"))]
    try:
        with ControlPlane(tmp_path_factory.mktemp("control-plane"), crds=crds) as started:
            yield started
    except BinariesMissing as error:
        # Where the tests decide whether a change is good, what can't be tested is not good.
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture
def cluster_client(control_plane: ControlPlane) -> Iterator[ApiClient]:
    """The admin's client."""
    with ApiClient(control_plane.admin_configuration()) as client:
        yield client


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """The name of a fresh namespace, which is deleted after the test."""
    name = create_namespace(control_plane)
    yield name
    delete_namespace(control_plane, name)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    """A PostgreSQL whose logins need passwords."""
    server = SharedServer(tmp_path_factory.mktemp("shared-server"), VERSIONS[0])
    server.start()
    yield server
    server.stop()


@pytest.fixture
def shared(shared_server: SharedServer) -> Iterator[SharedDatabase]:
    """A fresh database with an administrator who is no superuser."""
    with shared_server.database() as database:
        yield database
