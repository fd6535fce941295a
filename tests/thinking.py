"""Scripts for the scripted engine that the tests share."""

from __future__ import annotations

import random

from marco.config import BudgetConfig, SearchConfig
from marco.engines.base import TopTokens
from marco.events import RolloutFinished, SearchStarted
from marco.reward import BY_NAME, statistics
from marco.search import Search, WorkItem


def bolts(prefix: str, seed: int) -> str:
    """A few ways to add 2 and 1, some of them wrong, with emoji and Chinese between; goes on where it stands."""
    draw = random.Random(seed)
    said = prefix.rpartition("assistant: ")[2]
    wrong = draw.random() < 0.3
    answer = 4 if wrong else 3
    steps = [
        draw.choice(["Blue fiber: 2 bolts 🧵.\n\n", "一件袍子需要 2 匹蓝布。\n\n"]),
        draw.choice(["White is half: 2 / 2 = 1.\n\n", "白布是一半：1 匹。\n\n", "Half of 2 is 1 👍🏽.\n\n"]),
        f"In total {answer}.\n",
    ]
    begun = 0 if not said else min(2, said.count("\n\n"))
    if "rethink from scratch" in said:
        begun = 0
    opening = "" if said else "<Thought>\n"
    return opening + "".join(steps[begun:]) + f"</Thought>\n<Output>\nThe answer is {answer}.\n</Output>"


def started(prompt: str = "user: How many?\nassistant: ") -> SearchStarted:
    return SearchStarted(question="How many?", prompt_ids=tuple(prompt.encode()))


def rollout(
    work: int,
    node: str,
    segments: list[tuple[int, ...]],
    *,
    confidence: float = 0.5,
    answer: str | None = None,
    thought_segments: int | None = None,
    degenerate: str | None = None,
) -> RolloutFinished:
    """A finished rollout from the token ids of its segments; every c_i is `confidence`."""
    import math

    ids = tuple(token for segment in segments for token in segment)
    rest = (1 - confidence) / 4
    tops: TopTokens = ((0, math.log(confidence)), *((i, math.log(rest)) for i in range(1, 5)))
    ends = []
    total = 0
    for segment in segments:
        total += len(segment)
        ends.append((total, "thought"))
    if ends:
        ends[-1] = (total, "answer")
    logprobs = (math.log(confidence),) * len(ids)
    top = (tops,) * len(ids)
    return RolloutFinished(
        rollout=work,
        node=node,
        token_ids=ids,
        text="x" * len(ids),
        offsets=tuple(range(1, len(ids) + 1)),
        logprobs=logprobs,
        top=top,
        segments=tuple(ends),
        thought_segments=thought_segments,
        answer=answer,
        key=answer,
        degenerate=degenerate,
        statistics=statistics(logprobs, top),
    )


def search(reward: str = "mean", rollouts: int | None = 8, **given: object) -> Search:
    """A search without an engine, one item at a time unless told otherwise."""
    values: dict[str, object] = {"parallel": 1, "select": "majority", **given}
    emitted = values.pop("emit", None)
    budget = values.pop("budget", None) or BudgetConfig(rollouts=rollouts)
    reflection = values.pop("reflection_plan", None)
    more = {} if emitted is None else {"emit": emitted}
    if "openings" in values:
        more["openings"] = values.pop("openings")
    return Search(
        SearchConfig(**values),  # type: ignore[arg-type]
        budget,  # type: ignore[arg-type]
        started(),
        reward=BY_NAME[reward],
        reflection=reflection,  # type: ignore[arg-type]
        **more,  # type: ignore[arg-type]
    )


def one(search: Search) -> WorkItem:
    (item,) = search.ask(1)
    return item
