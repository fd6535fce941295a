"""The statistics of an evaluation; pure functions of numbers.

Scores are 0 to 1, labels are booleans (right or wrong), probabilities are two-sided.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

Z95 = 1.959963984540054
BINS = 10
RESAMPLES = 2_000
FLIPS = 10_000
EXACT_FLIPS = 16
"""Up to so many problems that differ all sign flips are counted; beyond, `FLIPS` drawn ones."""


def wilson(successes: float, n: int, z: float = Z95) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927), 95% by default; (0, 1) where n is 0.

    `successes` may be fractional: the mean over seeds of each of n problems, summed.
    """
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    whole = 1 + z * z / n
    return max(0.0, (centre - spread) / whole), min(1.0, (centre + spread) / whole)


def bootstrap(values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean (Efron 1979). Reproducible. (0, 1) for nothing."""
    if not values:
        return 0.0, 1.0
    import numpy as np

    data = np.asarray(values, dtype=float)
    means = data[np.random.default_rng(seed).integers(len(data), size=(resamples, len(data)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact p of McNemar's test: were it a coin toss which of the two is right where just one is (McNemar 1947)."""
    from scipy.stats import binomtest  # type: ignore[attr-defined]

    n = only_first + only_second
    return float(binomtest(min(only_first, only_second), n, 0.5).pvalue) if n else 1.0


def sign_flip(differences: Sequence[float], *, seed: int = 0) -> float:
    """p of a paired permutation test on the mean difference (Fisher 1935), one difference a problem.

    Seeds of one problem are not independent of each other; averaged before, they don't pretend to be. Exact for few
    problems that differ; else over drawn flips, reproducibly.
    """
    import numpy as np

    moved = np.asarray([difference for difference in differences if difference], dtype=float)
    signs = _signs(len(moved), seed)
    extreme = int((np.abs(signs @ moved) >= abs(moved.sum()) - 1e-9).sum())
    drawn = len(moved) > EXACT_FLIPS
    # Of all flips what was observed is one; to drawn ones it is added.
    return (extreme + drawn) / (len(signs) + drawn)


@functools.lru_cache(maxsize=8)
def _signs(n: int, seed: int) -> Any:
    import numpy as np

    if n <= EXACT_FLIPS:
        flips = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        flips = np.random.default_rng(seed).integers(2, size=(FLIPS, n))
    return 1.0 - 2.0 * flips


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    """P(a right one scores above a wrong one), ties half (Mann and Whitney 1947); None without both kinds."""
    right = [score for score, label in zip(scores, labels, strict=True) if label]
    wrong = sorted(score for score, label in zip(scores, labels, strict=True) if not label)
    if not right or not wrong:
        return None
    wins = sum(bisect.bisect_left(wrong, score) + bisect.bisect_right(wrong, score) for score in right) / 2
    return wins / (len(right) * len(wrong))


def auroc_within(groups: Sequence[tuple[Sequence[float], Sequence[bool]]]) -> tuple[float | None, int]:
    """Mean AUROC over the groups (problems) that hold both kinds, and how many those are.

    Over all problems a score may merely tell easy from hard; within one it must tell right from wrong.
    """
    found = [value for scores, labels in groups if (value := auroc(scores, labels)) is not None]
    return (math.fsum(found) / len(found) if found else None), len(found)


def ece(probabilities: Sequence[float], labels: Sequence[bool], bins: int = BINS) -> float | None:
    """Expected calibration error over `bins` of equal width (Naeini et al. 2015); None for nothing. Range 0 to 1."""
    if not probabilities:
        return None
    boxes: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for probability, label in zip(probabilities, labels, strict=True):
        boxes[min(bins - 1, max(0, int(probability * bins)))].append((probability, label))
    total = math.fsum(abs(math.fsum(p for p, _ in box) - sum(label for _, label in box)) for box in boxes if box)
    return total / len(probabilities)


def spearman(scores: Sequence[float], labels: Sequence[float]) -> float | None:
    """Rank correlation, -1 to 1; None where one side is constant."""
    if len(set(scores)) < 2 or len(set(labels)) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(scores, labels).statistic)


def pass_at(n: int, solved: int, k: int) -> float:
    """Chance that k of n exchangeable rollouts, `solved` of them right, hold a right one (Chen et al. 2021, eq. 1).

    With fewer than k rollouts: whether there is a right one among those.
    """
    if n < k:
        return float(solved > 0)
    if n - solved < k:
        return 1.0
    return 1.0 - math.prod((n - solved - i) / (n - i) for i in range(k))


def first_at(solved: Sequence[bool], k: int) -> float:
    """Whether one of the first k is right: for rollouts that build on each other, whose order is no accident."""
    return float(any(solved[:k]))


def agreement(keys_by_problem: Mapping[str, Sequence[str | None]]) -> float | None:
    """Share of pairs of seeds that give a problem the same answer, averaged over problems with two seeds or more.

    No answer agrees with nothing. 1: the search's randomness never shows.
    """
    shares = []
    for keys in keys_by_problem.values():
        pairs = list(combinations(keys, 2))
        if pairs:
            shares.append(sum(one is not None and one == other for one, other in pairs) / len(pairs))
    return math.fsum(shares) / len(shares) if shares else None
