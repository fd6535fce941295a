"""`marco translate`."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Annotated

import typer

from marco.config import check_question
from marco.errors import InvalidOption
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
    model_config,
    opened,
    parallel_for,
    print_solution,
    with_parallel,
)


def register(app: typer.Typer) -> None:
    """Add `translate` to `app`."""
    app.command()(translate)


def translate(
    text: Annotated[str, typer.Argument(help="What to translate; - reads it from the standard input.")],
    to: Annotated[str, typer.Option("--to", help="The language to translate into: a name or a code.")],
    source: Annotated[str | None, typer.Option("--from", help="The text's language, if not to be recognised.")] = None,
    mode: Annotated[str, typer.Option(help="quick (one pass), careful (the search) or paper.")] = "careful",
    glossary: Annotated[Path | None, typer.Option(help="CSV or TSV file: source, target.")] = None,
    dictionary: Annotated[
        bool,
        typer.Option(help="Tell the model what dictionaries say of the text's expressions (Chinese; not in paper)."),
    ] = True,
    lines: Annotated[bool, typer.Option("--lines", help="Each line by itself, as a CSV table.")] = False,
    model: Model = None,
    engine: EngineName = "auto",
    base_url: BaseUrl = None,
    quantize: Quantize = "auto",
    adapter: Adapter = None,
    preset: Annotated[str | None, typer.Option(help="marco or paper; by default the mode's.")] = None,
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
    as_json: Json = False,
) -> None:
    """Translate colloquial text by what it means."""
    from marco.runs import runs_folder
    from marco.translation.glossary import Glossary
    from marco.translation.languages import language
    from marco.translation.reasoned import reading
    from marco.translation.stream import (
        lines_of,
        options_for,
        origin_of,
        row_of,
        to_csv,
        translate_stream,
        whole,
    )

    if lines and as_json:
        raise InvalidOption("--lines", True, "given without --json: a table is printed as CSV")
    if text == "-":
        text = typer.get_text_stream("stdin").read()
    terms = Glossary.of(glossary)
    chosen = options_for(
        mode,
        preset=preset,
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
    # Mistakes are told before a model is opened for them.
    target = language(to)
    texts = lines_of(text) if lines else (check_question(text, field="text"),)
    if not lines:
        origin_of(texts[0], source, target)
    stop = threading.Event()
    rows = []
    with opened(model_config(model, engine, base_url, quantize, adapter)) as opened_engine:
        chosen = with_parallel(chosen, parallel_for(opened_engine, parallel))
        for line in texts:
            if stop.is_set():
                break
            try:
                stream = translate_stream(
                    opened_engine, line, to, source=source, mode=mode, options=chosen, glossary=terms,
                    dictionary=dictionary, stop=stop, runs=runs_folder(),
                )  # fmt: skip
            except InvalidOption as mistake:
                if not lines:
                    raise
                rows.append({"source": line, "target_language": target.code, "warnings": str(mistake)})
                continue
            events = listen(stream, chosen.budget.rollouts, stop)
            rows.append(row_of(reading(events)))
    if lines:
        typer.echo(to_csv(rows), nl=False)
        return
    read, solution = reading(events), whole(events, runs_folder())
    for warning in read.warnings:
        typer.echo(warning, err=True)
    if as_json:
        typer.echo(json.dumps({**solution.to_json(), **read.to_json()}, ensure_ascii=False))
        if solution.stopped_by == "error":
            typer.echo(f"marco: {solution.message}", err=True)
            raise typer.Exit(1)
        return
    print_solution(solution, as_json=False)
    for item in read.expressions:
        typer.echo(f"  {item.source}: {item.meaning or item.chosen} (word for word: {item.literal})", err=True)
