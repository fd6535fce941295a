"""`marco train ...`: data, synthesize, sft, merge. Thin: options in, what was made out.

With `--json` exactly one object goes to stdout. What needs packages beyond Marco's own says so in one sentence.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from marco.errors import InvalidOption, UserMistake
from marco.terminal import (
    ActionName,
    Adapter,
    BaseUrl,
    Branching,
    EngineName,
    Json,
    MaxTokens,
    Model,
    Preset,
    Quantize,
    ReflectionName,
    Rollouts,
    Seed,
    Strategy,
    Temperature,
    Tokens,
    model_config,
    opened,
    parallel_for,
    progress_bar,
    reporter,
    reporting,
    with_parallel,
)

app = typer.Typer(help="Fine-tuning: from data to a better model.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="Folder for what is made.")]


@app.command()
def data(
    inputs: Annotated[
        list[str], typer.Argument(help="Files (JSON, JSON lines, Parquet), NAME=FILE, or hub data sets.")
    ],
    out: Out,
    mix: Annotated[str | None, typer.Option(help="paper, or NAME=WEIGHT,NAME=WEIGHT; without it all is kept.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Keep at most so many rows, drawn by the seed.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the mix and the split.")] = 0,
    validation: Annotated[float, typer.Option(help="Share of the rows that is held out.")] = 0.05,
    form: Annotated[
        str, typer.Option("--format", help="strict: one thought, one output; repair: rewrite what can be; off.")
    ] = "strict",
    plain: Annotated[bool, typer.Option("--plain", help="Let rows without any tag pass: plain instructions.")] = False,
    keep_damaged: Annotated[bool, typer.Option("--keep-damaged", help="Keep texts with broken characters.")] = False,
    min_thought: Annotated[int, typer.Option(min=0, help="Characters that a thought has at least.")] = 20,
    max_chars: Annotated[int, typer.Option(min=1, help="Characters that a response has at most.")] = 32_000,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens that a response has at most, by the tokenizer of --model.")
    ] = None,
    model: Model = None,
    keep_loops: Annotated[bool, typer.Option("--keep-loops", help="Keep responses that end in a loop.")] = False,
    languages: Annotated[
        list[str] | None, typer.Option("--language", help="Only instructions in this language; may be repeated.")
    ] = None,
    thought_language: Annotated[str, typer.Option(help="any, same (as the instruction), or a code.")] = "any",
    output_language: Annotated[str, typer.Option(help="any, same (as the instruction), or a code.")] = "same",
    keep_duplicates: Annotated[bool, typer.Option("--keep-duplicates", help="Keep rows said before.")] = False,
    near: Annotated[
        float, typer.Option("--near-duplicates", help="Share of a row found in another that makes it one; 0 is off.")
    ] = 0.85,
    agreement: Annotated[
        str, typer.Option(help="What answers must agree with: of reference,rows,thought; or off.")
    ] = "reference,rows,thought",
    as_json: Json = False,
) -> None:
    """Read, filter, mix and split training data; report what was dropped, and why."""
    from marco.training import data as making
    from marco.training.rules import Rules
    from marco.training.sources import source_of

    rules = Rules(
        format=form,
        plain=plain,
        damaged=not keep_damaged,
        min_thought=min_thought,
        max_chars=max_chars,
        max_tokens=max_tokens,
        repetition=not keep_loops,
        languages=tuple(languages or ()),
        thought_language=thought_language,
        output_language=output_language,
        duplicates=not keep_duplicates,
        near_duplicates=near or None,
        agreement=() if agreement in ("", "off") else tuple(part.strip() for part in agreement.split(",")),
    )
    sources = [source_of(given) for given in inputs]
    weights = None
    if mix is not None:
        sources, weights = making.parse_mix(mix, sources)
    count_tokens = None
    if max_tokens is not None:
        if model is None:
            raise InvalidOption("max_tokens", max_tokens, "given with --model, whose tokenizer counts")
        count_tokens = _counter(model)
    with progress_bar() as bar:
        task = bar.add_task("Rows", total=None)
        prepared = making.prepare(
            sources,
            rules,
            weights=weights,
            size=size,
            validation=validation,
            seed=seed,
            count_tokens=count_tokens,
            watch=lambda count: bar.update(task, completed=count),
        )
    settings = {**dataclasses.asdict(rules), "mix": weights, "size": size, "seed": seed, "validation": validation}
    report = making.write(out, prepared, sources=sources, settings=settings)
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
        return
    typer.echo(
        f"{report['read']} rows read, {report['kept']} kept ({report['train']} to train on, "
        f"{report['validation']} held out), {report['dropped']} dropped"
    )
    for rule, count in report["by_rule"].items():
        if count:
            typer.echo(f"  {rule:15} {count:6}   {report['examples'][rule][0]['why']}")
    typer.echo(str(out / making.READABLE))


def _counter(model: str) -> Any:
    from marco.engines.chat import load_tokenizer
    from marco.engines.models import resolve

    tokenizer = load_tokenizer(resolve(model).path)
    return lambda text: len(tokenizer.encode(text))


@app.command()
def synthesize(
    out: Out,
    task: Annotated[str, typer.Option(help="mgsm, or a Python file with load() and score().")] = "mgsm",
    lang: Annotated[str, typer.Option(help="Language of the questions.")] = "en",
    questions: Annotated[
        Path | None, typer.Option("--data", help="File with the questions; else the public set.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N questions.")] = None,
    skip: Annotated[int, typer.Option(min=0, help="Leave out the first N: those that are measured on.")] = 0,
    model: Model = None,
    engine: EngineName = "auto",
    base_url: BaseUrl = None,
    quantize: Quantize = "auto",
    adapter: Adapter = None,
    preset: Preset = "marco",
    strategy: Strategy = None,
    action: ActionName = None,
    rollouts: Rollouts = None,
    branching: Branching = None,
    reflection: ReflectionName = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    budget: Tokens = None,
    seed: Seed = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="Rollouts of a question under way at once.")] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Rollouts that the engine decodes together.")] = None,
    each: Annotated[int, typer.Option(min=1, help="Traces kept of a question, and as many repaired ones.")] = 2,
    repaired: Annotated[
        bool, typer.Option("--repaired", help="Reflect, and keep what that repaired, with the reflection in it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Search questions with known answers, and keep the traces that got there."""
    from marco.config import options
    from marco.evaluation import records, tasks
    from marco.training import synthesis

    keep = synthesis.Keep(each=each, repaired=repaired)
    if reflection not in (None, "off") and not repaired:
        raise InvalidOption("reflection", reflection, "given with --repaired")
    chosen = options(
        preset,
        strategy=strategy,
        action=action,
        rollouts=rollouts,
        tokens=budget,
        branching=branching,
        reflection=reflection,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
        parallel=parallel,
    )
    one = tasks.open_task(task, lang, questions)
    chosen = dataclasses.replace(chosen, search=dataclasses.replace(chosen.search, answer_kind=one.answer_kind))
    problems = tasks.load(one, None if limit is None else skip + limit)[skip:]
    if not problems:
        raise UserMistake(f"No question is left after the first {skip}.")
    if all(problem.reference is None and problem.row is None for problem in problems):
        raise UserMistake("These questions have no known answers, so nothing tells a right trace from a wrong one.")
    config = model_config(model, engine, base_url, quantize, adapter, slots)
    stop = threading.Event()
    with records.locked(out):
        if (out / records.ROWS).exists():
            records.read_rows(out)
        with opened(config) as ready, progress_bar() as bar:
            setup = {"quantize": quantize, "adapter": adapter or ""} if ready.info.engine == "local" else {}
            shown = bar.add_task("Questions", total=len(problems))

            def watch(done: int, total: int, kept: int) -> None:
                bar.update(shown, completed=done, total=total, description=f"Questions ({kept} traces)")
                if bar.disable:
                    typer.echo(f"{done} of {total} questions, {kept} traces", err=True)

            each_at_once = parallel_for(ready, parallel)
            try:
                synthesis.synthesise(
                    ready,
                    one,
                    problems,
                    with_parallel(chosen, each_at_once),
                    keep,
                    out,
                    workers=max(1, ready.info.slots // each_at_once),
                    setup=setup,
                    stop=stop,
                    watch=watch,
                )
            finally:
                stop.set()
                found = synthesis.export(out)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    typer.echo(
        f"{found['questions']} questions, {found['solved']} solved; {found['traces']} traces kept, "
        f"{found['repaired']} of them repaired by a reflection"
    )
    typer.echo(found["path"])


@app.command()
def sft(
    out: Out,
    model: Model = None,
    rows: Annotated[Path | None, typer.Option("--data", help="A folder that `marco train data` made.")] = None,
    method: Annotated[str | None, typer.Option(help="full, lora or qlora (lora on 4-bit weights).  [lora]")] = None,
    epochs: Annotated[float | None, typer.Option(help="Times that each row is seen.  [3]")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps in all, instead of epochs.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="[1e-5 for full, else 2e-4]")] = None,
    rank: Annotated[int | None, typer.Option(help="Of an adapter.  [16]")] = None,
    alpha: Annotated[int | None, typer.Option(help="Of an adapter.  [32]")] = None,
    dropout: Annotated[float | None, typer.Option(help="Of an adapter.  [0]")] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of a row at most; longer ones stay out.  [4096]")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Rows in one forward pass.  [1]")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Forward passes a step.  [8]")] = None,
    packing: Annotated[
        bool | None, typer.Option("--packing/--no-packing", help="Several rows in one.  [packing]")
    ] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing", help="Compute twice rather than keep.  [on]"
        ),
    ] = None,
    evaluations: Annotated[
        int | None, typer.Option(help="Evaluations, samples and checkpoints in the whole run.  [10]")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Prompts that are answered at each evaluation.  [2]")] = None,
    sample_tokens: Annotated[int | None, typer.Option(help="Longest sample.  [256]")] = None,
    system: Annotated[
        str | None, typer.Option(help="auto (as `marco solve` asks), none, or a system message.  [auto]")
    ] = None,
    seed: Seed = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out; it knows its options.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model on prepared data: an adapter (lora, qlora) or all of it (full)."""
    from marco.training import sft as training

    given = {
        "method": method, "epochs": epochs, "steps": steps, "learning_rate": learning_rate, "rank": rank,
        "alpha": alpha, "dropout": dropout, "max_length": max_length, "batch": batch, "accumulate": accumulate,
        "packing": packing, "checkpointing": checkpointing, "evaluations": evaluations, "samples": samples,
        "sample_tokens": sample_tokens, "system": system, "seed": seed,
    }  # fmt: skip
    asked = {name: value for name, value in given.items() if value is not None}
    going_on = resume and (out / training.CONFIG).is_file()
    before = training.read_run(out) if going_on else {}
    if going_on:
        for name, value in asked.items():
            if before["settings"][name] != value:
                raise InvalidOption(name, value, f"{before['settings'][name]!r}, as the run in {out} began")
    elif (out / training.CONFIG).is_file():
        raise UserMistake(f"{out} holds a run: go on with it by --resume, or choose another --out.")
    config = training.SftConfig(**before["settings"] if going_on else asked)
    rows = rows or (Path(before["data"]) if going_on else None)
    if rows is None:
        raise UserMistake("--data FOLDER is needed: what `marco train data` made.")
    with progress_bar() as bar:
        report = reporter(bar, "Preparing")

        def say(line: str) -> None:
            bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

        prepared = training.prepare(model or before.get("model"), rows, config, progress=report)
        try:
            result = training.train(prepared, out, resume=resume, progress=report, say=say)
        except KeyboardInterrupt:
            say(f"Stopped; `marco train sft --out {out} --resume` goes on behind the last checkpoint.")
            raise
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    typer.echo(result["path"])


@app.command()
def merge(
    adapter: Annotated[Path, typer.Option(help="Folder of the adapter.")],
    out: Out,
    model: Model = None,
) -> None:
    """Put an adapter into its model: a folder that `--model` takes."""
    from marco.training.merge import merge as merged

    with reporting("Merging") as report:
        path = merged(adapter, out, model=model, progress=report)
    typer.echo(str(path))
