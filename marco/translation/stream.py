"""A text in, the events of its translation out; and what goes with it: a back-translation, other registers, tables.

Short texts are one search. A long one is a search for each of its parts (`segments.parts`), one after the other, each
with what came before as context: `SearchStarted` opens each, with `part` and `parts` in its details, and each has a
run file of its own that resumes like any other. `reading` puts them together.
"""

from __future__ import annotations

import csv
import io
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from marco.config import MAX_QUESTION_CHARS, Options, SamplingConfig, check_question
from marco.config import options as preset_options
from marco.engines.base import Chunk, Completion, Engine, Request
from marco.errors import EngineError, InvalidOption, InvalidText
from marco.events import AnswerChosen, Event, SearchEnded, SearchStarted
from marco.prompts import Message
from marco.runs import run_path
from marco.session import HEADER_ONLY, Opening, Task
from marco.solver import Solution, Solver
from marco.translation.dictionary import Entry, entries_in, familiar_to, spelled_out
from marco.translation.glossary import Glossary
from marco.translation.languages import Language, foreign_letters, language, recognise
from marco.translation.output import clean, flaw
from marco.translation.prompting import TOLD, is_phrase, register_messages, translation_messages
from marco.translation.reasoned import Translation, by_part, reading
from marco.translation.segments import CONTEXT_CHARS, Part, parts, restore

MODES = ("quick", "careful", "paper")
REGISTERS = ("plain", "casual", "playful")

Glossaries = Glossary | Mapping[str, str] | Path | str | None


def defaults(mode: str) -> Options:
    """The options of a mode. Raises `InvalidOption` for an unknown one."""
    if mode == "paper":
        return preset_options("paper", answer_kind="text")
    if mode == "quick":
        return preset_options("marco", strategy="direct", max_tokens=512, answer_kind="text")
    if mode == "careful":
        return preset_options(
            "marco",
            select="consensus",
            reward="mean",
            temperature=0.6,
            max_tokens=512,
            answer_kind="text",
            branching=3,
            rollouts=12,  # two turns of all ways to ask
        )
    raise InvalidOption("mode", mode, "one of " + ", ".join(MODES))


def options_for(mode: str, *, preset: str | None = None, **given: Any) -> Options:
    """The options of a mode with `given` on top, by the names that `marco.config.options` takes; None keeps the
    mode's. A `preset` takes the place of the mode's values. Raises `InvalidOption`."""
    usual = defaults(mode)
    values = {name: value for name, value in given.items() if value is not None}
    if preset is not None:
        if mode == "careful":
            values.setdefault("select", "consensus")
        return _for_mode(mode, preset_options(preset, **values))
    only_tokens = "tokens" in values and "rollouts" not in values
    for part in (usual.search, usual.sampling, usual.budget):
        for field in fields(part):
            if not (only_tokens and field.name == "rollouts"):
                values.setdefault(field.name, getattr(part, field.name))
    return _for_mode(mode, preset_options("marco", **values))


def translate_stream(
    engine: Engine,
    text: str,
    to: str,
    *,
    source: str | None = None,
    mode: str = "careful",
    options: Options | None = None,
    glossary: Glossaries = None,
    dictionary: bool = True,
    stop: threading.Event | None = None,
    runs: Path | None = None,
) -> Iterator[Event]:
    """Translate `text` into the language `to`, yielding events as they happen.

    `source` names its language (None: it is recognised). With `dictionary` the modes `quick` and `careful` are told
    what dictionaries say of the text's expressions. `options` replace those of `defaults(mode)`; their
    seconds are for the whole text, rollouts and tokens for each part. `quick` is always one greedy pass. The first
    event is `SearchStarted`, the last `SearchEnded`.
    Raises `InvalidText` and `InvalidOption` before the first event, and nothing after it.
    """
    chosen = _for_mode(mode, options)
    text = check_question(text, field="text")
    target = language(to)
    origin = origin_of(text, source, target)
    terms = Glossary.of(glossary)
    stop = stop or threading.Event()
    pieces = parts(text)
    solver = Solver(engine, chosen, runs=runs)
    # The first search is prepared here, so that mistakes are raised at the call.
    task_for = partial(_part_task, engine, pieces, origin, target, mode, terms, dictionary)
    return _all_parts(solver, solver.stream_task(task_for(0, ""), stop=stop), pieces, task_for, stop)


def _all_parts(
    solver: Solver,
    first: Iterator[Event],
    pieces: Sequence[Part],
    task_for: Callable[[int, str], Task],
    stop: threading.Event,
) -> Iterator[Event]:
    begun = time.monotonic()
    allowed = solver.options.budget.seconds
    stream, before = first, ""
    for number, piece in enumerate(pieces):
        if number:
            if allowed is not None:
                left = max(0.01, allowed - (time.monotonic() - begun))
                solver.options = replace(solver.options, budget=replace(solver.options.budget, seconds=left))
            stream = solver.stream_task(task_for(number, before), stop=stop)
        answer, ended = "", None
        for event in stream:
            if isinstance(event, AnswerChosen):
                answer = event.answer or clean(event.text, piece.text)
            elif isinstance(event, SearchEnded):
                ended = event
            yield event
        if ended is None or ended.stopped_by in ("user", "error"):
            return
        before = f"{piece.text}\n→ {answer}"


