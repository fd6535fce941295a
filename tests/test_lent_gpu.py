"""The page where GPUs are lent: searches run elsewhere, are stopped by closing, and go on from their run files."""

from __future__ import annotations

import pickle

import pytest
from browser import Apps, Served
from playwright.sync_api import expect
from test_app import QUESTION, ask, finished, ponder

from marco import zerogpu
from marco.engines.scripted import ScriptedEngine


@pytest.fixture(scope="module")
def space(apps: Apps):
    """An app that believes that it is such a Space; what is lent crosses a border between processes, as there."""
    with pytest.MonkeyPatch.context() as patch:
        engine = ScriptedEngine(ponder, seconds_per_token=0.03)
        lent: list[str | None] = []

        def borrow(model, work, options):
            lent.append(model)
            for event in pickle.loads(pickle.dumps(work))(engine):
                yield pickle.loads(pickle.dumps(event))

        patch.setattr(zerogpu, "active", lambda: True)
        patch.setattr(zerogpu, "borrow", borrow)
        served = apps.start(engine)
        served.lent = lent
        yield served


def test_a_question_is_answered_by_a_gpu_that_is_lent(space: Served, open_page):
    page = open_page(f"{space.url}?rollouts=3")
    before = len(space.lent)
    ask(page)
    finished(page)
    expect(page.locator("#reason-answer")).to_contain_text("3")
    assert len(space.lent) == before + 1


def test_taking_part_waits_until_the_search_is_over_and_goes_on_from_its_file(space: Served, open_page):
    page = open_page(f"{space.url}?rollouts=8")
    ask(page)
    page.locator("#reason-tree .kind-thought:not(.is-waiting)").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#reason-node")).to_contain_text("The line of thought")
    expect(page.locator("#reason-node .steering")).to_have_count(0)
    finished(page)
    before = len(space.lent)
    page.locator("#reason-amount input[type=number]").fill("2")
    page.locator("#reason-amount input[type=number]").press("Tab")
    page.locator("#reason-more").click()
    expect(page.locator("#reason-status")).to_contain_text("of 10")
    finished(page)
    assert len(space.lent) == before + 1


def test_stop_ends_the_search_there(space: Served, open_page):
    page = open_page(f"{space.url}?rollouts=30")
    ask(page, QUESTION)
    page.wait_for_selector("#reason-tree [role=treeitem]")
    page.locator("#reason-stop").click()
    expect(page.locator("#reason-run")).to_be_enabled()
    expect(page.locator("#reason-status .is-searching")).to_have_count(0)
    expect(page.locator("#reason-status .is-stopping")).to_have_count(0)


def test_a_translation_is_made_there_too(space: Served, open_page):
    page = open_page(space.url)
    page.get_by_role("tab", name="Translate").click()
    before = len(space.lent)
    page.locator("#translate-text textarea").fill("这个鞋拥有踩屎感,很舒服")
    page.locator("#translate-run").click()
    expect(page.locator("#translate-run")).to_be_enabled(timeout=60_000)
    expect(page.locator("#translate-status .is-done")).to_be_visible(timeout=60_000)
    assert len(space.lent) > before
