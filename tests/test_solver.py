"""A question in, events out."""

from __future__ import annotations

import threading
import time

import pytest
from thinking import bolts

import marco
from marco import SearchConfig, Solver, options
from marco.engines.base import Around
from marco.engines.scripted import Fail, ScriptedEngine
from marco.errors import InvalidOption, InvalidText, SearchError
from marco.events import (
    AnswerChosen,
    Partial,
    ReflectionJudged,
    SearchEnded,
    SearchStarted,
    Steered,
    Warned,
    WorkCancelled,
    WorkIssued,
)
from marco.session import Opening, Task
from marco.solver import Solution

QUESTION = "How many bolts in total does it take?"


class Watched(Around):
    """Remembers how every rollout was drawn."""

    def __init__(self, engine):
        super().__init__(engine)
        self.temperatures: list[tuple[int, float]] = []

    def submit(self, requests, deliver):
        self.temperatures.extend((request.work, request.sampling.temperature) for request in requests)
        super().submit(requests, deliver)


def make(script=bolts, engine_options=None, **given) -> Solver:
    return Solver(ScriptedEngine(script, **(engine_options or {})), options("marco", **given))


def test_the_first_event_is_the_start_and_the_last_the_end():
    events = list(make(rollouts=4).stream(QUESTION))
    assert isinstance(events[0], SearchStarted)
    assert isinstance(events[-1], SearchEnded)
    assert events[0].question == QUESTION


def test_a_search_answers():
    solution = make(rollouts=8).solve(QUESTION)
    assert solution.answer == solution.votes[0]["answer"] in ("3", "4")
    assert solution.stopped_by == "rollouts"
    assert solution.rollouts == 8
    assert 0 < solution.confidence <= 1
    assert 0 < solution.mean_token_confidence <= 1
    assert "<Thought>" in solution.text


def test_the_json_object_has_the_promised_fields():
    found = make(rollouts=2, seed=9).solve(QUESTION).to_json()
    promised = {
        "answer", "text", "model", "engine", "strategy", "action", "reward", "reflection", "select", "seed",
        "confidence", "mean_token_confidence", "rollouts", "nodes", "tokens", "seconds", "stopped_by", "run",
    }  # fmt: skip
    assert promised <= set(found)
    assert {"generated", "prefilled", "cached", "computed", "distinct"} <= set(found["tokens"])
    assert found["seed"] == 9


def test_every_generated_token_is_counted():
    events = list(make(rollouts=6).stream(QUESTION))
    solution = Solution.of(events)
    written = sum(len(rollout.token_ids) for rollout in solution.tree.rollouts.values())
    assert solution.tokens["generated"] == written


@pytest.mark.parametrize(
    ("strategy", "drawn"), [("mcts", [0.0, 0.5, 0.5, 0.5]), ("self-consistency", [0.5, 0.5, 0.5, 0.5])]
)
def test_a_tree_may_begin_with_what_the_model_holds_most_likely(strategy, drawn):
    watched = Watched(ScriptedEngine(bolts))
    chosen = options("marco", strategy=strategy, greedy_first=True, temperature=0.5, rollouts=4)
    Solver(watched, chosen).solve(QUESTION)
    assert [temperature for _, temperature in sorted(watched.temperatures)] == drawn


def test_every_other_way_to_ask_begins_so_too():
    watched = Watched(ScriptedEngine(bolts))
    ways = [Opening(name, ({"role": "user", "content": f"{name}: {QUESTION}"},)) for name in ("Briefly", "In verse")]
    task = Task(QUESTION, ({"role": "user", "content": QUESTION},), openings=tuple(ways))
    chosen = options("marco", greedy_first=True, temperature=0.5, rollouts=7, branching=3)
    events = list(Solver(watched, chosen).stream_task(task))
    nodes = {event.work: event.node for event in events if isinstance(event, WorkIssued)}
    greedy = sorted(nodes[work] for work, temperature in watched.temperatures if temperature == 0)
    assert greedy == ["o1", "o2", "root"]


