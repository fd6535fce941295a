"""Choosing among candidates, and whether more of them could still turn the vote."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from marco.answer.extraction import normalise
from marco.config import SELECTIONS
from marco.errors import InvalidOption, SearchError


@dataclass(frozen=True, slots=True)
class Candidate:
    """One finished rollout, as far as choosing an answer is concerned."""

    rollout: int
    """Id of the rollout; distinct among candidates."""
    answer: str | None
    """As `extract` gives it."""
    text: str
    """The output that is shown when this candidate wins."""
    value: float | None
    """The reward that steered the search; higher is better. None where it is not available."""
    visits: int
    """Visits of the rollout's final node."""
    confidence: float | None
    """Mean token confidence, 0 to 1. None where it is not available."""
    degenerate: bool
    """A loop, cut off, or empty: not to win while there is anything better."""


@dataclass(frozen=True, slots=True)
class Vote:
    """What one answer got."""

    answer: str
    """As its best member wrote it."""
    key: str
    weight: float
    """Share of all weight, 0 to 1; under `consensus` the mean similarity to the other candidates, 0 to 1."""
    rollouts: tuple[int, ...]
    """Ids of the members, ascending."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The answer of a search, and how it came about."""

    answer: str | None
    rollout: int | None
    """The rollout whose text is shown; None where no candidate had any text."""
    confidence: float
    """Margin of the vote, 0 to 1: (winner - runner-up) / total. 1 where there is one answer only, 0 where nothing sound
    was there."""
    votes: tuple[Vote, ...]
    """Descending by weight; the winner comes first, save under a selection of the caller's own."""


Selection = Callable[[Sequence[Candidate]], int | None]

TEMPERATURE = 2.0
"""Of the softmax that turns confidences into votes. See `vote_weights`."""
Z_LIMIT = 2.0
"""Standard scores are held within plus and minus this, so that no rollout counts more than e**2 times another."""

_MAX_CHRF_CHARS = 2_000


def _finite(number: float | None) -> float | None:
    # A figure whose square overflows is no more of use than an infinite one.
    return number if number is not None and abs(number) < 1e150 else None


def _or_lowest(number: float | None) -> float:
    known = _finite(number)
    return -math.inf if known is None else known


def vote_weights(confidences: Sequence[float | None]) -> tuple[float, ...]:
    """The weight of each vote, with mean 1: a softmax over standard scores within the tree, times their number.

    Confidence is comparable only among rollouts of one question, hence the normalisation within them (Taubenfeld
    et al. 2025, "Confidence Improves Self-Consistency in LLMs", who use a softmax with temperature). Standard scores
    make it independent of the scale. The temperature 2 is the likelihood ratio of a confidence whose AUROC with
    correctness is 0.65 within a question: d' = sqrt(2) * probit(0.65) = 0.54, and exp(d' z) is about exp(z / 2).

    Unknown and non-finite confidences count as average. Where all are equal or none is known, all weigh 1.
    """
    known = [number for number in map(_finite, confidences) if number is not None]
    if not confidences:
        return ()
    mean = math.fsum(known) / len(known) if known else 0.0
    spread = math.sqrt(math.fsum((number - mean) ** 2 for number in known) / len(known)) if known else 0.0
    if not spread > 1e-9:
        return (1.0,) * len(confidences)
    scores = [0.0 if number is None else (number - mean) / spread for number in map(_finite, confidences)]
    raw = [math.exp(max(-Z_LIMIT, min(Z_LIMIT, score)) / TEMPERATURE) for score in scores]
    total = math.fsum(raw)
    return tuple(len(raw) * weight / total for weight in raw)


@dataclass(frozen=True, slots=True)
class _Group:
    key: str
    members: tuple[Candidate, ...]
    shown: Candidate
    weight: float

    @property
    def order(self) -> tuple[float, float, int]:
        """Sorts winners first: weight, then summed confidence, then the earliest rollout."""
        confidence = math.fsum(_finite(member.confidence) or 0.0 for member in self.members)
        return -round(self.weight, 9), -round(confidence, 9), self.members[0].rollout


def _most_confident(candidate: Candidate) -> tuple[float, float, int]:
    return -_or_lowest(candidate.confidence), -_or_lowest(candidate.value), candidate.rollout


def _highest_value(candidate: Candidate) -> tuple[float, float, int]:
    return -_or_lowest(candidate.value), -_or_lowest(candidate.confidence), candidate.rollout


def _answers(candidate: Candidate) -> bool:
    return candidate.answer is not None and bool(candidate.answer.strip())


def _sound(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if _answers(candidate) and not candidate.degenerate]


