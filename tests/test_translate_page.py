"""The Translate tab as a person uses it, in a real browser, over a scripted translator."""

from __future__ import annotations

import csv
import io
import random
import re
import time
from pathlib import Path

import pytest
from browser import Apps, Served, until
from playwright.sync_api import Page, expect
from test_accessibility import findings

from marco.engines.scripted import ScriptedEngine
from marco.translation.prompting import Reading, written
from ui.many_lines import glossary_of, text_of
from ui.translate import linked

SENTENCE = "这个鞋拥有踩屎感，绝绝子👟"


def translator(prefix: str, seed: int) -> str:
    """Reads two expressions in a sentence about shoes, greets for anything else; goes on where it stands."""
    asked, _, said = prefix.rpartition("user: ")[2].partition("assistant: ")
    if "playful" in asked:
        return "My feet are in heaven 👟"
    if "踩屎感" not in asked[-60:]:
        whole = written("a greeting", (), "Good morning to you!")
    else:
        feel = random.Random(seed).choice(["so comfortable", "so soft", "like walking on clouds"])
        readings = (
            Reading("踩屎感", "a feeling of stepping on poop", "very soft soles", feel),
            Reading("绝绝子", "absolutely absolute", "the best", "unreal"),
        )
        whole = written("a happy post about shoes", readings, f"These shoes are {feel}, they are unreal 👟")
    return (
        whole[len(said) :]
        if whole.startswith(said)
        else whole.partition("</Thought>")[1] + whole.partition("</Thought>")[2]
    )


@pytest.fixture(scope="module")
def app(apps: Apps) -> Served:
    return apps.start(ScriptedEngine(translator))


@pytest.fixture(scope="module")
def opened(app: Served, open_page_once) -> Page:
    """The tab, with the sentence translated."""
    page = open_page_once(app.url)
    page.get_by_role("tab", name="Translate").click()
    translate(page, SENTENCE)
    return page


def translate(page: Page, text: str) -> None:
    before = page.locator("#translate-tree .tree").get_attribute("data-search")
    page.locator("#translate-text textarea").fill(text)
    page.locator("#translate-run").click()
    # A search may be over before the page has shown that it had begun.
    page.wait_for_function(
        "before => (document.querySelector('#translate-tree .tree').dataset.search ?? null) !== before", arg=before
    )
    expect(page.locator("#translate-run")).to_be_enabled()
    expect(page.locator("#translate-status .is-done")).to_be_visible()


def test_the_translation_comes_first_and_its_expressions_are_linked_to_their_places(opened):
    result = opened.locator("#translate-result")
    expect(result.locator(".translation")).to_contain_text("they are unreal 👟")
    expect(result).to_contain_text("a happy post about shoes")
    expect(result.locator(".translation mark")).to_have_count(2)
    expect(result.locator(".original mark")).to_have_text(["踩屎感", "绝绝子"])
    row = result.locator("tbody tr[data-link='2']")
    expect(row).to_contain_text("absolutely absolute")
    expect(row).to_contain_text("the best")
    for where in (".original mark", ".translation mark", "tbody tr"):
        result.locator(f"{where}[data-link='2']").hover()
        expect(result.locator(".is-linked")).to_have_count(3)
        expect(result.locator(".is-linked[data-link='1']")).to_have_count(0)
    expect(result.locator("details[data-key=expressions]")).to_have_attribute("open", "open")


def test_other_ways_to_say_it_are_listed_with_how_alike_they_are(opened):
    other = opened.locator("#translate-result details", has_text="Other ways to say it")
    other.locator("summary").click()
    expect(other.locator("li").first).to_contain_text(re.compile(r"These shoes are .+ \d+%"))


