"""Traces made by search: questions with known answers are searched, and what got there is kept.

`synthesise` appends a row a question to `DIR/rows.jsonl`, so that a killed run goes on where it was, and `export`
writes the traces of all rows to `DIR/traces.json`, in the released form (`instruction`, `response`). A trace is kept
if its answer is right, it ended by itself, and it can be written as one thought and one output. With `repaired`,
rollouts are reflected on, and those that came out right after a first attempt that was wrong are kept too, the
wrong turn and the sentence that ended it included.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marco.answer import split_output
from marco.config import Options
from marco.engines.base import Engine
from marco.errors import EngineError, InvalidOption, InvalidText
from marco.evaluation.records import ROWS, VERSION, Row, RowWriter, read_rows, row_key, write_json
from marco.evaluation.runner import check_model, several_at_once
from marco.evaluation.tasks import SOLVED, Problem, Task
from marco.events import RolloutFinished
from marco.reflection import SENTENCE
from marco.solver import Solution
from marco.training.rules import well_formed, written

TRACES = "traces.json"

Watch = Callable[[int, int, int], None]
"""Called with the questions done (those on record included), all there are, and the traces kept so far."""


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which traces of a search are kept."""

    each: int = 2
    """At most so many of a question, and as many repaired ones; those with the highest mean confidence."""
    repaired: bool = False
    """Keep what a reflection repaired, with the reflection in the text."""

    def __post_init__(self) -> None:
        if self.each < 1:
            raise InvalidOption("each", self.each, "a whole number of at least 1")

    def options(self, options: Options) -> Options:
        """Options of a search that has what is to be kept: reflections, or none."""
        policy = options.search.reflection
        if self.repaired and policy == "off":
            policy = "always"
        if not self.repaired:
            policy = "off"
        return dataclasses.replace(options, search=dataclasses.replace(options.search, reflection=policy))


@dataclass(frozen=True, slots=True)
class Trace:
    """One kept text."""

    response: str
    answer: str
    rollout: int
    repaired: bool
    value: float


def generation_of(task: Task, options: Options, keep: Keep) -> str:
    """A key: rows with the same one are the same work."""
    settings = {"synthesis": dataclasses.asdict(keep), "task": task.name, "options": options.to_dict()}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def synthesise(
    engine: Engine,
    task: Task,
    problems: Sequence[Problem],
    options: Options,
    keep: Keep,
    folder: Path,
    *,
    workers: int = 1,
    setup: Mapping[str, Any] | None = None,
    stop: threading.Event | None = None,
    watch: Watch = lambda done, total, kept: None,
) -> int:
    """Search what is not on record, `workers` questions at a time; returns the number of questions searched. The
    caller holds the folder's lock.

    Raises `UserMistake` where the record is of another model, `EngineError` where the engine gave up. Once `stop` is
    set the searches under way are dropped.
    """
    options = keep.options(options)
    generation = generation_of(task, options, keep)
    known = check_model(folder, engine, dict(setup or {}))
    kept = sum(len(row["traces"]) for row in read_rows(folder)) if known else 0
    seed = options.search.seed
    left = [
        problem
        for problem in problems
        if (generation, task.name, task.lang, problem.id, problem.digest, seed) not in known
    ]
    watch(len(problems) - len(left), len(problems), kept)
    stop = stop or threading.Event()
    done = 0
    # Made before the first search, so that a folder that can't be written to is told at once.
    made = several_at_once(lambda problem: _search(engine, task, problem, options, keep, stop), left, workers, stop.set)
    with closing(RowWriter(folder)) as writer, closing(made):
        for row in made:
            if row is None:
                continue
            writer.append({**row, "generation": generation, "setup": dict(setup or {})})
            done += 1
            kept += len(row["traces"])
            watch(len(problems) - len(left) + done, len(problems), kept)
    return done


