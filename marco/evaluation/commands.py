"""`marco evaluate` and `marco report`: options in, rows, tables and a page out.

Thin, like the rest of the command line: it checks options and data before a model is loaded, opens an engine, and
draws how far things are. Progress goes to stderr; with `--json` exactly one object goes to stdout.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marco.errors import InvalidOption, UserMistake
from marco.terminal import (
    Adapter,
    BaseUrl,
    EngineName,
    Json,
    MaxTokens,
    Model,
    Preset,
    Quantize,
    Temperature,
    model_config,
    opened,
)

if TYPE_CHECKING:
    from rich.progress import Progress

    from marco.evaluation.plan import Combination
    from marco.evaluation.tasks import Problem, Task

REPORT_EVERY = 30.0
"""Seconds between lines of progress where stderr is no terminal."""

SETTABLE = (
    "branching",
    "exploration",
    "rule",
    "widening",
    "fork_uncertain",
    "greedy_first",
    "depth",
    "reflect_below",
    "max_reflections",
    "top_p",
)


def evaluate(
    task: Annotated[str, typer.Option(help="mgsm, translation, or a Python file with load() and score().")] = "mgsm",
    lang: Annotated[
        list[str] | None, typer.Option("--lang", "--to", help="Language of the problems; may be repeated.")
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Data file of each language, in the order of --lang; else the public set.")
    ] = None,
    strategy: Annotated[list[str] | None, typer.Option(help="What to compare; may be repeated.")] = None,
    action: Annotated[list[str] | None, typer.Option(help="step or mini-step-N; may be repeated (mcts).")] = None,
    reward: Annotated[list[str] | None, typer.Option(help="Steering rewards; may be repeated (mcts).")] = None,
    select: Annotated[list[str] | None, typer.Option(help="Answer selections; may be repeated.")] = None,
    reflection: Annotated[
        list[str] | None, typer.Option(help="off, low-confidence, always; may be repeated (mcts).")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Generated tokens a problem (2000).")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N problems.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions: seeds 0 to K-1.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for rows and summary; a killed run goes on there.")] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Compare selections and rewards on this folder's rollouts; generates nothing.")
    ] = None,
    model: Model = None,
    engine: EngineName = "auto",
    base_url: BaseUrl = None,
    quantize: Quantize = "auto",
    adapter: Adapter = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Rollouts that the engine decodes together.")] = None,
    preset: Preset = "marco",
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help=f"NAME=VALUE, with NAME one of {', '.join(SETTABLE)}.")
    ] = None,
    stop_when_sure: Annotated[
        float | None, typer.Option(help="Compare as if searches ended when the vote is settled with this probability.")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Rollouts of one search at once.")] = 1,
    workers: Annotated[int | None, typer.Option(min=1, help="Problems at once; by default the slots are full.")] = None,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of an evaluation with --keep-runs: rollouts of the same prefix, sampling and seed are taken "
            "from there and count as generated; may be repeated."
        ),
    ] = None,
    keep_runs: Annotated[bool, typer.Option("--keep-runs", help="Keep each search's run file in DIR/runs.")] = False,
    without_questions: Annotated[
        bool, typer.Option("--without-questions", help="Leave questions and references out of the rows.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure strategies on a set of problems, at the same number of generated tokens."""
    if replay is not None:
        _replay(replay, select, reward, budget, stop_when_sure, as_json)
        return
    from marco.evaluation import plan, records, runner, tasks

    if out is None:
        raise UserMistake("--out DIR is needed: rows are kept there, and a run that was broken off goes on there.")
    settings = plan.Settings(
        preset=preset,
        budget=budget if budget is not None else plan.DEFAULT_BUDGET,
        parallel=parallel,
        temperature=temperature,
        max_tokens=max_tokens,
        stop_when_sure=stop_when_sure,
        further=_settings(setting),
    )
    config = model_config(model, engine, base_url, quantize, adapter, slots)
    chosen = _tasks(task, lang, data)
    combinations: list[Combination] = []
    work: list[tuple[Task, list[Problem], list[plan.Generation]]] = []
    for one in chosen:
        found, generations = plan.expand(
            one,
            settings,
            strategies=strategy or [next(iter(one.strategies))],
            actions=action or (),
            rewards=reward or (),
            selects=select or (),
            reflections=reflection or (),
        )
        combinations += found
        work.append((one, tasks.load(one, limit), generations))
    todo = runner.jobs(work, seeds)
    with records.locked(out):
        if (out / records.ROWS).exists():
            records.read_rows(out)  # a damaged file is told before a model is loaded
        with opened(config) as ready:
            # What the hash of the weights doesn't tell.
            setup = {"quantize": quantize, "adapter": adapter or ""} if ready.info.engine == "local" else {}
            runner.check_model(out, ready, setup)
            records.add_combinations(out, combinations)
            records.note_command(out, ["marco", *sys.argv[1:]])
            count = workers or max(1, ready.info.slots // parallel)
            try:
                with _progress(len(todo)) as watch:
                    runner.run(
                        ready,
                        todo,
                        out,
                        workers=min(count, max(1, len(todo))),
                        setup=setup,
                        reuse=reuse or (),
                        keep_runs=keep_runs,
                        keep_questions=not without_questions,
                        watch=watch,
                    )
            finally:
                found_summary = write_summary(out, chosen) if (out / records.ROWS).exists() else []
    if as_json:
        typer.echo(json.dumps(found_summary, ensure_ascii=False))
    else:
        _print_summary(found_summary)


def report(
    folder: Annotated[Path, typer.Argument(help="The --out folder of an evaluation.")],
    out: Annotated[Path | None, typer.Option(help="Where the page goes; by default DIR/report.html.")] = None,
) -> None:
    """Write one self-contained page about an evaluation."""
    from marco.evaluation.records import REPORT
    from marco.evaluation.report import write_report

    typer.echo(str(write_report(folder, out or folder / REPORT)))


def write_summary(folder: Path, tasks: Sequence[Task] = ()) -> list[dict[str, Any]]:
    """Bring `summary.json` and `statistics.json` up to date with the rows; returns the summary."""
    from marco.evaluation import records
    from marco.evaluation.summary import statistics, summarise

    record = records.Record.read(folder)
    found = summarise(record, tasks)
    records.write_json(folder / records.SUMMARY, found)
    records.write_json(folder / records.STATISTICS, statistics(record, tasks))
    return found


def _replay(
    folder: Path,
    selects: list[str] | None,
    rewards: list[str] | None,
    budget: int | None,
    stop_when_sure: float | None,
    as_json: bool,
) -> None:
    from marco.config import SELECTIONS, SearchConfig
    from marco.evaluation import records
    from marco.evaluation.replay import REPLAYED
    from marco.evaluation.summary import replay

    for field, given, allowed in (("select", selects, SELECTIONS), ("reward", rewards, REPLAYED)):
        for value in given or ():
            if value not in allowed:
                raise InvalidOption(field, value, "one of " + ", ".join(allowed))
    if budget is not None and budget < 1:
        raise InvalidOption("budget", budget, "a whole number of at least 1")
    SearchConfig(stop_when_sure=stop_when_sure)
    found = replay(
        records.Record.read(folder),
        selects=selects or SELECTIONS,
        rewards=rewards or [name for name in REPLAYED if name != "outcome"],
        budget=budget,
        stop_when_sure=stop_when_sure,
    )
    records.write_json(folder / records.REPLAY, found)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    _print_table(
        ["task", "lang", "generation", "select", "reward", "accuracy", "95%", "@n", "tokens"],
        [
            [
                item["task"],
                item["lang"],
                item["generation"],
                item["select"],
                (item["reward"] or "") + (" (upper bound)" if item["upper_bound"] else ""),
                f"{item['accuracy']:.1%}",
                f"{item['low']:.1%} to {item['high']:.1%}",
                f"{item['at_least_once']:.1%}",
                f"{item['tokens_per_problem']:.0f}",
            ]
            for item in found
        ],
    )


def _tasks(name: str, langs: list[str] | None, data: list[Path] | None) -> list[Task]:
    from marco.evaluation.tasks import open_task

    languages = langs or ["en"]
    if len(set(languages)) != len(languages):
        raise UserMistake("A language was given twice.")
    if data and len(data) != len(languages):
        raise UserMistake(
            f"There are {len(data)} data files for {len(languages)} languages: give one --data for each --lang."
        )
    files: Sequence[Path | None] = data or [None] * len(languages)
    return [open_task(name, lang, file) for lang, file in zip(languages, files, strict=True)]


def _settings(given: list[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in given or ():
        name, equals, value = item.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in SETTABLE:
            raise InvalidOption("set", item, "NAME=VALUE, with NAME one of " + ", ".join(SETTABLE))
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


@contextmanager
def _bar() -> Iterator[Progress]:
    """On stderr; on something that is no terminal it draws nothing."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        # Searches end in bunches, minutes apart: a short memory would see none.
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=3600,
        disable=not console.is_terminal,
    ) as bar:
        yield bar


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left; a line now and then where stderr is no terminal."""
    begun = said = time.monotonic()
    before: int | None = None
    with _bar() as bar:
        shown = bar.add_task("Searches", total=total)

        def watch(done: int, all_: int) -> None:
            nonlocal said, before
            if before is None:
                before = done
                if done:
                    typer.echo(f"{done} of {all_} searches are on record.", err=True)
            bar.update(shown, completed=done, total=all_)
            now = time.monotonic()
            made = done - before
            if bar.disable and made and (now - said >= REPORT_EVERY or done == all_):
                said = now
                left = (now - begun) / made * (all_ - done)
                typer.echo(f"{done} of {all_} searches, {now - begun:.0f} s, about {left / 60:.0f} min left", err=True)

        yield watch


def _print_summary(summary: list[dict[str, Any]]) -> None:
    _print_table(
        ["task", "lang", "combination", "problems", "seeds", "accuracy", "95%", "at least once", "tokens", "seconds"],
        [
            [
                item["task"],
                item["lang"],
                item["label"] + (" (upper bound)" if item["upper_bound"] else ""),
                str(item["problems"]),
                str(item["seeds"]),
                f"{item['accuracy']:.1%}",
                f"{item['low']:.1%} to {item['high']:.1%}",
                " ".join(f"@{k} {share:.0%}" for k, share in item["test_at"].items()),
                f"{item['tokens_per_problem']:.0f}",
                "" if item["seconds_per_problem"] is None else f"{item['seconds_per_problem']:.1f}",
            ]
            for item in summary
        ],
    )


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    # A file or a pipe gets whole lines.
    width = None if sys.stdout.isatty() else 200
    Console(width=width).print(table)