def test_another_way_to_say_it_is_put_in_place_of_the_translation_and_back_again(opened):
    result = opened.locator("#translate-result")
    translation = result.locator(".translation")
    before = translation.inner_text()
    other = result.locator("details", has_text="Other ways to say it")
    if other.get_attribute("open") is None:
        other.locator("summary").click()
    words = other.locator("li button").first.inner_text()
    other.locator("li button").first.click()
    expect(translation).to_have_text(words)
    expect(result).to_contain_text("chosen by you")
    expect(other.locator("li button", has_text=words)).to_have_count(0)
    # The search's own is now one of the others, the first of them.
    other.locator("li button").first.click()
    expect(result).not_to_contain_text("chosen by you")
    expect(translation).to_have_text(before)
    expect(translation.locator("mark")).to_have_count(2)


def test_the_tree_and_the_thoughts_show_on_request(opened):
    expect(opened.locator("#translate-tree")).not_to_be_visible()
    opened.get_by_role("button", name="How it was found").click()
    expect(opened.locator("#translate-tree [role=treeitem]").first).to_be_visible()
    opened.locator("#translate-thought summary").first.click()
    expect(opened.locator("#translate-thought details[open]")).to_contain_text("very soft soles")
    opened.get_by_role("button", name="How it was found").click()


def test_another_register_the_way_back_and_a_direct_translation_are_written_beside_it(opened):
    beside = opened.locator("#translate-beside")
    opened.get_by_role("button", name="Say it playfully").click()
    expect(beside.locator(".asked")).to_have_text("My feet are in heaven 👟")
    beside.get_by_role("button", name="Use this one").click()
    expect(opened.locator("#translate-result .translation")).to_have_text("My feet are in heaven 👟")
    opened.locator("#translate-result details", has_text="Other ways to say it").locator("li button").first.click()
    expect(opened.locator("#translate-result")).not_to_contain_text("chosen by you")
    opened.get_by_role("button", name="Translate it back").click()
    expect(beside.locator(".card").first).to_contain_text("踩屎感")
    expect(beside.locator(".asked")).to_have_text("Good morning to you! 👟")
    opened.get_by_role("button", name="Direct translation beside it").click()
    expect(beside.locator(".card").first).to_contain_text("they are unreal")
    expect(beside.locator(".card").last).to_contain_text("These shoes are")
    assert findings(opened) == []