def test_of_several_ways_to_ask_the_first_goes_alone_until_it_is_answered():
    calls = []

    class Counting(ScriptedEngine):
        def submit(self, requests, deliver):
            calls.append([request.work for request in requests])
            super().submit(requests, deliver)

    ways = (Opening("Briefly", ({"role": "user", "content": f"Briefly: {QUESTION}"},)),)
    task = Task(QUESTION, ({"role": "user", "content": QUESTION},), openings=ways)
    Solver(Counting(bolts), options("marco", rollouts=6, parallel=4)).solve(QUESTION)
    assert len(calls[0]) == 4
    calls.clear()
    list(Solver(Counting(bolts), options("marco", rollouts=6, parallel=4)).stream_task(task))
    assert calls[:2] == [[1], [2, 3, 4, 5]]


@pytest.mark.parametrize("strategy", ["cot", "direct"])
def test_a_single_chain_is_one_greedy_rollout(strategy):
    solver = make(strategy=strategy, rollouts=8, temperature=0.9)
    assert solver.options.sampling.temperature == 0
    assert solver.solve(QUESTION).rollouts == 1


@pytest.mark.parametrize("preset", ["marco", "paper"])
def test_a_strategy_is_what_its_name_says_under_every_preset(preset):
    vote = options(preset, strategy="self-consistency").search
    assert vote.select == "majority"
    best = options(preset, strategy="best-of-n").search
    assert (best.select, best.reward) == ("best", "mean")
    assert options(preset, strategy="best-of-n", select="visits", reward="tail").search.select == "visits"


@pytest.mark.parametrize("strategy", ["self-consistency", "best-of-n"])
def test_independent_rollouts_all_start_from_the_question(strategy):
    solution = make(strategy=strategy, rollouts=6).solve(QUESTION)
    assert {rollout.node for rollout in solution.tree.rollouts.values()} == {"root"}


@pytest.mark.parametrize("select", ["best", "visits", "majority", "weighted", "consensus"])
@pytest.mark.parametrize("action", ["step", "mini-step-64", "mini-step-32"])
def test_every_selection_works_under_every_action(select, action):
    solution = make(rollouts=5, select=select, action=action).solve(QUESTION)
    assert solution.answer in ("3", "4")
    for rollout in solution.tree.rollouts.values():
        if action != "step":
            starts = [0, *(end for end, _ in rollout.segments[:-1])]
            assert all(
                end - start <= int(action[-2:]) for start, (end, _) in zip(starts, rollout.segments, strict=True)
            )


@pytest.mark.parametrize("reward", ["mean", "lowest-window", "tail", "top5-certainty", "agreement", "hybrid"])
def test_every_reward_steers(reward):
    solution = make(rollouts=6, reward=reward).solve(QUESTION)
    assert all(0 <= value <= 1 for value in solution.tree.values.values())


def test_every_statistic_is_recorded_whichever_steers():
    solution = make(rollouts=2, reward="agreement").solve(QUESTION)
    for rollout in solution.tree.rollouts.values():
        assert {"mean", "lowest-window", "tail", "top5-certainty", "mean-logprob", "tokens"} == set(rollout.statistics)


def test_a_reflection_says_whether_the_answer_changed():
    events = list(make(rollouts=6, reflection="always").stream(QUESTION))
    judged = [event for event in events if isinstance(event, ReflectionJudged)]
    assert judged
    assert all(event.changed == (event.before != event.after) for event in judged)


def test_functions_of_ones_own_steer_cut_and_choose():
    solver = Solver(
        ScriptedEngine(bolts),
        options("marco", rollouts=6),
        reward=lambda rollout: 1.0 if rollout.answer == "4" else 0.0,
        action=lambda completion: [10, 20],
        selection=lambda candidates: max(candidates, key=lambda c: c.value or 0).rollout,
    )
    solution = solver.solve(QUESTION)
    first = next(iter(solution.tree.rollouts.values()))
    assert [end for end, _ in first.segments][:2] == [10, 20]
    if any(rollout.answer == "4" for rollout in solution.tree.rollouts.values()):
        assert solution.answer == "4"