def _for_mode(mode: str, given: Options | None) -> Options:
    usual = defaults(mode)
    if given is None:
        return usual
    search = replace(given.search, answer_kind="text")
    if mode == "quick":
        search = replace(search, strategy="direct")
    return Options(search=search, sampling=given.sampling, budget=given.budget)


def origin_of(text: str, source: str | None, target: Language) -> Language | None:
    """The language of `text`: the one given, else the one recognised, else None.

    Raises `InvalidText` where there is nothing to translate, `InvalidOption` where it is in the target already.
    """
    found, sure = recognise(text)
    if found is None and not any(character.isalpha() for character in text):
        raise InvalidText("text", text, "text with words in it: there is nothing to translate")
    origin = language(source) if source is not None else found
    if origin is None:
        return None
    if origin == target and (source is not None or sure):
        where = "as given with --from" if source is not None else "it seems; give --from if it is not"
        raise InvalidOption("target language", target.name, f"another than that of the text ({where})")
    # A guess that can't be right is none.
    return None if origin == target else origin


def _part_task(
    engine: Engine,
    pieces: Sequence[Part],
    origin: Language | None,
    target: Language,
    mode: str,
    glossary: Glossary,
    dictionary: bool,
    number: int,
    before: str,
) -> Task:
    piece = pieces[number]
    place = {"part": number + 1, "parts": len(pieces), "behind": piece.behind}
    return translation_task(
        piece.text,
        origin,
        target,
        mode=mode,
        model=engine.info.model,
        context=before[-CONTEXT_CHARS:],
        glossary=glossary,
        dictionary=dictionary,
        familiar=familiar_to(engine.tokenizer.encode),
        further=place,
    )


def translation_task(
    text: str,
    origin: Language | None,
    target: Language,
    *,
    mode: str,
    model: str = "",
    context: str = "",
    glossary: Glossary | None = None,
    dictionary: bool = True,
    familiar: Callable[[str], bool] = lambda word: True,
    further: Mapping[str, Any] | None = None,
) -> Task:
    """One search's task: `text`, however long, as a whole. `further` goes into the details.

    With `dictionary` the model is told of expressions, and of words that are not `familiar`.
    """
    within = (glossary or Glossary()).within(text)
    entries: Sequence[Entry] | None = None
    if dictionary and mode in TOLD and origin is not None:
        # One's own words for an expression make what others say of it needless.
        own = {source for source, _ in within.pairs}
        entries = [item for item in entries_in(text, origin.code, familiar) if item.source not in own]
    asked: dict[str, Any] = {"model": model, "context": context, "glossary": within.pairs, "entries": entries or ()}
    messages = translation_messages(text, origin, target, mode=mode, **asked)
    openings = _openings(text, origin, target, asked) if mode == "careful" else ()
    details = {
        "source_language": origin.code if origin else None,
        "target_language": target.code,
        "mode": mode,
        "glossary": [list(pair) for pair in within.pairs],
        "dictionary": None if entries is None else [asdict(item) for item in entries],
        **(further or {}),
    }
    return _made(text, messages, details, openings)


def _openings(text: str, origin: Language | None, target: Language, asked: Mapping[str, Any]) -> tuple[Opening, ...]:
    """Other ways to ask for the same. What reads a text closely finds what can't be taken literally, and takes
    liberties; what doesn't keeps close. The consensus is among all of them, with most of those that were right most
    often where it was measured."""
    plainly = Opening("Translated plainly", translation_messages(text, origin, target, mode="plain", **asked), tries=2)
    at_once = Opening("Translated at once", translation_messages(text, origin, target, mode="quick", **asked), tries=3)
    if not is_phrase(text):
        return plainly, at_once
    # Of a phrase what keeps close is word for word, unless a dictionary tells better.
    return (at_once,) if any(entry.expression for entry in asked["entries"]) else ()


def _made(
    text: str, messages: Sequence[Message], details: Mapping[str, Any], openings: tuple[Opening, ...] = ()
) -> Task:
    mode = str(details.get("mode", "careful"))
    target = language(str(details["target_language"]))
    origin = language(str(details["source_language"])) if details.get("source_language") else None
    glossary = Glossary(tuple((str(source), str(wanted)) for source, wanted in details.get("glossary") or ()))

    entries = [Entry.recorded(item) for item in details.get("dictionary") or ()]
    # Who wants characters in the translation keeps them.
    legible = mode in TOLD and not any(foreign_letters(wanted, target, origin) for _, wanted in glossary.pairs)

    def extract(output: str) -> str | None:
        translation = clean(output, text)
        # The baseline of measurements gets no help; `paper` chooses as the paper does.
        if mode != "direct":
            translation = restore(text, translation)
        if legible:
            translation = spelled_out(translation, origin, target)
        return translation or None

    def flaw_of(output: str) -> str | None:
        return flaw(restore(text, clean(output, text)), text, target, origin, glossary, entries)

    return Task(
        text,
        tuple(messages),
        kind="translate",
        answer_kind="text",
        openings=openings,
        details=dict(details),
        extract=extract,
        flaw=flaw_of if mode == "careful" else None,
    )