def _by_key(sound: Sequence[Candidate], kind: str) -> dict[str, list[Candidate]]:
    groups: dict[str, list[Candidate]] = {}
    for candidate in sound:
        groups.setdefault(normalise(candidate.answer or "", kind), []).append(candidate)
    return groups


def _tally(sound: Sequence[Candidate], how: str, kind: str) -> list[_Group]:
    """The answers with their weights, the winner first."""
    groups = _by_key(sound, kind)
    weigh: Callable[[Sequence[Candidate]], float]
    shown_by = _most_confident
    if how == "best":
        values = [_or_lowest(candidate.value) for candidate in sound]
        # Shares need weights of at least 0: a reward that can be negative is counted from its lowest.
        floor = min([0.0, *(value for value in values if value > -math.inf)])
        shown_by = _highest_value

        def weigh(members: Sequence[Candidate]) -> float:
            return max(0.0, max(_or_lowest(member.value) for member in members) - floor)

    elif how == "visits":

        def weigh(members: Sequence[Candidate]) -> float:
            return float(sum(max(0, member.visits) for member in members))

    elif how == "consensus":
        similarity = _mean_similarities([candidate.answer or "" for candidate in sound])
        closeness = {candidate.rollout: mean for candidate, mean in zip(sound, similarity, strict=True)}

        def closest(candidate: Candidate) -> tuple[float, ...]:
            return -round(closeness[candidate.rollout], 9), *_most_confident(candidate)

        return sorted(
            (
                _Group(key, tuple(members), shown, closeness[shown.rollout])
                for key, members in groups.items()
                for shown in [min(members, key=closest)]
            ),
            key=lambda group: group.order,
        )
    elif how == "weighted":
        weights = vote_weights([candidate.confidence for candidate in sound])
        weight_of = {candidate.rollout: weight for candidate, weight in zip(sound, weights, strict=True)}

        def weigh(members: Sequence[Candidate]) -> float:
            return math.fsum(weight_of[member.rollout] for member in members)

    else:

        def weigh(members: Sequence[Candidate]) -> float:
            return float(len(members))

    tallied = [
        _Group(key, tuple(members), min(members, key=shown_by), weigh(members)) for key, members in groups.items()
    ]
    if how == "best":
        return sorted(tallied, key=lambda group: _highest_value(group.shown))
    return sorted(tallied, key=lambda group: group.order)


def _mean_similarities(texts: Sequence[str]) -> list[float]:
    """Of each text, the mean similarity to all others, 0 to 1; 1 where there is no other.

    Similarity is `likeness`: neither of two candidates is the reference, so precision and recall weigh the same. The
    winner is the one that loses least if any other is the truth, as in minimum Bayes risk decoding (Kumar and Byrne
    2004).
    """
    counts = Counter(text[:_MAX_CHRF_CHARS] for text in texts)
    distinct = sorted(counts)
    if len(distinct) <= 1:
        return [1.0] * len(texts)
    total = {text: float(counts[text] - 1) for text in distinct}
    for i, one in enumerate(distinct):
        for other in distinct[i + 1 :]:
            alike = likeness(one, other)
            total[one] += alike * counts[other]
            total[other] += alike * counts[one]
    return [min(1.0, total[text[:_MAX_CHRF_CHARS]] / (len(texts) - 1)) for text in texts]


@functools.lru_cache(maxsize=4096)
def likeness(one: str, other: str) -> float:
    """How alike two texts are, 0 to 1: chrF (Popović 2015) with beta 1, which makes it symmetric."""
    # Cached because a search asks anew after every rollout, and only the pairs with the new one are new.
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF(beta=1).sentence_score(one, [other]).score) / 100


def _votes(groups: Sequence[_Group], *, shares: bool) -> tuple[Vote, ...]:
    total = math.fsum(group.weight for group in groups)

    def weight(group: _Group) -> float:
        if not shares:
            return group.weight
        return group.weight / total if total > 0 else 1 / len(groups)

    return tuple(
        Vote(
            answer=group.shown.answer or "",
            key=group.key,
            weight=weight(group),
            rollouts=tuple(sorted(member.rollout for member in group.members)),
        )
        for group in groups
    )


def _margin(chosen: float, others: Sequence[float]) -> float:
    total = math.fsum([chosen, *others])
    if not others:
        return 1.0
    return max(0.0, min(1.0, (chosen - max(others)) / total)) if total > 0 else 0.0


