"""The statistics, against values reckoned by hand (and two against other people's libraries)."""

from __future__ import annotations

import math
import random

import pytest

from marco.evaluation import metrics


def test_wilson_interval_of_8_in_10() -> None:
    # (0.8 + z²/20 ± z sqrt(0.016 + z²/400)) / (1 + z²/10) with z = 1.96
    low, high = metrics.wilson(8, 10)
    assert low == pytest.approx(0.49016, abs=1e-4)
    assert high == pytest.approx(0.94332, abs=1e-4)


def test_wilson_interval_stays_within_0_and_1() -> None:
    assert metrics.wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-4)
    assert metrics.wilson(10, 10) == pytest.approx((0.72247, 1.0), abs=1e-4)
    assert metrics.wilson(0, 0) == (0.0, 1.0)


def test_mcnemar_counts_tosses_of_a_coin() -> None:
    # 1 against 9: (1 + 10) outcomes of 1024 are as lopsided on one side, and as many on the other.
    assert metrics.mcnemar(1, 9) == pytest.approx(22 / 1024)
    assert metrics.mcnemar(9, 1) == pytest.approx(22 / 1024)
    assert metrics.mcnemar(5, 5) == 1.0
    assert metrics.mcnemar(0, 0) == 1.0


def test_sign_flip_counts_all_flips_of_few_differences() -> None:
    # Of 32 flips of five ones only the two with equal signs sum to 5.
    assert metrics.sign_flip([1, 1, 1, 1, 1, 0, 0]) == pytest.approx(2 / 32)
    # ±1 ±1 ±0.5: |sum| is at least 0.5 in all 8 flips.
    assert metrics.sign_flip([1, -1, 0.5]) == 1.0
    assert metrics.sign_flip([]) == 1.0


def test_sign_flip_of_many_differences_is_near_the_exact_p_and_reproducible() -> None:
    differences = [1.0] * 14 + [-1.0] * 6
    exact = 2 * sum(math.comb(20, k) for k in range(7)) / 2**20
    assert metrics.sign_flip(differences) == pytest.approx(exact, abs=0.015)
    assert metrics.sign_flip(differences) == metrics.sign_flip(differences)


def test_bootstrap_interval_is_that_of_a_mean() -> None:
    draw = random.Random(3)
    values = [draw.gauss(0.5, 0.1) for _ in range(400)]
    mean = sum(values) / len(values)
    low, high = metrics.bootstrap(values)
    assert low == pytest.approx(mean - 1.96 * 0.1 / 20, abs=0.002)
    assert high == pytest.approx(mean + 1.96 * 0.1 / 20, abs=0.002)
    assert metrics.bootstrap([0.25] * 5) == (0.25, 0.25)


def test_auroc_is_the_chance_that_a_right_one_scores_higher() -> None:
    # Right ones 0.35 and 0.8 against wrong ones 0.1 and 0.4: three of the four pairs.
    assert metrics.auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75
    assert metrics.auroc([1, 1, 1], [True, False, True]) == 0.5
    assert metrics.auroc([0.2, 0.9], [True, True]) is None


def test_auroc_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    draw = random.Random(7)
    scores = [round(draw.random(), 1) for _ in range(200)]
    labels = [draw.random() < score for score in scores]
    assert metrics.auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_auroc_within_leaves_out_problems_without_both_kinds() -> None:
    perfect = ([0.1, 0.9], [False, True])
    reversed_ = ([0.9, 0.1], [False, True])
    all_right = ([0.3, 0.4], [True, True])
    assert metrics.auroc_within([perfect, reversed_, perfect, all_right]) == (pytest.approx(2 / 3), 3)
    assert metrics.auroc_within([all_right]) == (None, 0)


def test_ece_weighs_the_gap_of_each_bin() -> None:
    # Bin of 0.9: says 1.8, is 1. Bin of 0.1: says 0.2, is 0. (0.8 + 0.2) / 4
    assert metrics.ece([0.9, 0.9, 0.1, 0.1], [True, False, False, False]) == pytest.approx(0.25)
    assert metrics.ece([1.0, 1.0], [True, True]) == 0.0
    assert metrics.ece([], []) is None


def test_spearman_sees_ranks_only() -> None:
    assert metrics.spearman([1, 10, 100], [0.1, 0.2, 0.3]) == pytest.approx(1.0)
    assert metrics.spearman([3, 2, 1], [0.1, 0.2, 0.3]) == pytest.approx(-1.0)
    assert metrics.spearman([1, 1, 1], [0, 1, 0]) is None


def test_pass_at_k_is_unbiased() -> None:
    # Of 4 rollouts 2 are right: one of the C(4,2) = 6 pairs has none.
    assert metrics.pass_at(4, 2, 2) == pytest.approx(5 / 6)
    assert metrics.pass_at(4, 2, 1) == pytest.approx(0.5)
    assert metrics.pass_at(4, 0, 4) == 0.0
    assert metrics.pass_at(4, 2, 3) == 1.0


def test_pass_at_k_with_fewer_rollouts_takes_what_there_is() -> None:
    assert metrics.pass_at(2, 1, 8) == 1.0
    assert metrics.pass_at(2, 0, 8) == 0.0


def test_first_at_k_heeds_the_order() -> None:
    assert metrics.first_at([False, True, False], 1) == 0.0
    assert metrics.first_at([False, True, False], 2) == 1.0


def test_agreement_is_the_share_of_equal_pairs_of_seeds() -> None:
    # a: one of three pairs; b: all; c has one seed and says nothing.
    assert metrics.agreement({"a": ["1", "1", "2"], "b": ["5", "5"], "c": ["9"]}) == pytest.approx((1 / 3 + 1) / 2)
    assert metrics.agreement({"a": [None, None]}) == 0.0
    assert metrics.agreement({"a": ["1"]}) is None
