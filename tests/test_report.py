"""The page about an evaluation: whole, offline, honest about what is replay, and safe with other people's text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from marco.engines.scripted import ScriptedEngine
from marco.errors import UserMistake
from marco.evaluation import commands, plan, records, report, runner, summary, tasks
from marco.search import derive_seed

EVIL = 'How many are <img src=x onerror="document.title=1"> and </script><script>document.title="owned"</script> one?'
EVIL_ANSWER = "<b>3</b><script>alert(1)</script>"
ROWS = ((EVIL, "2"), ("How many are two and two?", "4"), ("How many are three and three?", "6"))
SECOND = {derive_seed(1, work) for work in range(1, 100)}


def script(prefix: str, seed: int) -> str:
    if "are two" in prefix:
        # Seeds disagree, and a reflection repairs.
        right = seed in SECOND or "rethink from scratch" in prefix
        return f"<Thought>\nTwo, and two more.\n\nThat is it.\n</Thought>\n<Output>{4 if right else 5}</Output>"
    if "are three" in prefix:
        return f"<Thought>\nThree.\n\n{seed}\n</Thought>\n<Output>{6 if seed % 3 else 7}</Output>"
    return f"<Thought>\nOne.\n\n{seed}\n</Thought>\n<Output>{EVIL_ANSWER}</Output>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "out"
    engine = ScriptedEngine(script, slots=4)
    work = []
    combinations: list[plan.Combination] = []
    for lang in ("en", "zh"):
        data = out.parent / f"{lang}.tsv"
        data.write_text("".join(f"{question}\t{answer}\n" for question, answer in ROWS), encoding="utf-8")
        task = tasks.open_task("mgsm", lang, data)
        settings = plan.Settings(budget=300)
        found, generations = plan.expand(
            task,
            settings,
            strategies=["cot", "self-consistency", "best-of-n", "mcts"],
            actions=["step", "mini-step-32"],
            selects=["best", "majority", "weighted"],
            reflections=["off", "always"],
        )
        bound, knowing = plan.expand(task, settings, strategies=["mcts"], rewards=["outcome"], selects=["best"])
        combinations += found + bound
        work.append((task, tasks.load(task), generations + knowing))
    with records.locked(out):
        records.add_combinations(out, combinations)
        records.note_command(out, ["marco", "evaluate", "--data", "<file>"])
        runner.run(engine, runner.jobs(work, 2), out, workers=4, keep_runs=True)
    engine.close()
    record = records.Record.read(out)
    records.write_json(out / records.REPLAY, summary.replay(record, selects=["best", "majority"], rewards=["tail"]))
    commands.write_summary(out)
    return out


@pytest.fixture(scope="module")
def page_text(folder: Path) -> str:
    path = report.write_report(folder, folder / "report.html")
    return path.read_text(encoding="utf-8")


def without_library(text: str) -> str:
    """The page without the drawing library, which is half of its text and speaks of many things."""
    start = text.index("<script>")
    return text[:start] + text[text.index("</script>", start) :]


def section(text: str, name: str) -> str:
    start = text.index(f'<section id="{name}">')
    return text[start : text.index("</section>", start)]


def test_the_page_has_every_section(page_text: str) -> None:
    names = re.findall(r'<section id="(\w+)">', page_text)
    assert names == [
        *("results", "tokens", "granularity", "confidence", "reflection", "cost"),
        *("pairs", "replay", "failures", "problems"),
    ]
    for name in ("tokens", "granularity", "confidence", "reflection", "cost"):
        assert "plotly-graph-div" in section(page_text, name), name


def test_the_page_asks_no_host_for_anything(page_text: str) -> None:
    plain = without_library(page_text)
    assert not re.search(r"""(?:src|href|action)\s*=\s*["']?(?:https?:)?//""", plain)
    assert "default-src 'none'" in plain
    assert "cdn" not in plain


def test_the_drawing_library_is_in_it_once(page_text: str) -> None:
    assert page_text.count("plotly.js v") == 1


def test_what_others_wrote_is_escaped(page_text: str) -> None:
    plain = without_library(page_text)
    assert html.escape(EVIL) in plain
    assert "<img" not in plain
    assert 'document.title="owned"' not in plain
    assert "alert(1)" not in plain.replace(html.escape(EVIL_ANSWER), "")
    assert "&lt;file&gt;" in plain