def task_of(started: SearchStarted) -> Task:
    """The task of a recorded translation, for `Solver.resume`."""
    own = {name: value for name, value in started.details.items() if name not in HEADER_ONLY}
    return _made(started.question, tuple(started.messages), own, Opening.recorded(started))


# --------------------------------------------------------------------------------------------------------------
# Beside the stream
# --------------------------------------------------------------------------------------------------------------


def translate(engine: Engine, text: str, to: str, **how: Any) -> Translation:
    """Translate to the end. `how` and what is raised: as for `translate_stream`."""
    return reading(list(translate_stream(engine, text, to, **how)))


def whole(events: Sequence[Event], runs: Path | None = None) -> Solution:
    """One solution for all parts: counts are summed, confidence is that of the least certain part.

    Its tree, votes and text are those of the last part, its run file (in the folder `runs`) that of the first; its
    answer is the whole translation, None if there is none.
    """
    solutions = [Solution.of(search) for search in by_part(events)]
    read = reading(events)
    last = solutions[-1]
    confidences = [item.mean_token_confidence for item in solutions if item.mean_token_confidence is not None]
    return replace(
        last,
        answer=read.translation or None,
        confidence=min(item.confidence for item in solutions),
        mean_token_confidence=sum(confidences) / len(confidences) if confidences else None,
        seconds=sum(item.seconds for item in solutions),
        tokens={name: sum(item.tokens.get(name, 0) for item in solutions) for name in last.tokens},
        rollouts=sum(item.rollouts for item in solutions),
        nodes=sum(item.nodes for item in solutions),
        warnings=tuple(warning for item in solutions for warning in item.warnings) + read.warnings,
        run=run_path(runs, solutions[0].started.search) if runs is not None else None,
    )


def back_translation(
    engine: Engine, translation: str, to: str, *, source: str, stop: threading.Event | None = None
) -> str:
    """What a translation says, put back into the language `to` in one plain pass; `source` is the language it is in."""
    return translate(engine, translation, to, source=source, mode="quick", stop=stop).translation


def in_register(engine: Engine, read: Translation, register: str, *, stop: threading.Event | None = None) -> str:
    """The same said in another register, in one greedy pass: `plain`, `casual` or `playful`.

    Raises `InvalidOption` for an unknown register, `EngineError` where the model fails.
    """
    if register not in REGISTERS:
        raise InvalidOption("register", register, "one of " + ", ".join(REGISTERS))
    target = language(read.target_language)
    said = ask(engine, register_messages(read.source, read.translation, target, register), stop=stop)
    return restore(read.source, clean(said, read.source)) or read.translation


def ask(
    engine: Engine, messages: Sequence[Message], *, max_tokens: int = 512, stop: threading.Event | None = None
) -> str:
    """One greedy answer, outside of any search. Raises `EngineError`."""
    delivered: queue.SimpleQueue[Chunk | Completion] = queue.SimpleQueue()
    cancel = stop or threading.Event()
    prefix = engine.tokenizer.chat_ids(messages)
    sampling = SamplingConfig(temperature=0.0, max_tokens=max(1, min(max_tokens, engine.info.context - len(prefix))))
    engine.submit([Request(0, prefix, sampling, 0, cancel)], delivered.put)
    while True:
        arrival = delivered.get()
        if isinstance(arrival, Completion):
            if arrival.finish == "failed":
                raise EngineError(arrival.error or "The engine broke off.")
            return arrival.text


MAX_LINES = 1_000

COLUMNS = ("source", "translation", "source_language", "target_language", "expressions", "warnings")


def lines_of(text: str) -> tuple[str, ...]:
    """The lines of a batch, blank ones left out. Raises `InvalidText` for none or too many."""
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise InvalidText("text", text, "some lines, not empty")
    if len(lines) > MAX_LINES or len(text) > MAX_LINES * MAX_QUESTION_CHARS:
        raise InvalidText("text", text, f"at most {MAX_LINES:,} lines long, and it has {len(lines):,}")
    return lines


def row_of(read: Translation) -> dict[str, str]:
    """A row of the table, by `COLUMNS`."""
    return {
        "source": read.source,
        "translation": read.translation,
        "source_language": read.source_language or "",
        "target_language": read.target_language,
        "expressions": "; ".join(f"{item.source}: {item.meaning or item.chosen}" for item in read.expressions),
        "warnings": " ".join(read.warnings),
    }


def to_csv(rows: Iterable[Mapping[str, str]]) -> str:
    """A table as CSV, for a spreadsheet: cells that it would take for formulas are kept from being such."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: f"'{value}" if value.startswith(("=", "+", "-", "@", "\t")) else value
                for name, value in row.items()
            }
        )
    return out.getvalue()
