"""Events to what is shown, without a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from thinking import bolts

from marco import Solver, options
from marco.engines.scripted import Fail, ScriptedEngine
from marco.events import (
    AnswerChosen,
    Event,
    Partial,
    RolloutFinished,
    SearchEnded,
    SearchStarted,
    WorkIssued,
)
from marco.translation.output import FLAWS
from ui import render
from ui.markup import markdown
from ui.panel import panel
from ui.render import View
from ui.texts import TEXTS, TREE_WORDS, texts, tree_words
from ui.tree_view import tree_view

QUESTION = "How many bolts in total does it take?"
ENGLISH = texts("en")


def events(script=bolts, **given: Any) -> list[Event]:
    return list(Solver(ScriptedEngine(script), options("marco", **given)).stream(QUESTION))


def parts(element: Any) -> Iterator[Any]:
    """Every element below, itself included."""
    if isinstance(element, str):
        return
    yield element
    for child in element[2]:
        yield from parts(child)


def text_of(element: Any) -> str:
    return element if isinstance(element, str) else "".join(text_of(child) for child in element[2])


def words(element: Any) -> str:
    return " ".join("\n".join(text_of(part) for part in parts(element) if not any(map(_is_element, part[2]))).split())


def _is_element(child: Any) -> bool:
    return not isinstance(child, str)


def tags(element: Any) -> set[str]:
    return {part[0] for part in parts(element)}


# -- the view ---------------------------------------------------------------------------------------------


def test_a_view_is_a_fold_that_a_run_file_gives_as_well_as_a_live_search():
    happened = events(rollouts=6)
    live, replayed = View.fold(happened), View.fold(e for e in happened if not isinstance(e, Partial))
    assert render.tree_payload(live) == render.tree_payload(replayed)
    assert render.answer(live, ENGLISH) == render.answer(replayed, ENGLISH)


def test_text_under_way_shows_until_its_rollout_is_finished():
    view = View.fold([SearchStarted(question="q", prompt_ids=(1,)), WorkIssued(work=1, node="root", seed=0)])
    view.apply(Partial(work=1, node="root", text="Half of ", tokens=3), 1.0)
    view.apply(Partial(work=1, node="root", text="two", tokens=5), 2.0)
    ghost = render.tree_payload(view)["nodes"][-1]
    assert (ghost["kind"], ghost["parent"], ghost["label"], ghost["tokens"]) == ("ghost", "root", "Half of two", 5)
    done = next(e for e in events(rollouts=1) if isinstance(e, RolloutFinished))
    view.apply(done, 3.0)
    assert all(node["kind"] != "ghost" for node in render.tree_payload(view)["nodes"])


def test_the_pace_counts_tokens_under_way():
    view = View()
    view.apply(SearchStarted(question="q", prompt_ids=(1,)), 0.0)
    view.apply(WorkIssued(work=1, node="root", seed=0), 10.0)
    view.apply(Partial(work=1, node="root", text="x", tokens=50), 12.0)
    assert view.pace == 25.0


# -- the tree ---------------------------------------------------------------------------------------------


def test_every_rollout_can_be_followed_to_its_answer():
    view = View.fold(events(rollouts=8))
    nodes = render.seen(view)
    for number, made in view.tree.rollouts.items():
        answers = [n for n in nodes.values() if n.kind == "answer" and _carries(view, n, number)]
        assert len(answers) == 1
        whole = "".join(step.text for step in render.line(nodes, answers[0].id)[1:])
        assert whole == view.tree.path_text(made.node) + made.text


def _carries(view: View, node: render.Seen, rollout: int) -> bool:
    if node.waiting:
        return rollout in node.rollouts
    return view.tree.leaves[rollout] == node.id


def test_a_node_in_waiting_keeps_its_id_when_the_search_gets_there():
    happened = events(rollouts=12, seed=3)
    early = set(render.seen(View.fold(happened[: len(happened) // 2])))
    assert early <= set(render.seen(View.fold(happened)))


def test_the_best_path_leads_to_the_answer_that_is_given():
    view = View.fold(events(rollouts=8))
    nodes = render.seen(view)
    path = render.best_path(view, nodes)
    assert path[0] == "root"
    assert nodes[path[-1]].kind == "answer"
    assert view.answer is not None and view.answer.answer in nodes[path[-1]].text
    marked = [node["id"] for node in render.tree_payload(view)["nodes"] if node.get("best")]
    assert marked and set(marked) <= set(path)


def long_chain(prefix: str, seed: int) -> str:
    said = prefix.rpartition("assistant: ")[2]
    steps = [f"Step {i} of {seed}.\n\n" for i in range(said.count("\n\n"), 12)]
    return ("" if said else "<Thought>\n") + "".join(steps) + "</Thought>\n<Output>\n3\n</Output>"


def test_long_chains_fold_and_unfold():
    view = View.fold(events(long_chain, rollouts=1))
    folded = render.tree_payload(view)["nodes"]
    (fold,) = [node for node in folded if node["kind"] == "fold"]
    assert fold["count"] + len(folded) - 1 == len(render.seen(view))
    unfolded = render.tree_payload(view, unfolded={fold["id"]})["nodes"]
    assert len(unfolded) == len(render.seen(view))


def always_new(prefix: str, seed: int) -> str:
    return ("" if "<Thought>" in prefix else "<Thought>\n") + f"Idea {seed}.\n\n</Thought>\n<Output>\n3\n</Output>"


def test_a_large_tree_is_drawn_in_part_and_says_so():
    view = View.fold(events(always_new, rollouts=60, branching=4))
    payload = render.tree_payload(view, limit=40)
    drawn = {node["id"] for node in payload["nodes"]}
    assert len(drawn) <= 40 < payload["total"]
    assert all(node["parent"] is None or node["parent"] in drawn for node in payload["nodes"])
    closed = [node for node in payload["nodes"] if node.get("hidden")]
    assert closed
    again = render.tree_payload(view, limit=40, unfolded={closed[-1]["id"]})
    children = [node for node in again["nodes"] if node["parent"] == closed[-1]["id"]]
    assert children
    assert len(again["nodes"]) <= 40


def test_a_chain_of_a_thousand_nodes_is_drawn():
    def deep(prefix: str, seed: int) -> str:
        return "x" * 1000

    view = View.fold(events(deep, rollouts=1, action="mini-step-1", depth=2000, max_tokens=1000))
    assert len(render.seen(view)) == 1001
    payload = render.tree_payload(view)
    assert payload["total"] == 1001
    json.dumps(payload)


def test_the_payload_says_everything_in_figures_too():
    payload = render.tree_payload(View.fold(events(rollouts=4)), words=tree_words("en"))
    for node in payload["nodes"]:
        assert node["visits"] >= 1
        assert payload["low"] - 0.001 <= node["value"] <= payload["high"] + 0.001
    assert set(payload["texts"]) == set(TREE_WORDS)


# -- the answer -------------------------------------------------------------------------------------------


def test_the_answer_comes_with_the_vote():
    view = View.fold(events(rollouts=8))
    shown = words(render.answer(view, ENGLISH))
    assert view.answer is not None
    assert f"The answer is {view.answer.answer}." in shown
    assert ENGLISH("margin") in shown
    assert f"{100 * view.answer.confidence:.0f}%" in shown
    rows = [part for part in parts(render.answer(view, ENGLISH)) if part[0] == "tr"]
    assert len(rows) == 1 + len(view.answer.votes)


def test_the_best_answer_so_far_is_called_so():
    happened = events(rollouts=4)
    early = happened[: next(i for i, e in enumerate(happened) if isinstance(e, AnswerChosen)) + 1]
    assert ENGLISH("answer_so_far") in words(render.answer(View.fold(early), ENGLISH))
    assert ENGLISH("answer_so_far") not in words(render.answer(View.fold(happened), ENGLISH))


def test_what_was_written_before_an_early_stop_is_not_lost():
    happened: list[Event] = [
        SearchStarted(question="q", prompt_ids=(1,)),
        SearchEnded(stopped_by="user", seconds=1, tokens={}, rollouts=0, nodes=1, text="<Thought>\nHalf of two is"),
    ]
    assert "Half of two is" in words(render.answer(View.fold(happened), ENGLISH))


@pytest.mark.parametrize("reason", ["done", "rollouts", "tokens", "seconds", "user", "sure"])
def test_the_status_says_what_ended_the_search(reason):
    ended = SearchEnded(stopped_by=reason, seconds=75, tokens={}, rollouts=0, nodes=1)
    shown = words(render.status(View.fold([SearchStarted(question="q", prompt_ids=(1,)), ended]), ENGLISH))
    assert ENGLISH(f"ended_{reason}") in shown
    assert "1:15" in shown


def test_failures_are_told_in_their_own_words():
    def sometimes(prefix: str, seed: int) -> str | Fail:
        return Fail("The server hung up.") if seed % 2 else bolts(prefix, seed)

    view = View.fold(events(sometimes, rollouts=8))
    assert view.failures
    assert "The server hung up." in words(render.status(view, ENGLISH))


# -- a node -----------------------------------------------------------------------------------------------


def test_a_node_shows_its_tokens_their_confidence_and_their_alternatives():
    view = View.fold(events(rollouts=4))
    nodes = render.seen(view)
    node = next(item for item in nodes.values() if item.kind == "thought")
    shown = render.node_details(view, node.id, ENGLISH)
    (holder,) = [part for part in parts(shown) if "tokens" in part[1]]
    tokens = holder[1]["tokens"]
    assert "".join(text for text, *_ in tokens) == node.text
    assert len(tokens) == node.end - node.start
    for _, confidence, options_ in tokens:
        assert 0 <= confidence <= 1
        assert len(options_) == 5
        assert sum(chosen for *_, chosen in options_) == 1
        assert sum(probability for _, probability, *_ in options_) <= 1.001


def test_half_a_character_is_never_shown():
    def characters(prefix: str, seed: int) -> str:
        return "家👩🏽‍🔬é" * 20

    view = View.fold(events(characters, rollouts=2, action="mini-step-5"))
    for item in render.seen(view).values():
        shown = render.node_details(view, item.id, ENGLISH)
        assert "\ufffd" not in text_of(shown)
        for part in parts(shown):
            assert "\ufffd" not in "".join(text for text, *_ in part[1].get("tokens", ()))


def test_the_path_reads_from_the_question_to_the_node():
    view = View.fold(events(rollouts=4))
    nodes = render.seen(view)
    leaf = next(item for item in nodes.values() if item.kind == "answer")
    prose = next(part for part in parts(render.node_details(view, leaf.id, ENGLISH)) if part[1].get("class") == "steps")
    assert text_of(prose[2][0]) == QUESTION
    assert len(prose[2]) == len(render.line(nodes, leaf.id))


def test_an_unknown_node_is_an_invitation_and_no_error():
    assert words(render.node_details(View(), "9.9", ENGLISH)) == ENGLISH("node_none")


# -- thoughts ---------------------------------------------------------------------------------------------


def test_thoughts_fold_when_they_are_done():
    happened = events(rollouts=3)
    view = View.fold(happened)
    done = [part for part in parts(render.conversation(view, ENGLISH)) if part[0] == "details"]
    assert len(done) == 3
    assert all("open" not in part[1] for part in done)
    view = View.fold(
        [happened[0], WorkIssued(work=1, node="root", seed=0), Partial(work=1, node="root", text="Hm", tokens=1)]
    )
    (writing,) = [part for part in parts(render.conversation(view, ENGLISH)) if part[0] == "details"]
    assert writing[1]["open"] == "open"
    assert "Hm" in words(writing)


def test_a_reflection_says_what_it_changed():
    view = View.fold(events(rollouts=10, reflection="always"))
    assert view.judged
    shown = words(render.conversation(view, ENGLISH))
    for judged in view.judged.values():
        key = "reflection_changed" if judged.changed else "reflection_same"
        assert ENGLISH(key, before=judged.before, after=judged.after) in shown


# -- model text is never HTML -----------------------------------------------------------------------------

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "![steal](https://elsewhere.example/x.png)",
    "[click](javascript:alert(1))",
    "[a]: https://elsewhere.example/x.png\n\n![b][a]",
    "<style>@import url(https://elsewhere.example)</style>",
    "${alert(1)} {{alert(1)}}",
    "$\\href{javascript:alert(1)}{x}$",
    "$\\text{<img src=x>}$",
    "<iframe src=https://elsewhere.example>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text):
    element = markdown(text)
    assert not tags(element) & {"img", "script", "style", "iframe", "a", "link", "object", "embed", "svg"}
    for part in parts(element):
        assert not set(part[1]) & {"src", "href", "srcset", "style", "onerror", "xlink:href"}


def test_the_text_of_a_tag_is_shown():
    assert "<img src=x onerror=alert(1)>" in text_of(markdown(HOSTILE[0]))


def test_markdown_becomes_elements():
    element = markdown("**Bold** and *soft*\n\n1. one\n2. two\n\n```py\na < b\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |")
    assert {"strong", "em", "ol", "li", "pre", "code", "table", "td"} <= tags(element)
    assert "a < b" in text_of(element)


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("half is $\\frac{2}{2} = 1$", 1),
        ("\\(x^2\\) and \\[\\sum_i x_i\\]", 2),
        ("$$a < b$$", 1),
        ("it costs $5 and then $6", 0),
        ("`$x$` is code", 0),
        ("$x$", 1),
    ],
)
def test_mathematics_is_drawn_and_prices_are_not(text, formulas):
    assert sum(part[0] == "math" for part in parts(markdown(text))) == formulas


def test_broken_latex_stays_as_it_was_written():
    assert "\\frac{1}{" in text_of(markdown("so $\\frac{1}{$ it is"))


def test_deeply_nested_text_does_no_harm():
    for text in (">" * 5000 + "x", "- " * 3000 + "x", "*" * 5000, "[" * 5000, "$" * 999, "$" + "{" * 5000 + "$"):
        assert markdown(text)[0] == "div"


# -- words ------------------------------------------------------------------------------------------------


def test_every_text_is_there_in_both_languages_with_the_same_values():
    import string

    for key, (english, chinese) in TEXTS.items():
        assert english and chinese, key
        named = [{name for _, name, _, _ in string.Formatter().parse(text) if name} for text in (english, chinese)]
        assert named[0] == named[1], key


def test_a_chinese_page_is_chinese():
    view = View.fold(events(rollouts=2))
    assert "完成" in words(render.status(view, texts("zh")))
    assert "票数优势" in words(render.answer(view, texts("zh")))


@pytest.mark.parametrize("flaw", FLAWS)
def test_why_a_translation_cannot_win_is_said_beside_its_thought(flaw):
    solver = Solver(ScriptedEngine(bolts), options("marco", rollouts=1))
    task = replace(solver.task(QUESTION), flaw=lambda output: flaw)
    view = View()
    for at, event in enumerate(solver.stream_task(task)):
        view.apply(event, float(at))
    assert ENGLISH(f"degenerate_{flaw.replace(' ', '_')}") in words(render.conversation(view, ENGLISH))


# -- how it travels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [panel, tree_view])
def test_a_component_that_gradio_makes_anew_for_a_session_still_sends_text(make):
    """Where lists in lists get shorter by more than one, Gradio's own differences break the page."""
    first = make()
    again = type(first)(**first.constructor_args)
    assert again.get_block_name() == "html"
    assert again.postprocess(["p", {}, ["a < b"]]) == '["p",{},["a \\u003c b"]]'
    assert again.postprocess(None) is None
