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
    before = len(space.lent)
    page.get_by_role("button", name="Say it playfully").click()
    expect(page.locator("#translate-beside .asked")).not_to_have_text("")
    expect(page.locator("#translate-beside").get_by_role("button", name="Use this one")).to_be_visible()
    assert len(space.lent) == before + 1


def test_many_lines_are_lent_a_gpu_each_but_for_those_with_nothing_to_translate(space: Served, open_page):
    page = open_page(space.url)
    page.get_by_role("tab", name="Translate").click()
    page.get_by_role("button", name="Many lines").click()
    page.locator("#translate-lines textarea").fill("早上好\n12345\n晚安")
    before, recorded = len(space.lent), set(space.runs.rglob("*.jsonl"))
    page.locator("#translate-lines-run").click()
    expect(page.locator("#translate-lines-csv")).to_be_visible(timeout=60_000)
    expect(page.locator("#translate-lines-table tbody tr")).to_have_count(3)
    assert len(space.lent) == before + 2
    written = set(space.runs.rglob("*.jsonl")) - recorded
    assert len(written) == 2
    assert all(run.stat().st_size for run in written)


def test_every_strategy_that_is_compared_is_lent_a_gpu(space: Served, open_page):
    page = open_page(space.url)
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-tokens input[type=number]").fill("300")
    page.locator("#compare-tokens input[type=number]").press("Tab")
    before = len(space.lent)
    page.locator("#compare-question textarea").fill(QUESTION)
    page.locator("#compare-question textarea").press("Enter")
    columns = page.locator("#compare-result .columns > .card")
    expect(columns).to_have_count(3)
    expect(page.locator("#compare-run")).to_be_enabled(timeout=60_000)
    expect(page.locator("#compare-result .big-answer")).to_have_count(3)
    assert len(space.lent) == before + 3
