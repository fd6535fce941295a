"""How an output is taken apart, an answer read off it, and one answer chosen among several."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marco.answer import (
    Candidate,
    Choice,
    extract,
    kind_of,
    normalise,
    same,
    select,
    settled,
    split_output,
    vote_weights,
)
from marco.config import SELECTIONS
from marco.errors import InvalidOption, SearchError

CASES = [
    json.loads(line) for line in (Path(__file__).parent / "cases" / "answers.jsonl").read_text("utf-8").splitlines()
]
KINDS = ("number", "choice", "text")


def candidate(
    rollout: int,
    answer: str | None,
    *,
    value: float | None = 0.5,
    visits: int = 1,
    confidence: float | None = 0.5,
    degenerate: bool = False,
    text: str | None = None,
) -> Candidate:
    return Candidate(rollout, answer, text if text is not None else answer or "", value, visits, confidence, degenerate)


def many(*answers: str | None, confidence: float | None = 0.5) -> list[Candidate]:
    return [candidate(rollout, answer, confidence=confidence) for rollout, answer in enumerate(answers)]


# -- extraction ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind']}: {case['why']}")
def test_hard_cases_are_read_as_a_person_would(case: dict[str, str | None]) -> None:
    assert extract(case["text"] or "", case["kind"] or "") == case["expected"]


def test_there_are_enough_hard_cases_in_several_scripts() -> None:
    assert len(CASES) >= 80
    assert sum(any("\u4e00" <= character <= "\u9fff" for character in case["text"]) for case in CASES) >= 20


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=300), kind=st.sampled_from(KINDS))
def test_any_text_can_be_read(text: str, kind: str) -> None:
    answer = extract(text, kind)
    assert answer is None or answer.strip()
    assert kind_of(text) in KINDS


MARKS = (
    ", . ; - / % $ ( ) ** { } = ^ × : 1 10 ½ ٣ x one hundred Step #### A) yes 三 百 万 点 分之 负 答案 answer: Output>"
)
ALPHABET = st.sampled_from(
    [*MARKS.split(" "), "\n", "a half", "answer is", "\\boxed{", "\\frac{", "<Thought>", "<Output>", "</Output>"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ALPHABET, max_size=40), st.sampled_from(["", " "]), st.sampled_from(KINDS))
def test_any_mix_of_what_means_something_can_be_read(parts: list[str], joint: str, kind: str) -> None:
    answer = extract(joint.join(parts), kind)
    if answer is not None:
        key = normalise(answer, kind)
        assert normalise(key, kind) == key


@settings(max_examples=200, deadline=None)
@given(
    value=st.one_of(
        st.integers(-(10**12), 10**12),
        st.decimals(-(10**6), 10**6, places=3).filter(lambda value: value == value),
    ),
    frame=st.sampled_from(
        ["{}", "The answer is {}.", "So she makes ${} a day.", "答案是{}。", "\\boxed{{{}}}", "**{}**"]
    ),
)
def test_a_number_written_in_any_usual_way_comes_back(value: object, frame: str) -> None:
    text = frame.replace("{{{}}}", "{" + f"{value:,}" + "}") if "boxed" in frame else frame.format(f"{value:,}")
    if "$-" in text:
        text = text.replace("$-", "-$")
    assert same(extract(text, "number") or "", f"{value:f}" if not isinstance(value, int) else str(value), "number")


@pytest.mark.parametrize(
    "piece",
    [
        "1",
        "1,",
        "12,",
        "1.234.",
        "one ",
        "\\boxed{",
        "\\frac{",
        "(",
        "**",
        "answer ",
        "<",
        "\n",
        "一",
        "9^9",
        "```",
        "A) ",
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_thousand_characters_of_anything_are_read(piece: str, kind: str) -> None:
    text = piece * (100_000 // len(piece))
    answer = extract(text, kind)
    assert answer is None or len(answer) <= len(text)


# -- thought and output ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "thought", "output"),
    [
        ("<Thought>\nhm\n</Thought>\n<Output>\nyes\n</Output>", "hm", "yes"),
        ("no tags at all", "", "no tags at all"),
        ("1 and 1.\n\nMake 2.\n\nSo it is \\(\\boxed{2}\\).", "1 and 1.\n\nMake 2.", "So it is \\(\\boxed{2}\\)."),
        ("It is \\boxed{2}.", "", "It is \\boxed{2}."),
        ("It is \\boxed{2}.\n\nAsk me more.", "", "It is \\boxed{2}.\n\nAsk me more."),
        ("", "", ""),
        ("<Thought>hm</Thought>\nyes", "hm", "yes"),
        ("hm</Thought>\n<Output>yes</Output>", "hm", "yes"),
        ("hm\n</Thought>\nyes", "hm", "yes"),
        ("<Thought>hm\n<Output>yes</Output>", "hm", "yes"),
        ("<Thought>hm</Thought><Output>yes", "hm", "yes"),
        ("<Output>yes</Output>", "", "yes"),
        ("yes</Output>", "", "yes"),
        ("<Output>yes</Output>\nHuman: next question", "", "yes"),
        ("<thought>hm</thought><output>yes</output>", "hm", "yes"),
        ("<Thought>hm</Thought>\nOutput>\nyes\n</Output>", "hm", "yes"),
        ("<Thought>hm</Thought>\n<Output\nyes\n</Output>", "hm", "yes"),
        ("<Thought>hm</Thought><Output><Output>yes</Output></Output>", "hm", "yes"),
        ("<Thought>a</Thought><Output>1</Output><Thought>b</Thought><Output>2</Output>", "a\nb\n1", "2"),
        ("<Thought>first</Thought>\nWait!\n<Thought>second</Thought><Output>2</Output>", None, "2"),
        ("<Thought>hm\n\nSo it is 18.</Thought>\n<Output></Output>", "hm\n\nSo it is 18.", "So it is 18."),
        ("<Thought>hm</Thought>\n<Output>", "hm", ""),
        ("<Thought>still thinking", "still thinking", ""),
        ("<Thought>hm</Thought>", "hm", ""),
        ("Use `<output>` in HTML.", "", "Use `<output>` in HTML."),
        ("```html\n<output></output>\n```", "", "```html\n<output></output>\n```"),
        ("Sure.\n<Thought>hm</Thought><Output>yes</Output>", None, "yes"),
    ],
)
def test_thought_and_output_are_told_apart(text: str, thought: str | None, output: str) -> None:
    found = split_output(text)
    assert found[1] == output
    if thought is not None:
        assert found[0] == thought


@given(
    st.lists(
        st.sampled_from(["<Thought>", "</Thought>", "<Output>", "</Output>", "output>", "word", "\n", "`"]), max_size=12
    )
)
def test_no_tag_survives_at_the_edges(parts: list[str]) -> None:
    for piece in split_output("".join(parts)):
        assert piece == piece.strip()
        assert not piece.startswith(("<Output>", "<Thought>")) and not piece.endswith(("</Output>", "</Thought>"))


@given(st.text(st.characters(exclude_characters="<>＜＞`", exclude_categories=["Cs"]), max_size=60))
def test_an_output_is_what_was_put_between_the_tags(inner: str) -> None:
    assert split_output(f"<Thought>\nhm\n</Thought>\n<Output>\n{inner}x\n</Output>") == ("hm", f"{inner}x".strip())


# -- what a question asks for ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "question",
    [
        "How many bolts does it take?",
        "What is 3*4?",
        "3*4=",
        "12 + 7",
        "Calculate the area of a 3 by 4 rectangle.",
        "Each pen costs $2. What is the total cost of 5 pens?",
        "If Ann is twice as old as her 4 year old brother, how old is she?",
        "What is $\\left(\\frac{7}{8}\\right)^3 + 2$?",
        "He can write a page in 6 minutes. How many hours does he write a week?",
        "一共需要多少匹布料？",
        "塞特今年几岁？",
        "请计算 12 个苹果的总价，每个 3 元。",
        "火车两天行驶了多长距离？",
        "卵はいくつ残りますか？",
        "彼は何ドル稼ぎますか？",
        "Wie viele Eier bleiben übrig?",
        "Wie hoch ist ihr Gewinn bei 20 Kerzen?",
        "¿Cuántos huevos quedan?",
        "Combien coûtent 3 pommes ?",
        "Сколько яблок у Ани?",
        "Je, ana mayai mangapi?",
        "เธอมีไข่กี่ฟอง",
        "মোট কত টাকা লাগে?",
        "ఆమె వద్ద ఎన్ని గుడ్లు ఉన్నాయి?",
    ],
)
def test_questions_for_a_number_are_known_in_many_languages(question: str) -> None:
    assert kind_of(question) == "number"


@pytest.mark.parametrize(
    "question",
    [
        "Which is a fruit?\nA) stone\nB) apple\nC) car",
        "How many sprints? (A) 3 (B) 9 (C) 27",
        "Which of the following is red? A. grass B. blood C. sky",
        "下列哪个是水果？\nA、石头\nB、苹果",
        "Is the claim true?\nOptions:\n- yes\n- no",
        "Does it follow?\\nOptions:\\n- yes\\n- it is not possible to tell\\n- no. Step by step:",
        "Is water wet? Answer yes or no.",
        "这句话是真的吗？是或否",
        "True or false: 2 + 2 = 5.",
    ],
)
def test_questions_with_options_are_choices(question: str) -> None:
    assert kind_of(question) == "choice"


@pytest.mark.parametrize(
    "question",
    [
        "How are you?",
        "Write a Python function that counts how many vowels a text has.",
        "Translate into English: 这个鞋拥有踩屎感",
        "怎么学几何？",
        "他几乎没有朋友，为什么？",
        "Prove that the sum of two even numbers is even.",
        "How do I calculate the trace of a 3x3 matrix in numpy?",
        "What is the capital of France?",
        "Does the empty set belong to its own power set?",
        "Mr. A. Smith met B. Jones. Who are they?",
        "写一首关于 3 只猫的诗",
        "Solve for intervals: x^2 + 5x > 6, in interval notation.",
        "",
    ],
)
def test_everything_else_is_text(question: str) -> None:
    assert kind_of(question) == "text"


# -- sameness --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "kind"),
    [
        ("0.50", "1/2", "number"),
        ("50%", "50", "number"),
        ("70,000", "70000.0", "number"),
        ("3/4", "0.75", "number"),
        ("2/6", "1/3", "number"),
        ("三百二十", "320", "number"),
        ("１８", "18 dollars", "number"),
        ("-0", "0", "number"),
        ("b", "B", "choice"),
        ("(B)", "B.", "choice"),
        ("Yes.", "yes", "choice"),
        ("true", "yes", "choice"),
        ("Hello,  World!", "hello, world", "text"),
        ("“Paris”", "**paris**.", "text"),
        ("ＡＢＣ", "abc", "text"),
        ("...", "...", "text"),
    ],
)
def test_answers_that_mean_the_same_share_a_key(a: str, b: str, kind: str) -> None:
    assert same(a, b, kind)


@pytest.mark.parametrize(
    ("a", "b", "kind"),
    [
        ("50%", "0.5", "number"),
        ("1/3", "0.333", "number"),
        ("-5", "5", "number"),
        ("A", "B", "choice"),
        ("yes", "no", "choice"),
        ("the cat", "a cat", "text"),
        ("...", "!", "text"),
    ],
)
def test_answers_that_differ_do_not(a: str, b: str, kind: str) -> None:
    assert not same(a, b, kind)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.sampled_from(["choice", "text"]))
def test_a_key_is_its_own_key(text: str, kind: str) -> None:
    key = normalise(text, kind)
    assert normalise(key, kind) == key


# -- selection -------------------------------------------------------------------------------------------------


def test_best_takes_the_highest_value_whatever_the_others_say() -> None:
    choice = select(
        [candidate(0, "3", value=0.7), candidate(1, "4", value=0.9), candidate(2, "3", value=0.8)], "best", "number"
    )
    assert (choice.answer, choice.rollout) == ("4", 1)
    assert [(vote.key, vote.rollouts) for vote in choice.votes] == [("4", (1,)), ("3", (0, 2))]
    assert choice.confidence == pytest.approx((0.9 - 0.8) / (0.9 + 0.8))


def test_best_breaks_ties_by_confidence_then_by_the_earlier_rollout() -> None:
    tied = [candidate(0, "3"), candidate(1, "4", confidence=0.6), candidate(2, "5", confidence=0.6)]
    assert select(tied, "best", "number").rollout == 1


def test_best_stands_values_that_are_missing_infinite_or_negative() -> None:
    values = [None, math.nan, math.inf, -3.0, -2.0]
    choice = select([candidate(i, str(i), value=value) for i, value in enumerate(values)], "best", "number")
    assert choice.rollout == 4
    assert sum(vote.weight for vote in choice.votes) == pytest.approx(1)
    assert select([candidate(1, "1", value=None), candidate(0, "0", value=None)], "best", "number").rollout == 0


def test_visits_adds_up_the_visits_of_an_answer() -> None:
    choice = select(
        [candidate(0, "3", visits=4), candidate(1, "4", visits=3), candidate(2, "4", visits=2)], "visits", "number"
    )
    assert choice.answer == "4"
    assert [vote.weight for vote in choice.votes] == pytest.approx([5 / 9, 4 / 9])


def test_majority_counts_answers_that_mean_the_same() -> None:
    choice = select(many("0.5", "7", "1/2", "7", "50/100"), "majority", "number")
    assert choice.votes[0].rollouts == (0, 2, 4)
    assert choice.votes[0].weight == pytest.approx(0.6)
    assert choice.confidence == pytest.approx(0.2)


def test_majority_shows_the_most_confident_of_the_winners() -> None:
    three = [candidate(0, "3", confidence=0.1), candidate(1, "3.0", confidence=0.9), candidate(2, "4", confidence=1.0)]
    choice = select(three, "majority", "number")
    assert (choice.rollout, choice.answer, choice.votes[0].answer) == (1, "3.0", "3.0")


def test_majority_breaks_ties_by_summed_confidence_then_by_the_earliest_rollout() -> None:
    two = [candidate(0, "3", confidence=0.4), candidate(1, "4", confidence=0.5)]
    assert select(two, "majority", "number").answer == "4"
    assert select(many("3", "4", "4", "3"), "majority", "number").answer == "3"
    assert select(many("4", "3", confidence=None), "majority", "number").answer == "4"


def test_weighted_lets_confidence_turn_a_close_vote() -> None:
    close = [
        candidate(i, answer, confidence=c)
        for i, (answer, c) in enumerate([("3", 0.80), ("3", 0.81), ("3", 0.82), ("4", 0.95), ("4", 0.96)])
    ]
    assert select(close, "majority", "number").answer == "3"
    assert select(close, "weighted", "number").answer == "4"


def test_weighted_is_majority_where_confidence_says_nothing() -> None:
    for confidence in (None, 0.9, math.nan, math.inf):
        votes = many("3", "4", "3", "4", "3", confidence=confidence)
        assert select(votes, "weighted", "number") == select(votes, "majority", "number")


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)), min_size=1, max_size=30))
def test_weights_are_positive_bounded_and_average_one(confidences: list[float | None]) -> None:
    weights = vote_weights(confidences)
    assert math.fsum(weights) == pytest.approx(len(confidences))
    assert min(weights) > 0
    assert max(weights) / min(weights) <= math.exp(2) + 1e-9


def test_weights_grow_with_confidence_whatever_its_scale() -> None:
    weights = vote_weights([0.9, 0.8, None, 0.7])
    assert weights[0] > weights[1] > weights[3]
    assert weights[2] == pytest.approx(weights[1])
    assert vote_weights([9, 8, None, 7]) == pytest.approx(weights)


PARAPHRASES = (
    "This shoe feels very soft.",
    "This shoe feels really soft.",
    "The shoe feels very soft.",
    "Bananas are cheap today!",
)


def test_consensus_takes_the_text_closest_to_all_others() -> None:
    choice = select(many(*reversed(PARAPHRASES)), "consensus", "text")
    assert choice.answer == "This shoe feels very soft."
    assert choice.votes[-1].answer == "Bananas are cheap today!"
    assert all(0 <= vote.weight <= 1 for vote in choice.votes)
    assert [vote.weight for vote in choice.votes] == sorted((vote.weight for vote in choice.votes), reverse=True)


def test_consensus_of_two_texts_is_settled_by_confidence() -> None:
    two = [candidate(0, "one thing", confidence=0.4), candidate(1, "another matter", confidence=0.6)]
    assert select(two, "consensus", "text").rollout == 1


def test_a_text_said_twice_counts_twice_for_consensus() -> None:
    choice = select(many("completely unlike", "xyz", "Xyz."), "consensus", "text")
    assert choice.votes[0].rollouts == (1, 2)


@pytest.mark.parametrize("how", ["majority", "weighted"])
def test_votes_on_texts_that_all_differ_fall_back_to_consensus(how: str) -> None:
    assert select(many(*PARAPHRASES), how, "text") == select(many(*PARAPHRASES), "consensus", "text")
    agreed = many("zebra", *PARAPHRASES[:3], "Zebra.")
    assert select(agreed, "majority", "text").votes[0].rollouts == (0, 4)


@pytest.mark.parametrize("how", SELECTIONS)
def test_a_single_candidate_wins_with_confidence_one(how: str) -> None:
    choice = select([candidate(7, "3")], how, "number")
    assert (choice.answer, choice.rollout, choice.confidence) == ("3", 7, 1.0)
    assert choice.votes[0].weight == pytest.approx(1)


@pytest.mark.parametrize("how", SELECTIONS)
def test_nothing_comes_of_nothing(how: str) -> None:
    assert select([], how, "number") == Choice(None, None, 0.0, ())
    assert select([candidate(0, None)], how, "number") == Choice(None, None, 0.0, ())


@pytest.mark.parametrize("how", SELECTIONS)
def test_without_a_sound_candidate_the_best_of_the_others_is_shown_unsure(how: str) -> None:
    bad = [
        candidate(0, None, text="loop loop", value=0.99, degenerate=True),
        candidate(1, "4", value=0.2, degenerate=True),
        candidate(2, "5", value=0.3, degenerate=True),
    ]
    assert select(bad, how, "number") == Choice("5", 2, 0.0, ())
    assert select(bad[:1], how, "number") == Choice(None, 0, 0.0, ())


def test_a_function_may_choose() -> None:
    def shortest(candidates: object) -> int:
        return min(candidates, key=lambda one: len(one.text)).rollout  # type: ignore[attr-defined, no-any-return]

    three = [
        candidate(0, "3", text="long text"),
        candidate(1, "4", text="short"),
        candidate(2, "3", text="x", degenerate=True),
    ]
    assert select(three, shortest, "number").rollout == 1
    assert select(three, lambda candidates: None, "number").answer is None
    with pytest.raises(SearchError, match="99"):
        select(three, lambda candidates: 99, "number")


def test_an_unknown_selection_is_refused_by_name() -> None:
    with pytest.raises(InvalidOption, match="select is 'fanciest'"):
        select(many("3"), "fanciest", "number")


numbers = st.one_of(st.none(), st.floats(-2, 2), st.sampled_from([math.nan, math.inf, -math.inf]))
crowd = st.lists(
    st.builds(
        lambda answer, value, visits, confidence, degenerate: (answer, value, visits, confidence, degenerate),
        st.sampled_from([None, "1", "2", "3", "1.0", "2 apples", "  "]),
        numbers,
        st.integers(0, 5),
        numbers,
        st.booleans(),
    ),
    max_size=9,
).map(
    lambda rows: [
        candidate(i, answer, value=value, visits=visits, confidence=confidence, degenerate=degenerate)
        for i, (answer, value, visits, confidence, degenerate) in enumerate(rows)
    ]
)


@settings(max_examples=150, deadline=None)
@given(crowd=crowd, how=st.sampled_from(SELECTIONS), kind=st.sampled_from(KINDS), data=st.data())
def test_the_order_of_candidates_does_not_matter(
    crowd: list[Candidate], how: str, kind: str, data: st.DataObject
) -> None:
    assert select(data.draw(st.permutations(crowd)), how, kind) == select(crowd, how, kind)


@settings(max_examples=200, deadline=None)
@given(crowd=crowd, how=st.sampled_from(SELECTIONS), kind=st.sampled_from(KINDS))
def test_only_sound_candidates_win_and_the_figures_hold_together(crowd: list[Candidate], how: str, kind: str) -> None:
    choice = select(crowd, how, kind)
    sound = {one.rollout for one in crowd if one.answer and one.answer.strip() and not one.degenerate}
    assert 0 <= choice.confidence <= 1
    if not sound:
        assert choice.votes == () and choice.confidence == 0
        return
    assert choice.rollout in sound
    assert sorted(rollout for vote in choice.votes for rollout in vote.rollouts) == sorted(sound)
    assert choice.rollout in choice.votes[0].rollouts
    assert choice.answer == choice.votes[0].answer
    assert all(0 <= vote.weight <= 1 + 1e-9 for vote in choice.votes)
    if how in ("best", "visits"):
        assert math.fsum(vote.weight for vote in choice.votes) == pytest.approx(1)


# -- stopping early --------------------------------------------------------------------------------------------


def test_a_majority_is_settled_when_its_lead_is_greater_than_what_remains() -> None:
    votes = many("3", "3", "3", "3", "4")
    assert settled(votes, 2, 1, "majority", "number")
    assert not settled(votes, 3, 1, "majority", "number")


@settings(max_examples=60, deadline=None)
@given(
    answers=st.lists(st.tuples(st.sampled_from("345"), st.floats(0, 1)), min_size=1, max_size=12),
    rest=st.lists(st.tuples(st.sampled_from("345"), st.floats(0, 1)), min_size=1, max_size=4),
    how=st.sampled_from(["majority", "weighted"]),
)
def test_what_is_settled_for_certain_never_turns(
    answers: list[tuple[str, float]], rest: list[tuple[str, float]], how: str
) -> None:
    def crowd_of(rows: list[tuple[str, float]]) -> list[Candidate]:
        return [candidate(i, answer, confidence=confidence) for i, (answer, confidence) in enumerate(rows)]

    if settled(crowd_of(answers), len(rest), 1, how, "number"):
        assert select(crowd_of(answers + rest), how, "number").answer == select(crowd_of(answers), how, "number").answer


def test_a_weighted_vote_is_settled_for_certain_only_by_an_overwhelming_lead() -> None:
    sure = [candidate(i, "3", confidence=0.5 + i / 100) for i in range(8)]
    assert settled(sure, 1, 1, "weighted", "number")
    assert not settled(sure, 2, 1, "weighted", "number")
    assert settled(many("3", "3", "3", confidence=None), 2, 1, "weighted", "number")


@pytest.mark.parametrize(
    ("leader", "second", "probability"),
    # P(Beta(v1 + 1, v2 + 1) > 1/2) as the binomial sum that it equals for whole v1 and v2
    [
        (n, m, sum(math.comb(n + m + 1, k) for k in range(n + 1)) / 2 ** (n + m + 1))
        for n, m in [(1, 0), (4, 0), (5, 2), (3, 3)]
    ],
)
def test_with_less_than_certainty_the_posterior_of_the_mode_decides(
    leader: int, second: int, probability: float
) -> None:
    votes = many(*["3"] * leader, *["4"] * second)
    assert settled(votes, 100, probability - 1e-6, "majority", "number")
    assert not settled(votes, 100, probability + 1e-6, "majority", "number")


def test_nothing_is_settled_without_a_vote() -> None:
    assert not settled([], 3, 0.5, "majority", "number")
    assert not settled([candidate(0, "3", degenerate=True)], 3, 0.5, "majority", "number")
    assert not settled(many(*["3"] * 9), 3, 0.5, "best", "number")
    assert not settled(many(*["3"] * 9), 3, 0.5, lambda candidates: 0, "number")
    assert not settled(many(*PARAPHRASES), 3, 0.5, "majority", "text")
    assert settled(many("3", "4"), 0, 1, "best", "number")


def test_importing_is_light() -> None:
    heavy = ["cn2an", "word2number", "sacrebleu", "scipy", "numpy", "torch"]
    program = f"import sys, marco.answer, marco.degenerate; sys.exit(any(name in sys.modules for name in {heavy!r}))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
