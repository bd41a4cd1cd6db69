"""Nodes for the black-box tests: the real ``gridnode serve`` on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.device import HttpDevice, authenticate, model_query
from tests.support.ledger import counters
from tests.support.node import NodeProcess
from tests.support.postgres import PostgresForTests
from tests.support.target import Target, running_target


@pytest.fixture(scope="session")
def node(postgres: PostgresForTests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node that many tests share: each hosts processes of its own names."""
    with postgres.database() as url, NodeProcess(url, tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture
def fresh_node(database_url: str, tmp_path: Path) -> Iterator[NodeProcess]:
    """A node of one test."""
    with NodeProcess(database_url, tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def legacy_node(postgres: PostgresForTests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node that lets notebooks of 2020 host through the device port."""
    directory = tmp_path_factory.mktemp("legacy-node")
    with postgres.database() as url, NodeProcess(url, directory, arguments=["--legacy-hosting"]) as running:
        yield running


@pytest.fixture(scope="module")
def module_target(postgres: PostgresForTests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """What the tests of bad input in one module are run against."""
    with postgres.database() as url, running_target(url, tmp_path_factory.mktemp("target")) as target:
        yield target


@pytest.fixture
def target(module_target: Target) -> Iterator[Target]:
    """The target, whose counters must not change, and which must serve a phone as before when the test is over."""
    before = counters(module_target.database_url)
    yield module_target
    assert counters(module_target.database_url) == before
    with closing(HttpDevice(module_target.node.device_port)) as device:
        authenticate(device, module_target.hosting.name)
        assert device.get("get-model", model_query(module_target.session)).status == 200


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of the logs of a failed test's nodes."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for name, value in item.funcargs.items():
            node = value.node if isinstance(value, Target) else value
            if isinstance(node, NodeProcess):
                report.sections.append((f"log of {name}", node.log_tail()))
    return report
