"""The page for people who hear it, or use no mouse: no serious finding of axe, in either theme, on any tab."""

from __future__ import annotations

import pytest
from browser import Apps, Served
from playwright.sync_api import Page, expect
from thinking import bolts

from marco.engines.scripted import ScriptedEngine

SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def app(apps: Apps) -> Served:
    return apps.start(ScriptedEngine(bolts))


def findings(page: Page) -> list[str]:
    """Serious findings, one a line, with the elements to blame."""
    from axe_playwright_python.sync_playwright import Axe

    page.wait_for_timeout(400)  # colours fade in
    response = Axe().run(page).response
    return [
        f"{item['id']} ({item['impact']}): " + "; ".join(node["html"][:160] for node in item["nodes"][:4])
        for item in response["violations"]
        if item["impact"] in SERIOUS
    ]


@pytest.fixture(scope="module", params=["light", "dark"])
def themed(app: Served, open_page_once, request: pytest.FixtureRequest) -> Page:
    """One page for each theme."""
    return open_page_once(app.url, color_scheme=request.param)


def show(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()
    expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")


def test_the_empty_page_has_no_serious_finding(themed):
    assert findings(themed) == []


@pytest.mark.parametrize("tab", ["Translate", "Compare", "Runs", "Lab"])
def test_the_other_tabs_have_no_serious_finding(themed, tab):
    show(themed, tab)
    assert findings(themed) == []


def test_a_finished_search_has_no_serious_finding(themed):
    show(themed, "Reason")
    themed.get_by_role("button", name="Settings").first.click()
    themed.locator("#reason-reflection").get_by_label("Always").check()
    themed.locator("#reason-question textarea").fill("How many bolts in total does it take?")
    themed.locator("#reason-question textarea").press("Enter")
    expect(themed.locator("#reason-status .is-done")).to_be_visible()
    themed.locator("#reason-tree .kind-thought").first.click()
    expect(themed.locator("#reason-node .figures")).to_be_visible()
    themed.locator("#reason-thoughts summary").first.click()
    assert findings(themed) == []
