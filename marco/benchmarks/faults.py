"""`marco bench faults`: everything that can break, broken on purpose, again and again.

Faults strike searches in a process of their own, so that a death is counted and not suffered. After each it is
checked that what the search had found is kept (in memory, and in the run file as far as there is one), that the person
reads one clear sentence where something went wrong for good, and that the next search works and is right.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from marco import runs as run_files
from marco.config import ModelConfig, Options, options
from marco.engines.base import Around, Chunk, Completion, Deliver, Engine, Request
from marco.engines.scripted import ByteTokenizer, Fail, ScriptedEngine
from marco.errors import EngineError, MarcoError, OutOfMemory, RunFileError
from marco.events import Event, RolloutFinished, SearchEnded, Warned, WorkFailed
from marco.runs import read_run
from marco.solver import Solution, Solver
from marco.tree import Tree

WARM_UP = 0.25
"""Share of the faults after which memory is measured for the first time."""
CHILD_SECONDS = 1800.0
QUESTION = "How much are two and one?"
ANSWER = "3"

_THOUGHTS = ("Two and one.\n\n", "One, and two more.\n\n", "Count: one, two, three.\n\n")


def think(prefix: str, seed: int) -> str:
    """A thought in two steps, one of a few, and the right answer."""
    said = prefix.rpartition("assistant: ")[2]
    opening = "" if said else "<Thought>\n" + _THOUGHTS[seed % 3]
    return f"{opening}That is three{'!' * (seed % 2)}.\n</Thought>\n<Output>\nThe answer is {ANSWER}.\n</Output>"


@dataclass(slots=True)
class Outcome:
    """What came of a fault."""

    events: list[Event] = field(default_factory=list)
    run: Path | None = None
    """A run file that must hold every rollout that was seen."""
    told: list[str] = field(default_factory=list)
    """What the person reads."""
    must_tell: bool = False
    left: bool = False
    """Whoever followed the search went away in the middle."""


class BrokenEngine(Around):
    """A scripted engine in which one thing goes wrong."""

    def __init__(self, script: Callable[[str, int], str | Fail] = think) -> None:
        super().__init__(ScriptedEngine(script))
        self.change: Callable[[Completion], Completion | None] = lambda told: told
        self.dead = False

    def submit(self, requests: Sequence[Request], deliver: Deliver) -> None:
        if self.dead:
            raise EngineError("The engine's thread is gone.")

        def changed(told: Chunk | Completion) -> None:
            after = self.change(told) if isinstance(told, Completion) else told
            if after is not None:
                deliver(after)

        super().submit(requests, changed)


class World:
    """What faults strike: a folder of runs, engines, a server that breaks on demand."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.draw = random.Random(seed)
        self.engine = BrokenEngine()
        self.server: _Child | None = None

    def options(self, **given: Any) -> Options:
        return options("marco", **{"rollouts": 6, "parallel": 2, "seed": self.draw.randrange(1000), **given})

    def search(self, engine: Engine, until: Callable[[int, Event], bool] | None = None, **given: Any) -> Outcome:
        """A search to its end, or until `until` says so; what it raises counts as told."""
        solver = Solver(engine, self.options(**given), runs=self.folder)
        outcome = Outcome()
        try:
            stream = solver.stream(QUESTION)
            for place, event in enumerate(stream):
                outcome.events.append(event)
                if until is not None and until(place, event):
                    stream.close()  # type: ignore[attr-defined]
                    outcome.left = True
                    break
        except MarcoError as error:
            outcome.told.append(str(error))
        outcome.run = solver.run
        outcome.told += [event.message for event in outcome.events if isinstance(event, Warned)]
        outcome.told += [event.error for event in outcome.events if isinstance(event, WorkFailed)]
        outcome.told += [event.message for event in outcome.events if isinstance(event, SearchEnded) and event.message]
        return outcome

    def close(self) -> None:
        self.engine.close()
        if self.server is not None:
            self.server.end()


