"""`marco ...` and `python -m marco ...`: the commands, each a thin layer over the package.

What they share is in `marco.terminal`; `translate`, `evaluate`, `report` and `train` are defined beside what they run.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from marco.config import check_question, options
from marco.errors import InvalidOption, UserMistake
from marco.evaluation import commands as evaluation_commands
from marco.terminal import (
    ActionName,
    Adapter,
    BaseUrl,
    Branching,
    EngineName,
    Json,
    MaxSeconds,
    MaxTokens,
    Model,
    Parallel,
    Preset,
    Quantize,
    ReflectionName,
    RewardName,
    Rollouts,
    Seed,
    Select,
    Strategy,
    Sure,
    Temperature,
    Tokens,
    TopP,
    listen,
    mistakes_told,
    model_config,
    opened,
    parallel_for,
    print_solution,
    reporting,
    with_parallel,
)
from marco.training import commands as training_commands
from marco.translation import commands as translation_commands

app = typer.Typer(
    name="marco",
    help="Monte Carlo tree search over a language model's thoughts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="The catalogue of models.", invoke_without_command=True)
app.add_typer(models_app, name="models")
bench_app = typer.Typer(help="What it costs: speed of a model under the search, or another benchmark by name.")
app.add_typer(bench_app, name="bench")
deploy_app = typer.Typer(help="Put the app where others can use it.", no_args_is_help=True)
app.add_typer(deploy_app, name="deploy")
translation_commands.register(app)
app.command()(evaluation_commands.evaluate)
app.command()(evaluation_commands.report)
app.add_typer(training_commands.app, name="train")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `marco` command; `arguments` stand for those of the process."""
    with mistakes_told():
        app(args=arguments, prog_name="marco")


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
    resume: Annotated[
        str | None, typer.Option(help="Go on with this run (a file, or a name); --rollouts is then N in all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Search for the answer to a question."""
    from marco.runs import find_run, read_run, runs_folder
    from marco.solver import Solution, Solver

    stop = threading.Event()
    if resume is not None:
        path = find_run(resume)
        recorded = read_run(path)
        name = model or recorded.started.model
        with opened(model_config(name, engine, base_url, quantize, adapter)) as opened_engine:
            solver = Solver(opened_engine)
            task_of = None
            if recorded.started.kind == "translate":
                from marco.translation import task_of as translation_task_of

                task_of = translation_task_of
            stream = solver.resume(
                path, rollouts=rollouts, tokens=budget, seconds=max_seconds, stop=stop, task_of=task_of
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
    check_question(question)
    with opened(model_config(model, engine, base_url, quantize, adapter)) as opened_engine:
        chosen = with_parallel(chosen, parallel_for(opened_engine, parallel))
        solver = Solver(opened_engine, chosen, language=language, runs=runs_folder())
        stream = solver.stream(question, stop=stop)
        solution = Solution.of(listen(stream, chosen.budget.rollouts, stop), solver.run)
    print_solution(solution, as_json)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run file, or the name of a run.")],
    form: Annotated[str, typer.Option("--format", help="text, json, graphml or html.")] = "text",
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.")] = None,
) -> None:
    """Print a recorded search, or export it."""
    from marco import export
    from marco.runs import find_run, read_run

    def as_html(recorded: Any) -> str:
        from ui.page import as_html as page

        return page(recorded)

    forms = {"text": export.as_text, "json": export.as_json, "graphml": export.as_graphml, "html": as_html}
    if form not in forms:
        raise InvalidOption("format", form, "one of " + ", ".join(forms))
    recorded = read_run(find_run(run))
    if recorded.torn:
        typer.echo("The last line of this run is incomplete and left out.", err=True)
    text = forms[form](recorded)
    if out is None:
        typer.echo(text, nl=not text.endswith("\n"))
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidOption("out", str(out), f"a file that can be written ({error.strerror})") from None


@bench_app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    model: Model = None,
    engine: EngineName = "auto",
    base_url: BaseUrl = None,
    quantize: Quantize = "auto",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16 or float32 (engine local).")] = "auto",
    rollouts: Annotated[int, typer.Option(min=1, help="Rollouts of the search, and rows of the batch.")] = 8,
    action: Annotated[str, typer.Option(help="step, or mini-step-N.")] = "mini-step-64",
    max_tokens: Annotated[int, typer.Option(min=8, help="Tokens a rollout: all are written to the end.")] = 128,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; medians count.")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Tokens a second of the same work: one by one, one plain batch, and a whole search."""
    if context.invoked_subcommand is not None:
        return
    from marco.benchmarks.speed import bench_speed

    config = model_config(model, engine, base_url, quantize, slots=rollouts, dtype=dtype)
    with reporting("Measuring") as report:
        figures = bench_speed(
            config, options("marco", action=action, seed=seed), rollouts, report, max_tokens=max_tokens, repeats=repeats
        )
    _print_figures(figures, seed, as_json)


@bench_app.command(name="steps")
def bench_steps(
    model: Model = None,
    quantize: Quantize = "auto",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16 or float32.")] = "auto",
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Rows at once; may be repeated.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each batch; the median counts.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of the tokens that are drawn.")] = 0,
    as_json: Json = False,
) -> None:
    """What one decoding step of the local engine takes, by the number of rows that share it."""
    from marco.benchmarks.steps import BATCHES
    from marco.benchmarks.steps import bench_steps as measure

    batches = batch or list(BATCHES)
    config = model_config(model, "local", None, quantize, slots=max(batches), dtype=dtype)
    with reporting("Measuring") as report:
        figures = measure(config, report, batches=batches, steps=steps, seed=seed)
    _print_figures(figures, seed, as_json)


@bench_app.command(name="precision")
def bench_precision(
    model: Model = None,
    quantize: Quantize = "8bit",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16 or float32.")] = "auto",
    tokens: Annotated[int, typer.Option(min=8, help="Tokens that are written for each of four questions.")] = 96,
    as_json: Json = False,
) -> None:
    """What a quantized form changes about a model's next tokens, beside the unquantized one."""
    from marco.benchmarks.precision import bench_precision as measure

    config = model_config(model, "local", None, quantize, dtype=dtype)
    with reporting("Measuring") as report:
        figures = measure(config, report, tokens=tokens)
    _print_figures(figures, 0, as_json)


@bench_app.command(name="tree")
def bench_tree(
    nodes: Annotated[int, typer.Option(min=10, help="Nodes of the tree.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the made-up rollouts.")] = 0,
    as_json: Json = False,
) -> None:
    """What the search itself costs: one selection and one backpropagation on a large tree."""
    from marco.benchmarks.tree import bench_tree as measure

    _print_figures(measure(nodes=nodes, seed=seed), seed, as_json)


@bench_app.command(name="load")
def bench_load(
    sessions: Annotated[int, typer.Option(min=1, max=1000, help="Searches at once.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of who is cancelled, and when.")] = 0,
    model: Model = None,
    engine: EngineName = "auto",
    base_url: BaseUrl = None,
    rollouts: Annotated[int, typer.Option(min=2, help="Rollouts of each search.")] = 4,
    as_json: Json = False,
) -> None:
    """Many people at once on the real app, a tenth of whom leave: is every other answer right?

    With --model, --engine or --base-url a real model answers, and answers are checked for being complete.
    """
    from marco.benchmarks.load import bench_load as measure

    chosen = model_config(model, engine, base_url) if model or base_url or engine != "auto" else None
    _print_figures(measure(sessions, seed=seed, model=chosen, rollouts=rollouts), seed, as_json)


@bench_app.command(name="faults")
def bench_faults(
    count: Annotated[int, typer.Option(min=1, help="Faults in all, of every kind in turn.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of where each strikes.")] = 0,
    as_json: Json = False,
) -> None:
    """Everything that can break, broken on purpose: does the process live, and the tree?"""
    from marco.benchmarks.faults import bench_faults as measure

    _print_figures(measure(count, seed=seed), seed, as_json)


@bench_app.command(name="page")
def bench_page(
    model: Model = None,
    engine: EngineName = "auto",
    base_url: BaseUrl = None,
    quantize: Quantize = "auto",
    rollouts: Annotated[int, typer.Option(min=1, help="Rollouts of each search.")] = 8,
    action: Annotated[str, typer.Option(help="step, or mini-step-N.")] = "step",
    max_tokens: Annotated[int, typer.Option(min=16, help="Longest rollout.")] = 256,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; medians count.")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """What the page costs: tokens a second of a search by itself, and watched in a browser."""
    from marco.benchmarks.page import bench_page as measure

    config = model_config(model, engine, base_url, quantize)
    with reporting("Measuring") as report:
        figures = measure(
            config, report, rollouts=rollouts, action=action, max_tokens=max_tokens, seed=seed, repeats=repeats
        )
    _print_figures(figures, seed, as_json)


def _print_figures(figures: dict[str, Any], seed: int, as_json: bool) -> None:
    from marco.provenance import commit, machine

    _print_fields({**figures, "seed": seed, "machine": machine(), "commit": commit()}, as_json)


def _print_fields(fields: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(fields))
        return
    for name, value in fields.items():
        typer.echo(f"{name:36} {value}")


@app.command(name="app")
def serve(
    model: Model = None,
    engine: EngineName = "auto",
    base_url: BaseUrl = None,
    quantize: Quantize = "auto",
    adapter: Adapter = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; 127.0.0.1 unless this is a Space.", show_default=False)
    ] = None,
    port: Annotated[int, typer.Option(help="Port to listen on.", envvar="PORT")] = 7860,
    lab: Annotated[Path | None, typer.Option(help="Folder of evaluations for the Lab tab.")] = None,
    auth: Annotated[
        Path | None, typer.Option(help="File with name:password lines; or the variable MARCO_AUTH.")
    ] = None,
) -> None:
    """Open the app: the page with the live tree."""
    from ui.auth import credentials
    from ui.serve import serve as serve_page

    config = model_config(model, engine, base_url, quantize, adapter)
    if host is None:
        host = "0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1"
    try:
        serve_page(config, host=host, port=port, lab=lab, auth=credentials(auth))
    except OSError as problem:
        raise UserMistake(f"The page can't be served at {host}:{port}: {problem}") from None


@deploy_app.command(name="space")
def deploy_space(
    name: Annotated[str, typer.Argument(help="NAME or OWNER/NAME of the Space.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the folder and upload nothing.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Where to write it; with --dry-run dist/space.")] = None,
    private: Annotated[bool, typer.Option("--private", help="A Space that only its owner sees.")] = False,
    as_json: Json = False,
) -> None:
    """Write the folder of a Hugging Face Space from Space.yaml, and upload it with your token."""
    from marco.deploy import deploy_space as deploy

    _print_fields(deploy(name, folder, dry_run=dry_run, private=private), as_json)


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
    with reporting(f"Fetching {name}", card.size) as report:
        path = fetch(card, report)
    typer.echo(str(path))


def _size(size: object) -> str:
    return f"{int(str(size)) / 1e9:.2f} GB"