def test_the_translation_is_copied_without_the_numbers_of_its_marks(app, open_page):
    page = open_page(app.url, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("tab", name="Translate").click()
    translate(page, SENTENCE)
    page.locator("#translate-result").get_by_role("button", name="Copy").first.click()
    copied = until(lambda: page.evaluate("navigator.clipboard.readText()"))
    assert re.fullmatch(r"These shoes are [a-z ]+, they are unreal 👟", copied)
    page.locator("#translate-result summary", has_text="Other ways to say it").click()
    other = page.locator("#translate-result .alternatives button").first
    words = other.inner_text()
    other.click()
    expect(page.locator("#translate-result .translation")).to_have_text(words)
    page.locator("#translate-result").get_by_role("button", name="Copy").first.click()
    assert until(lambda: page.evaluate("navigator.clipboard.readText()") == words)


def test_many_lines_become_a_table_to_download(opened, tmp_path):
    opened.get_by_role("button", name="Many lines").click()
    file = tmp_path / "lines.csv"
    file.write_text("source,note\n早上好,a\n12345,b\n这个鞋拥有踩屎感,c\n", encoding="utf-8")
    opened.locator("#translate-many input[type=file]").set_input_files(file)
    expect(opened.locator("#translate-lines textarea")).to_have_value("早上好\n12345\n这个鞋拥有踩屎感")
    opened.locator("#translate-lines-run").click()
    expect(opened.locator("#translate-lines-csv")).to_be_visible()
    rows = opened.locator("#translate-lines-table tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_contain_text("nothing to translate")
    with opened.expect_download() as download:
        opened.locator("#translate-lines-csv").click()
    read = list(csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8-sig"))))
    assert [row["source"] for row in read] == ["早上好", "12345", "这个鞋拥有踩屎感"]
    assert read[0]["translation"] == "Good morning to you!"
    assert read[2]["expressions"] == "踩屎感: very soft soles"


def test_an_empty_table_is_refused_in_one_sentence(opened):
    opened.locator("#translate-lines textarea").fill(" \n ")
    opened.locator("#translate-lines-run").click()
    expect(opened.locator("#translate-lines-status .is-error")).to_contain_text("not empty")


def test_words_of_ones_own_reach_the_translator(opened):
    opened.locator("#translate-settings button").first.click()
    opened.locator("#translate-glossary textarea").fill("踩屎感 = cloud feel")
    translate(opened, SENTENCE)
    expect(opened.locator("#translate-result .warning")).to_contain_text("cloud feel for 踩屎感 was not used")
    opened.locator("#translate-glossary textarea").fill("")


def test_the_target_language_may_be_typed_as_a_code(opened):
    box = opened.locator("#translate-to input")
    box.fill("pt")
    box.press("Enter")
    translate(opened, "Good evening")
    expect(opened.locator("#translate-result")).to_contain_text("português")
    box.fill("English")
    box.press("Enter")


def test_a_text_in_several_parts_shows_all_of_it_and_the_tree_of_the_last(opened):
    text = "\n\n".join(("这个鞋拥有踩屎感。" * 60, "早上好。" * 120))
    translate(opened, text)
    translation = opened.locator("#translate-result .translation")
    expect(translation).to_contain_text("they are unreal")
    expect(translation).to_contain_text("Good morning to you!")
    expect(opened.locator("#translate-status")).to_contain_text("part 2 of 2")
    opened.get_by_role("button", name="How it was found").click()
    opened.locator("#translate-tree [data-node=root]").click()
    expect(opened.locator("#translate-node")).to_contain_text("早上好")
    # Going on with the last part keeps what the first one says.
    opened.locator("#translate-more").click()
    expect(opened.locator("#translate-status")).to_contain_text("of 12")
    expect(opened.locator("#translate-run")).to_be_enabled()
    expect(translation).to_contain_text("they are unreal")
    expect(translation).to_contain_text("Good morning to you!")


def test_stop_ends_many_lines(apps, open_page):
    app = apps.start(ScriptedEngine(translator, seconds_per_token=0.02))
    page = open_page(app.url)
    page.get_by_role("tab", name="Translate").click()
    page.get_by_role("button", name="Many lines").click()
    page.locator("#translate-lines textarea").fill("早上好\n" * 50)
    page.locator("#translate-lines-run").click()
    expect(page.locator("#translate-lines-status")).to_contain_text("Thinking")
    page.locator("#translate-lines-stop").click()
    expect(page.locator("#translate-lines-run")).to_be_enabled()
    requests = app.engine.usage()["requests"]
    time.sleep(0.5)
    assert app.engine.usage()["requests"] == requests


# -- without a browser --------------------------------------------------------------------------------------


def test_marks_never_overlap_or_leave_the_text():
    marked = list(linked("abcdef", [((1, 3), 1), ((2, 5), 2), ((4, 9), 3), ((5, 6), 4)]))
    assert [part if isinstance(part, str) else (part[1]["data-link"], part[2]) for part in marked] == [
        "a", ("1", ["bc"]), "de", ("4", ["f"]),
    ]  # fmt: skip


def test_a_file_is_read_as_lines(tmp_path: Path):
    table = tmp_path / "a.tsv"
    table.write_text('text\tx\n"two\nlines"\ty\nthree\n', encoding="utf-8")
    assert text_of(table) == "two lines\nthree"
    plain = tmp_path / "a.txt"
    plain.write_text("one, two\nthree", encoding="utf-8")
    assert text_of(plain) == "one, two\nthree"
    plain.write_bytes(b"\xff\xfe\x00")
    assert text_of(plain) is None


def test_a_glossary_is_a_pair_a_line():
    assert glossary_of("a = b\nnonsense\n = c\nd=e=f") == {"a": "b", "d": "e=f"}
    assert glossary_of("") is None
