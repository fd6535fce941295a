"""Searches on a ZeroGPU Space, where a GPU is lent to one decorated function for a stated time; inert elsewhere.

There the function runs in a process of its own: what goes in (options and texts) and what comes out (events) is plain
data, and the model is opened inside. Stopping is closing the stream; taking part in a running search is not possible.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from marco.config import ModelConfig, Options
from marco.events import Event
from marco.prompts import Message
from marco.solver import Solver

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


def on_gpu(duration: Callable[P, int]) -> Callable[[Callable[P, Iterator[T]]], Callable[P, Iterator[T]]]:
    """Decorates a generator: on a ZeroGPU Space it runs where the GPU is, for `duration` of its arguments."""

    def decorate(generator: Callable[P, Iterator[T]]) -> Callable[P, Iterator[T]]:
        if active():
            import spaces

            return spaces.GPU(duration=duration)(generator)  # type: ignore[no-any-return]

        @wraps(generator)
        def plain(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            return generator(*args, **kwargs)

        return plain

    return decorate


def _duration(
    config: Mapping[str, Any],  # noqa: ARG001
    options: Mapping[str, Any],
    question: str,  # noqa: ARG001
    history: Sequence[Message] = (),  # noqa: ARG001
    runs: str | None = None,  # noqa: ARG001
) -> int:
    return seconds_for(options)


@on_gpu(_duration)
def search(
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    question: str,
    history: Sequence[Message] = (),
    runs: str | None = None,
) -> Iterator[Event]:
    """A whole search as a stream of events: `config` as `ModelConfig` takes it, `options` from `Options.to_dict()`."""
    solver = Solver(
        _engine(tuple(sorted(config.items()))), Options.from_dict(options), runs=Path(runs) if runs else None
    )
    yield from solver.stream(question, history=history)


@cache
def _engine(config: tuple[tuple[str, Any], ...]) -> Any:
    """The engine of this process; a process that is used again has it already."""
    from marco.engines import open_engine

    return open_engine(ModelConfig(**dict(config)))
