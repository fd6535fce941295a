"""Which rollouts are marked as gone wrong, and which repetitions are left alone."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marco.degenerate import degeneracy

NAMES = re.findall(
    r"\w+", "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma"
)


def tokens(text: str) -> list[int]:
    """Words, single digits and signs, numbered in order of appearance: about what a tokenizer makes of them."""
    names: dict[str, int] = {}
    return [names.setdefault(piece, len(names)) for piece in re.findall(r" ?[A-Za-z]+|\d|\s|[^\w\s]|\w", text)]


def judged(text: str, finish: str = "stop", answer: str | None = "3") -> str | None:
    with_ids = degeneracy(text, tokens(text), finish, answer)
    assert degeneracy(text, (), finish, answer) == with_ids  # servers may return no ids
    return with_ids


@pytest.mark.parametrize(
    "text",
    [
        "So the answer is " + "the same as the one before, " * 30,
        "Wait, let me check again.\n" * 20,
        "no " * 80,
        "我需要重新思考。" * 20,
        "Fine so far.\n" + "=" * 200,
        "<Thought>" + "I need to rethink from scratch. " * 40 + "</Thought>\n<Output></Output>",
        "Start. "
        + ("A long paragraph that goes on about " + " ".join(f"thing{chr(97 + i)}" for i in range(26)) * 3 + ". ") * 4,
    ],
)
def test_repetition_to_the_end_is_a_loop(text: str) -> None:
    assert degeneracy(text, tokens(text), "length", None) == "loop"
    assert degeneracy(text, tokens(text), "stop", "3") == "loop"


def test_a_loop_with_small_variations_is_a_loop() -> None:
    text = "".join(
        f"Let me try {n % 2} once more and see what comes of it now. " for n in (0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1) * 5
    )
    assert degeneracy(text, tokens(text), "length", None) == "loop"


def test_the_end_token_behind_a_loop_changes_nothing() -> None:
    assert degeneracy("x", [5, 6] * 40 + [99], "stop", "3") == "loop"


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=64), st.lists(st.integers(0, 1000), max_size=50))
def test_any_stretch_up_to_64_tokens_said_often_enough_is_a_loop(stretch: list[int], before: list[int]) -> None:
    times = max(4, -(-64 // len(stretch)))
    assert degeneracy("x", before + stretch * times, "stop", "3") == "loop"


@settings(max_examples=50)
@given(st.permutations(range(300)))
def test_what_never_repeats_is_no_loop(ids: list[int]) -> None:
    assert degeneracy("x", ids, "stop", "3") is None


@pytest.mark.parametrize(
    "text",
    [
        "3",
        "ha ha ha ha",
        "Ha ha ha ha ha ha ha ha! Very funny.",
        ", ".join(str(number) for number in range(1, 51)),
        ", ".join(str(number) for number in range(1, 501)),
        "| n | square |\n|---|---|\n" + "\n".join(f"| {n} | {n * n} |" for n in range(1, 60)),
        "\n".join(f"{a} x {b} = {a * b}" for a in range(1, 10) for b in range(1, 10)),
        "```python\n" + "\n".join(f'parser.add_argument("--{name}", type=int)' for name in NAMES) + "\n```",
        "1. Eat well.\n2. Sleep well.\n3. Work well.\n4. Rest well.\n5. Live well.",
        "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
        "9 * 2 = 18\n----------------\nSo she makes $18.",
    ],
    ids=lambda text: text[:24],
)  # fmt: skip
def test_lists_tables_and_code_are_let_through(text: str) -> None:
    assert judged(text) is None


def test_a_loop_that_was_left_behind_is_forgiven() -> None:
    text = (
        "Wait, let me check again.\n" * 20
        + "Now then. Sixteen eggs less seven are nine, at two dollars each: she makes 18."
    )
    assert degeneracy(text, tokens(text), "stop", "18") is None


@pytest.mark.parametrize("finish", ["length", "cancelled", "failed"])
def test_what_was_ended_from_outside_is_cut_off(finish: str) -> None:
    assert judged("So she has 3 and", finish) == "cut off"


def test_an_answer_is_required() -> None:
    assert judged("I would rather not say.", answer=None) == "no answer"


@pytest.mark.parametrize("text", ["", " \n ", "<Thought>\n</Thought>\n<Output>\n</Output>", "<Output>"])
def test_blanks_and_tags_alone_are_empty(text: str) -> None:
    assert judged(text, "length", None) == "empty"


@given(st.text(max_size=200), st.lists(st.integers(0, 3), max_size=400), st.sampled_from(["stop", "length"]))
def test_anything_gets_a_verdict(text: str, ids: list[int], finish: str) -> None:
    assert degeneracy(text, ids, finish, None) in ("empty", "loop", "cut off", "no answer")
