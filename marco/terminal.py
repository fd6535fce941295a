"""What the commands share: their options, opening an engine, drawing progress, printing a solution.

With `--json` exactly one object goes to stdout and everything else to stderr. A user's mistake is one sentence on
stderr and exit code 2; a search that failed is exit code 1, with the best answer so far.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marco.config import ModelConfig, Options
from marco.errors import MarcoError, UserMistake
from marco.events import AnswerChosen, Event, Partial, RolloutFinished, Warned, WorkFailed

if TYPE_CHECKING:
    from rich.progress import Progress

    from marco.engines.base import Engine
    from marco.solver import Solution

Model = Annotated[str | None, typer.Option(help="A catalogue name, a .gguf file, a model folder, or a hub id.")]
EngineName = Annotated[str, typer.Option("--engine", help="auto, llama.cpp, local or server.")]
BaseUrl = Annotated[list[str] | None, typer.Option(help="Address of an OpenAI-compatible server; may be repeated.")]
Quantize = Annotated[str, typer.Option(help="auto, 4bit, 8bit or none (engine local).")]
Adapter = Annotated[str | None, typer.Option(help="Folder of a fine-tuned adapter (engine local).")]
Preset = Annotated[str, typer.Option(help="marco or paper.")]
Strategy = Annotated[str | None, typer.Option(help="mcts, self-consistency, best-of-n, cot or direct.")]
ActionName = Annotated[str | None, typer.Option("--action", help="step, or mini-step-N (N tokens).")]
RewardName = Annotated[str | None, typer.Option("--reward", help="mean, lowest-window, tail, agreement, hybrid, ...")]
Rollouts = Annotated[int | None, typer.Option(help="Generations in all.")]
Branching = Annotated[int | None, typer.Option(help="Children a node may have.")]
ReflectionName = Annotated[str | None, typer.Option("--reflection", help="off, low-confidence or always.")]
Select = Annotated[str | None, typer.Option(help="best, visits, majority, weighted or consensus.")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy.")]
TopP = Annotated[float | None, typer.Option(help="Share of the probability mass that is sampled from.")]
MaxTokens = Annotated[int | None, typer.Option(help="Longest rollout.")]
Tokens = Annotated[int | None, typer.Option("--budget", help="Generated tokens in all.")]
MaxSeconds = Annotated[float | None, typer.Option(help="Deadline; the best answer so far is given.")]
Parallel = Annotated[int | None, typer.Option(help="Rollouts under way at once.")]
Seed = Annotated[int | None, typer.Option(help="The same seed, options and engine give the same tree.")]
Sure = Annotated[
    float | None,
    typer.Option("--stop-when-sure", help="End when the vote is settled with this probability."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@contextmanager
def mistakes_told() -> Iterator[None]:
    """Turn what Marco foresaw into one sentence on stderr and an exit code."""
    try:
        yield
    except UserMistake as error:
        typer.echo(f"marco: {error}", err=True)
        sys.exit(2)
    except MarcoError as error:
        typer.echo(f"marco: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("marco: stopped.", err=True)
        sys.exit(130)


def model_config(
    model: str | None,
    engine: str,
    base_url: Iterable[str] | None,
    quantize: str = "auto",
    adapter: str | None = None,
    slots: int | None = None,
    dtype: str = "auto",
) -> ModelConfig:
    """`--base-url` alone means engine server."""
    urls = tuple(base_url or ())
    if urls and engine == "auto":
        engine = "server"
    extra: dict[str, Any] = {"slots": slots} if slots else {}
    return ModelConfig(
        model=model, engine=engine, base_urls=urls, quantize=quantize, dtype=dtype, adapter=adapter, **extra
    )


@contextmanager
def opened(config: ModelConfig) -> Iterator[Engine]:
    """An engine, with a progress bar on stderr while its model is fetched and loaded."""
    from marco.engines import open_engine

    with reporting("Opening the model") as report:
        engine = open_engine(config, progress=report)
    try:
        note = engine.info.details.get("note")
        if note:
            typer.echo(str(note), err=True)
        yield engine
    finally:
        engine.close()


@contextmanager
def reporting(title: str, total: int | None = None) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar as the callback (done, total, message) that engines, downloads and benchmarks take."""
    with progress_bar() as bar:
        yield reporter(bar, title, total)


def reporter(bar: Progress, title: str, total: int | None = None) -> Callable[[int, int, str], None]:
    """A line of `bar` as such a callback."""
    task = bar.add_task(title, total=total)

    def report(done: int, total: int, message: str) -> None:
        bar.update(task, completed=done, total=total or None, description=message)

    return report


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on stderr; on something that is no terminal it draws nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        yield bar


def listen(stream: Iterator[Event], limit: int | None, stop: threading.Event) -> list[Event]:
    """Draw a search's progress while it runs; returns its lasting events. Ctrl-C stops it with its best answer."""
    events: list[Event] = []
    done = tokens = 0
    under_way: dict[int, int] = {}
    with progress_bar() as bar:
        task = bar.add_task("Thinking", total=limit)
        while True:
            try:
                for event in stream:
                    match event:
                        case Partial():
                            under_way[event.work] = event.tokens
                        case RolloutFinished():
                            done += 1
                            tokens += len(event.token_ids)
                            under_way.pop(event.rollout, None)
                        case WorkFailed():
                            done += 1
                        case Warned():
                            typer.echo(event.message, err=True)
                        case AnswerChosen() if event.answer:
                            shown = event.answer if len(event.answer) < 40 else event.answer[:37] + "..."
                            bar.update(task, description=f"Best so far: {shown}".replace("[", r"\["))
                    if not isinstance(event, Partial):
                        events.append(event)
                    bar.update(task, completed=done, tokens=tokens + sum(under_way.values()))
                return events
            except KeyboardInterrupt:
                if stop.is_set():
                    raise
                stop.set()


def print_solution(solution: Solution, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(solution.to_json(), ensure_ascii=False))
    else:
        typer.echo(solution.answer if solution.answer is not None else solution.output)
        agreeing = len(solution.votes[0]["rollouts"]) if solution.votes else 0
        sure = f"{agreeing} of {solution.rollouts} rollouts agree" if solution.rollouts > 1 else "one line of thought"
        typer.echo(
            f"[{sure}, margin {solution.confidence:.0%}, {solution.nodes} nodes, "
            f"{solution.tokens.get('generated', 0)} tokens, {solution.seconds:.1f} s, ended by {solution.stopped_by}]",
            err=True,
        )
        if solution.run:
            typer.echo(f"[run: {solution.run}]", err=True)
    if solution.stopped_by == "error":
        typer.echo(f"marco: {solution.message}", err=True)
        raise typer.Exit(1)


def parallel_for(engine: Engine, given: int | None) -> int:
    """How many rollouts to keep under way: what was asked for, else what fits the engine, up to four."""
    return given or max(1, min(4, engine.info.slots))


def with_parallel(chosen: Options, parallel: int) -> Options:
    return replace(chosen, search=replace(chosen.search, parallel=parallel))