def test_the_papers_table_stands_beside_ours(page_text: str) -> None:
    results = section(page_text, "results")
    for figure in ("84.0%", "90.4%", "99.6%", "82.4%", "96.8%"):
        assert f">{figure}<" in results
    assert "+ MCTS, mini-step 32" in results
    assert "mcts · mini-step-32 · hybrid · weighted" in results


def test_upper_bounds_and_replay_are_called_so(page_text: str) -> None:
    results = section(page_text, "results")
    rows = re.findall(r"<tr>.*?</tr>", results)
    assert all(("upper bound" in row) == ("outcome" in row) for row in rows)
    replay = section(page_text, "replay")
    assert "nothing was generated" in replay and "steered to" in replay
    assert ">tail<" in replay


def test_each_problem_links_to_its_trees(page_text: str, folder: Path) -> None:
    links = re.findall(r'href="(runs/[^"]+\.jsonl)"', page_text)
    assert len(links) == len(records.read_rows(folder))
    assert all((folder / link).is_file() for link in links)
    assert "reflection · answer 4 · right" in section(page_text, "problems")


def test_links_follow_the_page_to_another_folder(folder: Path, tmp_path: Path) -> None:
    text = report.build(records.Record.read(folder), tmp_path)
    (link, *_) = re.findall(r'href="([^"]+\.jsonl)"', text)
    assert (tmp_path / link).resolve().is_file()


def test_failure_signatures_name_problems_and_lead_to_them(page_text: str) -> None:
    failures = section(page_text, "failures")
    assert "Seeds that disagree" in failures and "Chinese below English" in failures
    assert 'href="#p-mgsm-en-2"' in failures
    assert 'id="p-mgsm-en-2"' in page_text


def test_reflections_that_repaired_are_counted(page_text: str) -> None:
    rows = re.findall(r"<tr>.*?</tr>", section(page_text, "reflection"))
    assert any("always" in row and "%)" in row for row in rows)


def test_a_folder_without_an_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match="holds no evaluation"):
        report.write_report(tmp_path, tmp_path / "report.html")


def test_a_report_of_one_greedy_chain_says_what_is_missing(tmp_path: Path) -> None:
    engine = ScriptedEngine(script, slots=1)
    data = tmp_path / "one.tsv"
    data.write_text("How many are two and two?\t5\n")
    task = tasks.open_task("mgsm", "en", data)
    combinations, generations = plan.expand(task, plan.Settings(), strategies=["cot"])
    records.add_combinations(tmp_path, combinations)
    runner.run(engine, runner.jobs([(task, tasks.load(task), generations)], 1), tmp_path, workers=1)
    engine.close()
    text = report.build(records.Record.read(tmp_path), tmp_path)
    assert "no tree search was measured" in text
    assert "no search reflected" in text
    assert "there is one combination only" in text


@pytest.fixture(scope="module")
def drawn(chromium: Any, folder: Path, page_text: str) -> Iterator[Any]:
    """The page in a browser; whatever it complains of, or asks of a host, fails the last test."""
    assert page_text
    context = chromium.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(120_000)  # a page of many drawings, on a machine that may be busy
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: complaints.append(request.url))
    page.goto((folder / "report.html").as_uri())
    yield page
    context.close()
    assert not [one for one in complaints if not one.startswith(("file:", "data:", "blob:"))]


def test_a_browser_draws_it_without_a_network_and_runs_nothing_of_others(drawn: Any) -> None:
    drawn.wait_for_selector("#tokens .plotly-graph-div .scatterlayer path.js-line", state="attached")
    assert drawn.locator("#cost .scatterlayer path.point").count() > 0
    assert drawn.title() == "Marco: evaluation"


def test_a_link_to_a_problem_opens_it(drawn: Any) -> None:
    drawn.evaluate("location.hash = '#p-mgsm-zh-2'")
    drawn.wait_for_function("document.getElementById('p-mgsm-zh-2').open")
    assert drawn.locator("#p-mgsm-zh-2 blockquote").inner_text() == "How many are two and two?"
