"""Training data made ready: read, sift, mix, split, and say what became of every row.

`prepare` writes into a folder:

- `train.jsonl` and `validation.jsonl`: chat rows, `messages` with `source`, `place` and (where known) `reference`;
- `dropped.jsonl`: every row that was left out, with its place, the rule and the reason;
- `report.json` and `report.md`: counts that add up (read = kept + dropped), by rule and source, with examples.

The same inputs, rules and seed give the same files, byte for byte.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marco.errors import InvalidOption, UserMistake
from marco.evaluation.records import write_json
from marco.training.rules import ORDER, CountTokens, Dropped, Rules, same_text, sift
from marco.training.sources import Row, Source, Unreadable, fingerprint, read

TRAIN = "train.jsonl"
VALIDATION = "validation.jsonl"
DROPPED = "dropped.jsonl"
REPORT = "report.json"
READABLE = "report.md"

MIXES: Mapping[str, Mapping[str, float]] = {
    # arXiv 2411.14405, section 3.
    "paper": {"open-o1-cot": 45_125, "marco-o1-cot": 10_000, "instruction": 5_141},
}
"""Named weights of sources."""

EXAMPLES = 3
"""Dropped rows that the report quotes for each rule."""

Watch = Callable[[int], None]
"""Called with the number of rows read so far."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What became of the rows."""

    train: Sequence[Row]
    validation: Sequence[Row]
    dropped: Sequence[Dropped]
    read: int
    rewritten: int = 0
    """Kept rows whose response was brought into the strict form."""
    by_source: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Source -> read, kept, and dropped by rule."""


def parse_mix(given: str, sources: Sequence[Source]) -> tuple[list[Source], dict[str, float]]:
    """Sources and their weights, from `paper` or `NAME=W,NAME=W`.

    With a named mix, sources without a name of their own in it take its names in order. Raises `InvalidOption`.
    """
    if given in MIXES:
        weights = dict(MIXES[given])
        if {source.name for source in sources} != set(weights):
            if len(sources) != len(weights):
                raise InvalidOption(
                    "mix", given, f"given with {len(weights)} inputs, in this order: {', '.join(weights)}"
                )
            sources = [Source(name, source.address) for name, source in zip(weights, sources, strict=True)]
        return list(sources), weights
    weights = {}
    for part in given.split(","):
        name, equals, weight = part.strip().partition("=")
        try:
            weights[name] = float(weight) if equals else math.nan
        except ValueError:
            weights[name] = math.nan
        if not (math.isfinite(weights[name]) and weights[name] >= 0):
            raise InvalidOption("mix", given, "paper, or NAME=WEIGHT,NAME=WEIGHT with weights of at least 0")
    names = {source.name for source in sources}
    if set(weights) != names or not any(weights.values()):
        raise InvalidOption("mix", given, f"weights for {', '.join(sorted(names))}, not all of them 0")
    return list(sources), weights


def prepare(
    sources: Sequence[Source],
    rules: Rules,
    *,
    weights: Mapping[str, float] | None = None,
    size: int | None = None,
    validation: float = 0.05,
    seed: int = 0,
    count_tokens: CountTokens | None = None,
    watch: Watch = lambda count: None,
) -> Prepared:
    """Read, sift, mix and split. `size` bounds the mix; `validation` is a share, 0 to 0.5.

    Raises `UserMistake` where a source can't be read at all, and where nothing is left.
    """
    if not 0 <= validation <= 0.5:
        raise InvalidOption("validation", validation, "a share from 0 to 0.5")
    names = [source.name for source in sources]
    if len(set(names)) != len(names):
        raise UserMistake(f"Two inputs are called {Counter(names).most_common(1)[0][0]}: name them with NAME=FILE.")
    total: Counter[str] = Counter()
    kept: list[Row] = []
    dropped: list[Dropped] = []
    responses: dict[str, str] = {}

    def counted() -> Iterator[Row | Unreadable]:
        for source in sources:
            for item in read(source):
                total[item.source] += 1
                if isinstance(item, Row):
                    responses[item.place] = item.response
                watch(sum(total.values()))
                yield item

    for item in sift(counted(), rules, count_tokens):
        if isinstance(item, Row):
            kept.append(item)
        else:
            dropped.append(item)
    if weights is not None or size is not None:
        kept, left_out = mix(kept, weights, size=size, seed=seed)
        dropped += left_out
    if not kept:
        raise UserMistake(_nothing_left(sum(total.values()), dropped))
    train, held_out = split(kept, validation, seed)
    by_source: dict[str, Counter[str]] = {name: Counter(read=total[name], kept=0) for name in names}
    for row in kept:
        by_source[row.source]["kept"] += 1
    for item in dropped:
        by_source[item.source][item.rule] += 1
    return Prepared(
        train=train,
        validation=held_out,
        dropped=dropped,
        read=sum(total.values()),
        rewritten=sum(row.response != responses[row.place] for row in kept),
        by_source={name: dict(counts) for name, counts in by_source.items()},
    )


def _nothing_left(read_rows: int, dropped: Sequence[Dropped]) -> str:
    if not read_rows:
        return "The inputs hold no rows."
    rule, count = Counter(item.rule for item in dropped).most_common(1)[0]
    first = next(item for item in dropped if item.rule == rule)
    return (
        f"None of {read_rows} rows is left; the rule {rule!r} dropped {count}, the first in {first.place}: {first.why}."
    )


def mix(
    rows: Sequence[Row], weights: Mapping[str, float] | None = None, *, size: int | None = None, seed: int = 0
) -> tuple[list[Row], list[Dropped]]:
    """As many rows as can be had in these proportions without saying any twice, and those left out.

    Without weights, `size` rows of all. Who is left out is drawn by `seed`; order is kept.
    """
    if size is not None and size < 1:
        raise InvalidOption("size", size, "a whole number of at least 1")
    pools: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        pools[row.source if weights is not None else ""].append(index)
    shares = {"": 1.0} if weights is None else {name: weight for name, weight in weights.items() if weight > 0}
    for name in shares:
        if not pools[name]:
            why = f" of {name}" if name else ""
            raise UserMistake(f"No row{why} is left to mix: see what the rules drop, or leave it out of the mix.")
    whole = sum(shares.values())
    fitting = min(len(pools[name]) * whole / share for name, share in shares.items())
    wanted = min(fitting, size) if size is not None else fitting
    draw = random.Random(seed)
    taken: set[int] = set()
    for name, share in shares.items():
        count = min(len(pools[name]), math.floor(wanted * share / whole + 0.5))
        taken.update(draw.sample(pools[name], count))
    left_out = [
        Dropped(row.source, row.place, "mix", "the mix takes fewer rows of its source")
        for index, row in enumerate(rows)
        if index not in taken
    ]
    return [row for index, row in enumerate(rows) if index in taken], left_out


def split(rows: Sequence[Row], share: float, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows held out; all rows of one question are on one side.

    At least one question is held out where `share` isn't 0 and there are two or more.
    """
    by_question: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_question[same_text(row.instruction)].append(index)
    groups = list(by_question.values())
    random.Random(seed).shuffle(groups)
    held: set[int] = set()
    if share > 0:
        for group in groups[:-1]:
            if held and len(held) + len(group) > len(rows) * share:
                continue
            held.update(group)
            if len(held) >= len(rows) * share:
                break
    return (
        [row for index, row in enumerate(rows) if index not in held],
        [row for index, row in enumerate(rows) if index in held],
    )


