"""Several servers as one engine: where work goes, and what happens when a server dies."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import tiny
from thinking import bolts

from marco.config import ModelConfig, SamplingConfig, options
from marco.engines import open_engine, routing
from marco.engines.base import Chunk, Completion, Deliver, Request
from marco.engines.llamacpp import LlamaCppEngine
from marco.engines.routing import BLOCK, RoutingEngine
from marco.engines.scripted import END, Fail, ScriptedEngine
from marco.engines.server import ServerEngine
from marco.errors import ModelUnavailable, ServerUnreachable
from marco.events import RolloutFinished
from marco.runs import read_run
from marco.solver import Solution, Solver
from marco.tree import Tree

LONG = tuple(b"A question that is longer than a few blocks of tokens, so that a cache is worth something. ")


class Place(ScriptedEngine):
    """A scripted server that remembers what it was asked and can die."""

    def __init__(self, script: Callable[[str, int], str | Fail] = lambda prefix, seed: "Yes", slots: int = 4) -> None:
        super().__init__(script, slots=slots, model="scripted")
        self.asked: list[Request] = []
        self.alive = True
        self.after: int | None = None
        """Dies after so many tokens of a rollout."""
        self.hold: threading.Event | None = None

    def answers(self) -> bool:
        return self.alive

    def submit(self, requests: Sequence[Request], deliver: Deliver) -> None:
        self.asked += requests

        def changed(told: Chunk | Completion) -> None:
            if self.hold is not None:
                self.hold.wait(30)
            if isinstance(told, Completion):
                if self.after is not None and len(told.token_ids) > self.after:
                    self.alive = False
                    told = cut_off(told, self.after)
                elif not self.alive:
                    told = cut_off(told, 0)
            deliver(told)

        super().submit(requests, changed)


def cut_off(told: Completion, count: int) -> Completion:
    return Completion(
        told.work,
        told.token_ids[:count],
        told.text[:count],
        told.offsets[:count],
        told.logprobs[:count],
        told.top[:count],
        "failed",
        told.prefilled,
        0,
        "The server broke off.",
    )


@pytest.fixture
def places() -> Iterator[list[Place]]:
    places = [Place(), Place()]
    yield places
    for place in places:
        place.close()


def asking(work: int, prefix: Sequence[int] = LONG, **given: object) -> Request:
    sampling = SamplingConfig(max_tokens=int(str(given.pop("max_tokens", 100))))
    return Request(work, tuple(prefix), sampling, work, threading.Event(), str(given.pop("search", "")))


def run(engine: RoutingEngine, *requests: Request) -> list[Completion]:
    told: queue.Queue[Chunk | Completion] = queue.Queue()
    engine.submit(requests, told.put)
    done: dict[int, Completion] = {}
    while len(done) < len(requests):
        one = told.get(timeout=30)
        if isinstance(one, Completion):
            assert one.work not in done
            done[one.work] = one
    return [done[request.work] for request in requests]


# Where work goes


def test_a_branch_stays_where_its_prefix_is(places):
    engine = RoutingEngine(places)
    (first,) = run(engine, asking(1))
    for work in range(2, 8):
        run(engine, asking(work, (*LONG, *first.token_ids, *b"and then " * work)))
    asked = sorted(len(place.asked) for place in places)
    assert asked == [0, 7]


def test_what_a_server_wrote_counts_as_its_prefix():
    places = [Place(lambda prefix, seed: "x" * 600), Place()]
    engine = RoutingEngine(places)
    (written,) = run(engine, asking(1, b"Say a lot.", max_tokens=700))
    place = next(place for place in places if place.asked)
    run(engine, asking(2, (*b"Say a lot.", *written.token_ids, *b"more")))
    assert len(place.asked) == 2


def test_siblings_go_to_one_server_in_one_call(places):
    engine = RoutingEngine(places)
    run(engine, *(asking(work) for work in range(4)))
    assert sorted(len(place.asked) for place in places) == [0, 4]


def test_a_full_server_is_worth_leaving_for_a_short_prefix(places):
    engine = RoutingEngine(places)
    going_on = threading.Event()
    for place in places:
        place.hold = going_on
    for work in range(8):
        engine.submit([asking(work, b"Short.")], lambda told: None)
    assert [len(place.asked) for place in places] == [4, 4]
    going_on.set()


def test_a_prefix_that_was_pushed_out_of_memory_is_forgotten(places, monkeypatch):
    monkeypatch.setattr(routing, "REMEMBERED", 2)
    engine = RoutingEngine(places)
    run(engine, asking(1))
    assert all(len(place.blocks) <= 2 for place in engine._places)


@pytest.mark.parametrize("length", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 10 * BLOCK])
def test_only_whole_blocks_are_marked_and_each_stands_for_all_before_it(length):
    ids = tuple(range(length))
    chain = routing._chain(ids)
    assert len(chain) == length // BLOCK
    assert routing._chain((*ids, 7))[: len(chain)] == chain
    if chain:
        assert not set(routing._chain((99, *ids[1:]))) & set(chain)


# When a server dies


def test_a_rollout_goes_on_where_its_server_broke_off(places):
    text = "The answer is three."
    for place in places:
        place._script = lambda prefix, seed: text[len(prefix) - len(LONG) :]
    engine = RoutingEngine(places)
    first = engine._choose([routing._Job(asking(0), lambda told: None)], [])
    assert first is not None
    first.load = 0
    first.engine.after = 5  # type: ignore[attr-defined]
    (done,) = run(engine, asking(1))
    assert (done.text, done.finish, done.error) == (text, "stop", None)
    assert done.token_ids == (*text.encode(), END)
    assert len(done.logprobs) == len(done.top) == len(done.offsets) == len(done.token_ids)
    other = next(place for place in places if place.alive)
    assert other.asked[0].prefix == (*LONG, *text[:5].encode())
    assert other.asked[0].sampling.max_tokens == 95
    assert engine.usage()["moved"] == 1


def test_a_server_that_does_not_answer_gets_no_work_until_it_does(places, monkeypatch):
    monkeypatch.setattr(routing, "AGAIN_SECONDS", 0.05)
    engine = RoutingEngine(places)
    places[0].alive = False
    run(engine, *(asking(work, bytes([work]) * 40) for work in range(6)))
    before = len(places[0].asked)
    run(engine, *(asking(work, bytes([work]) * 40) for work in range(10, 16)))
    assert len(places[0].asked) == before
    places[0].alive = True
    deadline = time.monotonic() + 30
    while not all(place.up for place in engine._places):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    engine._places[1].load = 100
    run(engine, asking(20, b"new"))
    assert len(places[0].asked) == before + 1


def test_a_request_that_every_server_refuses_fails_with_the_last_word(places):
    for place in places:
        place._script = lambda prefix, seed: Fail("The prompt is not to my taste.")
    engine = RoutingEngine(places)
    (done,) = run(engine, asking(1))
    assert (done.finish, done.error) == ("failed", "The prompt is not to my taste.")
    assert [len(place.asked) for place in places] == [1, 1]
    assert all(place.up for place in engine._places)


def test_a_cancelled_rollout_moves_nowhere(places):
    engine = RoutingEngine(places)
    request = asking(1)
    request.cancel.set()
    for place in places:
        place.alive = False
    told: queue.Queue[Chunk | Completion] = queue.Queue()
    engine.submit([request], told.put)
    assert told.get(timeout=30).work == 1
    assert sum(len(place.asked) for place in places) == 1


def test_a_search_loses_nothing_when_a_server_dies_in_the_middle(places, tmp_path):
    for place in places:
        place._script = bolts
    engine = RoutingEngine(places)
    solver = Solver(engine, options("marco", rollouts=12, parallel=4), runs=tmp_path)
    seen = 0
    events = []
    for event in solver.stream("How many bolts?"):
        events.append(event)
        if isinstance(event, RolloutFinished):
            seen += 1
            if seen == 3:
                places[0].alive = False
    solution = Solution.of(events)
    assert (solution.answer, solution.rollouts, solution.message) == ("3", 12, "")
    assert solver.run is not None
    tree = Tree()
    for event in read_run(solver.run).events:
        tree.apply(event)
    assert list(tree.nodes) == list(solution.tree.nodes)


def test_the_next_search_works_on_the_servers_that_are_left(places):
    engine = RoutingEngine(places)
    places[1].alive = False
    for _ in range(3):
        assert Solver(engine, options("marco", rollouts=2)).solve("Well?").rollouts == 2


# Putting it together


def test_servers_of_different_models_are_refused(places):
    class Other(Place):
        @property
        def tokenizer(self) -> object:  # type: ignore[override]
            class Reversed(type(places[0].tokenizer)):  # type: ignore[misc]
                def encode(self, text: str) -> tuple[int, ...]:
                    return super().encode(text)[::-1]

            return Reversed()

    with pytest.raises(ModelUnavailable, match="another tokenizer"):
        RoutingEngine([places[0], Other()])


def test_slots_add_up_and_the_smallest_context_holds(places):
    info = RoutingEngine(places).info
    assert (info.slots, info.context, info.engine) == (8, 100_000, "server")


def test_nobody_there_at_all_is_told():
    with pytest.raises(ServerUnreachable, match=r"No server answers at http://127\.0\.0\.1:1 "):
        open_engine(ModelConfig(base_urls=("http://127.0.0.1:1", "http://127.0.0.1:2")))


# Two live servers


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    """A random model that llama.cpp runs in no time: what it says is gibberish, how it is served is not."""
    folder = tmp_path_factory.mktemp("tiny")
    return tiny.write_gguf(tiny.build(folder / "model"), folder / "tiny.gguf", tokenizer=True)


def test_a_llama_cpp_server_that_is_killed_in_mid_search_costs_no_part_of_the_tree(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("marco.engines.server.ATTEMPTS", 2)
    owners = [LlamaCppEngine(tiny_model, slots=4, context=1024) for _ in range(2)]
    servers = [ServerEngine(owner._server.base_url, api_key=owner._child.key) for owner in owners]
    engine = RoutingEngine(servers)
    try:
        solver = Solver(
            engine,
            options("marco", rollouts=16, parallel=6, max_tokens=200, seed=3, action="mini-step-16"),
            runs=tmp_path,
        )
        seen: list[str] = []
        events = []
        for event in solver.stream("Say something."):
            events.append(event)
            if isinstance(event, RolloutFinished):
                seen.append(event.text)
                if len(seen) == 3:
                    os.kill(owners[0].pid, signal.SIGKILL)
        solution = Solution.of(events)
        assert solution.message == ""
        assert solution.rollouts == len(seen) >= 10
        assert [rollout.text for rollout in solution.tree.rollouts.values()][:3] == seen[:3]
        assert solver.run is not None
        recorded = Tree()
        for event in read_run(solver.run).events:
            recorded.apply(event)
        assert list(recorded.nodes) == list(solution.tree.nodes)
        # The next search works on what is left.
        assert Solver(engine, options("marco", rollouts=2, max_tokens=20)).solve("Again.").rollouts == 2
    finally:
        engine.close()
        for owner in owners:
            owner.close()
