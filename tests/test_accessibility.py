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


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_empty_page_has_no_serious_finding(app, open_page, theme):
    assert findings(open_page(app.url, color_scheme=theme)) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_finished_search_has_no_serious_finding(app, open_page, theme):
    page = open_page(app.url, color_scheme=theme)
    page.get_by_role("button", name="Settings").first.click()
    page.locator("#reason-reflection").get_by_label("Always").check()
    page.locator("#reason-question textarea").fill("How many bolts in total does it take?")
    page.locator("#reason-question textarea").press("Enter")
    expect(page.locator("#reason-run")).to_be_disabled()
    expect(page.locator("#reason-status .is-done")).to_be_visible(timeout=30_000)
    page.locator("#reason-tree .kind-thought").first.click()
    expect(page.locator("#reason-node .figures")).to_be_visible()
    page.locator("#reason-thoughts summary").first.click()
    assert findings(page) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("tab", ["Translate", "Compare", "Runs"])
def test_the_other_tabs_have_no_serious_finding(app, open_page, theme, tab):
    page = open_page(app.url, color_scheme=theme)
    page.get_by_role("tab", name=tab).click()
    expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
    assert findings(page) == []
