"""The page as a person uses it, in a real browser, over a scripted model."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from browser import Apps, Served, until
from playwright.sync_api import Page, expect
from test_accessibility import findings
from thinking import bolts, rollout, started

from marco.config import options
from marco.engines.scripted import ScriptedEngine
from marco.errors import ModelUnavailable
from marco.runs import RunWriter, run_path

QUESTION = "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?"


PROMPTS: list[str] = []
"""What `think` was asked, the last ones."""


def think(prefix: str, seed: int) -> str:
    """As `bolts`, but mostly right."""
    PROMPTS[:-50] = []
    PROMPTS.append(prefix)
    said = bolts(prefix, seed)
    return said if seed % 8 == 0 else said.replace(" 4.", " 3.")


def ponder(prefix: str, seed: int) -> str:
    """As `think`, but never the same twice: such a search does not run out of thoughts."""
    said = prefix.rpartition("assistant: ")[2]
    return think(prefix, seed) if not said else f"Idea {seed} about bolts.\n\n" + think(prefix, seed)


@pytest.fixture(scope="module")
def app(apps: Apps) -> Served:
    """A model that answers at once."""
    return apps.start(ScriptedEngine(think, seconds_per_token=0.001))


@pytest.fixture(scope="module")
def slow(apps: Apps) -> Served:
    """A model that takes its time: about three seconds a thought."""
    return apps.start(ScriptedEngine(ponder, seconds_per_token=0.03))


def ask(page: Page, question: str = QUESTION) -> None:
    page.locator("#reason-question textarea").fill(question)
    page.locator("#reason-question textarea").press("Enter")


def ask_anew(page: Page, question: str = QUESTION) -> None:
    """Ask on a page that shows a search already; returns once the new one has begun to show."""
    before = page.locator("#reason-tree .tree").get_attribute("data-search")
    ask(page, question)
    expect(page.locator("#reason-tree .tree")).not_to_have_attribute("data-search", before or "none")


def finished(page: Page, tab: str = "reason") -> None:
    expect(page.locator(f"#{tab}-status .is-done")).to_be_visible(timeout=60_000)
    expect(page.locator(f"#{tab}-run")).to_be_enabled()


def open_finer_settings(page: Page) -> None:
    """Returns once they are seen: asking for one of them before would take the settings for closed."""
    page.get_by_role("button", name="Finer settings").click()
    expect(page.locator("#reason-max-tokens input[type=number]")).to_be_visible()


def setting(page: Page, name: str, value: object) -> None:
    """Open the settings and type into the number box of a slider."""
    box = page.locator(f"#reason-{name} input[type=number]")
    if not box.is_visible():
        page.get_by_role("button", name="Settings").first.click()
    for _ in range(10):
        # A fold that has just opened sets its boxes once more: nobody is that quick, but a test is.
        box.fill(str(value))
        box.press("Tab")
        page.wait_for_timeout(200)
        if box.input_value() == str(value):
            break


@pytest.fixture(scope="module")
def idle(app, open_page_once) -> Page:
    """A page on which nothing was asked for."""
    return open_page_once(app.url)


@pytest.fixture(scope="module")
def thought(app, open_page_once) -> Page:
    """A page with a finished search, to be read."""
    page = open_page_once(app.url)
    ask(page)
    finished(page)
    return page


@pytest.fixture(scope="module")
def shared_page(app, open_page_once) -> Page:
    """A page on which one search after another is asked for."""
    page = open_page_once(app.url)
    ask(page)
    finished(page)
    return page


@pytest.fixture
def searched(shared_page) -> Page:
    """That page, with a fresh finished search to take part in."""
    ask_anew(shared_page)
    finished(shared_page)
    return shared_page


@pytest.fixture(scope="module")
def under_way(apps, open_page_once) -> Iterator[Page]:
    """A page whose search goes on for longer than any test; its model has nothing else to do."""
    url = apps.start(ScriptedEngine(ponder, seconds_per_token=0.1)).url
    page = open_page_once(f"{url}?rollouts=64")
    ask(page)
    expect(page.locator("#reason-tree .kind-ghost").first).to_be_visible()
    yield page
    if page.locator("#reason-stop").is_enabled():
        page.locator("#reason-stop").click()
    expect(page.locator("#reason-run")).to_be_enabled()


# -- asking -----------------------------------------------------------------------------------------------


def test_a_question_grows_a_tree_and_gets_an_answer(thought):
    page = thought
    expect(page.locator("#model-status")).to_contain_text("scripted")
    answer = page.locator("#reason-answer")
    expect(answer.locator(".big-answer")).to_have_text("3")
    expect(answer).to_contain_text("The answer is 3.")
    expect(answer).to_contain_text("Margin of the vote")
    assert page.locator("#reason-tree [role=treeitem]").count() >= 8
    assert page.locator("#reason-tree .edge.is-best").count() >= 2
    expect(page.locator("#reason-status")).to_contain_text("thought 8 of 8")
    expect(page.locator("#reason-status")).to_contain_text("tokens/s")


def test_the_tree_grows_while_the_model_writes(under_way):
    page = under_way
    ghost = page.locator("#reason-tree .kind-ghost").first
    expect(ghost).to_contain_text(re.compile("bolts|匹|half|半", re.IGNORECASE))
    expect(page.locator("#reason-thoughts details[open]").first).to_be_visible()
    expect(page.locator("#reason-status")).to_contain_text("Thinking")
    expect(page.locator("#reason-tree .kind-thought").first).to_be_visible()


def test_the_answer_comes_before_the_search_is_over(under_way):
    expect(under_way.locator("#reason-answer")).to_contain_text("Best answer so far")
    expect(under_way.locator("#reason-answer .big-answer")).to_be_visible()
    expect(under_way.locator("#reason-stop")).to_be_enabled()


def test_the_status_tells_phase_pace_and_time_left(under_way):
    status = under_way.locator("#reason-status")
    expect(status).to_contain_text(re.compile(r"Thinking.*thought \d+ of 64.*tokens.*tokens/s.*about .+ left"))
    expect(status.locator("progress")).to_be_visible()


def test_stop_ends_the_search_with_the_best_answer_so_far(slow, open_page):
    page = open_page(slow.url)
    setting(page, "rollouts", 60)
    ask(page)
    expect(page.locator("#reason-answer .big-answer")).to_be_visible(timeout=60_000)
    page.locator("#reason-stop").click()
    expect(page.locator("#reason-status")).to_contain_text("Stopp")
    expect(page.locator("#reason-run")).to_be_enabled()
    expect(page.locator("#reason-status")).to_contain_text("Stopped")
    expect(page.locator("#reason-tree .kind-ghost")).to_have_count(0)
    expect(page.locator("#reason-answer .big-answer")).to_be_visible()
    generated = slow.engine.usage()["generated"]
    time.sleep(0.5)
    assert slow.engine.usage()["generated"] == generated


def test_closing_the_browser_stops_the_model(slow, open_page):
    page = open_page(slow.url)
    setting(page, "rollouts", 60)
    ask(page)
    expect(page.locator("#reason-tree .kind-ghost").first).to_be_visible()
    page.close()

    def quiet() -> bool:
        before = slow.engine.usage()["requests"]
        time.sleep(4)  # longer than a thought takes
        return slow.engine.usage()["requests"] == before

    until(quiet, seconds=30)


def test_shift_enter_breaks_the_line(idle):
    box = idle.locator("#reason-question textarea")
    box.fill("How many bolts?")
    box.press("Shift+Enter")
    box.type("Think hard.")
    expect(box).to_have_value("How many bolts?\nThink hard.")
    expect(idle.locator("#reason-status .status-line")).to_have_count(0)


def test_an_example_fills_the_question(idle):
    idle.get_by_text("How many r's are in strawberry?").click()
    expect(idle.locator("#reason-question textarea")).to_have_value("How many r's are in strawberry?")


@pytest.mark.parametrize(("question", "named"), [("", "question"), ("a\x00b", "NUL")])
def test_a_mistake_is_one_sentence_beside_its_cause(idle, question, named):
    ask(idle, question)
    expect(idle.locator("#reason-status .is-error")).to_contain_text(named)
    expect(idle.locator("#reason-run")).to_be_enabled()


def test_settings_reach_the_search_and_reflections_say_what_they_changed(app, open_page):
    page = open_page(app.url)
    setting(page, "rollouts", 6)
    page.locator("#reason-reflection").get_by_label("Always").check()
    ask(page)
    finished(page)
    expect(page.locator("#reason-status")).to_contain_text("thought 6 of 6")
    expect(page.locator("#reason-tree .kind-reflection").first).to_be_visible()
    expect(page.locator("#reason-thoughts .is-reflection summary").first).to_contain_text(
        re.compile("changed its mind|stays with")
    )
    page.locator("#reason-preset").get_by_label("Paper").check()
    expect(page.locator("#reason-select input")).to_have_value("The most confident thought")


def test_thoughts_fold_when_done_and_open_on_demand(thought):
    page = thought
    thoughts = page.locator("#reason-thoughts details")
    expect(thoughts).to_have_count(8)
    expect(page.locator("#reason-thoughts details[open]")).to_have_count(0)
    thoughts.first.locator("summary").click()
    expect(thoughts.first.locator(".prose")).to_be_visible()


# -- the tree ---------------------------------------------------------------------------------------------


def test_a_click_on_a_node_shows_it(thought):
    page = thought
    page.locator("#reason-tree .kind-answer").first.click()
    node = page.locator("#reason-node")
    expect(node).to_contain_text("Answer")
    for figure in ("Visits", "Value", "Confidence", "Tokens"):
        expect(node).to_contain_text(figure)
    expect(node.locator(".tokens")).to_contain_text("The answer is")


def test_the_tree_is_walked_by_keyboard(thought):
    page = thought
    tree = page.locator("#reason-tree [role=tree]")
    expect(tree).to_have_attribute("aria-label", "Tree of thoughts")
    expect(tree.locator("[tabindex='0']")).to_have_count(1)
    tree.locator("[tabindex='0']").focus()

    def focused() -> str:
        return page.evaluate("document.activeElement.dataset.node")

    page.keyboard.press("Home")
    assert focused() == "root"
    page.keyboard.press("ArrowRight")
    child = focused()
    assert child != "root"
    page.keyboard.press("ArrowDown")
    assert focused() != child
    page.keyboard.press("ArrowUp")
    assert focused() == child
    page.keyboard.press("ArrowLeft")
    assert focused() == "root"
    page.keyboard.press("End")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#reason-node .node")).to_have_attribute("data-node", child)
    expect(tree.locator("[tabindex='0']")).to_have_count(1)


def test_nodes_tell_their_figures_to_those_who_listen(thought):
    page = thought
    label = page.locator("#reason-tree .kind-thought").first.get_attribute("aria-label")
    assert re.search(r"Thought: .+, visits \d+, value \d\.\d\d", label)


def test_the_view_a_person_chose_survives_updates(under_way):
    page = under_way
    expect(page.locator("#reason-tree .kind-thought").first).to_be_visible()
    page.locator("#reason-tree button[data-do=zoom_in]").click()
    scene = page.locator("#reason-tree svg > g")
    chosen = scene.get_attribute("transform")
    before = page.locator("#reason-tree [role=treeitem]").count()
    until(lambda: page.locator("#reason-tree [role=treeitem]").count() != before)
    assert scene.get_attribute("transform") == chosen
    page.locator("#reason-tree button[data-do=fit]").click()
    assert scene.get_attribute("transform") != chosen


def test_leaving_a_tab_and_coming_back_leaves_the_tree_whole(under_way):
    page = under_way
    before = page.locator("#reason-tree [role=treeitem]").count()
    page.get_by_role("tab", name="Translate").click()
    expect(page.locator("#translate-text textarea")).to_be_visible()
    # It grows on behind the other tab.
    until(lambda: page.locator("#reason-tree [role=treeitem]").count() > before)
    page.get_by_role("tab", name="Reason").click()
    expect(page.locator("#reason-tree .kind-answer").first).to_be_visible()
    box = page.locator("#reason-tree [data-node=root]").bounding_box()
    stage = page.locator("#reason-tree .tree-stage").bounding_box()
    assert stage["x"] <= box["x"] <= stage["x"] + stage["width"]


def test_on_a_phone_nothing_overflows_and_the_root_is_in_view(app, open_page):
    page = open_page(app.url, viewport={"width": 390, "height": 844}, has_touch=True)
    ask(page)
    finished(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#reason-tree").scroll_into_view_if_needed()
    root = page.locator("#reason-tree [data-node=root]").bounding_box()
    assert 0 <= root["x"] < 390
    page.locator("#reason-tree .kind-answer").first.click()
    expect(page.locator("#reason-node .figures")).to_be_visible()


def test_of_a_thousand_nodes_300_are_drawn_and_the_rest_unfolds(app, open_page):
    app.runs.mkdir(parents=True, exist_ok=True)
    path = run_path(app.runs, "a-thousand")
    writer = RunWriter(path)
    writer.append(replace(started(), search="a-thousand", kind="solve", options=options("marco").to_dict()))
    for number in range(1, 201):
        segments = [(number, step, step) for step in range(6)]
        writer.append(rollout(number, "root", segments, answer="1", thought_segments=5))
    writer.close()
    page = open_page(app.url)
    library(page)
    page.locator("#runs-list .link", has_text="How many?").first.click()
    expect(page.locator("#runs-tree [data-node=root]")).to_be_visible()
    nodes = page.locator("#runs-tree [data-node]")
    assert 100 < nodes.count() <= 300
    expect(page.locator("#runs-tree .count")).to_contain_text(re.compile(r"\d+ of 1,?\d\d\d nodes"))
    names = "all => all.map(one => one.dataset.node)"
    shown = set(nodes.evaluate_all(names))
    page.locator("#runs-tree .kind-fold").first.focus()
    page.keyboard.press("Enter")
    until(lambda: set(nodes.evaluate_all(names)) - shown)
    assert nodes.count() <= 300
    path.unlink()


# -- the text of a model is only text -----------------------------------------------------------------------


def test_model_text_never_becomes_markup(apps, open_page):
    evil = (
        "<Thought>\n<img src=x onerror=\"document.title='owned'\"> ${document.title='owned'} "
        "{{constructor.constructor('document.title=1')()}}\n\n"
        "![a](http://elsewhere.example/a.png) <script>document.title='owned'</script>\n</Thought>\n"
        "<Output>\n<b id=evil>4</b> ![b](http://elsewhere.example/b.png) so $x<3$ ${document.title='owned'}\n</Output>"
    )
    app = apps.start(ScriptedEngine(lambda prefix, seed: evil, seconds_per_token=0.0005))
    page = open_page(app.url)
    ask(page, "<img src=x onerror=\"document.title='owned'\"> ${document.title='owned'} {{7*7}}")
    finished(page)
    for node in page.locator("#reason-tree [role=treeitem]").all():
        node.focus()
        page.keyboard.press("Enter")
    page.locator("#reason-thoughts summary").first.click()
    expect(page.locator("#reason-answer")).to_contain_text("<b id=evil>4</b>")
    assert page.locator("#evil, #reason-results img, #reason-results script").count() == 0
    assert page.title() == "Marco"
    assert page.locator("#reason-answer math").count() >= 1


def test_a_part_that_cannot_be_drawn_costs_that_part_and_not_the_search(searched, monkeypatch):
    def broken(*arguments: object, **named: object) -> None:
        raise ValueError("made to fail")

    monkeypatch.setattr("ui.render.conversation", broken)
    monkeypatch.setattr("ui.render.tree_payload", broken)
    ask(searched)
    expect(searched.locator("#reason-thoughts")).to_contain_text("This part can't be drawn")
    finished(searched)
    expect(searched.locator("#reason-answer .big-answer")).to_have_text("3")


# -- the model ----------------------------------------------------------------------------------------------


def test_the_page_opens_before_the_model_is_there_and_a_question_waits_for_it(apps, open_page):
    loading = threading.Event()
    app = apps.start(ScriptedEngine(think), loading=loading)
    page = open_page(app.url)
    expect(page.locator("#model-status")).to_contain_text("fetching the model 25%")
    ask(page)
    expect(page.locator("#reason-status")).to_contain_text("The model is loading")
    loading.set()
    finished(page)
    expect(page.locator("#model-status")).to_contain_text("scripted")


def test_a_model_that_is_not_there_is_told_in_one_sentence_and_the_page_stays_up(apps, open_page):
    app = apps.start(None, failure=ModelUnavailable("There is no model at /nowhere."))
    page = open_page(app.url)
    expect(page.locator("#model-status")).to_contain_text("There is no model at /nowhere.")
    ask(page)
    expect(page.locator("#reason-status .is-error")).to_contain_text("There is no model at /nowhere.")
    expect(page.locator("#reason-run")).to_be_enabled()


# -- the person ---------------------------------------------------------------------------------------------


def test_two_people_have_two_searches(slow, open_page):
    first, second = open_page(slow.url), open_page(slow.url)
    setting(first, "rollouts", 30)
    ask(first, "How many bolts, first?")
    ask(second, "How many bolts, second?")
    expect(first.locator("#reason-thoughts .question")).to_have_text("How many bolts, first?")
    expect(second.locator("#reason-thoughts .question")).to_have_text("How many bolts, second?")
    second.locator("#reason-stop").click()
    expect(second.locator("#reason-status")).to_contain_text("Stopped")
    expect(first.locator("#reason-status")).to_contain_text("Thinking")
    first.locator("#reason-stop").click()
    expect(first.locator("#reason-run")).to_be_enabled()


@pytest.fixture(scope="module")
def busy(apps, open_page_once) -> Iterator[tuple[Served, Page]]:
    """An app that thinks about one question at a time and lets one person wait; and the page that it thinks for."""
    app = apps.start(ScriptedEngine(ponder, seconds_per_token=0.1), seats=1, room=1)
    page = open_page_once(f"{app.url}?rollouts=64")
    ask(page)
    expect(page.locator("#reason-tree .kind-ghost").first).to_be_visible()
    yield app, page


def test_who_waits_sees_their_place_who_finds_no_room_keeps_their_question_and_the_next_is_served(busy, open_page):
    app, first = busy
    second = open_page(f"{app.url}?rollouts=64")
    third = open_page(app.url, expected="503", locale="zh-CN")
    ask(second, "Second in the queue?")
    status = second.locator("#reason-status")
    expect(status.locator(".place")).to_be_visible()
    expect(status.locator(".place .words")).to_have_text("You are in the queue: number 1 of 1.")
    assert findings(second) == []

    ask(third, "请问还有位置吗？")
    expect(third.locator("#reason-status .is-error")).to_be_visible()
    expect(third.locator("#reason-status .is-error")).to_have_text(re.compile("您写的内容都还在"))
    expect(third.locator("#reason-question textarea")).to_have_value("请问还有位置吗？")
    expect(third.locator("#reason-run")).to_be_enabled()

    first.locator("#reason-stop").click()
    expect(status).to_contain_text("Thinking")
    expect(status.locator(".place")).to_have_count(0)
    expect(second.locator("#reason-tree .kind-ghost").first).to_be_visible()
    second.locator("#reason-stop").click()
    expect(second.locator("#reason-run")).to_be_enabled()


def test_who_waits_can_leave_the_queue_and_makes_room_for_another(busy, open_page):
    app, first = busy
    ask(first)
    expect(first.locator("#reason-tree .kind-ghost").first).to_be_visible()
    second = open_page(f"{app.url}?rollouts=64")
    ask(second, "Second in the queue?")
    second.get_by_role("button", name="Leave the queue").click()
    expect(second.locator("#reason-status .place")).to_have_count(0)
    expect(second.locator("#reason-question textarea")).to_have_value("Second in the queue?")
    expect(second.locator("#reason-run")).to_be_enabled()

    third = open_page(app.url)
    ask(third, "Third, and next?")
    expect(third.locator("#reason-status .place .words")).to_have_text("You are in the queue: number 1 of 1.")
    first.locator("#reason-stop").click()
    expect(third.locator("#reason-thoughts .question")).to_have_text("Third, and next?")
    third.locator("#reason-stop").click()
    expect(third.locator("#reason-run")).to_be_enabled()
    expect(second.locator("#reason-thoughts")).not_to_be_visible()


def test_the_page_speaks_chinese_to_a_chinese_browser(app, open_page):
    page = open_page(app.url, locale="zh-CN")
    expect(page.locator("#reason-run")).to_have_text("开始")
    page.get_by_role("button", name="设置").first.click()
    expect(page.locator("#reason-reflection")).to_contain_text("从不")
    ask(page)
    expect(page.locator("#reason-status")).to_contain_text("完成", timeout=60_000)
    expect(page.locator("#reason-answer")).to_contain_text("票数优势")


# -- taking part --------------------------------------------------------------------------------------------


def choose_thought(page: Page) -> str:
    """Choose a thought that is a node of the tree; returns its id."""
    node = page.locator("#reason-tree .kind-thought:not(.is-waiting)").first
    # By keyboard: a large tree may have it out of sight, or on the move.
    node.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#reason-node .steering")).to_be_visible()
    return node.get_attribute("data-node")


def test_expanding_a_node_of_a_finished_search_goes_on_from_there(searched):
    page = searched
    choose_thought(page)
    page.get_by_role("button", name="Expand here").click()
    expect(page.locator("#reason-status")).to_contain_text("thought 9 of 9")
    finished(page)


def test_a_pruned_node_says_so_and_can_be_restored(searched):
    page = searched
    node = choose_thought(page)
    page.get_by_role("button", name="Prune").click()
    expect(page.locator(f"#reason-tree [data-node='{node}']")).to_have_class(re.compile("is-pruned"))
    page.get_by_role("button", name="Restore").click()
    expect(page.locator(f"#reason-tree [data-node='{node}']")).not_to_have_class(re.compile("is-pruned"))


def test_a_search_under_way_is_steered(under_way):
    page = under_way
    expect(page.locator("#reason-tree .kind-thought:not(.is-waiting)").first).to_be_visible()
    node = choose_thought(page)
    page.get_by_role("button", name="Pin", exact=True).click()
    expect(page.locator(f"#reason-tree [data-node='{node}']")).to_have_class(re.compile("is-pinned"))
    expect(page.locator("#reason-status")).to_contain_text("Thinking")
    page.get_by_role("button", name="Unpin", exact=True).click()
    expect(page.locator(f"#reason-tree [data-node='{node}']")).not_to_have_class(re.compile("is-pinned"))


def test_a_thought_is_edited_and_the_model_goes_on_from_it(searched):
    page = searched
    choose_thought(page)
    page.get_by_role("button", name="Edit and go on").click()
    box = page.locator("#reason-edit textarea")
    expect(box).not_to_have_value("")
    box.fill("<Thought>\nMy own idea: two and one. 🙂\n\n")
    page.locator("#reason-edit-go").click()
    finished(page)
    expect(page.locator("#reason-tree")).to_contain_text("My own idea")


def test_another_token_forks_the_search(searched):
    page = searched
    choose_thought(page)
    page.locator("#reason-node .token").nth(4).hover()
    options = page.locator("#reason-node .bubble .option")
    expect(options).to_have_count(5)
    before = page.locator("#reason-tree [data-node^=e]").count()
    page.locator("#reason-node .bubble button.option").first.click()
    expect(page.locator("#reason-tree [data-node^=e]")).to_have_count(before + 1, timeout=60_000)
    finished(page)


def test_alternatives_show_on_focus_too(thought):
    page = thought
    choose_thought(page)
    page.locator("#reason-node .token").first.focus()
    expect(page.locator("#reason-node .bubble")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#reason-node .token.is-shown")).to_have_attribute("data-index", "1")
    page.keyboard.press("Escape")
    expect(page.locator("#reason-node .bubble")).to_have_count(0)


def test_a_finished_search_is_given_more(searched):
    page = searched
    page.locator("#reason-more").click()
    expect(page.locator("#reason-status")).to_contain_text("of 12")
    finished(page)
    expect(page.locator("#reason-status")).to_contain_text("thought 12 of 12")


def test_charts_are_drawn_on_demand(thought):
    page = thought
    page.get_by_role("button", name="Charts").click()
    for name in ("path", "rollouts", "answer"):
        expect(page.locator(f"#reason-chart-{name} .js-plotly-plot")).to_be_visible()


# -- a conversation -----------------------------------------------------------------------------------------


def test_a_follow_up_keeps_what_was_said(searched):
    follow = searched.locator("#reason-follow-up textarea")
    follow.fill("And for two robes?")
    follow.press("Enter")
    expect(searched.locator("#reason-thoughts .question")).to_have_count(2)
    finished(searched)
    assert QUESTION in PROMPTS[-1] and "And for two robes?" in PROMPTS[-1]
    assert "The answer is" in PROMPTS[-1].rpartition("And for two robes?")[0]


def test_the_language_of_the_answer_and_a_system_prompt_of_ones_own_reach_the_model(app, open_page):
    page = open_page(app.url)
    page.get_by_role("button", name="Settings").first.click()
    open_finer_settings(page)
    page.locator("#reason-language textarea, #reason-language input").first.fill("French")
    page.locator("#reason-system textarea, #reason-system input").first.fill("You are a weaver of robes.")
    ask(page, "How many bolts for a weaver?")
    finished(page)
    asked = next(prompt for prompt in reversed(PROMPTS) if "for a weaver?" in prompt)
    assert "You are a weaver of robes." in asked and "French" in asked


# -- runs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(apps: Apps, open_page_once) -> Served:
    """An app with two runs on record."""
    app = apps.start(ScriptedEngine(think))
    page = open_page_once(app.url)
    for question in ("How many bolts of blue?", "How many bolts of white?"):
        ask(page, question)
        expect(page.locator("#reason-thoughts .question")).to_have_text(question)
        finished(page)
    return app


def library(page: Page, name: str = "") -> None:
    page.get_by_role("tab", name="Runs").click()
    expect(page.locator("#runs-list .link").first).to_be_visible()
    if name:
        page.locator("#runs-list .link", has_text=name).first.click()
        expect(page.locator("#runs-answer .answer-head")).to_be_visible()


@pytest.fixture(scope="module")
def runs_page(recorded, open_page_once) -> Page:
    page = open_page_once(recorded.url)
    library(page)
    return page


def test_a_run_is_found_by_word_date_and_model(runs_page):
    page = runs_page
    rows = page.locator("#runs-list tbody tr")
    expect(rows).to_have_count(2)
    for field, hit, hits, miss in (
        ("find", "white", 1, "nothing like it"),
        ("since", "2020", 2, "2999"),
        ("model", "scripted", 2, "qwen"),
    ):
        box = page.locator(f"#runs-{field} textarea, #runs-{field} input").first
        box.fill(miss)
        expect(rows).to_have_count(0)
        box.fill(hit)
        expect(rows).to_have_count(hits)
        box.fill("")
        expect(rows).to_have_count(2)


def test_a_run_is_opened_and_replayed(runs_page):
    page = runs_page
    library(page, "blue")
    whole = page.locator("#runs-tree [role=treeitem]").count()
    box = page.locator("#runs-slider input[type=number]")
    box.fill("2")
    box.press("Tab")
    expect(page.locator("#runs-tree [role=treeitem]")).not_to_have_count(whole)
    page.locator("#runs-tree [data-node=root]").click()
    expect(page.locator("#runs-node")).to_contain_text("How many bolts of blue?")


def test_a_run_is_exported(runs_page):
    page = runs_page
    library(page, "blue")
    for form, sign in (("json", '"header"'), ("graphml", "<graphml"), ("html", "<!doctype html>")):
        expect(page.locator(f"#runs-export-{form}")).to_be_enabled()
        with page.expect_download() as download:
            page.locator(f"#runs-export-{form}").click()
        assert sign in download.value.path().read_text(encoding="utf-8")


def test_two_runs_are_compared(runs_page):
    page = runs_page
    library(page, "blue")
    page.locator("#runs-other input").click()
    page.get_by_role("option").first.click()
    expect(page.locator("#runs-beside .card")).to_have_count(2)


def test_a_run_is_resumed_where_questions_are_asked(recorded, open_page):
    page = open_page(recorded.url)
    library(page, "white")
    page.locator("#runs-resume").click()
    expect(page.locator("#reason-status")).to_contain_text("thought 12 of 12", timeout=60_000)
    expect(page.locator("#reason-thoughts .question")).to_have_text("How many bolts of white?")


def test_a_run_is_deleted_after_a_second_thought(recorded, open_page):
    page = open_page(recorded.url)
    ask(page, "How many bolts in the bin?")
    finished(page)
    library(page, "in the bin")
    before = set(recorded.runs.glob("*.jsonl"))
    page.locator("#runs-delete").click()
    page.locator("#runs-delete-sure").click()
    expect(page.locator("#runs-list .link", has_text="in the bin")).to_have_count(0)
    assert len(set(recorded.runs.glob("*.jsonl"))) == len(before) - 1


def test_on_a_shared_server_visitors_see_only_their_own_runs(apps, open_page):
    app = apps.start(ScriptedEngine(think), shared=True)
    first, second = open_page(app.url), open_page(app.url)
    ask(first)
    finished(first)
    library(first)
    expect(first.locator("#runs-list tbody tr")).to_have_count(1)
    second.get_by_role("tab", name="Runs").click()
    expect(second.locator("#runs-list")).to_contain_text("No run")


def test_the_exported_page_stands_alone(recorded, open_page, tmp_path, chromium):
    from marco.runs import list_runs, read_run
    from ui.page import as_html

    run = next(iter(list_runs(recorded.runs)))
    path = tmp_path / "run.html"
    path.write_text(as_html(read_run(run.path)), encoding="utf-8")
    context = chromium.new_context()
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(path.as_uri())
    expect(page.locator("#answer")).to_contain_text("The answer is")
    page.locator(".tree .kind-answer").first.click()
    expect(page.locator("#node .figures")).to_be_visible()
    context.close()
    assert not wrong


# -- comparing, settings, programs --------------------------------------------------------------------------


def test_strategies_are_compared_at_the_same_number_of_tokens(app, open_page):
    page = open_page(app.url)
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-tokens input[type=number]").fill("600")
    page.locator("#compare-tokens input[type=number]").press("Tab")
    page.locator("#compare-question textarea").fill(QUESTION)
    page.locator("#compare-question textarea").press("Enter")
    columns = page.locator("#compare-result .columns > .card")
    expect(columns).to_have_count(3)
    expect(page.locator("#compare-run")).to_be_enabled(timeout=60_000)
    for column in columns.all():
        expect(column.locator(".big-answer")).to_be_visible()
        spent = column.locator(".figures dd").nth(1).inner_text()
        assert int(spent.replace(",", "")) <= 600


def test_the_address_carries_the_settings(app, open_page):
    page = open_page(app.url)
    setting(page, "rollouts", 5)
    expect(page).to_have_url(re.compile(r"rollouts=5"))
    again = open_page(f"{app.url}?rollouts=3&select=majority&temperature=nonsense&action=sideways&branching=99")
    ask(again)
    finished(again)
    expect(again.locator("#reason-status")).to_contain_text("thought 3 of 3")


def test_another_model_takes_over_without_losing_the_search_under_way(apps, open_page):
    second = ScriptedEngine(think, model="the-second")
    app = apps.start(ScriptedEngine(ponder, seconds_per_token=0.02), switch=lambda config: lambda progress: second)
    page = open_page(app.url)
    setting(page, "rollouts", 6)
    ask(page)
    expect(page.locator("#reason-tree .kind-ghost").first).to_be_visible()
    page.locator("#model-settings button").first.click()
    box = page.locator("#model-name input")
    box.fill("the-second")
    box.press("Enter")
    page.locator("#model-use").click()
    expect(page.locator("#model-status")).to_contain_text("the-second")
    finished(page)
    expect(page.locator("#reason-status")).to_contain_text("thought 6 of 6")


def test_programs_stream_answers_through_two_endpoints(app):
    from gradio_client import Client

    client = Client(app.url, verbose=False)
    assert set(client.view_api(print_info=False, return_format="dict")["named_endpoints"]) == {"/solve", "/translate"}
    told = list(client.submit(QUESTION, rollouts=3, api_name="/solve"))
    assert [item["done"] for item in told[:-1]] == [False] * (len(told) - 1)
    assert told[-1]["done"] and told[-1]["answer"] == "3" and told[-1]["rollouts"] == 3
    translated = list(client.submit("这个鞋拥有踩屎感", "English", api_name="/translate"))
    assert translated[-1]["target_language"] == "en"


# -- a real model -------------------------------------------------------------------------------------------


def test_a_real_model_thinks_answers_and_is_read(apps, small_engine, open_page):
    app = apps.start(small_engine)
    page = open_page(app.url)
    setting(page, "rollouts", 2)
    open_finer_settings(page)
    setting(page, "max-tokens", 192)
    ask(page, f"{QUESTION} 🧵 请用中文回答。")
    expect(page.locator("#reason-tree .kind-ghost").first).to_contain_text(
        re.compile(r"\w{3}|[\u4e00-\u9fff]"), timeout=120_000
    )
    expect(page.locator("#reason-status .is-done")).to_be_visible(timeout=300_000)
    expect(page.locator("#reason-status")).to_contain_text("thought 2 of 2")
    page.locator("#reason-tree .kind-thought, #reason-tree .kind-answer").first.click()
    page.locator("#reason-node .token").first.hover()
    expect(page.locator("#reason-node .bubble .option")).to_have_count(5)
    expect(page.locator("#reason-thoughts .question")).to_contain_text("🧵 请用中文回答。")
    assert "\ufffd" not in page.locator("#reason-results").inner_text()
