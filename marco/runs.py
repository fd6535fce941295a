"""Run files: one search, one append-only file of JSON lines, a header (`SearchStarted`) and then its events.

Every event is handed to the operating system as one write, so that a process that is killed loses at most
the event being written. A torn last line is dropped when the file is read; any other damage is refused with
its line number. A file is never half-loaded.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from marco.errors import RunFileError
from marco.events import (
    FORMAT_VERSION,
    TRANSIENT,
    AnswerChosen,
    Event,
    MalformedEvent,
    SearchEnded,
    SearchStarted,
    from_dict,
    to_dict,
)

SUFFIX = ".jsonl"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")


def runs_folder() -> Path:
    """Where runs are kept: MARCO_RUNS, else the user's data folder."""
    named = os.environ.get("MARCO_RUNS")
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_data_dir("marco")) / "runs"


def new_name() -> str:
    """A name that sorts by time and that nobody can guess."""
    now = datetime.datetime.now(datetime.UTC)
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(8)}"


def run_path(folder: Path, name: str) -> Path:
    """The file of a run by name; a name that could leave the folder is refused."""
    if not _NAME.fullmatch(name):
        raise RunFileError(name, 0, "this is no name of a run")
    return folder / f"{name}{SUFFIX}"


def find_run(named: str) -> Path:
    """The file that `named` means: a path, or the name of a run in the runs folder. It may not exist."""
    path = Path(named)
    if _NAME.fullmatch(named) and not path.exists() and (kept := run_path(runs_folder(), named)).exists():
        return kept
    return path


def line_of(event: Event) -> bytes:
    """One event as one line of JSON, newline included."""
    text = json.dumps(to_dict(event), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"


class RunWriter:
    """Appends events to a run file. After a failed write it writes no more: half a line must stay the last."""

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        """Creates the file, which must not exist; with `resume` opens it, a torn last line cut off."""
        self.path = path
        self.problem: str | None = None
        self._file: BinaryIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if resume:
                _cut_torn_line(path)
            self._file = path.open("ab" if resume else "xb", buffering=0)
        except OSError as error:
            self.problem = f"The run can't be saved: {error.strerror or error}."

    def append(self, event: Event) -> None:
        """Write one event; `problem` says, in a sentence, why it could not be. Transient events are skipped."""
        if self._file is None or isinstance(event, TRANSIENT):
            return
        try:
            line = line_of(event)
            if self._file.write(line) != len(line):
                raise OSError(28, "No space left on device")
        except OSError as error:
            self.problem = (
                f"The run can't be saved any further: {error.strerror or error}. The search goes on in memory."
            )
            self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _cut_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        data = file.read()
        complete = data.rfind(b"\n") + 1
        if complete != len(data) and not _is_whole(data[complete:]):
            file.truncate(complete)
        elif complete != len(data):
            file.write(b"\n")


def _is_whole(line: bytes) -> bool:
    """Whether a last line without its newline is an event all the same."""
    try:
        from_dict(json.loads(line))
    except (ValueError, MalformedEvent, RecursionError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Run:
    """A run file, read."""

    path: Path
    started: SearchStarted
    events: tuple[Event, ...]
    """All of them, the header first."""
    torn: bool
    """The last line was incomplete and left out."""

    @property
    def ended(self) -> SearchEnded | None:
        """How the search ended, where its end is the last thing on record."""
        last = self.events[-1]
        return last if isinstance(last, SearchEnded) else None


def read_run(path: Path) -> Run:
    """Read a whole run file. Raises `RunFileError` with the line to blame."""
    try:
        # Devices and pipes have no end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise RunFileError(path, 0, "this is no file")
        data = path.read_bytes()
    except ValueError:  # NUL characters and half surrogates name no file
        raise RunFileError(ascii(str(path)), 0, "no file can have this name") from None
    except FileNotFoundError:
        raise RunFileError(path, 0, "there is no such run file") from None
    except OSError as error:
        raise RunFileError(path, 0, f"it can't be read ({error.strerror or error})") from None
    lines = data.split(b"\n")
    complete = lines[-1] == b""
    if complete:
        lines.pop()
    events: list[Event] = []
    torn = False
    for number, line in enumerate(lines, start=1):
        last = number == len(lines) and not complete
        try:
            value = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            if last and number > 1:
                torn = True
                break
            raise RunFileError(path, number, "the header is cut off" if number == 1 else "this is not JSON") from None
        if number == 1:
            _check_header(path, value)
        try:
            events.append(from_dict(value))
        except MalformedEvent as error:
            if last and number > 1:
                torn = True
                break
            raise RunFileError(path, number, str(error)) from None
    if not events:
        raise RunFileError(path, 1, "the header is missing: the file is empty")
    started = events[0]
    assert isinstance(started, SearchStarted)
    if any(isinstance(event, SearchStarted) for event in events[1:]):
        second = next(i for i, event in enumerate(events[1:], start=2) if isinstance(event, SearchStarted))
        raise RunFileError(path, second, "a second header")
    return Run(path, started, tuple(events), torn)


def read_header(path: Path) -> SearchStarted:
    """The header alone. Raises `RunFileError`."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.readline())
        _check_header(path, value)
        started = from_dict(value)
    except OSError as error:
        raise RunFileError(path, 0, f"it can't be read ({error.strerror or error})") from None
    except (ValueError, RecursionError, MalformedEvent):
        raise RunFileError(path, 1, "the header is damaged") from None
    assert isinstance(started, SearchStarted)
    return started


def _check_header(path: Path, value: Any) -> None:
    if not isinstance(value, dict) or value.get("type") != "SearchStarted":
        raise RunFileError(path, 1, "this is no run of Marco's: a run begins with its header")
    version = value.get("version")
    if version != FORMAT_VERSION:
        raise RunFileError(
            path, 1, f"this run is of format version {version!r}, and this Marco reads version {FORMAT_VERSION}"
        )


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a list of runs shows of one."""

    name: str
    path: Path
    kind: str
    question: str
    model: str
    created: str
    answer: str | None
    stopped_by: str | None
    """None for a search that was cut off, or is still under way."""
    rollouts: int
    details: dict[str, Any]


def list_runs(folder: Path) -> Iterator[RunSummary]:
    """The runs of a folder, newest first. Damaged files are left out: `read_run` says what ails them."""
    if not folder.is_dir():
        return
    for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.name, reverse=True):
        try:
            run = read_run(path)
        except RunFileError:
            continue
        answers = [event for event in run.events if isinstance(event, AnswerChosen)]
        ended = run.ended
        yield RunSummary(
            name=path.stem,
            path=path,
            kind=run.started.kind,
            question=run.started.question,
            model=run.started.model,
            created=run.started.created,
            answer=answers[-1].answer if answers else None,
            stopped_by=ended.stopped_by if ended else None,
            rollouts=sum(type(event).__name__ == "RolloutFinished" for event in run.events),
            details=dict(run.started.details),
        )