def select(candidates: Sequence[Candidate], how: str | Selection, kind: str) -> Choice:
    """Choose an answer. Deterministic, and independent of the order of `candidates`.

    `how` is one of
    - `best`: the highest value, the paper's rule; then the higher confidence, then the lower rollout id;
    - `visits`: the answer whose rollouts' final nodes have most visits in sum;
    - `majority`: the answer most rollouts gave;
    - `weighted`: the same with `vote_weights`;
    - `consensus`: the answer with the highest mean chrF to all others;
    - a function that is given the sound candidates by ascending rollout id and returns the id of one, or None.
    Ties between answers go to the higher summed confidence, then to the earliest rollout. Shown is the most
    confident rollout of the winning answer (`best`: the one of highest value; `consensus`: the closest).

    For kind "text", `majority` and `weighted` fall back to `consensus` where no two answers are the same. Candidates
    that are degenerate or have no answer don't take part while any other is there; if there is none, the one of
    highest value among those with an answer, else with any text, is returned with confidence 0 and no votes.

    Raises `InvalidOption` for an unknown name, and `SearchError` where the function returns an unknown id.
    """
    if isinstance(how, str) and how not in SELECTIONS:
        raise InvalidOption("select", how, "one of " + ", ".join(SELECTIONS))
    ordered = sorted(candidates, key=lambda candidate: candidate.rollout)
    sound = _sound(ordered)
    if not sound:
        return _least_bad(ordered)
    if not isinstance(how, str):
        return _by_function(sound, how, kind)
    if how in ("majority", "weighted") and kind == "text" and len(_by_key(sound, kind)) == len(sound):
        how = "consensus"
    groups = _tally(sound, how, kind)
    winner = groups[0]
    return Choice(
        answer=winner.shown.answer,
        rollout=winner.shown.rollout,
        confidence=_margin(winner.weight, [group.weight for group in groups[1:]]),
        votes=_votes(groups, shares=how != "consensus"),
    )


def _least_bad(ordered: Sequence[Candidate]) -> Choice:
    answered = [candidate for candidate in ordered if _answers(candidate)]
    pool = answered or [candidate for candidate in ordered if candidate.text.strip()]
    if not pool:
        return Choice(None, None, 0.0, ())
    shown = min(pool, key=_highest_value)
    return Choice(shown.answer, shown.rollout, 0.0, ())


def _by_function(sound: Sequence[Candidate], how: Selection, kind: str) -> Choice:
    votes = _votes(_tally(sound, "majority", kind), shares=True)
    rollout = how(tuple(sound))
    if rollout is None:
        return Choice(None, None, 0.0, votes)
    chosen = next((candidate for candidate in sound if candidate.rollout == rollout), None)
    if chosen is None:
        raise SearchError(f"The selection returned {rollout!r}, which is the id of no candidate that it was given.")
    mine = next(vote.weight for vote in votes if rollout in vote.rollouts)
    others = [vote.weight for vote in votes if rollout not in vote.rollouts]
    return Choice(chosen.answer, chosen.rollout, _margin(mine, others), votes)


def settled(
    candidates: Sequence[Candidate], remaining: int, probability: float, how: str | Selection, kind: str
) -> bool:
    """Whether the vote stands, with at most `remaining` more rollouts to come.

    With `probability` 1: whatever those rollouts say, the leading answer stays ahead. Under `majority` its lead is
    greater than `remaining`. Under `weighted` confidences are normalised anew with each rollout, so the bound is on
    every weight: the leader's count at the least possible weight exceeds all others', those to come included, at the
    greatest. With less: also where the leader is the most probable answer of the model with that probability,
    P(X > 1/2) for X ~ Beta(v1 + 1, v2 + 1) and v1, v2 the weights of the first two answers (Aggarwal et al.
    2023, "Let's Sample Step by Step: Adaptive-Consistency"; there 0.95).

    Always True with nothing remaining. Other selections are no vote, and texts of which no two agree hold none:
    False until then.
    """
    if remaining <= 0:
        return True
    sound = _sound(sorted(candidates, key=lambda candidate: candidate.rollout))
    if not sound or how not in ("majority", "weighted"):
        return False
    counts = {key: len(members) for key, members in _by_key(sound, kind).items()}
    if kind == "text" and max(counts.values()) == 1:
        return False
    groups = _tally(sound, str(how), kind)
    leader = counts[groups[0].key]
    rivals = max((counts[group.key] for group in groups[1:]), default=0)
    weighs_alike = how == "majority" or all(_finite(candidate.confidence) is None for candidate in sound)
    spread = 1.0 if weighs_alike else math.exp(2 * Z_LIMIT / TEMPERATURE)
    if leader > (rivals + remaining) * spread:
        return True
    if probability >= 1:
        return False
    from scipy.special import betainc

    first, second = groups[0].weight, groups[1].weight if len(groups) > 1 else 0.0
    return bool(betainc(second + 1, first + 1, 0.5) >= probability)
