"""Where a rollout is cut into nodes.

An action is what leads from one state of reasoning to the next (arXiv 2411.14405, section 3): a whole `step`,
or a `mini-step` of a fixed number of tokens. Cuts fall between tokens, so the concatenated ids of a path
are exactly what the model saw; what is shown of a node never holds half a character.

The end of the thought is a cut under every action: what comes behind it is the answer, and a reflection is
put in right before it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from marco.config import SearchConfig
from marco.engines.base import Completion
from marco.reward import token_confidences

STEP_LIMIT = 512
"""Tokens after which a step ends even without a paragraph break."""

FORK_BELOW = 0.5
"""With `fork_uncertain`, a node may end before its least confident token if that one's c_i is below this."""

_THOUGHT_END = re.compile(r"</\s*thought\s*>", re.IGNORECASE)
_OUTPUT_START = re.compile(r"<\s*output\s*>", re.IGNORECASE)

Action = Callable[[Completion], Sequence[int]]
"""Token indices (1 to the number of tokens) after which a node ends. The last token is always one."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A rollout, cut."""

    segments: tuple[tuple[int, Literal["thought", "answer"]], ...]
    """(end, kind), ends ascending; the last is the number of tokens. Empty for an empty completion."""
    thought_segments: int | None
    """Leading segments that lie before the end of the thought; None where the rollout was cut off."""


def step(completion: Completion) -> list[int]:
    """A node ends with the first token that completes a paragraph break after non-blank text."""
    ends = []
    start = 0
    seen_text = after_newline = False
    position = 0
    for index, offset in enumerate(completion.offsets, start=1):
        complete = False
        for character in completion.text[position:offset]:
            if character == "\n":
                complete = complete or (seen_text and after_newline)
                after_newline = seen_text
            elif not character.isspace():
                seen_text, after_newline = True, False
        position = max(position, offset)
        if complete or index - start >= STEP_LIMIT:
            ends.append(index)
            start = index
            seen_text = after_newline = False
    return ends


def mini_step(tokens: int) -> Action:
    """A node ends after every `tokens` tokens, in mid-word if need be."""

    def cut(completion: Completion) -> list[int]:
        return list(range(tokens, len(completion.token_ids) + 1, tokens))

    return cut


def action_for(config: SearchConfig) -> Action:
    """The action that a config names."""
    size = config.mini_step
    return step if size is None else mini_step(size)


def cut(completion: Completion, action: Action, *, may_reflect: bool = False, fork_uncertain: bool = False) -> Cut:
    """Cut a rollout by `action` and at the end of its thought.

    With `may_reflect` a rollout without tags is also cut before its end token: that is where its thought ends.
    """
    total = len(completion.token_ids)
    if not total:
        return Cut((), None)
    boundary, tagged = _thought_end(completion)
    ends = {end for end in action(completion) if 0 < end < total} | {total}
    if 0 < boundary < total and (tagged or may_reflect):
        ends.add(boundary)
    if fork_uncertain:
        ends |= _uncertain(completion, sorted(ends))
    ordered = sorted(ends)
    # Without tags the last stretch of text is the answer; what was cut off never got to one.
    answer_from = boundary if tagged else max((end for end in ordered if end < boundary), default=0)
    answered = tagged or completion.finish == "stop"
    starts = [0, *ordered[:-1]]
    segments: tuple[tuple[int, Literal["thought", "answer"]], ...] = tuple(
        (end, "answer" if answered and start >= answer_from else "thought")
        for start, end in zip(starts, ordered, strict=True)
    )
    before = sum(1 for end in ordered if end <= boundary) if completion.finish == "stop" else None
    return Cut(segments, before)


def _thought_end(completion: Completion) -> tuple[int, bool]:
    """(tokens before the end of the thought, whether a tag says so)."""
    match = _THOUGHT_END.search(completion.text) or _OUTPUT_START.search(completion.text)
    if match:
        return bisect_right(completion.offsets, match.start()), True
    length = len(completion.token_ids)
    return (length - 1 if completion.finish == "stop" else length), False


def _uncertain(completion: Completion, ends: Sequence[int]) -> set[int]:
    """Before the least confident token of each node, where it is uncertain enough to be worth a branch."""
    confidences = token_confidences(completion.logprobs, completion.top)
    found = set()
    start = 0
    for end in ends:
        inside = [(c, i) for i, c in enumerate(confidences[start + 1 : end], start=start + 1) if c is not None]
        if inside and min(inside)[0] < FORK_BELOW:
            found.add(min(inside)[1])
        start = end
    return found
