"""Searches on a ZeroGPU Space, where a GPU is lent to one decorated function for a stated time; inert elsewhere.

There the function runs in a process of its own: what goes in and what comes out (events) is sent between processes,
and the model is opened inside. Stopping is closing the stream. A search can't be steered while it runs there: it is
stopped, or ends, and goes on from its run file.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from marco.config import ModelConfig, Options
from marco.engines.base import Engine
from marco.events import Event, SearchEnded
from marco.prompts import Message
from marco.runs import read_run
from marco.solver import Solver
from marco.tree import Tree

Work = Callable[[Engine], Iterable[Any]]
"""A search that waits for its engine; its items are events, or what else can be sent between processes."""

P = ParamSpec("P")
T = TypeVar("T")

LONGEST = 120
"""Seconds for which a GPU is asked at most: more is rarely granted to visitors."""
LOADING = 20
"""Seconds allowed for bringing the weights onto the GPU."""
TOKENS_A_SECOND = 200.0
"""A cautious guess of what a batch of rollouts writes on such a GPU."""


def active() -> bool:
    """Whether this is a Space that is lent GPUs."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def seconds_for(options: Mapping[str, Any]) -> int:
    """For how long a search needs the GPU, from its budget: `Options.to_dict()` in, 1 to `LONGEST` seconds out."""
    budget, sampling = options["budget"], options["sampling"]
    longest = [float(LONGEST)]
    if budget.get("seconds"):
        longest.append(LOADING + float(budget["seconds"]))
    tokens = budget.get("tokens") or (budget.get("rollouts") or 0) * sampling["max_tokens"]
    if tokens:
        longest.append(LOADING + tokens / TOKENS_A_SECOND)
    return max(1, round(min(longest)))


def on_gpu(
    duration: Callable[P, int],
) -> Callable[[Callable[P, Iterator[T]]], Callable[P, Generator[T, None, None]]]:
    """Decorates a generator: on a ZeroGPU Space it runs where the GPU is, for `duration` of its arguments."""

    def decorate(generator: Callable[P, Iterator[T]]) -> Callable[P, Generator[T, None, None]]:
        if active():
            import spaces

            return spaces.GPU(duration=duration)(generator)  # type: ignore[no-any-return]

        @wraps(generator)
        def plain(*args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
            yield from generator(*args, **kwargs)

        return plain

    return decorate


@on_gpu(lambda model, work, options: seconds_for(options))
def borrow(model: str | None, work: Work, options: Mapping[str, Any]) -> Iterator[Any]:  # noqa: ARG001
    """`work` on the engine of the process that has the GPU. Everything that goes in must be fit to be sent there:
    `work` a function of a module, or a `partial` of one; `options` from `Options.to_dict()`."""
    yield from work(_engine(model))


def lent(model: str | None, work: Work, options: Options, stop: threading.Event) -> Iterator[Event]:
    """The events of `work`, done where the GPU is. An event can't be sent there: once `stop` is set the stream is
    closed, and the end that the search had no time to tell is told here."""
    tree = Tree()
    began = time.monotonic()
    events = borrow(model, work, options.to_dict())
    ended = False
    try:
        for event in events:
            tree.apply(event)
            ended = isinstance(event, SearchEnded)
            yield event
            if stop.is_set() and not ended:
                break
    finally:
        events.close()
    if not ended:
        tokens = {"generated": tree.generated}
        yield SearchEnded(
            stopped_by="user",
            seconds=round(time.monotonic() - began, 3),
            tokens=tokens,
            rollouts=len(tree.rollouts),
            nodes=len(tree),
        )


def solve(
    engine: Engine,
    *,
    options: Options,
    question: str,
    runs: Path | None = None,
    history: Sequence[Message] = (),
    language: str | None = None,
    system: str | None = None,
) -> Iterator[Event]:
    """Work to lend a GPU for: a question."""
    return Solver(engine, options, runs=runs, language=language, system=system).stream(question, history=history)


def resume(engine: Engine, *, run: Path, runs: Path | None = None, **how: Any) -> Iterator[Event]:
    """Work to lend a GPU for: going on with a run, `how` as `Solver.resume` takes it."""
    return Solver(engine, runs=runs).resume(run, **how)


def options_of(run: Path, limits: Mapping[str, Any]) -> Options:
    """The options that a run goes on with, so that the time that it needs is known. Raises as `read_run`."""
    options = Options.from_dict(read_run(run).started.options)
    raised = {name: limit for name, limit in limits.items() if limit}
    return replace(options, budget=replace(options.budget, **raised))


@cache
def _engine(model: str | None) -> Engine:
    """The engine of this process; a process that is used again has it already."""
    from marco.engines import open_engine

    return open_engine(ModelConfig(model=model))