def test_a_checker_is_the_reward_outcome():
    solver = Solver(
        ScriptedEngine(bolts), options("marco", rollouts=6, reward="outcome"), checker=lambda answer: answer == "3"
    )
    tree = solver.solve(QUESTION).tree
    assert {(r.answer == "3", tree.values[n]) for n, r in tree.rollouts.items()} <= {(True, 1.0), (False, 0.0)}


def test_the_reward_outcome_without_a_checker_is_refused():
    with pytest.raises(InvalidOption, match="checker"):
        make(reward="outcome")


@pytest.mark.parametrize("question", ["", "  \n ", "a\x00b", "x" * 20_001, "\ud800", 7, None])
def test_a_question_that_is_no_question_is_refused_before_anything_starts(question):
    with pytest.raises(InvalidText):
        make().stream(question)


def test_a_question_that_leaves_no_room_to_think_is_refused():
    with pytest.raises(InvalidText, match="room to think"):
        make(engine_options={"context": 500}).stream("why? " * 100)


def test_stopping_gives_the_best_answer_so_far():
    stop = threading.Event()
    solver = make(rollouts=400, parallel=2, engine_options={"seconds_per_token": 0.001})
    events = []
    for event in solver.stream(QUESTION, stop=stop):
        events.append(event)
        if isinstance(event, AnswerChosen):
            stop.set()
    solution = Solution.of(events)
    assert solution.stopped_by == "user"
    assert solution.answer in ("3", "4")
    issued = {event.work for event in events if isinstance(event, WorkIssued)}
    cancelled = {event.work for event in events if isinstance(event, WorkCancelled)}
    assert issued == cancelled | set(solution.tree.rollouts)
    assert solution.tree.root.pending == 0


def test_a_search_stopped_before_its_first_rollout_gives_what_was_written():
    stop = threading.Event()
    solver = make(rollouts=4, engine_options={"seconds_per_token": 0.005})
    events = []
    for event in solver.stream(QUESTION, stop=stop):
        events.append(event)
        if isinstance(event, Partial) and event.tokens > 20:
            stop.set()
    solution = Solution.of(events)
    assert solution.stopped_by == "user"
    assert solution.text.startswith("<Thought>")


def test_the_deadline_ends_a_search():
    solver = make(rollouts=10_000, max_seconds=0.3, engine_options={"seconds_per_token": 0.001})
    assert solver.solve(QUESTION).stopped_by == "seconds"


def test_walking_away_cancels_the_work():
    engine = ScriptedEngine(bolts, seconds_per_token=0.002)
    stream = Solver(engine, options("marco", rollouts=50)).stream(QUESTION)
    for event in stream:
        if isinstance(event, Partial):
            break
    stream.close()
    time.sleep(0.5)
    before = engine.usage()["generated"]
    time.sleep(0.3)
    assert engine.usage()["generated"] == before


def test_a_vote_that_is_settled_ends_the_search_when_asked_to():
    always_three = make(lambda p, s: "<Output>3</Output>", rollouts=20, select="majority", stop_when_sure=0.9)
    solution = always_three.solve(QUESTION)
    assert solution.stopped_by == "sure"
    assert solution.rollouts < 20


def test_when_everything_fails_the_search_ends_and_says_why():
    solution = make(lambda p, s: Fail("The cat pulled the plug."), rollouts=20).solve(QUESTION)
    assert solution.stopped_by == "error"
    assert "cat" in solution.message
    assert solution.answer is None


def test_a_script_that_raises_is_a_failure_and_not_a_hang():
    solution = make(lambda p, s: {}["no such thing"], rollouts=3).solve(QUESTION)
    assert solution.stopped_by == "error"
    assert "KeyError" in solution.message


def test_some_failures_are_survived():
    solution = make(lambda p, s: Fail() if s % 2 else bolts(p, s), rollouts=12).solve(QUESTION)
    assert solution.stopped_by == "rollouts"
    assert solution.answer in ("3", "4")
    assert solution.rollouts < 12


