"""Every page in Chromium: whole, without complaints, within the window, and for everybody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import SCREENSHOTS, OpenPage
from tests.support.chromium import violations
from tests.support.master_process import ADMIN, MasterProcess

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

PAGES = {
    "overview": "/dashboard",
    "models": "/dashboard/models",
    "model": "/dashboard/models/1",
    "model-late": "/dashboard/models/2",
    "model-failed": "/dashboard/models/5",
    "model-finished": "/dashboard/models/7",
    "nodes": "/dashboard/nodes",
    "node": "/dashboard/nodes/1",
    "node-not-ready": "/dashboard/nodes/3",
    "datasets": "/dashboard/datasets",
    "finished": "/dashboard/finished",
    "events": "/dashboard/events",
    "keys": "/dashboard/keys",
    "nothing-found": "/dashboard/models?contains=nothing",
}


def is_too_wide(page: Page) -> int:
    """Pixels by which a page is wider than its window."""
    wider: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wider


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_every_page(scene: MasterProcess, sign_in: OpenPage, axe: str, theme: str, width: int) -> None:
    page = sign_in(scene, viewport={"width": width, "height": 900}, color_scheme=theme)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[str]] = {}
    for name, path in PAGES.items():
        page.goto(path)
        page.wait_for_function("document.querySelector('time') === null || document.querySelector('time').title !== ''")
        assert is_too_wide(page) <= 0, f"{name} is wider than {width}"
        found[name] = violations(page, axe)
        page.screenshot(path=SCREENSHOTS / f"{name}-{theme}-{width}.png", full_page=True)
    assert {name: each for name, each in found.items() if each} == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_sign_in_page(
    scene: MasterProcess, open_context: Callable[..., BrowserContext], axe: str, theme: str, width: int
) -> None:
    context = open_context(base_url=scene.url, viewport={"width": width, "height": 900}, color_scheme=theme)
    page = context.new_page()
    page.goto("/dashboard/login")
    page.get_by_text("I have no key").click()
    assert violations(page, axe) == []
    assert is_too_wide(page) <= 0
    page.screenshot(path=SCREENSHOTS / f"login-{theme}-{width}.png")


def test_page_of_a_new_key(scene: MasterProcess, sign_in: OpenPage, axe: str) -> None:
    page = sign_in(scene)
    page.goto("/dashboard/keys")
    expect(page.get_by_label("Owner")).to_be_visible()
    expect(page.get_by_label("Only for this node")).to_be_hidden()
    page.get_by_label("What it is for").select_option("node")
    expect(page.get_by_label("Owner")).to_be_hidden()
    page.get_by_label("Only for this node").fill("apps/heart-rate")
    page.get_by_role("button", name="Make key").click()
    key = page.locator("#new-key").inner_text()
    assert scene.anonymous.with_key(key).get("/api/v1/whoami")["node_id"] == "apps/heart-rate"
    assert violations(page, axe) == []
    page.screenshot(path=SCREENSHOTS / "key-made-light-1440.png")
    row = page.locator("tr", has_text=key[:12])
    row.get_by_text("Revoke", exact=False).first.click()
    row.get_by_role("button", name="Revoke for good").click()
    expect(page.locator("tr", has_text=key[:12])).to_have_count(0)
    assert scene.anonymous.with_key(key).request("GET", "/api/v1/whoami").status == 401


def test_menus_and_details_are_for_everybody(scene: MasterProcess, sign_in: OpenPage, axe: str) -> None:
    page = sign_in(scene, viewport={"width": 390, "height": 844})
    page.locator(".menu summary").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    assert violations(page, axe) == []
    page.goto("/dashboard/events")
    page.get_by_text("Body").first.click()
    page.goto("/dashboard/nodes/1")
    page.get_by_text("Reports by minute as a table").click()
    assert violations(page, axe) == []


def test_way_by_keyboard(scene: MasterProcess, open_context: Callable[..., BrowserContext]) -> None:
    """From signing in to signing out without a mouse."""
    page = open_context(base_url=scene.url).new_page()
    page.goto("/dashboard")
    page.keyboard.type(ADMIN)  # the field has the focus
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard")

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="In training")).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"

    page.get_by_role("link", name="Models", exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/models")
    page.get_by_role("link", name="resting-heart-rate").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("resting-heart-rate")
    table = page.get_by_role("group", name="Cycles")
    table.focus()
    page.keyboard.press("PageDown")
    page.wait_for_function("document.querySelector('[aria-label=Cycles]').scrollTop > 0")

    menu = page.locator(".menu summary")
    menu.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Sign out")).to_be_hidden()
    expect(menu).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/login")


def test_colours_are_as_chosen(scene: MasterProcess, sign_in: OpenPage) -> None:
    page = sign_in(scene, color_scheme="light")

    def background() -> Any:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = background()
    switch = page.get_by_role("button", name="Colours: as the system")
    switch.click()
    expect(page.get_by_role("button", name="Colours: light")).to_be_visible()
    page.emulate_media(color_scheme="dark")
    assert background() == light
    page.get_by_role("button", name="Colours: light").click()
    dark = background()
    assert dark != light
    page.emulate_media(color_scheme="light")
    page.goto("/dashboard/models")
    assert background() == dark
    page.get_by_role("button", name="Colours: dark").click()
    assert background() == light


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/Caracas"])
def test_times_are_the_viewers(scene: MasterProcess, sign_in: OpenPage, zone: str) -> None:
    page = sign_in(scene, timezone_id=zone)
    shown, expected, server = page.evaluate(
        """() => {
            const time = document.querySelector("time[data-time=clock]");
            const moment = new Date(time.dateTime);
            const pad = (number) => String(number).padStart(2, "0");
            return [time.textContent, `${pad(moment.getHours())}:${pad(moment.getMinutes())}`,
                    `${pad(moment.getUTCHours())}:${pad(moment.getUTCMinutes())}`];
        }"""
    )
    assert shown == expected
    assert shown != server


def test_everything_is_there_without_scripts(scene: MasterProcess, sign_in: OpenPage) -> None:
    page = sign_in(scene, java_script_enabled=False)
    assert page.locator("noscript meta[http-equiv=refresh]").count() == 1
    expect(page.locator(".live")).to_be_hidden()
    for name, path in PAGES.items():
        page.goto(path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert is_too_wide(page) <= 0, name
    page.goto("/dashboard/keys")
    page.get_by_label("Owner").fill("ann")
    page.get_by_role("button", name="Make key").click()
    expect(page.locator("#new-key")).to_contain_text("gnk_")
    page.locator(".menu summary").click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login")
