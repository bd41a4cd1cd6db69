"""Fixtures for tests in a real browser: Chromium, a master node with a scene, and a visitor who is signed in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

from gridnode_operator.master.db.session import make_database
from gridnode_operator.master.settings import DEFAULT_SCHEMA
from tests.support.chromium import axe_source, chromium
from tests.support.dashboard_scene import fill
from tests.support.master_process import ADMIN, MasterProcess
from tests.support.postgres import PostgresForTests

#: Where screenshots are kept for people to look at.
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium for a module: while it runs, nothing else in this thread may wait for a database."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe."""
    return axe_source()


@pytest.fixture(scope="module")
def scene(postgres: PostgresForTests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MasterProcess]:
    """A master node with everything to be seen, in which nothing moves."""
    still = {"observe_interval": "86400", "fetch_interval": "86400"}
    with (
        postgres.database(migrated=False) as url,
        MasterProcess(url, tmp_path_factory.mktemp("scene"), **still) as running,
    ):
        database = make_database(url, schema=DEFAULT_SCHEMA, pool_size=2, connect_timeout=5, deadline=10)
        # In a thread of its own: Playwright has an event loop in this one, on which nothing may wait.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(fill, database).result()
        database.close()
        yield running


@pytest.fixture
def open_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Makes browsers of visitors; what a page complains of fails the test."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        # What is refused is told of in the console, whatever the page makes of it.
        is_refusal = "/stream" in str(message.location) or re.search(r"status of 401|net::ERR_CONN", message.text)
        if message.type in ("error", "warning") and not is_refusal:
            complaints.append(f"{message.text} at {message.location}")

    def watch(page: Page) -> None:
        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(str(error)))

    def make(**values: Any) -> BrowserContext:
        given = {"locale": "en-GB", "timezone_id": "Europe/Paris", "viewport": {"width": 1440, "height": 900}, **values}
        context = browser.new_context(**given)
        context.set_default_timeout(15_000)
        context.on("page", watch)
        contexts.append(context)
        return context

    yield make
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def sign_in(open_context: Callable[..., BrowserContext]) -> OpenPage:
    """Opens the dashboard as an administrator."""

    def make(master: MasterProcess, **values: Any) -> Page:
        page = open_context(base_url=master.url, **values).new_page()
        page.goto("/dashboard")
        page.get_by_label("Key").fill(ADMIN)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/dashboard")
        return page

    return make
