"""Everything that can break, in small: `marco bench faults` does a thousand."""

from __future__ import annotations

import math

import pytest

from marco.benchmarks import faults
from marco.benchmarks.faults import KINDS, Outcome, World, bench_faults, lost, strike, unclear
from marco.config import options
from marco.engines.scripted import ScriptedEngine
from marco.events import RolloutFinished, SearchEnded, Warned
from marco.solver import Solver


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("faults"), seed=5)
    yield world
    world.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_costs_no_tree_and_no_next_search(world, kind):
    for _ in range(3):
        told = strike(world, kind)
        assert told == {"kind": kind, "lost": False, "unclear": "", "surprise": "", "next": True}


def test_faults_are_of_many_kinds():
    assert len(KINDS) >= 13


def test_a_death_is_counted_and_the_rest_still_happens(monkeypatch):
    figures = bench_faults(len(KINDS) + 3, seed=1)
    assert (figures["injected"], figures["kinds"]) == (len(KINDS) + 3, len(KINDS))
    assert (figures["deaths"], figures["lost_trees"], figures["surprises"]) == (0, 0, 0)
    assert math.isfinite(figures["memory_growth"])


def search(tmp_path):
    engine = ScriptedEngine(faults.think)
    solver = Solver(engine, options("marco", rollouts=3), runs=tmp_path)
    events = list(solver.stream(faults.QUESTION))
    engine.close()
    return events, solver.run


def test_a_tree_that_is_not_in_its_file_counts_as_lost(tmp_path):
    events, run = search(tmp_path)
    assert not lost(Outcome(events, run))
    lines = run.read_bytes().split(b"\n")
    run.write_bytes(b"\n".join(line for line in lines if b'"RolloutFinished"' not in line))
    assert lost(Outcome(events, run))
    assert any(isinstance(event, RolloutFinished) for event in events)


@pytest.mark.parametrize("sentence", ["Traceback (most recent call last)", "two\nlines of it", "x" * 600, "Oops"])
def test_what_is_no_clear_sentence_is_found_out(sentence):
    assert unclear(Outcome(told=[sentence]))
    assert not unclear(Outcome(told=["The server at x failed."]))
    assert unclear(Outcome(must_tell=True))


def test_a_search_without_an_end_is_found_out(tmp_path):
    events, run = search(tmp_path)
    assert not unclear(Outcome(events, run))
    assert unclear(Outcome(events[:-1], run))
    assert not unclear(Outcome(events[:-1], run, left=True))


def test_an_engine_that_takes_no_more_work_ends_the_search_with_what_was_found():
    engine = faults.BrokenEngine()
    events = []
    for event in Solver(engine, options("marco", rollouts=20, parallel=2)).stream(faults.QUESTION):
        events.append(event)
        if isinstance(event, RolloutFinished):
            engine.dead = True
    engine.close()
    ended = events[-1]
    assert isinstance(ended, SearchEnded)
    assert ended.stopped_by == "error"
    assert "thread is gone" in ended.message
    assert not [event for event in events if isinstance(event, Warned)]
