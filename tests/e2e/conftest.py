"""A cluster with GridNode's images, for all tests of this folder.

Without options it is one of this machine's, which needs root. With ``--kubeconfig`` it is any:

    pytest tests/e2e --kubeconfig ~/.kube/config --load-image 'kind load image-archive {archive}'
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.control_plane.build import CONTROL_PLANE, BinariesMissing, binaries
from tests.support.helm.build import HelmMissing, helm
from tests.support.real_cluster.cluster import RealCluster
from tests.support.real_cluster.images import POSTGRES, ImageFailed, Images
from tests.support.real_cluster.node import missing_commands
from tests.support.real_cluster.programs import PACKAGES, program
from tests.support.real_cluster.release import GridNodeUnderTest, Release
from tests.support.real_cluster.target import Target, by_command

TAG = "e2e"


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, default, what in (
        ("--kubeconfig", None, "a cluster for end-to-end tests, instead of one of this machine's"),
        ("--load-image", None, "command that gives {archive} or {image} to that cluster's nodes"),
        ("--tag", None, "GridNode's images have been built with this tag, and are not built again"),
        ("--service-type", "NodePort", "how that cluster's Services are opened to the outside"),
        ("--transcript", None, "file for what a user would have seen on a terminal"),
    ):
        parser.addoption(name, default=default, help=what)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing before the first test, whose time limit is shorter than that takes."""
    if session.config.option.collectonly or not any("e2e" in item.path.parts for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            if not what_is_missing(session.config):
                build(session.config, Images())
        except (HelmMissing, BinariesMissing, ImageFailed) as error:
            print(f"\n{error}", file=sys.stderr)


@pytest.fixture(scope="session")
def images(request: pytest.FixtureRequest) -> Images:
    """Where images come from."""
    if lacking := what_is_missing(request.config):
        missing(f"End-to-end tests need {', '.join(lacking)}: see `make e2e`.")
    try:
        build(request.config, Images())
    except (HelmMissing, BinariesMissing) as error:
        missing(str(error))
    return Images()


@pytest.fixture(scope="session")
def target(
    request: pytest.FixtureRequest, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """The cluster, with all images that the tests use."""
    options = request.config
    built = build(options, images)
    given = options.getoption("--kubeconfig", default=None)
    if given is None:
        with RealCluster(tmp_path_factory.mktemp("cluster"), images) as cluster:
            found = Target(cluster.kubeconfig, cluster.load_image, own=cluster)
            load(found, built)
            yield found
        return
    command = options.getoption("--load-image")
    assert command is not None, "--kubeconfig needs --load-image, such as 'kind load image-archive {archive}'"
    found = Target(Path(given).expanduser(), by_command(command, images), options.getoption("--service-type"))
    load(found, built)
    yield found


@pytest.fixture(scope="module")
def release(request: pytest.FixtureRequest, target: Target) -> Iterator[Release]:
    """The chart, not yet installed; afterwards everything is taken away."""
    made = Release(target, values(request.config.getoption("--tag", default=None) or TAG))
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def keyboard(release: Release) -> GridNodeUnderTest:
    """A GridNode of two pods, and the release that looks after it."""
    release.install()
    release.wait()
    spec = {"replicas": 2, "drainTimeoutSeconds": 10, "networkPolicy": {"enabled": True}}
    gridnode = GridNodeUnderTest(release, "keyboard", "team-a", spec)
    gridnode.apply()
    gridnode.wait()
    return gridnode


@pytest.fixture(scope="session")
def transcript(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """What a user would have seen; written to ``--transcript`` in the end."""
    lines: list[str] = []
    yield lines
    path = request.config.getoption("--transcript", default=None)
    if path is not None:
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def values(tag: str) -> dict[str, object]:
    """The chart's values: small, and with the images of the tests."""
    return {
        "images": {"operator": {"tag": tag}, "node": {"tag": tag}},
        "database": {"embedded": {"enabled": True, "image": POSTGRES, "size": "1Gi"}},
        "master": {"storage": {"size": "1Gi"}},
    }


def what_is_missing(config: pytest.Config) -> list[str]:
    """What this machine lacks for the tests."""
    needs_root = config.getoption("--kubeconfig", default=None) is None and os.geteuid() != 0
    return [*(["root"] if needs_root else []), *missing_commands()]


def build(config: pytest.Config, images: Images) -> list[str]:
    """Build all that is not there yet; gives the names of the images that a cluster is to have."""
    helm()
    binaries((*CONTROL_PLANE, "kubelet", "kube-proxy"))
    for name in PACKAGES:
        program(name)
    tag = config.getoption("--tag", default=None)
    gridnode = images.of_tag(tag) if tag else images.gridnode(TAG)
    return [*gridnode, images.postgres(), images.prometheus()]


def load(target: Target, built: list[str]) -> None:
    """Give images to the cluster."""
    for image in built:
        target.load_image(image)


def missing(what: str) -> None:
    """Say what there is not: a failure where tests decide whether a change is good, else a reason to skip."""
    if os.environ.get("CI") == "true":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)
