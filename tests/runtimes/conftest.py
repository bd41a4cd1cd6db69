"""The runtimes of phones. Tests here need PyTorch too: without it they are not collected."""

from __future__ import annotations

import importlib.util

import pytest

from tests.support.sdk.runtimes import VERSIONS, Runtime, runtime

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*.py"]


@pytest.fixture(scope="session", params=VERSIONS)
def phone(request: pytest.FixtureRequest) -> Runtime:
    """LibTorch as one of the phone libraries links it."""
    return runtime(request.param)
