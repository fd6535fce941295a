"""The Lab tab: evaluations of one folder, opened in the page, and nothing from outside of that folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser import Apps, Served
from playwright.sync_api import Page, expect
from test_accessibility import findings

from marco.engines.scripted import ScriptedEngine
from marco.evaluation import commands, plan, records, runner, tasks
from ui.lab import lab_folder, records_in


def write_record(out: Path) -> None:
    """Two problems under two strategies, with their summary."""
    engine = ScriptedEngine(lambda prefix, seed: f"<Thought>\nSo.\n{seed}\n</Thought>\n<Output>4</Output>", slots=4)
    out.mkdir(parents=True)
    data = out.parent / "problems.tsv"
    data.write_text("How many are <b>two</b> and two?\t4\nHow many are three and three?\t6\n", encoding="utf-8")
    task = tasks.open_task("mgsm", "en", data)
    found, generations = plan.expand(task, plan.Settings(budget=200), strategies=["cot", "mcts"])
    records.add_combinations(out, found)
    runner.run(engine, runner.jobs([(task, tasks.load(task), generations)], 1), out, workers=2, keep_runs=True)
    commands.write_summary(out)
    engine.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished record, one under way, and links that lead elsewhere."""
    place = tmp_path_factory.mktemp("lab")
    write_record(place / "inside" / "done")
    write_record(place / "outside" / "private")
    rows = (place / "inside" / "done" / records.ROWS).read_text(encoding="utf-8").splitlines(keepends=True)
    half = place / "inside" / "deep" / "half"
    half.mkdir(parents=True)
    (half / records.ROWS).write_text(rows[0] + rows[1][:50], encoding="utf-8")
    manifest = (place / "inside" / "done" / records.MANIFEST).read_text(encoding="utf-8")
    (half / records.MANIFEST).write_text(manifest, encoding="utf-8")
    (place / "inside" / "traces").mkdir()
    (place / "inside" / "traces" / records.ROWS).write_text("{}\n", encoding="utf-8")
    (place / "inside" / "link").symlink_to(place / "outside" / "private")
    runs = place / "outside" / "private" / records.RUNS
    (place / "inside" / "done" / records.RUNS / "stolen.jsonl").symlink_to(next(runs.glob("*.jsonl")))
    return place / "inside"


def test_records_are_found_below_the_folder_and_nowhere_else(lab):
    found = {item.name: item for item in records_in(lab)}
    assert set(found) == {"done", "deep/half"}
    assert found["done"].settled and found["done"].rows == 4
    assert not found["deep/half"].settled


def test_an_empty_or_missing_folder_has_no_records(tmp_path):
    assert records_in(tmp_path) == records_in(tmp_path / "nowhere") == []


def test_the_folder_is_the_one_given_else_the_one_named_else_benchmarks_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MARCO_LAB", raising=False)
    assert lab_folder().name == "lab"
    (tmp_path / "benchmarks").mkdir()
    assert lab_folder() == Path("benchmarks")
    monkeypatch.setenv("MARCO_LAB", "/named")
    assert lab_folder() == Path("/named")
    assert lab_folder(tmp_path) == tmp_path


@pytest.fixture(scope="module")
def app(apps: Apps, lab: Path) -> Served:
    return apps.start(ScriptedEngine(lambda prefix, seed: "4"), records=lab, shared=True)


@pytest.fixture(scope="module")
def opened(app: Served, open_page_once) -> Page:
    page = open_page_once(app.url)
    page.get_by_role("tab", name="Lab").click()
    expect(page.locator("#lab-list .link")).to_have_count(2)
    return page


def open_record(page: Page, name: str) -> None:
    page.locator("#lab-list .link", has_text=name).click()
    expect(page.locator("#lab-table h3")).to_have_text(name)
    expect(page.frame_locator(f"#lab-report iframe[title='Report of {name}']").locator("h1")).to_be_visible()


def test_a_record_opens_as_a_table_and_a_report_whose_sections_are_reached(opened):
    open_record(opened, "done")
    expect(opened.locator("#lab-table tbody tr")).to_have_count(2)
    expect(opened.locator("#lab-table")).to_contain_text("50.0%")
    report = opened.frame_locator("#lab-report iframe")
    expect(report.locator("h1")).to_have_text("Evaluation")
    expect(report.locator(".js-plotly-plot").first).to_be_visible()
    report.locator("nav a").nth(2).click()
    assert report.locator("body").evaluate("() => location.href").startswith("about:srcdoc#")
    expect(report.locator("h1")).to_have_count(1)
    assert findings(opened) == []


def test_a_record_that_is_being_written_is_shown_as_far_as_it_is(opened):
    open_record(opened, "deep/half")
    expect(opened.locator("#lab-table")).to_contain_text("As far as it is")
    expect(opened.locator("#lab-table tbody tr")).to_have_count(1)
    expect(opened.frame_locator("#lab-report iframe").locator("h1")).to_have_text("Evaluation")


def test_a_report_reaches_neither_the_page_nor_the_app(opened):
    open_record(opened, "done")
    body = opened.frame_locator("#lab-report iframe").locator("body")
    seen = body.evaluate("() => { try { return parent.document.title } catch (e) { return e.name } }")
    assert seen == "SecurityError"
    assert body.evaluate("() => origin") == "null"


def test_a_link_of_the_report_to_a_run_opens_the_run_and_no_other_file(opened):
    open_record(opened, "done")
    report = opened.frame_locator("#lab-report iframe")
    report.locator("#problems details summary").first.click()
    report.locator("#problems details details summary").first.click()
    link = report.locator("a[data-run]").first
    expect(opened.locator("#lab-run-tree [data-node=root]")).not_to_be_visible()
    link.click()
    expect(opened.locator("#lab-run-tree [data-node=root]")).to_be_visible()
    expect(opened.locator("#lab-run-thoughts .question")).to_contain_text("How many are")
    opened.locator("#lab-run-tree .kind-answer").first.focus()
    opened.keyboard.press("Enter")
    expect(opened.locator("#lab-run-node .figures")).to_be_visible()
    # It can be looked at, and nothing else.
    expect(opened.locator("#lab-run-node .steering")).to_have_count(0)
    for name in ("../rows", "/etc/passwd", "stolen", "absent"):
        # What a report with changed contents would ask for.
        link.evaluate("(link, name) => (link.dataset.run = name)", name)
        link.click()
        expect(opened.locator("#lab-run-status .is-error")).to_contain_text(name)


def test_a_name_that_is_not_on_the_list_opens_nothing(opened):
    open_record(opened, "deep/half")
    for name in ("../outside/private", "link", "/etc", "done/../../outside/private"):
        # What a page with changed contents would send.
        shown = opened.locator("#lab-list .link").first
        shown.evaluate("(button, name) => (button.dataset.of = name)", name)
        shown.click()
        expect(opened.locator("#lab-status .is-error")).to_have_text(f"{name} is not here any more.")
        expect(opened.locator("#lab-table h3")).to_have_text("deep/half")


def test_a_damaged_record_is_told_in_one_sentence(apps, lab, tmp_path, open_page):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / records.ROWS).write_text(json.dumps({"version": 1}) + "\n{}\n", encoding="utf-8")
    (bad / records.MANIFEST).write_text("{}", encoding="utf-8")
    page = open_page(apps.start(ScriptedEngine(lambda prefix, seed: "4"), records=tmp_path).url)
    page.get_by_role("tab", name="Lab").click()
    page.locator("#lab-list .link").click()
    expect(page.locator("#lab-status .is-error")).to_contain_text("line 1")