class _Child:
    """The server that breaks on demand, and an engine on it."""

    def __init__(self) -> None:
        from marco.engines.server import ServerEngine

        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("broken_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.engine = ServerEngine(self.url, tokenizer=ByteTokenizer())

    def break_next(self, how: str, times: int) -> None:
        import httpx

        httpx.post(f"{self.url}/break", json={"how": how, "times": times}, timeout=10, trust_env=False)

    def end(self) -> None:
        self.engine.close()
        self.process.kill()
        self.process.communicate()


# The faults


def out_of_memory(world: World) -> Outcome:
    often = world.draw.choice([1, 2, 3])
    engine = BrokenEngine(lambda prefix, seed: Fail(str(OutOfMemory("Memory ran out."))) if seed % often == 0
                          else think(prefix, seed))  # fmt: skip
    with contextlib.closing(engine):
        return replace(world.search(engine), must_tell=often == 1)


def nan_logits(world: World) -> Outcome:
    nan = float("nan")
    world.engine.change = lambda told: replace(
        told,
        logprobs=tuple(nan if place % 3 == 0 else value for place, value in enumerate(told.logprobs)),
        top=tuple(((1, nan), (2, -math.inf), *tops[:3]) for tops in told.top),
    )
    return world.search(world.engine)


def engine_thread_death(world: World) -> Outcome:
    """The thread dies with the rollouts under way; whoever submits more is told so."""
    left = world.draw.randrange(1, 5)

    def die(told: Completion) -> Completion:
        nonlocal left
        left -= 1
        if left <= 0:
            world.engine.dead = True
            return replace(told, finish="failed", error="The engine's thread is gone.")
        return told

    world.engine.change = die
    outcome = world.search(world.engine)
    return replace(outcome, must_tell=world.engine.dead)


def child_killed(world: World) -> Outcome:
    server = _server(world)
    at = world.draw.randrange(1, 30)

    def kill(place: int, _: Event) -> bool:
        if place == at:
            server.process.kill()
            server.process.wait()
        return False

    with mock.patch("marco.engines.server.ATTEMPTS", 1):
        return world.search(server.engine, kill)


def _server(world: World) -> _Child:
    if world.server is not None and world.server.process.poll() is not None:
        world.server.end()
        world.server = None
    world.server = world.server or _Child()
    return world.server


def _broken_server(how: str) -> Callable[[World], Outcome]:
    def strike(world: World) -> Outcome:
        server = _server(world)
        times = world.draw.choice([1, 2, 50])
        server.break_next(how, times)
        with mock.patch("marco.engines.server.ATTEMPTS", 2), mock.patch("tenacity.nap.time.sleep"):
            outcome = world.search(server.engine, parallel=1)
        server.break_next("", 0)
        return replace(outcome, must_tell=times == 50)

    return strike


def server_hang(world: World) -> Outcome:
    """A person has enough of a server that says nothing, or the deadline has."""
    server = _server(world)
    server.break_next("hang", 2)
    outcome = world.search(server.engine, max_seconds=0.3)
    server.break_next("", 0)
    return outcome


def disk_full(world: World) -> Outcome:
    after = world.draw.randrange(0, 12)

    class FullDisk(run_files.RunWriter):
        left = after

        def append(self, event: Event) -> None:
            type(self).left -= 1
            if self.left < 0 and self._file is not None:
                self._file = mock.Mock(write=mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
            super().append(event)

    with mock.patch.object(run_files, "RunWriter", FullDisk):
        outcome = world.search(world.engine)
    if outcome.run is not None and outcome.run.exists() and outcome.run.stat().st_size:
        read_run(outcome.run)
    # What no longer fits on the disk is kept in memory alone.
    return replace(outcome, run=None, must_tell=True)


def damaged_run_file(world: World) -> Outcome:
    outcome = world.search(world.engine)
    assert outcome.run is not None
    data = bytearray(outcome.run.read_bytes())
    copy = outcome.run.with_name(f"damaged-{world.draw.randrange(10**9)}.jsonl")
    kind = world.draw.randrange(4)
    place = world.draw.randrange(len(data))
    if kind == 0:
        data[place] ^= 1 << world.draw.randrange(8)
    elif kind == 1:
        del data[place:]
    elif kind == 2:
        data[place:place] = world.draw.randbytes(20)
    else:
        del data[place : place + 200]
    copy.write_bytes(data)
    try:
        for _ in Solver(world.engine).resume(copy, rollouts=7):
            pass
    except MarcoError as error:
        outcome.told.append(str(error).replace(str(copy.parent), ""))
        assert isinstance(error, RunFileError) or kind in (0, 2)
    copy.unlink(missing_ok=True)
    return outcome


def browser_gone(world: World) -> Outcome:
    at = world.draw.randrange(1, 40)
    outcome = world.search(world.engine, lambda place, _: place >= at)
    assert outcome.run is not None
    resumed = Solution.of(Solver(world.engine).resume(outcome.run, rollouts=7))
    assert resumed.answer == ANSWER
    return outcome


def model_file_deleted(world: World) -> Outcome:
    from marco.engines import open_engine

    path = world.folder / f"gone-{world.draw.randrange(10**6)}.gguf"
    path.write_bytes(b"GGUF")
    path.unlink()
    outcome = Outcome(must_tell=True)
    try:
        open_engine(ModelConfig(model=str(path), engine="llama.cpp")).close()
    except MarcoError as error:
        outcome.told.append(str(error).replace(str(path.parent), ""))
    return outcome


def damaged_model_file(world: World) -> Outcome:
    from marco.engines.models import is_gguf

    path = world.folder / "damaged.gguf"
    path.write_bytes(world.draw.randbytes(world.draw.randrange(64)))
    is_gguf(path)
    from marco.engines import open_engine

    outcome = Outcome(must_tell=True)
    try:
        open_engine(ModelConfig(model=str(path))).close()
    except MarcoError as error:
        outcome.told.append(str(error).replace(str(path.parent), ""))
    path.unlink()
    return outcome


def clock_jump(world: World) -> Outcome:
    """The machine sleeps for hours in mid-search, or somebody sets its clock."""
    jump = world.draw.choice([3600.0, 86_400.0, 1e7])
    at = world.draw.randrange(5, 60)
    asked = 0

    def jumping() -> float:
        nonlocal asked
        asked += 1
        return _real_monotonic() + (jump if asked > at else 0.0)

    given: dict[str, Any] = world.draw.choice([{}, {"max_seconds": 60.0}])
    with mock.patch("marco.session.time.monotonic", jumping):
        return world.search(world.engine, **given)


_real_monotonic = time.monotonic


def listener_fails(world: World) -> Outcome:
    """Whoever follows a search breaks in the middle of it."""
    at = world.draw.randrange(1, 30)

    def fail(place: int, _: Event) -> bool:
        if place == at:
            raise EngineError("Whoever listened is gone.")
        return False

    return replace(world.search(world.engine, fail), left=True)


KINDS: dict[str, Callable[[World], Outcome]] = {
    "out_of_memory": out_of_memory,
    "nan_logits": nan_logits,
    "engine_thread_death": engine_thread_death,
    "child_killed": child_killed,
    "server_5xx": _broken_server("5xx"),
    "server_hang": server_hang,
    "cut_stream": _broken_server("cut"),
    "malformed_logprobs": _broken_server("malformed"),
    "nan_logprobs_from_server": _broken_server("nan"),
    "refused_request": _broken_server("refuse"),
    "disk_full": disk_full,
    "damaged_run_file": damaged_run_file,
    "browser_gone": browser_gone,
    "listener_fails": listener_fails,
    "model_file_deleted": model_file_deleted,
    "damaged_model_file": damaged_model_file,
    "clock_jump": clock_jump,
}


# What must hold after each


def lost(outcome: Outcome) -> bool:
    """Whether anything that was seen is missing: from the tree of the events, or from the run file."""
    tree = Tree()
    for event in outcome.events:
        tree.apply(event)
    seen = {event.rollout for event in outcome.events if isinstance(event, RolloutFinished)}
    if seen - set(tree.rollouts):
        return True
    if outcome.run is None or not outcome.events:
        return False
    kept = {event.rollout for event in read_run(outcome.run).events if isinstance(event, RolloutFinished)}
    return bool(seen - kept)


def unclear(outcome: Outcome) -> str:
    """Why what the person reads is no clear sentence; empty where it is."""
    if outcome.must_tell and not outcome.told:
        return "nothing was told"
    for sentence in outcome.told:
        if "\n" in sentence or "Traceback" in sentence or len(sentence) > 500 or len(sentence.split()) < 3:
            return sentence
    if outcome.events and not outcome.left and not isinstance(outcome.events[-1], SearchEnded):
        return "the search has no end"
    return ""


def strike(world: World, kind: str) -> dict[str, Any]:
    """One fault, and what it left behind. Raises nothing."""
    told: dict[str, Any] = {"kind": kind, "lost": False, "unclear": "", "surprise": "", "next": True}
    try:
        outcome = KINDS[kind](world)
        told["lost"] = lost(outcome)
        told["unclear"] = unclear(outcome)
    except Exception as error:
        told["surprise"] = f"{type(error).__name__}: {error}"[:300]
    if world.engine.dead:
        world.engine.close()
        world.engine = BrokenEngine()
    world.engine.change = lambda completion: completion
    try:
        healthy = Solver(world.engine, world.options(rollouts=2)).solve(QUESTION)
        told["next"] = healthy.answer == ANSWER
    except Exception as error:
        told["next"], told["surprise"] = False, f"next search: {type(error).__name__}: {error}"[:300]
    for run in world.folder.glob("*.jsonl"):
        run.unlink()
    return told


# The process that suffers


def suffer(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """`count` faults, each kind in turn, with the memory held after each."""
    import psutil

    own = psutil.Process(os.getpid())
    with tempfile.TemporaryDirectory(prefix="marco-faults-") as folder:
        world = World(Path(folder), seed)
        names = list(KINDS)
        try:
            for number in range(count):
                yield {**strike(world, names[number % len(names)]), "memory": own.memory_info().rss}
        finally:
            world.close()


def bench_faults(count: int = 1000, *, seed: int = 0) -> dict[str, Any]:
    """Inject `count` faults; `memory_growth` is the share by which memory grew after a quarter of them."""
    results: list[dict[str, Any]] = []
    deaths = 0
    while len(results) < count and deaths < 20:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(count - len(results)), str(seed + deaths)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout is not None
        with process:
            results += [json.loads(line) for line in process.stdout]
        if process.returncode != 0:
            deaths += 1
            results.append({"kind": "death", "lost": True, "unclear": "", "surprise": "", "next": False, "memory": 0})
    memory = [told["memory"] for told in results if told["memory"]]
    warm, last = memory[int(WARM_UP * len(memory))], memory[-1]
    counts: dict[str, int] = {}
    for told in results:
        counts[told["kind"]] = counts.get(told["kind"], 0) + 1
    return {
        "injected": len(results),
        "kinds": len(counts),
        "deaths": deaths,
        "lost_trees": sum(told["lost"] for told in results),
        "memory_growth": round(last / warm - 1, 4),
        "surprises": sum(bool(told["surprise"]) for told in results),
        "unclear": sum(bool(told["unclear"]) for told in results),
        "next_search_failed": sum(not told["next"] for told in results),
        "by_kind": counts,
    }


if __name__ == "__main__":
    for result in suffer(int(sys.argv[1]), int(sys.argv[2])):
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