# Writing and reading


def to_json(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {"messages": [dict(turn) for turn in row.messages]}
    if row.reference is not None:
        found["reference"] = row.reference
    return {**found, "source": row.source, "place": row.place}


def write(
    folder: Path, prepared: Prepared, *, sources: Sequence[Source], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Write all files of a prepared folder; returns the report. `settings` are told in it as they are."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_lines(folder / TRAIN, map(to_json, prepared.train))
        _write_lines(folder / VALIDATION, map(to_json, prepared.validation))
        _write_lines(folder / DROPPED, map(dataclasses.asdict, prepared.dropped))
        report = summary(prepared, sources, settings)
        write_json(folder / REPORT, report)
        (folder / READABLE).write_text(as_text(report), encoding="utf-8")
    except OSError as error:
        raise UserMistake(f"{folder} can't be written to ({error.strerror or error}): choose another --out.") from None
    return report


def _write_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
    partial.replace(path)


def load(folder: Path) -> tuple[list[Row], list[Row]]:
    """The rows of a prepared folder: (train, validation). Raises `UserMistake` where there are none, or a bad one."""
    if not (folder / TRAIN).is_file():
        raise UserMistake(f"{folder} holds no {TRAIN}: make such a folder with `marco train data FILE --out {folder}`.")
    found: list[list[Row]] = []
    for name in (TRAIN, VALIDATION):
        rows: list[Row] = []
        path = folder / name
        for item in read(Source("data", str(path))) if path.is_file() else ():
            if isinstance(item, Unreadable):
                raise UserMistake(f"{item.place}: {item.why}.")
            rows.append(item)
        found.append(rows)
    if not found[0]:
        raise UserMistake(f"{folder / TRAIN} is empty.")
    return found[0], found[1]


def summary(prepared: Prepared, sources: Sequence[Source], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `report.json` holds."""
    rules = [*ORDER, "mix"]
    kept = len(prepared.train) + len(prepared.validation)
    return {
        "read": prepared.read,
        "kept": kept,
        "dropped": len(prepared.dropped),
        "train": len(prepared.train),
        "validation": len(prepared.validation),
        "rewritten": prepared.rewritten,
        "by_rule": {rule: sum(item.rule == rule for item in prepared.dropped) for rule in rules},
        "sources": [
            {
                "name": source.name,
                "address": source.address,
                "sha256": fingerprint(source),
                **prepared.by_source[source.name],
            }
            for source in sources
        ],
        "settings": dict(settings),
        "examples": {
            rule: [
                {"place": item.place, "why": item.why, "excerpt": item.excerpt}
                for item in [item for item in prepared.dropped if item.rule == rule][:EXAMPLES]
            ]
            for rule in rules
            if any(item.rule == rule for item in prepared.dropped)
        },
    }


def as_text(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "# Training data",
        "",
        f"{report['read']:,} rows were read: {report['kept']:,} kept ({report['train']:,} to train on, "
        f"{report['validation']:,} held out) and {report['dropped']:,} dropped.",
    ]
    if report["rewritten"]:
        lines.append(f"{report['rewritten']:,} of those kept were brought into the strict form.")
    rules = [rule for rule, count in report["by_rule"].items() if count]
    lines += ["", _line("source", "read", "kept", *rules), _line(*["---"] * (3 + len(rules)))]
    lines += [
        _line(source["name"], source["read"], source["kept"], *(source.get(rule, 0) for rule in rules))
        for source in report["sources"]
    ]
    if len(report["sources"]) > 1:
        lines.append(_line("all", report["read"], report["kept"], *(report["by_rule"][rule] for rule in rules)))
    if rules:
        lines += ["", "## What was dropped", "", f"All of it, with its place and the reason, is in `{DROPPED}`."]
    for rule in rules:
        lines += ["", f"### {rule}: {report['by_rule'][rule]:,}", ""]
        for example in report["examples"][rule]:
            quoted = f" — `{_plain(example['excerpt'])}`" if example["excerpt"] else ""
            lines.append(f"- {_plain(example['place'])}: {_plain(example['why'])}{quoted}")
    lines += ["", "## Settings", ""]
    lines += [
        f"- `{name}`: {_plain(json.dumps(value, ensure_ascii=False))}" for name, value in report["settings"].items()
    ]
    return "\n".join(lines) + "\n"


def _line(*cells: object) -> str:
    return "| " + " | ".join(_plain(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in cells) + " |"


def _plain(text: str) -> str:
    """Data is untrusted: nothing in it is to become markup of the report."""
    return text.replace("`", "'").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
