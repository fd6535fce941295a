"""Rows: what the model wrote for one problem under one generation and seed; `DIR/rows.jsonl`, append-only.

A row is a JSON object. It holds everything that any selection or statistic needs, so that nothing is generated
twice; the texts themselves are kept only as run files, and only on request. Every row is one write: a process
that is killed loses at most the row being written, and a torn last line is dropped.
"""

from __future__ import annotations

import datetime
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marco.errors import UserMistake
from marco.evaluation.plan import Combination

VERSION = 1
ROWS = "rows.jsonl"
MANIFEST = "combinations.json"
SUMMARY = "summary.json"
STATISTICS = "statistics.json"
REPLAY = "replay.json"
REPORT = "report.html"
RUNS = "runs"
COMMANDS = "commands.txt"

MAX_OUTPUT_CHARS = 2_000
"""Of a rollout's output kept in a row."""

Row = Mapping[str, Any]
"""Fields of a row:

- what was done: `generation` (its key), `strategy`, `options`, `seed`, `task`, `lang`, `problem`, `digest`, `question`,
  `reference`, `answer_kind`, `reward` (the one that steered), `version`, `created`;
- with what: `model`, `model_hash`, `engine`, `device`, `setup`, and (not in the oldest records) `commit`, `machine`;
- `rollouts`, in the order of their commit: `rollout`, `node`, `parent` (the rollout whose path it continues), `origin`
  (the one it reflects on), `answer`, `key`, `output`, `score`, `value`, `statistics`, `tokens`, `prefilled`, `cached`,
  `finish`, `degenerate`, `visits` (of its leaf, at the end), `at` (seconds of `seconds` until it was in);
- `failures`: `work`, `error`, `tokens`, `prefilled`, `cached`;
- `visits`: for each commit the visits of the leaf of each rollout so far, as a selection saw them then;
- `tokens`, `prefilled`, `cached`: all that was spent, work that was broken off included;
- `reused` (not in older records): how many rollouts came from another record; time tells nothing where it isn't 0;
- `seconds`: the search's share of the time that passed; `elapsed`: from its start to its end;
- `stopped_by`, `peak_memory_bytes`, and `run`: the run file's name, where kept."""


def row_key(row: Row) -> tuple[str, str, str, str, str, int]:
    """Two rows with the same key are the same work."""
    return (row["generation"], row["task"], row["lang"], row["problem"], row["digest"], row["seed"])


def read_rows(folder: Path) -> list[Row]:
    """All rows of a folder, each key once. Raises `UserMistake`, with the line, for a file that is damaged."""
    path = folder / ROWS
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserMistake(f"{folder} holds no evaluation: there is no {ROWS} in it.") from None
    except OSError as error:
        raise UserMistake(f"{path} can't be read ({error.strerror or error}).") from None
    rows: dict[tuple[str, str, str, str, str, int], Row] = {}
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        torn = number == len(lines)
        if not line:
            continue
        try:
            row = json.loads(line)
            if row["version"] != VERSION:
                raise UserMistake(
                    f"{path}, line {number}: a row of version {row['version']!r}, and this Marco reads {VERSION}."
                )
            rows.setdefault(row_key(row), row)
        except (ValueError, KeyError, TypeError):
            if torn:
                continue
            raise UserMistake(f"{path}, line {number}: this is no row of an evaluation.") from None
    return list(rows.values())


class RowWriter:
    """Appends rows. A torn last line is cut off first."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ROWS
        if self._path.exists():
            with self._path.open("rb+") as file:
                data = file.read()
                file.truncate(data.rfind(b"\n") + 1)
        self._file = self._path.open("ab", buffering=0)

    def append(self, row: Row) -> None:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self._file.write(text.encode("utf-8", "backslashreplace") + b"\n")

    def close(self) -> None:
        self._file.close()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One evaluation at a time writes to a folder. Raises `UserMistake` where another does."""
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserMistake(f"Another evaluation is writing to {folder}: wait for it, or choose another --out.") from None
    except OSError as error:
        raise UserMistake(f"{folder} can't be written to ({error.strerror or error}): choose another --out.") from None
    try:
        yield
    finally:
        lock.release()


def read_combinations(folder: Path) -> list[Combination]:
    """What was ever asked of this folder, in that order."""
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return [Combination.from_dict(item) for item in data]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise UserMistake(f"{folder / MANIFEST} is damaged: delete it and run the evaluation again.") from error


def add_combinations(folder: Path, combinations: Iterable[Combination]) -> list[Combination]:
    """Remember what is asked for; returns all of it."""
    known = list(dict.fromkeys([*read_combinations(folder), *combinations]))
    write_json(folder / MANIFEST, [combination.to_dict() for combination in known])
    return known


def note_command(folder: Path, command: Sequence[str]) -> None:
    """Remember how the rows came about: one line a call, with its time."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with (folder / COMMANDS).open("a", encoding="utf-8") as file:
        file.write(f"{now}  {shlex.join(command)}\n")


def write_json(path: Path, value: Any) -> None:
    """At once or not at all: a reader never sees half of it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


@dataclass(frozen=True)
class Record:
    """A folder, read: what was asked for, and the rows that are there."""

    folder: Path
    combinations: Sequence[Combination]
    rows: Sequence[Row]

    @classmethod
    def read(cls, folder: Path) -> Record:
        return cls(folder, read_combinations(folder), read_rows(folder))

    def rows_of(self, generation: str, lang: str | None = None) -> list[Row]:
        return [row for row in self.rows if row["generation"] == generation and lang in (None, row["lang"])]

    @property
    def languages(self) -> list[tuple[str, str]]:
        """(task, language) pairs that have rows, sorted."""
        return sorted({(row["task"], row["lang"]) for row in self.rows})
