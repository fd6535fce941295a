"""Choosing an answer from a recorded row: at any budget, under any selection, with any reward as the judge.

The rollouts of a search under a small budget are the first ones of the same search under a larger budget, so a row
answers for every budget up to its own. A *selection* can be replaced freely. So can a reward *as a judge* of finished
rollouts; what another reward would have *steered to* is not in the row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from marco import answer as answers
from marco.errors import InvalidOption
from marco.evaluation.records import Row
from marco.evaluation.tasks import SOLVED
from marco.events import RolloutFinished
from marco.reward import BY_NAME

REPLAYED = (*BY_NAME, "mean-logprob", "tokens", "outcome")
"""Rewards that can judge recorded rollouts. `tokens`: fewer is better. `outcome` is an upper bound."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a combination says to one problem under one seed."""

    problem: str
    seed: int
    answer: str | None
    key: str | None
    """The answer normalised."""
    score: float
    """0 to 1; 0 where there is no answer."""
    rollout: int | None
    margin: float
    """Of the vote, 0 to 1."""
    rollouts: int
    """That were compared."""
    scores: tuple[float, ...]
    """Of those rollouts, in the order of their commit."""
    tokens: int
    """Generated, failures and reflections included."""
    prefilled: int
    seconds: float | None
    """Until the last of them was in: the search's share of the machine. None where rollouts were reused."""

    @property
    def solved(self) -> bool:
        return self.score >= SOLVED


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first rollouts of a row."""

    rollouts: Sequence[dict[str, Any]]
    tokens: int
    prefilled: int


def within(row: Row, budget: int | None) -> Prefix:
    """The longest prefix, in the order of commits, that costs at most `budget` tokens; one rollout at least."""
    results = sorted(
        [(item["rollout"], item) for item in row["rollouts"]] + [(item["work"], item) for item in row["failures"]],
        key=lambda pair: pair[0],
    )
    taken: list[dict[str, Any]] = []
    tokens = prefilled = 0
    for _, item in results:
        if taken and budget is not None and tokens + item["tokens"] > budget:
            break
        tokens += item["tokens"]
        prefilled += item["prefilled"]
        if "rollout" in item:
            taken.append(item)
    return Prefix(taken, tokens, prefilled)


def values(rollouts: Sequence[dict[str, Any]], reward: str) -> list[float]:
    """What `reward` makes of these rollouts, compared with these alone. Raises `InvalidOption` for an unknown one."""
    if reward == "outcome":
        return [float(item["score"] >= SOLVED) for item in rollouts]
    if reward == "tokens":
        return [-float(item["tokens"]) for item in rollouts]
    if reward == "mean-logprob":
        return [float(item["statistics"].get(reward) or 0.0) for item in rollouts]
    if reward not in BY_NAME:
        raise InvalidOption("reward", reward, "one of " + ", ".join(REPLAYED))
    return BY_NAME[reward].all([_as_event(item) for item in rollouts])


def candidates(
    row: Row, rollouts: Sequence[dict[str, Any]], *, reward: str | None = None, weigh: str | None = None
) -> list[answers.Candidate]:
    """As `marco.answer.select` takes them. `reward` replaces the value (None: the one that steered), `weigh` the
    confidence (None: the paper's mean, as in every search)."""
    judged = values(rollouts, reward or row["reward"])
    weights: Sequence[float | None] = [item["statistics"].get("mean") for item in rollouts]
    if weigh is not None:
        weights = values(rollouts, weigh)
    visits = row["visits"][len(rollouts) - 1] if row["visits"] and rollouts else [1] * len(rollouts)
    return [
        answers.Candidate(
            rollout=item["rollout"],
            answer=item["answer"],
            text=item["output"],
            value=value,
            visits=count,
            confidence=weight,
            degenerate=item["degenerate"] is not None,
        )
        for item, value, weight, count in zip(rollouts, judged, weights, visits, strict=True)
    ]


def outcome(
    row: Row,
    select: str | None,
    *,
    budget: int | None = None,
    reward: str | None = None,
    weigh: str | None = None,
    stop_when_sure: float | None = None,
) -> Outcome:
    """Choose. `select` None takes what there is of a single rollout; `budget` None takes all that is recorded."""
    prefix = within(row, budget)
    if stop_when_sure is not None and select is not None:
        prefix = _sure(row, prefix, select, budget, stop_when_sure)
    choice = answers.select(
        candidates(row, prefix.rollouts, reward=reward, weigh=weigh), select or "majority", row["answer_kind"]
    )
    chosen = next((item for item in prefix.rollouts if item["rollout"] == choice.rollout), None)
    return Outcome(
        problem=row["problem"],
        seed=row["seed"],
        answer=choice.answer,
        key=chosen["key"] if chosen else None,
        score=chosen["score"] if chosen else 0.0,
        rollout=choice.rollout,
        margin=choice.confidence,
        rollouts=len(prefix.rollouts),
        scores=tuple(item["score"] for item in prefix.rollouts),
        tokens=prefix.tokens,
        prefilled=prefix.prefilled,
        seconds=None if row.get("reused") else prefix.rollouts[-1]["at"] if prefix.rollouts else row["seconds"],
    )


def _sure(row: Row, whole: Prefix, select: str, budget: int | None, probability: float) -> Prefix:
    """Up to where the vote is settled; what the budget still holds is reckoned by the mean length so far."""
    limit = budget if budget is not None else whole.tokens
    for count in range(1, len(whole.rollouts)):
        some = whole.rollouts[:count]
        last = some[-1]["rollout"]
        spent = within_work(row, last)
        remaining = math.ceil(max(0, limit - spent.tokens) / max(1.0, spent.tokens / count))
        if remaining and answers.settled(candidates(row, some), remaining, probability, select, row["answer_kind"]):
            return spent
    return whole


def within_work(row: Row, last: int) -> Prefix:
    """Everything up to work item `last`."""
    rollouts = [item for item in row["rollouts"] if item["rollout"] <= last]
    failures = [item for item in row["failures"] if item["work"] <= last]
    both = [*rollouts, *failures]
    return Prefix(rollouts, sum(item["tokens"] for item in both), sum(item["prefilled"] for item in both))


def _as_event(item: dict[str, Any]) -> RolloutFinished:
    """As much of a rollout as a reward looks at."""
    return RolloutFinished(
        rollout=item["rollout"],
        node=item["node"],
        token_ids=(),
        text="",
        offsets=(),
        logprobs=(),
        top=(),
        segments=(),
        answer=item["answer"],
        key=item["key"],
        degenerate=item["degenerate"],
        statistics=item["statistics"],
    )
