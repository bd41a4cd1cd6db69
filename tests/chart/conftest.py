"""Helm is built before the first test; the control plane is that of the operator's tests."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.chart import CHART, Installed, values_of
from tests.support.cluster import ControlPlane
from tests.support.control_plane.build import BinariesMissing, binaries
from tests.support.helm.build import MAJORS, HelmMissing, helm
from tests.support.shared_database import VERSIONS, SharedDatabase, SharedServer

CRDS = Path(__file__).parents[2] / "crds"
_numbers = itertools.count(1)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing before the first test, whose time limit is shorter than that takes."""
    if session.config.option.collectonly or not any("chart" in item.path.parts for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            for major in MAJORS:
                helm(major)
            binaries()
        except (HelmMissing, BinariesMissing) as error:
            print(f"\n{error}", file=sys.stderr)


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    try:
        for major in MAJORS:
            helm(major)
        binaries()
    except (HelmMissing, BinariesMissing) as error:
        # Where the tests decide whether a change is good, what can't be tested is not good.
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with GridNode's CRDs."""
    crds = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(CRDS.glob("*.yaml"))]
    with ControlPlane(tmp_path_factory.mktemp("control-plane"), crds=crds) as started:
        yield started


@pytest.fixture(scope="module")
def empty_control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane as a user finds it: without GridNode."""
    with ControlPlane(tmp_path_factory.mktemp("empty-control-plane")) as started:
        yield started


@pytest.fixture(scope="module")
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


@pytest.fixture(params=MAJORS)
def installed(
    request: pytest.FixtureRequest, empty_control_plane: ControlPlane, shared: SharedDatabase
) -> Iterator[Installed]:
    """The chart, for one namespace, with a database that a Secret names."""
    namespace = f"helm-{request.param}-{next(_numbers)}"
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": restricted}}
    empty_control_plane.expect("POST", "/api/v1/namespaces", body)
    secret = {"metadata": {"name": "aurora"}, "stringData": {"admin": shared.admin_url}}
    empty_control_plane.expect("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
    release = Installed(empty_control_plane, namespace, request.param)
    release.helm("install", str(CHART), values=values_of(namespace))
    yield release
    release.helm("uninstall", "--ignore-not-found")
