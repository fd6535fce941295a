"""Making the rows: several searches at once on one engine, each appended to the folder when it is done.

What is on record is not made again, so a run that was killed goes on where it was. A search ends early once nothing
that it could still write fits its budget: comparisons are made within budgets, so this changes no figure.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from marco.engines.base import Engine
from marco.errors import EngineError, InvalidText, UserMistake
from marco.evaluation.plan import Generation
from marco.evaluation.records import MAX_OUTPUT_CHARS, ROWS, RUNS, VERSION, Row, RowWriter, read_rows, row_key
from marco.evaluation.reuse import Remembering
from marco.evaluation.tasks import Problem, Task
from marco.events import (
    AnswerChosen,
    Event,
    Partial,
    RolloutFinished,
    SearchEnded,
    SearchStarted,
    WorkCancelled,
    WorkFailed,
)
from marco.provenance import commit, machine, peak_memory_bytes
from marco.tree import Tree

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Job:
    """One search."""

    task: Task
    problem: Problem
    generation: Generation
    seed: int

    @property
    def key(self) -> tuple[str, str, str, str, str, int]:
        """As `row_key` of the row that it makes."""
        return (
            self.generation.key,
            self.task.name,
            self.task.lang,
            self.problem.id,
            self.problem.digest,
            self.seed,
        )


Watch = Callable[[int, int], None]
"""Called with the searches done (those on record included) and all there are."""


def jobs(tasks: Sequence[tuple[Task, Sequence[Problem], Sequence[Generation]]], seeds: int) -> list[Job]:
    """All the work, so ordered that a run that is broken off has the same problems under every generation.

    A single greedy rollout doesn't depend on the seed and is made once.
    """
    longest = max((len(problems) for _, problems, _ in tasks), default=0)
    found = []
    for seed in range(seeds):
        for index in range(longest):
            for task, problems, generations in tasks:
                if index < len(problems):
                    found += [
                        Job(task, problems[index], generation, seed)
                        for generation in generations
                        if not (generation.single and seed)
                    ]
    return found


def check_model(folder: Path, engine: Engine, setup: Mapping[str, Any]) -> set[tuple[str, str, str, str, str, int]]:
    """The keys of what is on record. Raises `UserMistake` where that was made by another model."""
    try:
        rows = read_rows(folder)
    except UserMistake:
        if (folder / ROWS).exists():
            raise
        return set()
    info = engine.info
    for row in rows:
        same = row["model_hash"] == info.model_hash if info.model_hash else row["model"] == info.model
        if not same:
            raise UserMistake(
                f"{folder} holds rows of the model {row['model']} (hash {row['model_hash'][:12]}), and this is "
                f"{info.model} (hash {info.model_hash[:12]}): choose another --out."
            )
        if row["setup"] != dict(setup):
            raise UserMistake(
                f"{folder} holds rows made with {_said(row['setup'])}, and this is {_said(setup)}: "
                "choose another --out."
            )
    return {row_key(row) for row in rows}


def _said(setup: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value or 'none'}" for name, value in setup.items()) or "no quantization of Marco's"


def run(
    engine: Engine,
    work: Sequence[Job],
    folder: Path,
    *,
    workers: int,
    setup: Mapping[str, Any] | None = None,
    reuse: Sequence[Path] = (),
    keep_runs: bool = False,
    keep_questions: bool = True,
    watch: Watch = lambda done, total: None,
) -> int:
    """Do what is not on record; returns how many searches were made. The caller holds the folder's lock.

    `reuse`: folders of evaluations whose rollouts serve where they would be written anew (`marco.evaluation.reuse`).
    Without `keep_questions` rows hold neither question nor reference: a record may be published where its data may not.

    Raises `UserMistake` where the record is of another model, `EngineError` where the engine gave up (what was
    done is kept: the same call goes on there). On KeyboardInterrupt searches under way are dropped.
    """
    setup = dict(setup or {})
    known = check_model(folder, engine, setup)
    left = [job for job in work if job.key not in known]
    watch(len(work) - len(left), len(work))
    if not left:
        return 0
    remembering = Remembering(engine, reuse) if reuse else None
    runner = _Runner(engine, folder, setup, folder / RUNS if keep_runs else None, remembering)
    done = len(work) - len(left)
    made = several_at_once(runner.search, left, workers, runner.halt)
    with contextlib.closing(RowWriter(folder)) as writer, contextlib.closing(made):
        for row in made:
            if row is not None:
                writer.append(row if keep_questions else {**row, "question": "", "reference": ""})
                done += 1
                watch(done, len(work))
    return len(left)


def several_at_once(
    do: Callable[[T], R], work: Iterable[T], workers: int, halt: Callable[[], object]
) -> Generator[R, None, None]:
    """What `do` makes of each, in the order in which they are done, `workers` at a time.

    Where one fails, or whoever asked turns away, `halt` is called: it has to end those under way.
    """
    waiting = iter(work)
    with ThreadPoolExecutor(workers, "marco-at-once") as pool:
        try:
            under_way = {pool.submit(do, one) for one in islice(waiting, workers)}
            while under_way:
                finished, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
                under_way |= {pool.submit(do, one) for one in islice(waiting, len(finished))}
        except BaseException:
            halt()
            raise


class _Runner:
    def __init__(
        self,
        engine: Engine,
        folder: Path,
        setup: Mapping[str, Any],
        runs: Path | None,
        remembering: Remembering | None,
    ) -> None:
        self._engine = remembering or engine
        self._remembering = remembering
        self._setup = setup
        self._runs = runs
        self._clock = SharedClock()
        self._halted = threading.Event()
        self._stops: set[threading.Event] = set()
        self._lock = threading.Lock()
        self._folder = folder

    def halt(self) -> None:
        """Stop every search within a step."""
        with self._lock:
            self._halted.set()
            for stop in self._stops:
                stop.set()

    def search(self, job: Job) -> Row | None:
        """One search from start to end; None where it was halted."""
        stop = threading.Event()
        with self._lock:
            if self._halted.is_set():
                return None
            self._stops.add(stop)
        try:
            return self._search(job, stop)
        finally:
            with self._lock:
                self._stops.discard(stop)

    def _search(self, job: Job, stop: threading.Event) -> Row | None:
        options = job.generation.with_seed(job.seed)
        recorder = Recorder(options.budget.tokens)
        with self._clock.running() as share:
            try:
                for event in job.task.stream(
                    self._engine,
                    options,
                    job.problem,
                    strategy=job.generation.strategy,
                    stop=stop,
                    runs=self._runs,
                ):
                    if recorder.take(event, share()):
                        stop.set()
            except InvalidText as error:
                # Too long for this model: an answer that it can't give.
                recorder.refused = str(error)
            seconds = share()
        if self._halted.is_set():
            return None
        ended = recorder.ended
        if ended is not None and ended.stopped_by == "error":
            raise EngineError(f"Problem {job.problem.id} ({job.task.lang}): {ended.message}")
        info = self._engine.info
        score = job.task.score
        rollouts = recorder.rollouts()
        for item in rollouts:
            item["score"] = round(float(score(item["answer"], job.problem)), 6)
        started = recorder.started
        return {
            "version": VERSION,
            "generation": job.generation.key,
            "strategy": job.generation.strategy,
            "options": options.to_dict(),
            "seed": job.seed,
            "task": job.task.name,
            "lang": job.task.lang,
            "problem": job.problem.id,
            "digest": job.problem.digest,
            "question": job.problem.question,
            "reference": job.problem.reference,
            "answer_kind": str(started.details.get("answer_kind", "text")) if started else "text",
            "model": info.model,
            "model_hash": info.model_hash,
            "engine": info.engine,
            "device": info.device,
            "setup": dict(self._setup),
            "commit": commit(),
            "machine": machine(),
            "reward": str(started.details.get("reward", options.search.reward)) if started else options.search.reward,
            "rollouts": rollouts,
            "failures": recorder.failures,
            "visits": recorder.visits if options.search.strategy == "mcts" else [],
            "tokens": int(ended.tokens.get("generated", 0)) if ended else 0,
            "prefilled": int(ended.tokens.get("prefilled", 0)) if ended else 0,
            "cached": int(ended.tokens.get("cached", 0)) if ended else 0,
            "reused": self._remembering.reused(started.search) if self._remembering and started else 0,
            "seconds": round(seconds, 3),
            "elapsed": ended.seconds if ended else 0.0,
            "stopped_by": recorder.stopped_by,
            "peak_memory_bytes": peak_memory_bytes(),
            "run": started.search if started and self._runs is not None else None,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }


class Recorder:
    """Folds the events of one search into what a row holds."""

    def __init__(self, budget: int | None) -> None:
        self.started: SearchStarted | None = None
        self.ended: SearchEnded | None = None
        self.failures: list[dict[str, Any]] = []
        self.visits: list[list[int]] = []
        self.refused = ""
        self._budget = budget
        self._tree = Tree()
        self._at: dict[int, float] = {}
        self._settled = 0
        self._spent = 0
        self._full = False

    @property
    def stopped_by(self) -> str:
        if self.refused:
            return "refused"
        if self._full:
            return "tokens"
        return self.ended.stopped_by if self.ended else "error"

    def take(self, event: Event, at: float) -> bool:
        """Fold one event in; True once nothing that is still to come can enter a comparison within the budget."""
        self._tree.apply(event)
        match event:
            case SearchStarted():
                self.started = event
            case SearchEnded():
                self.ended = event
            case RolloutFinished():
                self._at[event.rollout] = round(at, 3)
                self._commit(event.rollout, len(event.token_ids))
            case WorkFailed():
                self._commit(event.work, event.generated)
                self.failures.append(
                    {
                        "work": event.work,
                        "error": event.error,
                        "tokens": event.generated,
                        "prefilled": event.prefilled,
                        "cached": event.cached,
                    }
                )
            case AnswerChosen() if len(self.visits) < len(self._tree.rollouts):
                # Now, because this is what a selection by visits sees: leaves move and gather visits later on.
                leaves = self._tree.leaves
                self.visits.append([self._tree.nodes[leaves[number]].visits for number in self._tree.rollouts])
            case Partial() if event.work == self._settled + 1 and self._tree.rollouts and self._budget is not None:
                self._full = self._full or self._spent + event.tokens > self._budget
            case WorkCancelled():
                return False
        return self._full

    def _commit(self, work: int, tokens: int) -> None:
        self._settled = max(self._settled, work)
        self._spent += tokens
        if self._budget is not None and self._tree.rollouts and self._spent >= self._budget:
            self._full = True

    def rollouts(self) -> list[dict[str, Any]]:
        """In the order of their commit."""
        return [
            {
                "rollout": number,
                "node": rollout.node,
                "parent": _parent(rollout.node),
                "origin": self._tree.nodes[rollout.node].origin,
                "answer": rollout.answer,
                "key": rollout.key,
                "output": rollout.output[:MAX_OUTPUT_CHARS],
                "value": self._tree.values[number],
                "statistics": dict(rollout.statistics),
                "tokens": len(rollout.token_ids),
                "prefilled": rollout.prefilled,
                "cached": rollout.cached,
                "finish": rollout.finish,
                "degenerate": rollout.degenerate,
                "visits": self._tree.nodes[self._tree.leaves[number]].visits,
                "at": self._at[number],
            }
            for number, rollout in self._tree.rollouts.items()
        ]


def _parent(node: str) -> int | None:
    """The rollout that wrote a node, read off its id (`marco.tree` says how ids are made)."""
    match = re.match(r"(\d+)[.r]", node)
    return int(match.group(1)) if match else None


class SharedClock:
    """Divides time among the searches that are under way, so that their shares sum to the time that passed."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._active = 0
        self._last = now()
        self._share = 0.0

    def _advance(self) -> float:
        now = self._now()
        if self._active:
            self._share += (now - self._last) / self._active
        self._last = now
        return self._share

    @contextlib.contextmanager
    def running(self) -> Iterator[Callable[[], float]]:
        """While the block runs one more search is under way; yields a function to its share, in seconds."""
        with self._lock:
            begun = self._advance()
            self._active += 1

        def share() -> float:
            with self._lock:
                return self._advance() - begun

        try:
            yield share
        finally:
            with self._lock:
                self._advance()
                self._active -= 1
