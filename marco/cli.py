"""`marco ...` and `python -m marco ...`.

A thin layer: it reads options, opens an engine, listens to the events of a search, and prints. With `--json` exactly
one object goes to stdout and everything else to stderr. A user's mistake is one sentence on stderr and exit
code 2; a search that failed is exit code 1, with the best answer so far.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marco.config import ModelConfig, Options, options
from marco.errors import MarcoError, UserMistake
from marco.events import AnswerChosen, Event, Partial, RolloutFinished, SearchStarted, Warned, WorkFailed

if TYPE_CHECKING:
    from rich.progress import Progress

    from marco.engines.base import Engine
    from marco.solver import Solution

app = typer.Typer(
    name="marco",
    help="Monte Carlo tree search over a language model's thoughts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="The catalogue of models.", invoke_without_command=True)
app.add_typer(models_app, name="models")

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
    float | None, typer.Option("--stop-when-sure", help="End when the vote is settled with this probability (0.5 to 1).")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def main() -> None:
    """Entry point of the `marco` command."""
    with mistakes_told():
        app()


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
) -> ModelConfig:
    """`--base-url` alone means engine server."""
    urls = tuple(base_url or ())
    if urls and engine == "auto":
        engine = "server"
    extra: dict[str, Any] = {"slots": slots} if slots else {}
    return ModelConfig(model=model, engine=engine, base_urls=urls, quantize=quantize, adapter=adapter, **extra)


@contextmanager
def opened(config: ModelConfig) -> Iterator[Engine]:
    """An engine, with a progress bar on stderr while its model is fetched and loaded."""
    from marco.engines import open_engine

    with progress_bar() as bar:
        task = bar.add_task("Opening the model", total=None)

        def report(done: int, total: int, message: str) -> None:
            bar.update(task, completed=done, total=total or None, description=message)

        engine = open_engine(config, progress=report)
    try:
        note = engine.info.details.get("note")
        if note:
            typer.echo(str(note), err=True)
        yield engine
    finally:
        engine.close()


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


@app.command()
def solve(
    question: Annotated[str | None, typer.Argument(help="The question; not needed with --resume.")] = None,
    model: Model = None,
    engine: EngineName = "auto",
    base_url: BaseUrl = None,
    quantize: Quantize = "auto",
    adapter: Adapter = None,
    preset: Preset = "marco",
    strategy: Strategy = None,
    action: ActionName = None,
    reward: RewardName = None,
    rollouts: Rollouts = None,
    branching: Branching = None,
    reflection: ReflectionName = None,
    select: Select = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    max_tokens: MaxTokens = None,
    budget: Tokens = None,
    max_seconds: MaxSeconds = None,
    parallel: Parallel = None,
    seed: Seed = None,
    stop_when_sure: Sure = None,
    language: Annotated[str | None, typer.Option(help="Language of the answer; by default the question's.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run file; --rollouts is then N in all.")] = None,
    as_json: Json = False,
) -> None:
    """Search for the answer to a question."""
    from marco.runs import read_run, runs_folder
    from marco.solver import Solution, Solver

    stop = threading.Event()
    if resume is not None:
        recorded = read_run(resume)
        name = model or recorded.started.model
        with opened(model_config(name, engine, base_url, quantize, adapter)) as opened_engine:
            solver = Solver(opened_engine)
            task_of = None
            if recorded.started.kind == "translate":
                from marco.translation import task_of as translation_task_of

                task_of = translation_task_of
            stream = solver.resume(
                resume, rollouts=rollouts, tokens=budget, seconds=max_seconds, stop=stop, task_of=task_of
            )
            solution = Solution.of(listen(stream, rollouts, stop), solver.run)
        print_solution(solution, as_json)
        return
    if question is None:
        raise UserMistake("A question is needed, or --resume with a run file.")
    chosen = options(
        preset,
        strategy=strategy,
        action=action,
        reward=reward,
        rollouts=rollouts,
        tokens=budget,
        branching=branching,
        reflection=reflection,
        select=select,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        max_seconds=max_seconds,
        seed=seed,
        stop_when_sure=stop_when_sure,
        parallel=parallel,
    )
    from marco.config import check_question

    check_question(question)
    with opened(model_config(model, engine, base_url, quantize, adapter)) as opened_engine:
        chosen = _with_parallel(chosen, parallel_for(opened_engine, parallel))
        solver = Solver(opened_engine, chosen, language=language, runs=runs_folder())
        stream = solver.stream(question, stop=stop)
        solution = Solution.of(listen(stream, chosen.budget.rollouts, stop), solver.run)
    print_solution(solution, as_json)


def _with_parallel(chosen: Options, parallel: int) -> Options:
    from dataclasses import replace

    return replace(chosen, search=replace(chosen.search, parallel=parallel))


@app.command(name="app")
def serve(
    model: Model = None,
    engine: EngineName = "auto",
    base_url: BaseUrl = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
) -> None:
    """Open the app: the page with the live tree."""
    from ui.serve import serve as serve_page

    serve_page(model_config(model, engine, base_url), host=host, port=port)


@models_app.callback()
def list_models(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the catalogue as JSON.")] = False,
) -> None:
    """List the catalogue: name, size, engine, licence, present or not."""
    if context.invoked_subcommand is not None:
        return
    from marco.engines.models import catalogue, is_present

    rows = [
        {
            "name": card.name,
            "size": card.size,
            "engine": card.engine,
            "licence": card.licence,
            "present": is_present(card),
        }
        for card in catalogue()
    ]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "size", "engine", "licence", "present")
    for row in rows:
        present = "present" if row["present"] else "not present"
        table.add_row(str(row["name"]), _size(row["size"]), str(row["engine"]), str(row["licence"]), present)
    Console().print(table)


@models_app.command(name="fetch")
def fetch_model(name: Annotated[str, typer.Argument(help="A name of the catalogue.")]) -> None:
    """Get a model, with a progress bar; an interrupted fetch goes on where it was."""
    from marco.engines.models import fetch, find

    card = find(name)
    with progress_bar() as bar:
        task = bar.add_task(f"Fetching {name}", total=card.size)

        def report(done: int, total: int, message: str) -> None:
            bar.update(task, completed=done, total=total or None, description=message)

        path = fetch(card, report)
    typer.echo(str(path))


def _size(size: object) -> str:
    return f"{int(str(size)) / 1e9:.2f} GB"


Report = Callable[[int, int, str], None]


def read_header(path: Path) -> SearchStarted:
    """The header of a run file. Raises `RunFileError`."""
    from marco.runs import read_run

    return read_run(path).started
