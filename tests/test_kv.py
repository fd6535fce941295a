"""The memory of attention states: a radix tree with a limit, and slots that rows are copied in and out of."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")

from marco.engines.kv import Geometry, PrefixTree, Slots, States, matched, shared  # noqa: E402

GEOMETRY = Geometry(layers=2, kv_heads=1, head_dim=4, hidden=3, dtype=torch.float32, device=torch.device("cpu"))


def states_of(ids: tuple[int, ...]):
    """States that say which path they belong to: each position holds a number made from all ids up to it."""

    def cut(start: int, end: int) -> States:
        marks = torch.tensor([float(hash(ids[: i + 1]) % 99991) for i in range(start, end)])
        return States(marks.expand(4, 1, 4, -1).transpose(2, 3).contiguous(), marks[:, None].expand(-1, 3).contiguous())

    return cut


def recall(tree: PrefixTree, ids: tuple[int, ...]) -> torch.Tensor:
    """The hidden states that the tree holds for the beginning of `ids`."""
    parts = [segment.states.hidden[:count] for segment, count in tree.match(ids)]
    return torch.cat(parts) if parts else torch.empty(0, 3)


def test_shared_is_the_length_of_the_common_beginning():
    assert shared((1, 2, 3), (1, 2, 4)) == 2
    assert shared((1, 2), (1, 2, 4)) == 2
    assert shared((), (1,)) == 0


def test_a_stored_path_is_found_from_any_of_its_positions():
    tree = PrefixTree()
    path = tuple(range(10))
    assert tree.insert(path, states_of(path)) == 10
    for length in range(11):
        assert matched(tree.match((*path[:length], 99))) == length


def test_what_is_there_is_not_stored_twice():
    tree = PrefixTree()
    tree.insert((1, 2, 3, 4), states_of((1, 2, 3, 4)))
    assert tree.insert((1, 2, 3), states_of((1, 2, 3))) == 0
    assert tree.insert((1, 2, 9), states_of((1, 2, 9))) == 1
    assert len(tree) == 5
    assert tree.nbytes == 5 * GEOMETRY.bytes_per_position


def test_a_fork_in_mid_segment_keeps_the_states_of_both_branches():
    tree = PrefixTree()
    left, right, short = (1, 2, 3, 4, 5), (1, 2, 3, 7, 8), (1, 9)
    for path in (left, right, short):
        tree.insert(path, states_of(path))
    for path in (left, right, short):
        assert torch.equal(recall(tree, path), states_of(path)(0, len(path)).hidden)


def test_random_trees_always_give_back_the_states_of_the_path_that_was_asked_for():
    chance = random.Random(7)
    tree = PrefixTree(limit=40 * GEOMETRY.bytes_per_position)
    for _ in range(400):
        path = tuple(chance.randrange(3) for _ in range(chance.randrange(1, 14)))
        tree.insert(path, states_of(path))
        asked = tuple(chance.randrange(3) for _ in range(chance.randrange(1, 14)))
        found = recall(tree, asked)
        assert torch.equal(found, states_of(asked)(0, len(found)).hidden)
        assert tree.nbytes == len(tree) * GEOMETRY.bytes_per_position <= tree.limit


def test_the_least_recently_used_end_of_a_path_is_forgotten_first():
    tree = PrefixTree(limit=6 * GEOMETRY.bytes_per_position)
    tree.insert((1, 2, 3, 4), states_of((1, 2, 3, 4)))
    tree.insert((1, 2, 5, 6), states_of((1, 2, 5, 6)))
    tree.match((1, 2, 3, 4))
    tree.insert((1, 2, 7), states_of((1, 2, 7)))
    assert matched(tree.match((1, 2, 5, 6))) == 2
    assert matched(tree.match((1, 2, 3, 4))) == 4
    assert tree.evicted == 2


def test_a_limit_of_nothing_holds_nothing():
    tree = PrefixTree(limit=0)
    tree.insert((1, 2), states_of((1, 2)))
    assert len(tree) == 0
    assert tree.nbytes == 0


def test_a_tree_without_states_remembers_paths():
    seen = PrefixTree()
    assert seen.insert((1, 2, 3)) == 3
    assert seen.insert((1, 2, 4)) == 1
    assert matched(seen.match((1, 2, 4, 5))) == 3
    assert seen.nbytes == 0


def test_a_chain_of_a_thousand_segments_is_found():
    tree = PrefixTree()
    path: tuple[int, ...] = ()
    for step in range(1000):
        path += (step, step + 1)
        tree.insert(path, states_of(path))
    assert matched(tree.match(path)) == 2000


def test_slots_keep_their_rows_when_they_grow():
    slots = Slots(GEOMETRY, 3)
    path = (1, 2, 3)
    tree = PrefixTree()
    tree.insert(path, states_of(path))
    slots.reserve(3, 0)
    slots.load(1, tree.match(path))
    before = slots.capacity
    assert slots.reserve(before + 1, 2)
    assert slots.capacity > before
    kept = slots.states(1, 0, 3)
    assert torch.equal(kept.hidden, states_of(path)(0, 3).hidden)
    assert torch.equal(kept.kv, states_of(path)(0, 3).kv)


def test_loading_can_skip_what_is_already_there():
    slots = Slots(GEOMETRY, 1)
    slots.reserve(4, 0)
    tree = PrefixTree()
    tree.insert((1, 2), states_of((1, 2)))
    tree.insert((1, 2, 3, 4), states_of((1, 2, 3, 4)))
    slots.load(0, tree.match((1, 2, 3, 4)), skip=3)
    assert not slots.hidden[0, :3].any()
    assert torch.equal(slots.hidden[0, 3:4], states_of((1, 2, 3, 4))(3, 4).hidden)
