"""What is measured: problems, and how an answer to one is scored.

A task hands out problems, starts the search for one, and scores an answer; the search never sees the score (save
under reward `outcome`). `open_task` makes one from what a person typed: `mgsm`, `translation`, or a Python file
with two functions of their own:

    def load():                      # rows: objects with `question` and whatever `score` wants to see
        yield {"question": "2 + 2 = ?", "answer": "4"}

    def score(answer, row):          # True or False, or a number from 0 to 1; `answer` is None where there is none
        return answer == row["answer"]

and, if they are there, the names `answer_kind` (number, choice or text) and `strategies` (as in `Task`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import itertools
import math
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marco import answer as answers
from marco.config import ANSWER_KINDS, SELECTIONS, STRATEGIES, Options, check_question
from marco.errors import InvalidOption, UserMistake
from marco.events import Event

if TYPE_CHECKING:
    from marco.engines.base import Engine

MGSM_LANGUAGES = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")
MGSM_ADDRESS = "https://raw.githubusercontent.com/google-research/url-nlp/main/mgsm/mgsm_{}.tsv"
MGSM_PROBLEMS = 250
"""Problems a language in the public data set (arXiv 2210.03057)."""
MGSM_PATIENCE = 20.0
"""Seconds."""

SOLVED = 0.5
"""A score of at least this counts as solved, where a yes or no is wanted."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of a task."""

    id: str
    """Its number in the task, from 1; the same problem has the same id in every language of MGSM."""
    question: str
    reference: str | None = None
    """The right answer as text, for a reader; scoring is the task's business."""
    row: Any = field(default=None, hash=False, compare=False)
    """The row as the task knows it."""

    @property
    def digest(self) -> str:
        """Tells this question from another with the same number."""
        return hashlib.sha256(f"{self.question}\0{self.reference}".encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """One way of answering, and which options make a difference to it."""

    search: Mapping[str, Any]
    """Fields of `SearchConfig` (and `SamplingConfig`) that it fixes; `strategy` among them."""
    varies: frozenset[str] = frozenset()
    """Which of `action`, `reward`, `reflection` it varies by. A selection is always varied (within `selects`)."""
    selects: tuple[str, ...] = ()
    """Selections that make sense; empty where there is one rollout and nothing to select."""
    select: str | None = None
    """The one that is taken where none of those asked for makes sense; None: the preset's."""
    reward: str | None = None
    """The one that is taken where none is asked for; None: the preset's."""
    samples: str | None = None
    """Name of a strategy whose rollouts this one shares, choosing among them in its own way."""

    @property
    def single(self) -> bool:
        """One greedy rollout: seeds and budget change nothing."""
        return not self.selects


STANDARD: Mapping[str, Strategy] = {
    "mcts": Strategy(
        search={"strategy": "mcts"}, varies=frozenset({"action", "reward", "reflection"}), selects=SELECTIONS
    ),
    "self-consistency": Strategy(
        search={"strategy": "self-consistency"}, selects=("majority", "weighted", "consensus"), select="majority"
    ),
    "best-of-n": Strategy(
        search={"strategy": "self-consistency"},
        varies=frozenset({"reward"}),
        selects=("best",),
        select="best",
        reward="mean",
        samples="self-consistency",
    ),
    "cot": Strategy(search={"strategy": "cot"}),
    "direct": Strategy(search={"strategy": "direct"}),
}
assert set(STANDARD) == set(STRATEGIES)


class Task(ABC):
    """Problems in one language. Subclasses override what differs; `score` runs after the search is over."""

    name: str = ""
    lang: str = ""
    answer_kind: str = "auto"
    """What its answers look like: known from the task, as a person who asks would know it."""
    strategies: Mapping[str, Strategy] = STANDARD

    @abstractmethod
    def load(self) -> Sequence[Problem]:
        """All problems. Raises `UserMistake`, naming the line, where the data is not as it should be."""

    @abstractmethod
    def score(self, answer: str | None, problem: Problem) -> float:
        """How good the answer is, 0 to 1; None is no answer."""

    def stream(
        self,
        engine: Engine,
        options: Options,
        problem: Problem,
        *,
        strategy: str,
        stop: threading.Event,
        runs: Path | None = None,
    ) -> Iterator[Event]:
        """Search one problem. `strategy` is the key in `strategies`; `runs` is where run files are kept, if at all."""
        del strategy  # its options say it all
        from marco.solver import Solver

        checker = None
        if options.search.reward == "outcome":

            def checker(answer: str | None) -> bool:
                return self.score(answer, problem) >= SOLVED

        return Solver(engine, options, checker=checker, runs=runs).stream(problem.question, stop=stop)

    def measures(self, chosen: Sequence[tuple[Problem, Sequence[str | None]]]) -> Mapping[str, Any]:
        """Further fields of the summary, from the chosen answer of each seed to each problem."""
        del chosen
        return {}

    def marks(self, answer: str | None, problem: Problem) -> Mapping[str, bool]:
        """What is so or not so of an answer, beside its score: pairs of strategies are compared on it, too."""
        del answer, problem
        return {}


class Mgsm(Task):
    """Grade-school mathematics: question, tab, number."""

    name = "mgsm"
    answer_kind = "number"

    def __init__(self, lang: str, data: Path | None = None) -> None:
        if data is None and lang not in MGSM_LANGUAGES:
            raise InvalidOption("lang", lang, "one of " + ", ".join(MGSM_LANGUAGES) + ", or come with --data")
        self.lang = lang
        self._data = data

    def load(self) -> Sequence[Problem]:
        if self._data is not None:
            return _read_tsv(self._data)
        path = _mgsm_file(self.lang)
        problems = _read_tsv(path)
        if len(problems) != MGSM_PROBLEMS:
            raise UserMistake(
                f"{path} has {len(problems)} problems instead of {MGSM_PROBLEMS}: delete it to have it fetched again."
            )
        return problems

    def score(self, answer: str | None, problem: Problem) -> float:
        return float(answer is not None and answers.same(answer, problem.reference or "", "number"))


class OwnTask(Task):
    """A Python file with `load()` and `score(answer, row)`."""

    def __init__(self, path: Path, lang: str) -> None:
        self.name = path.stem
        self.lang = lang
        self._path = path
        module = self._module()
        for name in ("load", "score"):
            if not callable(getattr(module, name, None)):
                raise UserMistake(f"{path} has no function {name}(): a task needs load() and score(answer, row).")
        self._load = module.load
        self._score = module.score
        self.answer_kind = str(getattr(module, "answer_kind", "auto"))
        if self.answer_kind not in ANSWER_KINDS:
            raise InvalidOption(f"answer_kind of {path}", self.answer_kind, "one of " + ", ".join(ANSWER_KINDS))
        self.strategies = getattr(module, "strategies", STANDARD)

    def _module(self) -> Any:
        if not self._path.is_file():
            raise UserMistake(f"There is no task file {self._path}.")
        spec = importlib.util.spec_from_file_location(f"marco_task_{self._path.stem}", self._path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise UserMistake(f"{self._path} can't be imported: {type(error).__name__}: {error}") from error
        return module

    def load(self) -> Sequence[Problem]:
        problems = []
        try:
            rows = list(self._load())
        except Exception as error:
            raise UserMistake(f"load() of {self._path} failed: {type(error).__name__}: {error}") from error
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, Mapping) or "question" not in row:
                raise UserMistake(f"{self._path}, row {number} of load(): it is no object with a question.")
            question = _question(row["question"], f"{self._path}, row {number} of load()")
            reference = None if row.get("answer") is None else str(row["answer"])
            problems.append(Problem(str(number), question, reference, row))
        if not problems:
            raise UserMistake(f"load() of {self._path} gave no rows.")
        return problems

    def score(self, answer: str | None, problem: Problem) -> float:
        try:
            score = float(self._score(answer, problem.row))
        except Exception as error:
            raise UserMistake(
                f"score() of {self._path} failed on row {problem.id}: {type(error).__name__}: {error}"
            ) from error
        if not (math.isfinite(score) and 0 <= score <= 1):
            raise UserMistake(f"score() of {self._path} gave {score} on row {problem.id}: it must be from 0 to 1.")
        return score


BUILT_IN = {"mgsm": ("marco.evaluation.tasks", "Mgsm"), "translation": ("marco.evaluation.translation", "Translation")}
"""Name of a task -> where its class is. It is called with (lang, data)."""


def open_task(name: str, lang: str, data: Path | None = None) -> Task:
    """The task by name or file. `lang` is the language of the problems (translation: of the target).

    Raises `UserMistake` for an unknown name or a file that is none.
    """
    if name.endswith(".py"):
        if data is not None:
            raise UserMistake("--data goes with the built-in tasks: a task of one's own loads its own data.")
        return OwnTask(Path(name), lang)
    if name not in BUILT_IN:
        raise InvalidOption("task", name, "one of " + ", ".join(BUILT_IN) + ", or a Python file (.py)")
    module, kind = BUILT_IN[name]
    task: Task = getattr(importlib.import_module(module), kind)(lang, data)
    return task


def load(task: Task, limit: int | None = None) -> list[Problem]:
    """The first `limit` problems of a task (all, where None)."""
    return list(itertools.islice(task.load(), limit))


def _question(text: object, where: str) -> str:
    try:
        return check_question(text)
    except UserMistake as error:
        raise UserMistake(f"{where}: {error}") from None


def _read_tsv(path: Path) -> list[Problem]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserMistake(f"There is no data file {path}.") from None
    except OSError as error:
        raise UserMistake(f"{path} can't be read ({error.strerror or error}).") from None
    except UnicodeDecodeError as error:
        before = error.object[: error.start].count(b"\n")
        raise UserMistake(f"{path}, line {before + 1}: this is not UTF-8 text.") from None
    problems = []
    # Not splitlines(): it also breaks at characters that a question may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        columns = line.rstrip("\r").split("\t")
        if len(columns) != 2:
            raise UserMistake(
                f"{path}, line {number}: a row is question, tab, answer; this one has {len(columns)} parts."
            )
        question = _question(columns[0], f"{path}, line {number}")
        reference = columns[1].strip()
        if not re.fullmatch(r"[+-]?\d[\d,]*(\.\d+)?", reference):
            raise UserMistake(f"{path}, line {number}: the answer {reference[:40]!r} is no number.")
        problems.append(Problem(str(number), question, reference))
    if not problems:
        raise UserMistake(f"{path} is empty: a row is question, tab, answer.")
    return problems


def _mgsm_file(lang: str) -> Path:
    """The public data set, fetched once."""
    from marco.engines.models import cache_folder, offline, write_atomically

    path = cache_folder() / "data" / "mgsm" / f"mgsm_{lang}.tsv"
    if path.is_file():
        return path
    instead = f"give a file of your own with --data (question, tab, answer), or put it at {path}."
    if offline():
        raise UserMistake(f"MGSM ({lang}) is not on this machine and Marco is told to stay offline: {instead}")
    import httpx

    address = MGSM_ADDRESS.format(lang)
    try:
        reply = httpx.get(address, timeout=MGSM_PATIENCE, follow_redirects=True)
        reply.raise_for_status()
    except httpx.HTTPError as error:
        reason = type(error).__name__ if not str(error) else str(error).splitlines()[0]
        raise UserMistake(f"MGSM ({lang}) could not be fetched from {address} ({reason}): {instead}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, reply.content)
    return path
