"""The search: select, expand, backpropagate; ask and tell."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thinking import one, rollout, search, started

from marco.config import BudgetConfig, SearchConfig
from marco.errors import SearchError, UnknownWork
from marco.events import NodeAdded, ReflectionJudged, WorkFailed, WorkIssued
from marco.reflection import Reflection
from marco.reward import BY_NAME
from marco.search import Prompt, Search, derive_seed, uct
from marco.tree import Tree

GOLDEN = Path(__file__).parent / "golden"


def test_a_rollout_becomes_one_child_and_keeps_the_rest_as_its_tail():
    s = search()
    item = one(s)
    s.tell(item.work, rollout(item.work, "root", [(1, 2), (3,), (4, 5)]))
    child = s.tree["1.0"]
    assert child.token_ids == (1, 2)
    assert len(s.tree) == 2
    assert [tail.members for tail in child.tails] == [[(1, 1)]]


def test_the_root_is_filled_to_its_branching_before_the_search_goes_deeper():
    s = search(branching=2)
    nodes = []
    for first in (1, 2, 3):
        item = one(s)
        nodes.append(item.node)
        s.tell(item.work, rollout(item.work, item.node, [(first,), (9,)], confidence=0.5 + first / 10))
    assert nodes == ["root", "root", "2.0"]


def test_a_tail_counts_as_a_child_and_becomes_a_node_only_when_selection_reaches_it():
    s = search(branching=1, rollouts=3)
    item = one(s)
    s.tell(item.work, rollout(item.work, "root", [(1,), (2,), (3,)]))
    # With one child a node every node on the line is full: nothing is left to do.
    assert s.finished
    assert s.stopped_by == "done"
    assert len(s.tree) == 2


def test_a_materialised_node_has_the_visits_and_values_of_the_rollouts_through_it():
    s = search(branching=2, rollouts=20)
    for turn in range(12):
        item = one(s)
        s.tell(item.work, rollout(item.work, item.node, [(turn % 2,), (7,), (turn,)], confidence=0.5 + turn / 40))
    for node in s.tree.nodes.values():
        through = [r for r in s.tree.rollouts if node.id in {n.id for n in s.tree.path(s.tree.leaves[r])}]
        assert node.visits == len(through)
        assert node.value_sum == pytest.approx(sum(s.tree.values[r] for r in through))


def test_children_with_the_same_tokens_are_one_child():
    s = search()
    for _ in range(2):
        item = one(s)
        s.tell(item.work, rollout(item.work, "root", [(1,), (2,)]))
    assert s.tree.root.children == ["1.0"]
    assert s.tree["1.0"].visits == 2
    assert s.tree["1.0"].tails[0].members == [(1, 1), (2, 1)]


def test_a_pending_visit_counts_as_a_visit_of_no_value_so_that_a_batch_spreads():
    s = search(branching=2, parallel=2, rollouts=6, exploration=2.0)
    first, second = s.ask(2)
    s.tell(first.work, rollout(1, "root", [(1,), (7,), (8,)], confidence=0.9))
    third = one(s)
    assert third.node == "1.0"
    s.tell(second.work, rollout(2, "root", [(2,), (7,), (8,)], confidence=0.8))
    # 1.0 is the better child, but a rollout is under way through it: the next one goes to 2.0.
    assert one(s).node == "2.0"


def test_never_more_work_than_there_is_room_for():
    s = search(branching=2, parallel=8, rollouts=20)
    items = s.ask(8)
    assert [item.node for item in items] == ["root", "root"]
    assert s.ask(8) == []
    s.tell(items[0].work, rollout(1, "root", [(1,), (2,)]))
    assert [item.node for item in s.ask(8)] == ["1.0"]


def test_results_enter_in_the_order_of_their_ids_whatever_the_order_they_come_in():
    s = search(branching=3, parallel=3, rollouts=3)
    items = s.ask(3)
    s.tell(items[2].work, rollout(3, "root", [(3,)]))
    s.tell(items[1].work, rollout(2, "root", [(2,)]))
    assert s.commits == 0
    s.tell(items[0].work, rollout(1, "root", [(1,)]))
    assert list(s.tree.rollouts) == [1, 2, 3]


def test_a_second_result_for_the_same_work_is_ignored():
    s = search()
    item = one(s)
    s.tell(item.work, rollout(1, "root", [(1,)]))
    s.tell(item.work, rollout(1, "root", [(2,)]))
    assert s.tree.root.children == ["1.0"]
    assert s.tree.root.visits == 1


@pytest.mark.parametrize("work", [0, -1, 2, 99])
def test_a_result_for_work_that_was_never_handed_out_is_refused(work):
    s = search()
    one(s)
    with pytest.raises(UnknownWork):
        s.tell(work, rollout(work, "root", [(1,)]))


def test_a_failure_spends_budget_and_adds_no_visit():
    s = search(rollouts=2)
    s.tell(one(s).work, WorkFailed(work=1, node="root", error="no", generated=5))
    s.tell(one(s).work, rollout(2, "root", [(1,)]))
    assert s.finished
    assert s.tree.root.visits == 1
    assert s.tree.root.pending == 0
    assert s.tree.generated == 6


def test_a_search_that_only_fails_gives_up():
    s = search(rollouts=None, budget=BudgetConfig(tokens=1000))
    for _ in range(100):
        if s.finished:
            break
        item = one(s)
        s.tell(item.work, WorkFailed(work=item.work, node=item.node, error="no"))
    assert s.stopped_by == "error"


def test_a_terminal_node_is_never_extended_and_a_finished_tree_is_done():
    s = search(branching=2, rollouts=50)
    for token in (1, 2):
        item = one(s)
        s.tell(item.work, rollout(item.work, "root", [(token,)]))
    assert s.stopped_by == "done"


def test_nodes_at_the_depth_cap_are_not_extended():
    s = search(branching=2, rollouts=200, depth=2)
    rng = random.Random(0)
    while not s.finished:
        item = one(s)
        assert s.tree[item.node].depth < 2
        s.tell(item.work, rollout(item.work, item.node, [(rng.randrange(1000),) for _ in range(4)]))
    assert s.stopped_by == "done"
    assert max(node.depth for node in s.tree.nodes.values()) <= 2


def test_the_token_budget_ends_the_search_and_what_is_under_way_finishes():
    s = search(budget=BudgetConfig(tokens=5), parallel=2, branching=4)
    first, second = s.ask(2)
    s.tell(first.work, rollout(1, "root", [(1, 2, 3, 4, 5)]))
    assert s.ask(2) == []
    assert not s.finished
    s.tell(second.work, rollout(2, "root", [(6,)]))
    assert s.stopped_by == "tokens"
    assert s.tree.generated == 6


def test_uct_is_the_formula():
    assert uct(0.25, 2, math.log(8), 1.5) == pytest.approx(0.25 + 1.5 * math.sqrt(math.log(8) / 2))


def test_values_are_normalised_before_they_are_compared():
    # Without normalisation 0.90 and 0.91 would be the same to exploration; with it the better one is chosen.
    s = search(branching=2, rollouts=20, exploration=0.1)
    for token, confidence in ((1, 0.90), (2, 0.91)):
        item = one(s)
        s.tell(item.work, rollout(item.work, "root", [(token,), (9,), (8,)], confidence=confidence))
    assert one(s).node == "2.0"


def test_where_all_values_are_equal_the_first_child_is_taken():
    s = search(branching=2, rollouts=20)
    for token in (1, 2):
        item = one(s)
        s.tell(item.work, rollout(item.work, "root", [(token,), (9,)]))
    assert one(s).node == "1.0"


def test_puct_prefers_the_child_that_the_model_was_surer_of():
    s = search(branching=2, rollouts=20, rule="puct", exploration=5.0)
    for token, confidence in ((1, 0.3), (2, 0.9)):
        item = one(s)
        s.tell(item.work, rollout(item.work, "root", [(token,), (9,), (8,)], confidence=confidence))
    assert one(s).node == "2.0"


def test_progressive_widening_lets_a_node_have_more_children_as_it_is_visited():
    s = search(branching=1, rollouts=30, widening=0.5)
    while not s.finished:
        item = one(s)
        s.tell(item.work, rollout(item.work, item.node, [(item.work,), (100 + item.work,)]))
    assert len(s.tree.root.children) == math.ceil(s.tree.root.visits**0.5)


def test_independent_strategies_start_every_rollout_from_the_question():
    s = search(strategy="self-consistency", branching=1, rollouts=6)
    for _ in range(6):
        item = one(s)
        assert item.node == "root"
        s.tell(item.work, rollout(item.work, "root", [(item.work % 2,), (5,)]))
    assert s.tree.root.visits == 6


def test_relative_rewards_are_recomputed_for_all_at_each_commit():
    s = search(reward="agreement", branching=3, rollouts=3)
    for number, answer in enumerate(["3", "4", "3"], start=1):
        item = one(s)
        s.tell(item.work, rollout(item.work, "root", [(number,)], answer=answer))
    assert s.tree.values == pytest.approx({1: 2 / 3, 2: 1 / 3, 3: 2 / 3})
    assert s.tree.root.value_sum == pytest.approx(5 / 3)
    assert s.tree["2.0"].value == pytest.approx(1 / 3)


# -- reflection --------------------------------------------------------------------------------------------------


def plan(policy: str = "always", below: float = 0.85) -> Reflection:
    return Reflection(policy, below, 1, (50, 51), "Wait!")


def test_a_reflection_hangs_at_the_end_of_the_thought_and_is_the_next_work():
    s = search(reflection="always", reflection_plan=plan(), rollouts=4)
    item = one(s)
    s.tell(item.work, rollout(1, "root", [(1,), (2,), (3,)], thought_segments=2, answer="4"))
    reflection = s.tree["1r"]
    assert reflection.kind == "reflection"
    assert reflection.parent == "1.1"
    assert reflection.confidence is None
    item = one(s)
    assert (item.node, item.origin) == ("1r", 1)
    assert s.tree.path_ids("1r")[-4:] == (1, 2, 50, 51)


def test_a_reflection_is_outside_the_branching_and_not_reflected_on_again():
    emitted = []
    s = search(reflection="always", reflection_plan=plan(), rollouts=3, branching=1, emit=emitted.append)
    s.tell(one(s).work, rollout(1, "root", [(1,), (2,)], thought_segments=1, answer="4"))
    item = one(s)
    s.tell(item.work, rollout(2, "1r", [(3,), (4,)], thought_segments=1, answer="3"))
    judged = [event for event in emitted if isinstance(event, ReflectionJudged)]
    assert [(j.rollout, j.origin, j.before, j.after, j.changed) for j in judged] == [(2, 1, "4", "3", True)]
    assert sum(isinstance(e, NodeAdded) and e.kind == "reflection" for e in emitted) == 1


@pytest.mark.parametrize(("confidence", "reflected"), [(0.5, True), (0.95, False)])
def test_low_confidence_reflects_only_below_the_threshold(confidence, reflected):
    s = search(reflection="low-confidence", reflection_plan=plan("low-confidence"), rollouts=3)
    s.tell(one(s).work, rollout(1, "root", [(1,), (2,)], thought_segments=1, confidence=confidence))
    assert ("1r" in s.tree) is reflected


def test_a_rollout_that_was_cut_off_is_not_reflected_on():
    s = search(reflection="always", reflection_plan=plan(), rollouts=3)
    s.tell(one(s).work, rollout(1, "root", [(1,), (2,)], thought_segments=None))
    assert "1r" not in s.tree


# -- openings ----------------------------------------------------------------------------------------------------

PLAINLY, IN_VERSE = Prompt("asked plainly", (90, 91)), Prompt("asked in verse", (95,), tries=2)


def test_all_openings_and_the_root_are_tried_in_turns_before_the_search_chooses():
    s = search(branching=2, rollouts=10, openings=[PLAINLY, IN_VERSE])
    nodes = []
    for turn in range(9):
        item = one(s)
        nodes.append(item.node)
        s.tell(item.work, rollout(item.work, item.node, [(turn,), (9,)], confidence=0.5 + turn / 20))
    assert nodes[:8] == ["o1", "o2", "o2", "root", "o1", "o2", "o2", "root"]
    assert nodes[8] not in ("root", "o1", "o2")


def test_an_opening_takes_the_place_of_the_prompt_and_its_name_is_no_part_of_the_thought():
    s = search(openings=[PLAINLY])
    item = one(s)
    s.tell(item.work, rollout(item.work, "o1", [(1, 2), (3,)]))
    assert s.tree["o1"].kind == "opening"
    assert s.tree["o1"].text == "asked plainly"
    assert s.tree.path_ids("1.0") == (90, 91, 1, 2)
    assert s.tree.path_text("1.0") == "xx"
    assert s.tree.rollout_text(1) == "xxx"
    assert s.tree.root.visits == s.tree["o1"].visits == 1
    assert s.tree.root.aside == 1


def test_independent_rollouts_have_no_openings():
    s = search(strategy="self-consistency", openings=[PLAINLY])
    assert one(s).node == "root"
    assert list(s.tree.nodes) == ["root"]


def test_an_opening_that_was_pruned_is_left_out_and_none_can_be_edited():
    s = search(branching=2, openings=[PLAINLY])
    item = one(s)
    s.steer("prune", "o1")
    with pytest.raises(SearchError, match="ask it anew"):
        s.steer("edit", "o1", token_ids=(1,), text="x")
    s.tell(item.work, rollout(item.work, "o1", [(1,)]))
    for turn in range(2, 5):
        item = one(s)
        assert not item.node.startswith("o")
        s.tell(item.work, rollout(item.work, item.node, [(turn,), (9,)]))


def test_a_direct_answer_to_an_opening_is_not_reflected_on():
    s = search(reflection="always", reflection_plan=plan(), openings=[PLAINLY])
    item = one(s)
    s.tell(item.work, rollout(item.work, "o1", [(1,)], thought_segments=0))
    assert "1r" not in s.tree


# -- taking part -------------------------------------------------------------------------------------------------


def grown(**given) -> Search:
    s = search(rollouts=4, branching=2, **given)
    while not s.finished:
        item = one(s)
        s.tell(item.work, rollout(item.work, item.node, [(item.work,), (70 + item.work,), (80 + item.work,)]))
    return s


def test_a_person_gives_more_and_expands_a_node():
    s = grown()
    s.steer("budget", rollouts=6)
    s.ask(1)
    s = grown()
    s.steer("expand", "1.0")
    assert s.finished  # the budget is spent: the wish waits
    s.steer("budget", rollouts=5)
    assert one(s).node == "1.0"


def test_a_pruned_branch_gets_no_more_work_and_a_restored_one_does():
    s = grown()
    s.steer("prune", "2.0")
    s.steer("budget", rollouts=40)
    for _ in range(10):
        if s.finished:
            break
        item = one(s)
        assert "2.0" not in {node.id for node in s.tree.path(item.node)}
        s.tell(item.work, rollout(item.work, item.node, [(item.work,), (70 + item.work,)]))


def test_a_pinned_node_is_where_the_search_goes_on():
    s = grown()
    s.steer("pin", "2.0")
    s.steer("budget", rollouts=5)
    assert "2.0" in {node.id for node in s.tree.path(one(s).node)}


def test_an_edit_is_a_new_branch_beside_the_node_and_the_search_goes_on_from_it():
    s = grown()
    s.steer("budget", rollouts=5)
    item = one(s)
    s.steer("edit", "1.0", token_ids=[5, 6], text="no")
    assert s.tree["e2"].parent == "root"
    s.tell(item.work, rollout(item.work, item.node, [(1,)]))
    s.steer("budget", rollouts=6)
    assert one(s).node == "e2"


@pytest.mark.parametrize(("action", "node"), [("expand", "nowhere"), ("dance", "1.0"), ("edit", "root")])
def test_an_impossible_intervention_is_refused_and_leaves_no_trace(action, node):
    emitted = []
    s = grown(emit=emitted.append)
    before = len(emitted)
    with pytest.raises(SearchError):
        s.steer(action, node, token_ids=[1], text="x")
    assert len(emitted) == before


# -- the whole ---------------------------------------------------------------------------------------------------


def write(seed: int, node_ids: tuple[int, ...]) -> tuple[list[tuple[int, ...]], float, str]:
    """What a deterministic model would write from a path: segments of ids, a confidence, an answer."""
    draw = random.Random(f"{seed}:{node_ids}")
    segments = [tuple(draw.randrange(4) for _ in range(draw.randint(1, 3))) for _ in range(draw.randint(1, 5))]
    return segments, 0.2 + 0.7 * draw.random(), str(draw.randint(0, 2))


def run_all(s: Search, order: random.Random | None = None) -> Search:
    """Drive a search to its end; with `order`, results come back shuffled and work is asked for in odd bites."""
    held = []
    while not s.finished:
        held += s.ask(order.randint(0, 3) if order else 99)
        if not held:
            continue
        item = held.pop(order.randrange(len(held)) if order else 0)
        segments, confidence, answer = write(item.seed, s.tree.path_ids(item.node))
        thought = max(0, len(segments) - 1)
        s.tell(
            item.work,
            rollout(item.work, item.node, segments, confidence=confidence, answer=answer, thought_segments=thought),
        )
    return s


configs = st.fixed_dictionaries(
    {
        "branching": st.integers(1, 4),
        "parallel": st.integers(1, 5),
        "rollouts": st.integers(1, 25),
        "depth": st.integers(1, 6),
        "seed": st.integers(0, 1000),
        "rule": st.sampled_from(["uct", "puct"]),
        "reward": st.sampled_from(["mean", "agreement", "hybrid"]),
        "widening": st.sampled_from([0.0, 0.4]),
        "strategy": st.sampled_from(["mcts", "mcts", "self-consistency"]),
        "reflection": st.sampled_from(["off", "always", "low-confidence"]),
    }
)


def build(given_config: dict, **more) -> Search:
    return search(
        **given_config, reflection_plan=Reflection(given_config["reflection"], 0.5, 1, (90, 91), "Wait!"), **more
    )


@settings(max_examples=100, deadline=None)
@given(configs, st.integers(0, 10_000))
def test_the_order_in_which_results_arrive_does_not_matter(config, shuffle):
    straight = run_all(build(config))
    shuffled = run_all(build(config), random.Random(shuffle))
    assert straight.tree.to_dict() == shuffled.tree.to_dict()
    assert straight.stopped_by == shuffled.stopped_by


@settings(max_examples=100, deadline=None)
@given(configs)
def test_the_invariants_of_the_tree_hold(config):
    events = []
    s = run_all(build(config, emit=events.append))
    tree = s.tree
    assert tree.root.visits == len(tree.rollouts)
    assert tree.root.pending == 0
    held = 0
    for node in tree.nodes.values():
        assert node.pending == node.issued == 0
        assert node.visits >= sum(tree[c].visits for c in node.children) + sum(len(t.members) for t in node.tails)
        sampled = [c for c in node.children if tree[c].kind != "reflection"]
        ids = [tree[c].token_ids for c in sampled] + [tree.segment_ids(*t.members[0]) for t in node.tails]
        assert len(ids) == len(set(ids)), "children with the same ids are one"
        held += len(node.token_ids) if not node.forced and node.parent is not None else 0
        assert (node.id in s._full) is not s._has_room(node), "what is kept of room is what recounting gives"
    # What each rollout's path spells is what the model saw and wrote, to the token.
    for number, finished in tree.rollouts.items():
        leaf = tree[tree.leaves[number]]
        index = leaf.depth - tree[finished.node].depth
        rest = tuple(t for i in range(index, len(finished.segments)) for t in tree.segment_ids(number, i))
        assert tree.path_ids(leaf.id) + rest == tree.path_ids(finished.node) + finished.token_ids
    # Anyone who folds the events has the same tree, and so does whoever loads it from JSON.
    assert Tree.fold(events).to_dict() == tree.to_dict()
    assert Tree.from_dict(json.loads(json.dumps(tree.to_dict()))).to_dict() == tree.to_dict()


@settings(max_examples=80, deadline=None)
@given(configs)
def test_a_rollout_starts_only_where_there_are_fewer_children_than_the_branching_allows(config):
    events = []
    run_all(build({**config, "widening": 0.0, "strategy": "mcts"}, emit=events.append))
    tree = Tree()
    for event in events:
        tree.apply(event)
        if isinstance(event, WorkIssued) and event.origin is None:
            node = tree[event.node]
            # A rollout that repeats others may bring a full node one more child; none is asked for there.
            assert len(node.children) - node.aside + len(node.tails) + node.issued <= config["branching"]


@settings(max_examples=60, deadline=None)
@given(configs)
def test_work_is_issued_within_the_budget_and_the_parallelism(config):
    events = []
    s = run_all(build(config, emit=events.append))
    issued = [event for event in events if isinstance(event, WorkIssued)]
    assert len(issued) <= config["rollouts"]
    assert [event.work for event in issued] == list(range(1, len(issued) + 1))
    assert all(event.seed == derive_seed(config["seed"], event.work) for event in issued)
    assert s.outstanding == 0


def chain(depth: int) -> Search:
    s = search(rollouts=2, branching=2, depth=depth + 5, action="mini-step-32")
    s.tell(one(s).work, rollout(1, "root", [(i % 7,) for i in range(depth)]))
    return s


def test_a_chain_of_a_thousand_nodes_serialises_copies_and_loads():
    import copy
    import pickle

    s = chain(1000)
    node = s.reach(1, 1000)
    assert node.depth == 1000
    data = json.dumps(s.tree.to_dict())
    assert Tree.from_dict(json.loads(data))[node.id].depth == 1000
    assert copy.deepcopy(s.tree).path_ids(node.id) == pickle.loads(pickle.dumps(s.tree)).path_ids(node.id)
    assert s.tree.to_networkx().number_of_nodes() == 1001


GOLDEN_CASES = {
    "uct": SearchConfig(branching=2, parallel=1, seed=7),
    "uct-parallel-4": SearchConfig(branching=3, parallel=4, seed=7),
    "puct-widening": SearchConfig(branching=1, parallel=2, seed=3, rule="puct", widening=0.5),
    "agreement-reflect": SearchConfig(branching=2, parallel=2, seed=5, reward="agreement", reflection="always"),
    "self-consistency": SearchConfig(strategy="self-consistency", parallel=4, seed=1),
}


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_the_tree_is_the_golden_one(name):
    """A change here changes every published figure: look at the difference before writing new ones
    (MARCO_WRITE_GOLDEN=1)."""
    config = GOLDEN_CASES[name]
    s = run_all(
        Search(
            config,
            BudgetConfig(rollouts=16),
            started(),
            reward=BY_NAME[config.reward],
            reflection=Reflection.of(config, (90, 91)),
        )
    )
    shape = [
        [n.id, n.parent, n.kind, list(n.token_ids), n.visits, round(n.value_sum, 9), n.terminal, len(n.tails)]
        for n in s.tree.walk()
        if n.parent is not None
    ]
    path = GOLDEN / f"{name}.json"
    if os.environ.get("MARCO_WRITE_GOLDEN"):
        path.write_text("[\n" + ",\n".join(json.dumps(row) for row in shape) + "\n]\n")
    assert shape == json.loads(path.read_text())
