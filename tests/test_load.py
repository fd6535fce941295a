"""Many people at once, in small: `marco bench load` is the same in large."""

from __future__ import annotations

import json

import pytest
from apart import call_apart

from marco.benchmarks import load
from marco.benchmarks.host import number_in, right_answer, think


def test_a_dozen_at_once_get_their_own_answers_and_one_leaves():
    figures = call_apart(lambda: load.bench_load(12, seed=1))
    assert (figures["sessions"], figures["completed"], figures["cancelled"]) == (12, 11, 1)
    assert (figures["errors"], figures["cross_talk"]) == (0, 0), figures["complaints"]
    assert figures["refused"] == load.BEYOND
    assert figures["cancel_p95_seconds"] is not None
    assert figures["fair"]
    asked_for = ("sessions", "completed", "cancelled", "refused", "errors", "cross_talk", "cancel_p95_seconds",
                 "refusal_p95_seconds")  # fmt: skip
    assert set(asked_for) <= set(json.loads(json.dumps(figures)))


@pytest.mark.parametrize(
    ("told", "tallied"),
    [
        ({"rollouts": 2, "stopped_by": "rollouts", "text": "1137 and 2"}, (1, 0, 0)),
        ({"rollouts": 2, "stopped_by": "rollouts", "text": "1000"}, (0, 0, 1)),
        ({"rollouts": 1, "stopped_by": "rollouts", "text": "5"}, (0, 1, 0)),
        ({"rollouts": 2, "stopped_by": "stopped", "text": "5"}, (0, 1, 0)),
        ({"rollouts": 2, "stopped_by": "rollouts", "text": " "}, (0, 1, 0)),
    ],
)
def test_what_counts_as_a_complete_answer_of_a_real_model(told, tallied):
    tally = load._Tally(others=frozenset({1000, 1137}))
    load._check_whole(tally, 1137, told, 2)
    assert (tally.completed, tally.errors, tally.cross_talk) == tallied


@pytest.mark.parametrize(
    ("answer", "text", "votes"),
    [
        ("5", "number 2", ["5"]),
        ("3", "number 1", ["3", "5"]),
        ("3", "number 1 and number 2", ["3"]),
    ],
)
def test_another_persons_answer_thought_or_vote_is_found_out(answer, text, votes):
    tally = load._Tally()
    load._check(tally, 1, {"answer": answer, "text": text, "votes": [{"answer": vote} for vote in votes]})
    assert (tally.cross_talk, tally.completed) == (1, 0)


def test_the_scripted_model_is_right_wherever_it_goes_on():
    whole = think("user: twice number 7\nassistant: ", 3)
    assert number_in(whole) == 7
    assert f"The answer is {right_answer(7)}." in whole
    for cut in (whole.index("\n\n") + 2, whole.rindex("\n\n") + 2):
        assert f"The answer is {right_answer(7)}." in think(f"user: twice number 7\nassistant: {whole[:cut]}", 4)


@pytest.mark.parametrize(("values", "wanted"), [([], None), ([1.0], 1.0), (list(range(100)), 95)])
def test_the_95th_percentile(values, wanted):
    assert load._p95(values) == wanted
