"""Cutting a rollout into nodes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marco.actions import STEP_LIMIT, cut, mini_step, step
from marco.config import SearchConfig
from marco.engines.base import Completion
from marco.engines.scripted import END, ByteTokenizer

TOKENIZER = ByteTokenizer()


def completion(text: str, finish: str = "stop", confidences: dict[int, float] | None = None) -> Completion:
    ids = TOKENIZER.encode(text) + ((END,) if finish == "stop" else ())
    decoded, offsets = TOKENIZER.decode(ids)
    import math

    logprobs, top = [], []
    for index in range(len(ids)):
        c = (confidences or {}).get(index, 0.9)
        logprobs.append(math.log(c))
        top.append(((0, math.log(c)), *((i, math.log((1 - c) / 4)) for i in range(1, 5))))
    return Completion(1, ids, decoded, offsets, tuple(logprobs), tuple(top), finish)


def texts(written: Completion, action=step, **given) -> list[str]:
    found = []
    start = 0
    for end, _ in cut(written, action, **given).segments:
        first = written.offsets[start - 1] if start else 0
        found.append(written.text[first : written.offsets[end - 1]])
        start = end
    return found


def test_a_step_ends_with_the_paragraph():
    assert texts(completion("One.\n\nTwo.\n\nThree.")) == ["One.\n\n", "Two.\n\n", "Three."]


def test_a_blank_line_with_spaces_in_it_is_a_paragraph_break():
    assert texts(completion("One.\n \t\nTwo.")) == ["One.\n \t\n", "Two."]


def test_empty_lines_before_any_text_end_nothing():
    assert texts(completion("\n\n\n\nOne.\n\nTwo.")) == ["\n\n\n\nOne.\n\n", "Two."]


def test_more_empty_lines_than_needed_belong_to_the_next_step():
    assert texts(completion("One.\n\n\n\nTwo.")) == ["One.\n\n", "\n\nTwo."]


def test_a_single_line_break_ends_nothing():
    assert texts(completion("One.\nTwo.\n```\nx = 1\n```")) == ["One.\nTwo.\n```\nx = 1\n```"]


def test_a_step_ends_at_its_limit_without_a_paragraph():
    lengths = [len(text) for text in texts(completion("x" * (STEP_LIMIT + 10)))]
    assert lengths == [STEP_LIMIT, 10]


def test_a_mini_step_is_so_many_tokens_even_within_a_character():
    written = completion("ab你好😀")
    segments = cut(written, mini_step(4)).segments
    assert [end for end, _ in segments] == [4, 8, 12, 13]
    # The split character shows with the token that completes it, and nothing shows twice or is lost.
    assert "".join(texts(written, mini_step(4))) == "ab你好😀"
    assert "\ufffd" not in "".join(texts(written, mini_step(4)))


@pytest.mark.parametrize("action", [step, mini_step(5)])
def test_the_end_of_the_thought_is_a_cut_and_what_follows_is_the_answer(action):
    written = completion("<Thought>\nTwo and one.\n</Thought>\n<Output>3</Output>")
    found = cut(written, action)
    ends = [end for end, _ in found.segments]
    boundary = written.text.index("</Thought>")
    assert boundary in ends
    assert [kind for end, kind in found.segments if end <= boundary] == ["thought"] * (ends.index(boundary) + 1)
    assert {kind for end, kind in found.segments if end > boundary} == {"answer"}
    assert found.thought_segments == ends.index(boundary) + 1


def test_without_a_closing_tag_the_output_ends_the_thought():
    found = cut(completion("Two and one.\n<Output>3</Output>"), step)
    assert [kind for _, kind in found.segments] == ["thought", "answer"]


def test_without_tags_the_last_step_is_the_answer():
    found = cut(completion("Two and one.\n\nSo 3."), step)
    assert [kind for _, kind in found.segments] == ["thought", "answer"]


def test_without_tags_the_thought_ends_before_the_end_token_where_a_reflection_may_come():
    written = completion("Two and one.\n\nSo 3.")
    found = cut(written, step, may_reflect=True)
    assert found.segments[-2][0] == len(written.token_ids) - 1
    assert found.thought_segments == len(found.segments) - 1


def test_a_rollout_that_was_cut_off_has_no_end_of_thought():
    found = cut(completion("<Thought>\nTwo and", finish="length"), step)
    assert found.thought_segments is None
    assert {kind for _, kind in found.segments} == {"thought"}


def test_an_empty_rollout_has_no_segments():
    assert cut(Completion(1, (), "", (), (), (), "length"), step).segments == ()


def test_forking_at_uncertainty_ends_a_node_before_its_least_confident_token():
    written = completion("abcdefgh", confidences={5: 0.3})
    assert cut(written, step, fork_uncertain=True).segments[0][0] == 5


def test_a_node_without_doubt_is_not_cut_for_forking():
    assert len(cut(completion("abcdefgh"), step, fork_uncertain=True).segments) == 1


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from(["One.", "\n\n", "\n", " ", "😀", "你", "```", "</Thought>"])).map("".join),
    st.sampled_from(["step", "mini-step-1", "mini-step-7", "mini-step-32"]),
    st.sampled_from(["stop", "length"]),
    st.booleans(),
)
def test_segments_partition_the_tokens_and_the_text(text, action, finish, reflect):
    from marco.actions import action_for

    written = completion(text.encode("utf-8", "replace").decode(), finish)
    found = cut(written, action_for(SearchConfig(action=action)), may_reflect=reflect)
    ends = [end for end, _ in found.segments]
    assert ends == sorted(set(ends))
    assert (ends[-1] if ends else 0) == len(written.token_ids)
    assert "".join(texts(written, action_for(SearchConfig(action=action)), may_reflect=reflect)) == written.text
