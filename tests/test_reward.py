"""Rewards against values worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from thinking import rollout

from marco import reward

LN = math.log
TOP = ((1, LN(0.5)), (2, LN(0.2)), (3, LN(0.1)), (4, LN(0.1)), (5, LN(0.1)))


def test_confidence_is_the_share_of_the_top_five():
    assert reward.token_confidence(LN(0.5), TOP) == pytest.approx(0.5)
    assert reward.token_confidence(LN(0.2), TOP) == pytest.approx(0.2)


def test_the_top_five_need_not_sum_to_one():
    tops = tuple((token, value - 1.0) for token, value in TOP)
    assert reward.token_confidence(LN(0.5) - 1.0, tops) == pytest.approx(0.5)


def test_a_token_outside_the_top_five_has_a_small_confidence_as_the_formula_stands():
    assert reward.token_confidence(LN(0.001), TOP) == pytest.approx(0.001)


def test_a_token_of_no_probability_has_none_of_the_confidence():
    assert reward.token_confidence(-math.inf, TOP) == 0.0


def test_alternatives_of_no_probability_count_for_nothing():
    tops = ((1, 0.0), (2, -math.inf), (3, -math.inf))
    assert reward.token_confidence(0.0, tops) == 1.0


@pytest.mark.parametrize("logprob", [None, math.nan])
def test_a_missing_logprob_has_no_confidence(logprob):
    assert reward.token_confidence(logprob, TOP) is None


def test_missing_alternatives_have_no_confidence():
    assert reward.token_confidence(LN(0.5), ()) is None


def test_extreme_logprobs_neither_overflow_nor_exceed_one():
    assert reward.token_confidence(-800.0, tuple((i, -800.0) for i in range(5))) == pytest.approx(0.2)
    assert reward.token_confidence(0.0, ((1, -1e-9),)) == 1.0


def test_the_mean_leaves_out_what_is_unknown():
    assert reward.mean([0.5, None, 1.0]) == 0.75
    assert reward.mean([None]) is None
    assert reward.mean([]) is None


def test_the_lowest_window_finds_the_weakest_stretch():
    confidences = [0.9] * 10 + [0.1] * 4 + [0.9] * 10
    assert reward.lowest_window(confidences, window=4) == pytest.approx(0.1)
    assert reward.lowest_window([0.4, 0.6], window=4) == pytest.approx(0.5)


def test_the_tail_is_the_end():
    assert reward.tail([0.1] * 50 + [0.8] * 32) == pytest.approx(0.8)


def test_certainty_is_nothing_among_equals_and_all_without_doubt():
    assert reward.top5_certainty([tuple((i, LN(0.2)) for i in range(5))]) == pytest.approx(0.0)
    assert reward.top5_certainty([((1, 0.0), (2, -math.inf))]) == pytest.approx(1.0)
    assert reward.top5_certainty([()]) is None


def test_agreement_is_the_share_with_the_same_answer_and_degenerate_ones_have_none():
    rollouts = [
        rollout(1, "root", [(1,)], answer="3"),
        rollout(2, "root", [(2,)], answer="3"),
        rollout(3, "root", [(3,)], answer="4"),
        rollout(4, "root", [(4,)], answer=None),
        rollout(5, "root", [(5,)], answer="3", degenerate="loop"),
    ]
    assert reward.agreement(rollouts) == pytest.approx([0.4, 0.4, 0.2, 0.0, 0.0])


def test_hybrid_is_the_mean_of_agreement_and_confidence():
    rollouts = [rollout(1, "root", [(1,)], answer="3", confidence=0.8), rollout(2, "root", [(2,)], answer="4")]
    assert reward.hybrid(rollouts)[0] == pytest.approx((0.5 + 0.8) / 2)


def test_a_custom_reward_that_returns_no_number_counts_as_nothing():
    assert reward.of_each("mine", lambda r: math.nan).one(rollout(1, "root", [(1,)])) == 0.0


finite = st.floats(-50, 0)


@given(st.lists(st.tuples(finite, st.lists(finite, min_size=5, max_size=5)), max_size=80))
def test_every_statistic_stays_within_its_range(positions):
    top = tuple(tuple(enumerate(sorted(values, reverse=True))) for _, values in positions)
    found = reward.statistics([logprob for logprob, _ in positions], top)
    for name in ("mean", "lowest-window", "tail", "top5-certainty"):
        assert found[name] is None or -1e-9 <= found[name] <= 1 + 1e-9
    assert found["tokens"] == len(positions)
    if positions:
        assert found["lowest-window"] <= found["mean"] + 1e-9