def test_a_server_without_logprobs_is_told_of_and_agreement_steers():
    events = list(make(rollouts=4, engine_options={"logprobs": False}).stream(QUESTION))
    assert any(isinstance(event, Warned) and "log-probabilities" in event.message for event in events)
    solution = Solution.of(events)
    assert solution.to_json()["reward"] == "agreement"
    assert solution.mean_token_confidence is None
    assert solution.answer in ("3", "4")


def test_the_same_seed_gives_the_same_tree_and_another_seed_another():
    def shape(seed):
        tree = make(rollouts=10, seed=seed, parallel=3).solve(QUESTION).tree
        return [(n.id, n.token_ids, n.visits, n.value_sum) for n in tree.walk()]

    assert shape(1) == shape(1)
    assert shape(1) != shape(2)


def test_earlier_turns_are_part_of_the_conversation():
    history = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    started = next(make().stream(QUESTION, history=history))
    assert [message["role"] for message in started.messages][-3:] == ["user", "assistant", "user"]


def test_steering_needs_a_search_under_way():
    with pytest.raises(SearchError, match="resume"):
        make().steer("expand", "root")


def test_a_search_is_steered_while_it_runs():
    solver = make(rollouts=3, engine_options={"seconds_per_token": 0.001})
    events = []
    for event in solver.stream(QUESTION):
        if isinstance(event, AnswerChosen) and not any(isinstance(e, AnswerChosen) for e in events):
            solver.steer("budget", rollouts=6)
            solver.steer("rethink", "1.0")
        events.append(event)
    solution = Solution.of(events)
    assert solution.rollouts == 6
    assert any(node.kind == "reflection" for node in solution.tree.nodes.values())


def test_whoever_comes_too_late_to_be_heard_is_told_so():
    solver = make(rollouts=2, engine_options={"seconds_per_token": 0.001})
    let_in = late = 0
    events = []
    for event in solver.stream(QUESTION):
        events.append(event)
        if isinstance(event, (AnswerChosen, SearchEnded)):
            try:
                solver.steer("budget", rollouts=3)
                let_in += 1
            except SearchError:
                late += 1
    assert late > 0
    assert sum(isinstance(event, Steered) for event in events) == let_in > 0


def test_the_public_names_are_these():
    assert marco.__all__ == [
        "Solver", "Solution", "Task", "Options", "options", "SearchConfig", "SamplingConfig", "BudgetConfig",
        "ModelConfig", "Tree", "Node", "MarcoError", "UserMistake", "EngineError",
    ]  # fmt: skip
    assert all(hasattr(marco, name) for name in marco.__all__)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strategy", "magic"), ("action", "mini-step-0"), ("action", "leap"), ("reward", "gold"), ("select", "dice"),
        ("reflection", "never"), ("rollouts", 0), ("rollouts", 1.5), ("branching", 0), ("temperature", -1),
        ("temperature", float("nan")), ("top_p", 0), ("top_p", 1.1), ("max_tokens", 0), ("max_seconds", 0),
        ("seed", -1), ("depth", 0), ("parallel", 0), ("stop_when_sure", 0.2), ("rollouts", True),
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused_with_its_name_and_what_is_allowed(field, value):
    with pytest.raises(InvalidOption) as caught:
        options("marco", **{field: value})
    assert field in str(caught.value)
    assert "must be" in str(caught.value)


def test_an_unknown_option_is_refused():
    with pytest.raises(InvalidOption, match="no such option"):
        options("marco", rollout=3)


def test_options_survive_json():
    import json

    from marco import Options

    given = options("paper", rollouts=5, action="mini-step-32", max_seconds=3.5)
    assert Options.from_dict(json.loads(json.dumps(given.to_dict()))) == given


def test_a_config_made_by_hand_is_enough():
    solver = Solver(ScriptedEngine(bolts), search=SearchConfig(strategy="cot"))
    assert solver.solve(QUESTION).rollouts == 1
