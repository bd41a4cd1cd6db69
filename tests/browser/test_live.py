"""Pages that follow what happens: a real training seen to progress, and what becomes of them when something breaks."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page, expect

from tests.browser.conftest import SCREENSHOTS, OpenPage
from tests.support.device import HttpDevice, join_when_open, report
from tests.support.master_process import MasterProcess
from tests.support.node import TOKEN, NodeProcess
from tests.support.postgres import PostgresForTests
from tests.support.recordings import Hosting, load_model
from tests.support.syft_messages import zero_diff

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

REPORTS = 3
CYCLES = 4
NODE_KEY = "key-of-the-nodes-of-the-tests-0123456789"


@pytest.fixture
def master(empty_database_url: str, tmp_path: Path) -> Iterator[MasterProcess]:
    """A master node of this test's own."""
    with MasterProcess(empty_database_url, tmp_path) as running:
        yield running


def tell(master: MasterProcess, percent: int, name: str = "told", **values: object) -> None:
    """What a node posts."""
    event = {
        "percent_complete": percent, "model_id": name, "version": "1.0", "cycle": percent, "cycles": 100,
        "node_id": "apps/demo", "event_id": str(uuid.uuid4()), **values,
    }  # fmt: skip
    master.admin.post("/model_progress", event)


def mark(page: Page) -> None:
    """Leave a mark that no page has that was loaded later."""
    page.evaluate("window.mark = true")


def was_not_loaded_again(page: Page) -> bool:
    """Whether the mark is there still."""
    return bool(page.evaluate("window.mark === true"))


def train_one_report(port: int, model: Hosting, loss: float) -> None:
    """One phone."""
    with closing(HttpDevice(port)) as device:
        session = join_when_open(device, model.name)
        answer = report(device, session, zero_diff(model.model), loss=loss, accuracy=1 - loss / 2)
        assert answer == {"status": "success"}


def test_training_is_seen_to_progress(
    postgres: PostgresForTests, empty_database_url: str, tmp_path: Path, sign_in: OpenPage
) -> None:
    model = load_model("tiny").named("watched", num_cycles=CYCLES, min_diffs=REPORTS, max_diffs=REPORTS)
    with ExitStack() as stack:
        nodes_file = tmp_path / "nodes.yaml"
        master = MasterProcess(
            empty_database_url, tmp_path, provider="static", nodes_file=nodes_file, node_key=NODE_KEY
        )
        node = NodeProcess(
            stack.enter_context(postgres.database()), tmp_path, master_url=master.url, master_key=NODE_KEY
        )
        listed = {
            "node_id": f"node-{node.device_port}",
            "url": f"http://127.0.0.1:{node.device_port}",
            "management_url": f"http://127.0.0.1:{node.management_port}",
            "management_token_file": str(tmp_path / "token"),
        }
        (tmp_path / "token").write_text(TOKEN)
        nodes_file.write_text(yaml.safe_dump({"nodes": [listed]}))
        stack.enter_context(master)
        stack.enter_context(node)

        page = sign_in(master)
        mark(page)
        expect(page.locator(".live-text")).to_have_text("Live")
        expect(page.get_by_text("No model is in training")).to_be_visible()
        node.management.host(model)
        link = page.get_by_role("link", name="watched")
        expect(link).to_be_visible(timeout=20_000)
        assert was_not_loaded_again(page)

        link.click()
        expect(page.locator(".live-text")).to_have_text("Live")
        mark(page)
        bar = page.get_by_role("progressbar")
        expect(bar).to_have_attribute("aria-valuenow", "0")
        for cycle in range(1, CYCLES + 1):
            for number in range(REPORTS):
                train_one_report(node.device_port, model, loss=1.0 / cycle + number / 10)
                if number == 0:
                    counted = page.locator(".counts div", has_text="Reported").locator("dd")
                    expect(counted).to_contain_text("1 of", timeout=20_000)
            expect(bar).to_have_attribute("aria-valuenow", str(100 * cycle // CYCLES), timeout=20_000)
            expect(page.locator(f"[data-key=cycle-{cycle}]")).to_contain_text("Completed", timeout=20_000)
        expect(page.get_by_role("heading", level=1)).to_contain_text("Finished")
        final = page.get_by_role("link", name="Final checkpoint")
        expect(final).to_be_visible(timeout=20_000)
        assert was_not_loaded_again(page)
        assert page.locator(".line-a .chart-dot").count() == CYCLES
        page.screenshot(path=SCREENSHOTS / "trained-light-1440.png", full_page=True)
        with page.expect_download() as download:
            final.click()
        assert Path(download.value.path()).read_bytes() == node.management.checkpoint("watched")
        with page.expect_download() as download:
            page.locator("[data-key=cycle-1]").get_by_role("link").click()
        assert download.value.suggested_filename == "watched-1.0-2.state"


def test_what_the_viewer_does_is_left_alone(master: MasterProcess, sign_in: OpenPage) -> None:
    tell(master, 1)
    page = sign_in(master)
    page.goto("/dashboard/events")
    details = page.locator("details", has_text="Body").first
    details.locator("summary").click()
    mark(page)
    for percent in (2, 3):
        tell(master, percent)
    expect(page.locator("tbody tr")).to_have_count(3, timeout=15_000)
    assert was_not_loaded_again(page)
    # The newest are above it now, and it is open still, with the focus on it.
    rows = page.locator("tbody > tr")
    expect(rows.nth(2).locator("details")).to_have_attribute("open", "")
    expect(rows.nth(0).locator("details")).not_to_have_attribute("open", "")
    assert page.evaluate("document.activeElement.closest('tr') === document.querySelectorAll('tbody > tr')[2]")


def test_pause_holds_a_page_and_resume_brings_it_up_to_date(master: MasterProcess, sign_in: OpenPage) -> None:
    tell(master, 5)
    page = sign_in(master)
    bar = page.get_by_role("progressbar", name="told")
    expect(bar).to_have_attribute("aria-valuenow", "5")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".live-text")).to_have_text("Paused")
    tell(master, 6)
    page.wait_for_timeout(5000)
    expect(bar).to_have_attribute("aria-valuenow", "5")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".live-text")).to_have_text("Live")
    expect(bar).to_have_attribute("aria-valuenow", "6")


