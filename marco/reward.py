"""How good is a rollout? Token confidence and what is made of it; pure functions.

Source of the confidence: arXiv 2411.14405, section 3, equations 1 and 2. With p(t) the log-probability of
token t and t_1..t_5 the five most probable tokens at position i,

    c_i = exp(p(t_i)) / sum_k exp(p(t_k)),        v = (1/n) sum_i c_i

over all n sampled tokens of the rollout, tags and end token included. What the paper leaves open is settled
here: a sampled token outside the top five has a small c_i as the formula stands (it can't exceed 1, for it is
less probable than each of the five; rounding is capped); a log-probability of -inf gives 0; a token without
log-probability has no c_i and stays out of every mean; a rollout without any has no statistic and the value 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from marco.engines.base import TopTokens
from marco.events import RolloutFinished

WINDOW = 32
"""Tokens of a `lowest-window` and of a `tail`. DeepConf (arXiv 2508.15260) uses 2,048 on traces a hundred
times as long as these."""

STATISTICS = ("mean", "lowest-window", "tail", "top5-certainty", "mean-logprob", "tokens")


def token_confidence(logprob: float | None, top: TopTokens) -> float | None:
    """c_i of one token, 0 to 1; None where the engine gave no log-probability or no alternatives."""
    if logprob is None or math.isnan(logprob) or not top:
        return None
    highest = max(value for _, value in top)
    if highest == -math.inf:
        return None
    total = math.fsum(math.exp(value - highest) for _, value in top)
    return min(1.0, math.exp(min(0.0, logprob - highest)) / total)


def token_confidences(logprobs: Sequence[float | None], top: Sequence[TopTokens]) -> tuple[float | None, ...]:
    """c_i of each token."""
    return tuple(token_confidence(logprob, tops) for logprob, tops in zip(logprobs, top, strict=True))


def mean(confidences: Sequence[float | None]) -> float | None:
    """v of the paper: the mean c_i. Range 0 to 1."""
    known = [c for c in confidences if c is not None]
    return math.fsum(known) / len(known) if known else None


def lowest_window(confidences: Sequence[float | None], window: int = WINDOW) -> float | None:
    """The lowest mean over any `window` tokens in a row: a chain is as strong as its weakest link.

    After DeepConf's lowest group confidence (arXiv 2508.15260, section 3.1). A shorter rollout is one window.
    """
    known = [c for c in confidences if c is not None]
    if len(known) <= window:
        return mean(known)
    total = math.fsum(known[:window])
    lowest = total
    for entering, leaving in zip(known[window:], known, strict=False):
        total += entering - leaving
        lowest = min(lowest, total)
    return lowest / window


def tail(confidences: Sequence[float | None], window: int = WINDOW) -> float | None:
    """The mean over the last `window` tokens, where the answer stands (DeepConf's tail confidence)."""
    return mean([c for c in confidences if c is not None][-window:])


def top5_certainty(top: Sequence[TopTokens]) -> float | None:
    """How peaked the model's choice was, whatever it then sampled. Range 0 (five equals) to 1 (no doubt).

    Mean of 1 - H / ln 5, H the entropy of the five most probable tokens made to sum to 1; in the manner of
    self-certainty (arXiv 2502.18581), which takes the whole vocabulary.
    """
    found = []
    for tops in top:
        if not tops or (highest := max(value for _, value in tops)) == -math.inf:
            continue
        weights = [math.exp(value - highest) for _, value in tops]
        total = math.fsum(weights)
        entropy = -math.fsum(w / total * math.log(w / total) for w in weights if w > 0)
        found.append(1.0 - entropy / math.log(5))
    return math.fsum(found) / len(found) if found else None


def statistics(logprobs: Sequence[float | None], top: Sequence[TopTokens]) -> dict[str, float | None]:
    """Every statistic of a rollout by name (`STATISTICS`), whichever one steers."""
    confidences = token_confidences(logprobs, top)
    known = [value for value in logprobs if value is not None and not math.isnan(value)]
    return {
        "mean": mean(confidences),
        "lowest-window": lowest_window(confidences),
        "tail": tail(confidences),
        "top5-certainty": top5_certainty(top),
        "mean-logprob": math.fsum(known) / len(known) if known else None,
        "tokens": float(len(logprobs)),
    }


def agreement(rollouts: Sequence[RolloutFinished]) -> list[float]:
    """For each rollout the share of all rollouts that have its answer. Range 0 (no answer) to 1.

    Self-consistency (arXiv 2203.11171) read as a reward. Degenerate rollouts count in the whole, not in a share.
    """
    votes = Counter(r.key for r in rollouts if r.key is not None and r.degenerate is None)
    return [votes[r.key] / len(rollouts) if r.key is not None and r.degenerate is None else 0.0 for r in rollouts]


def hybrid(rollouts: Sequence[RolloutFinished]) -> list[float]:
    """The mean of `agreement` and the paper's v. Range 0 to 1."""
    shares = agreement(rollouts)
    return [(share + (r.statistics.get("mean") or 0.0)) / 2 for share, r in zip(shares, rollouts, strict=True)]


@dataclass(frozen=True, slots=True)
class Reward:
    """v of every rollout. `values` is given all finished rollouts and returns one number for each."""

    name: str
    values: Callable[[Sequence[RolloutFinished]], Sequence[float]]
    relative: bool = False
    """True where a rollout's value depends on the others: all are then recomputed at each commit."""

    def one(self, rollout: RolloutFinished) -> float:
        return _finite(self.values([rollout])[0])

    def all(self, rollouts: Sequence[RolloutFinished]) -> list[float]:
        return [_finite(value) for value in self.values(rollouts)]


CustomReward = Callable[[RolloutFinished], float]
Checker = Callable[[str | None], bool]


def of_each(name: str, function: CustomReward) -> Reward:
    """A reward from a function of one rollout."""
    return Reward(name, lambda rollouts: [function(rollout) for rollout in rollouts])


def outcome(checker: Checker) -> Reward:
    """1 where `checker` accepts the answer, else 0: an upper bound, since it knows what no user knows."""
    return of_each("outcome", lambda rollout: float(bool(checker(rollout.answer))))


def _statistic(name: str) -> Reward:
    return of_each(name, lambda rollout: rollout.statistics.get(name) or 0.0)


BY_NAME: Mapping[str, Reward] = {
    **{name: _statistic(name) for name in ("mean", "lowest-window", "tail", "top5-certainty")},
    "agreement": Reward("agreement", agreement, relative=True),
    "hybrid": Reward("hybrid", hybrid, relative=True),
}
"""Rewards that need nothing but the rollouts; `outcome` needs a checker."""


def _finite(value: float) -> float:
    return float(value) if math.isfinite(value) else 0.0