def _search(
    engine: Engine, task: Task, problem: Problem, options: Options, keep: Keep, stop: threading.Event
) -> dict[str, Any] | None:
    if stop.is_set():
        return None
    refused = ""
    solution: Solution | None = None
    try:
        events = task.stream(engine, options, problem, strategy=options.search.strategy, stop=stop)
        solution = Solution.of(list(events))
    except InvalidText as error:
        refused = str(error)
    if stop.is_set():
        return None
    if solution is not None and solution.stopped_by == "error":
        raise EngineError(f"Question {problem.id} ({task.lang}): {solution.message}")
    rollouts = solution.tree.rollouts.values() if solution else ()
    traces = list(traces_of(solution, task, problem, keep)) if solution else []
    return {
        "version": VERSION,
        "task": task.name,
        "lang": task.lang,
        "problem": problem.id,
        "digest": problem.digest,
        "seed": options.search.seed,
        "question": problem.question,
        "reference": problem.reference,
        "model": engine.info.model,
        "model_hash": engine.info.model_hash,
        "engine": engine.info.engine,
        "rollouts": len(rollouts),
        "right": sum(task.score(rollout.answer, problem) >= SOLVED for rollout in rollouts),
        "tokens": solution.tokens.get("generated", 0) if solution else 0,
        "seconds": round(solution.seconds, 3) if solution else 0.0,
        "refused": refused,
        "traces": [dataclasses.asdict(trace) for trace in traces],
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def traces_of(solution: Solution, task: Task, problem: Problem, keep: Keep) -> Iterator[Trace]:
    """What is kept of one search: the most confident first, no text twice."""
    tree = solution.tree
    right: list[Trace] = []
    for number, rollout in tree.rollouts.items():
        if rollout.degenerate or rollout.finish != "stop" or task.score(rollout.answer, problem) < SOLVED:
            continue
        origins = [step.origin for step in tree.path(rollout.node) if step.origin is not None]
        before = [tree.rollouts[origin] for origin in origins if origin in tree.rollouts]
        wrong_before = [first for first in before if task.score(first.answer, problem) < SOLVED]
        # A reflection after an answer that was right teaches doubt, not repair.
        if origins and not (keep.repaired and wrong_before):
            continue
        response = _as_response(tree.rollout_text(number), rollout)
        if response is not None and bool(origins) == (SENTENCE in response):
            value = rollout.statistics.get("mean") or 0.0
            right.append(Trace(response, str(rollout.answer), number, bool(origins), round(value, 6)))
    right.sort(key=lambda trace: (-trace.value, trace.rollout))
    said: set[str] = set()
    taken = {False: 0, True: 0}
    for trace in right:
        if trace.response not in said and taken[trace.repaired] < keep.each:
            said.add(trace.response)
            taken[trace.repaired] += 1
            yield trace


def _as_response(text: str, rollout: RolloutFinished) -> str | None:
    """The strict form of what was written; None where it thought nothing or said nothing."""
    if well_formed(text):
        return text.strip()
    thought, output = split_output(text)
    response = written(thought, output)
    return response if thought and output and rollout.answer and well_formed(response) else None


def export(folder: Path) -> dict[str, Any]:
    """Write the traces of all rows in the released form; returns the counts, over the whole folder."""
    rows: list[Row] = sorted(read_rows(folder), key=_order) if (folder / ROWS).exists() else []
    traces = [
        {
            "instruction": row["question"],
            "response": trace["response"],
            **({"reference": row["reference"]} if row["reference"] is not None else {}),
        }
        for row in rows
        for trace in row["traces"]
    ]
    write_json(folder / TRACES, traces)
    return {
        "questions": len(rows),
        "solved": sum(bool(row["right"]) for row in rows),
        "with_traces": sum(bool(row["traces"]) for row in rows),
        "rollouts": sum(row["rollouts"] for row in rows),
        "right": sum(row["right"] for row in rows),
        "traces": len(traces),
        "repaired": sum(trace["repaired"] for row in rows for trace in row["traces"]),
        "tokens": sum(row["tokens"] for row in rows),
        "path": str(folder / TRACES),
    }


def _order(row: Row) -> tuple[Any, ...]:
    number = int(row["problem"]) if str(row["problem"]).isdigit() else 0
    return (row["task"], row["lang"], number, *row_key(row))