def test_page_says_that_the_connection_is_lost_and_comes_back(master: MasterProcess, sign_in: OpenPage) -> None:
    tell(master, 5)
    page = sign_in(master)
    expect(page.locator(".live-text")).to_have_text("Live")
    mark(page)
    master.kill()
    expect(page.locator(".live-text")).to_have_text("Connection lost")
    master.start()
    master.wait_until_ready()
    tell(master, 8)
    expect(page.locator(".live-text")).to_have_text("Live", timeout=30_000)
    expect(page.get_by_role("progressbar", name="told")).to_have_attribute("aria-valuenow", "8", timeout=20_000)
    assert was_not_loaded_again(page)


def test_page_says_that_the_session_has_ended(master: MasterProcess, sign_in: OpenPage) -> None:
    tell(master, 5)
    page = sign_in(master)
    expect(page.locator(".live-text")).to_have_text("Live")
    other = page.context.new_page()
    other.goto("/dashboard/keys")
    other.locator(".menu summary").click()
    other.get_by_role("button", name="Sign out").click()
    other.wait_for_url("**/login")
    tell(master, 6)
    expect(page.locator(".live-text")).to_have_text("Signed out", timeout=15_000)
    page.get_by_role("link", name="Sign in again").click()
    page.wait_for_url("**/login?next=%2Fdashboard")


def test_page_that_nobody_sees_holds_no_connection(master: MasterProcess, sign_in: OpenPage) -> None:
    tell(master, 5)
    page = sign_in(master)
    expect(page.locator(".live-text")).to_have_text("Live")
    streams: list[str] = []
    page.on("request", lambda request: streams.append(request.url) if request.url.endswith("/stream?") else None)

    def see(hidden: bool) -> None:
        page.evaluate(
            """hidden => {
                Object.defineProperty(document, "hidden", { get: () => hidden, configurable: true });
                document.dispatchEvent(new Event("visibilitychange"));
            }""",
            hidden,
        )

    see(hidden=True)
    page.wait_for_timeout(11_000)
    tell(master, 6)
    page.wait_for_timeout(5_000)
    expect(page.get_by_role("progressbar", name="told")).to_have_attribute("aria-valuenow", "5")
    assert streams == []
    see(hidden=False)
    expect(page.get_by_role("progressbar", name="told")).to_have_attribute("aria-valuenow", "6", timeout=15_000)
    assert len(streams) == 1
