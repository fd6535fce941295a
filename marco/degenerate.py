"""Recognising rollouts that went wrong by themselves: loops, cut-offs, nothing said.

A pure function of what was generated; it knows no reference and no other rollout. It errs on the side of letting
through: tables, enumerations and code with similar lines repeat themselves for good reasons.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from marco.answer import split_output

SHORT_PERIOD = 64
"""Longest period, in tokens, for which four repetitions make a loop."""
LONG_PERIOD = 1024
"""Longest period for which three do: a paragraph said three times over."""
MIN_LOOP = 64
"""Tokens that a loop covers at least; a shorter one may be laughter."""
CLOSING = 8
"""Tokens after a loop, such as closing tags and the end token, that don't make it sound again."""
WINDOW = 512
"""Last tokens over which variety is measured; not below half as many."""
MIN_VARIETY = 0.2
"""Share of distinct 4-grams under which a window is a loop with small variations."""

_UNIT = re.compile(r"[A-Za-z]+|\S")


def degeneracy(text: str, token_ids: Sequence[int], finish: str, answer: str | None) -> str | None:
    """Why a rollout is not to be trusted, in a word or two, or None where nothing is wrong with it.

    "empty": nothing but blanks and tags. "loop": it ends in a repetition. "cut off": it was ended from outside
    (`finish` is "length", "cancelled" or "failed"). "no answer": `answer` is None. The first that holds, in this order.
    `token_ids` are the sampled tokens; where there are none, words and characters of `text` stand for them.
    """
    if not any(split_output(text)):
        return "empty"
    if _loops(tuple(token_ids) or tuple(_UNIT.findall(text))):
        return "loop"
    if finish in ("length", "cancelled", "failed"):
        return "cut off"
    return "no answer" if answer is None else None


def _loops(units: Sequence[int | str]) -> bool:
    return any(_periodic(units, len(units) - left) for left in range(min(CLOSING, len(units)) + 1)) or _monotonous(
        units
    )


def _periodic(units: Sequence[int | str], end: int) -> bool:
    """Whether `units[:end]` ends in one stretch said over and over."""
    for period in range(1, min(LONG_PERIOD, end // 3) + 1):
        needed = max(MIN_LOOP, (4 if period <= SHORT_PERIOD else 3) * period)
        if needed > end:
            continue
        position = end - 1
        while position >= end - needed + period and units[position] == units[position - period]:
            position -= 1
        if position < end - needed + period:
            return True
    return False


def _monotonous(units: Sequence[int | str]) -> bool:
    window = units[-WINDOW:]
    if len(window) < WINDOW // 2:
        return False
    grams = {tuple(window[start : start + 4]) for start in range(len(window) - 3)}
    return len(grams) / (len(window) - 3) < MIN_VARIETY
