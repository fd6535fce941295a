"""Translation as a task: how near the output is to what people wrote, and to what they would not.

Data are JSON lines: `source`, and `reference` or the lists `human` and `literal` (renderings by people, and
word-for-word ones by machines), optionally `slang`. The score of an answer is its best chrF (Popović 2015, as sacrebleu
computes it) against `human`, else `reference`, from 0 to 1.

Beside the common fields the summary has
- `chrf`: the mean score, 0 to 100,
- `nearer_to_human`: share of the items with both lists whose best chrF against `human` exceeds that against `literal`,
- `untranslated`: share of outputs with letters of the source's script left, or with no output,
- `repeatability`: mean chrF between the translations of two seeds, 0 to 100; None with one seed,
each but the last with a 95% interval (`..._interval`): bootstrap for `chrf`, Wilson's for the shares.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marco.config import SELECTIONS, Options, check_question
from marco.errors import UserMistake
from marco.evaluation.metrics import bootstrap, wilson
from marco.evaluation.tasks import SOLVED, Problem, Strategy, Task
from marco.events import Event
from marco.translation.dictionary import familiar_to
from marco.translation.languages import foreign_letters, language, recognise
from marco.translation.stream import defaults, translation_task

if TYPE_CHECKING:
    from marco.engines.base import Engine

TEMPERATURE = defaults("careful").sampling.temperature
"""Of every sampled strategy but `paper`: consensus gains from samples that stray less."""

_CONSENSUS = {"temperature": TEMPERATURE, "max_tokens": defaults("careful").sampling.max_tokens}

_CAREFUL = Strategy(
    search={"strategy": "mcts", "branching": defaults("careful").search.branching, **_CONSENSUS},
    varies=frozenset({"action", "reward", "reflection"}),
    selects=SELECTIONS,
    select="consensus",
    reward=defaults("careful").search.reward,
)

STRATEGIES: Mapping[str, Strategy] = {
    "direct": Strategy(search={"strategy": "direct"}),
    "direct-consensus": Strategy(
        search={"strategy": "self-consistency", **_CONSENSUS}, selects=SELECTIONS, select="consensus"
    ),
    "quick": Strategy(search={"strategy": "direct"}),
    "careful": _CAREFUL,
    "careful-no-dictionary": _CAREFUL,
    "paper": Strategy(
        search={"strategy": "mcts"},
        varies=frozenset({"action", "reward", "reflection"}),
        selects=SELECTIONS,
        select="best",
    ),
}
"""`direct` asks plainly, `direct-consensus` samples that; the others are the modes of `marco translate`, one of them
also without what dictionaries say."""

MODE = {"direct": "direct", "direct-consensus": "direct", "careful-no-dictionary": "careful"}
"""The mode of a strategy that isn't named for its own."""


class Translation(Task):
    """Sentences into one language."""

    name = "translation"
    answer_kind = "text"
    strategies = STRATEGIES

    def __init__(self, lang: str, data: Path | None = None) -> None:
        if data is None:
            raise UserMistake("Task translation needs --data FILE: JSON lines with source and reference.")
        self._target = language(lang)
        self.lang = self._target.code
        self._data = data

    def load(self) -> Sequence[Problem]:
        try:
            text = self._data.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UserMistake(f"{self._data} can't be read ({error.strerror or error}).") from None
        except UnicodeDecodeError:
            raise UserMistake(f"{self._data} is not UTF-8 text.") from None
        problems = [
            _problem(line, str(number), f"{self._data}, line {number}")
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        ]
        if not problems:
            raise UserMistake(f"{self._data} is empty: a row is an object with source and reference.")
        return problems

    def score(self, answer: str | None, problem: Problem) -> float:
        return chrf(answer, _right(problem.row)) / 100

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
        from marco.solver import Solver

        checker: Callable[[str | None], bool] | None = None
        if options.search.reward == "outcome":

            def checker(answer: str | None) -> bool:
                return self.score(answer, problem) >= SOLVED

        origin, _ = recognise(problem.question)
        task = translation_task(
            problem.question,
            origin if origin != self._target else None,
            self._target,
            mode=MODE.get(strategy, strategy),
            model=engine.info.model,
            familiar=familiar_to(engine.tokenizer.encode),
            dictionary=strategy != "careful-no-dictionary",
        )
        return Solver(engine, options, checker=checker, runs=runs).stream_task(task, stop=stop)

    def measures(self, chosen: Sequence[tuple[Problem, Sequence[str | None]]]) -> Mapping[str, Any]:
        scores = [_mean([100 * self.score(answer, problem) for answer in answers]) for problem, answers in chosen]
        marks = [[self.marks(answer, problem) for answer in answers] for problem, answers in chosen]
        nearer, left = (
            [_mean([float(one[name]) for one in found]) for found in marks if name in found[0]]
            for name in ("nearer_to_human", "untranslated")
        )
        likeness = [
            _mean([chrf(one, [other]) if one and other else 0.0 for one, other in combinations(answers, 2)])
            for _, answers in chosen
            if len(answers) > 1
        ]
        return {
            "chrf": _mean(scores) if scores else None,
            "chrf_interval": list(bootstrap(scores)) if scores else None,
            "nearer_to_human": _mean(nearer) if nearer else None,
            "nearer_to_human_interval": list(wilson(math.fsum(nearer), len(nearer))) if nearer else None,
            "untranslated": _mean(left) if left else None,
            "untranslated_interval": list(wilson(math.fsum(left), len(left))) if left else None,
            "repeatability": _mean(likeness) if likeness else None,
        }

    def marks(self, answer: str | None, problem: Problem) -> Mapping[str, bool]:
        origin, _ = recognise(problem.question)
        found = {"untranslated": not answer or bool(foreign_letters(answer, self._target, origin))}
        if problem.row.get("human") and problem.row.get("literal"):
            found["nearer_to_human"] = nearer_to_human(answer, problem.row)
        return found


def chrf(answer: str | None, references: Sequence[str]) -> float:
    """The best chrF against any of the references, 0 to 100; 0 for no answer."""
    if not answer:
        return 0.0
    return max(float(_chrf().sentence_score(answer, [reference]).score) for reference in references)


def nearer_to_human(answer: str | None, row: Mapping[str, Any]) -> bool:
    """Whether the best chrF against the human renderings exceeds that against the literal ones."""
    return chrf(answer, row["human"]) > chrf(answer, row["literal"])


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def _problem(line: str, number: str, where: str) -> Problem:
    try:
        row = json.loads(line)
    except ValueError:
        raise UserMistake(f"{where}: this is no JSON object.") from None
    if not isinstance(row, dict) or not isinstance(row.get("source"), str):
        raise UserMistake(f"{where}: a row is an object with source, and reference or human and literal.")
    for name in ("human", "literal"):
        given = row.get(name, [])
        if not isinstance(given, list) or not all(isinstance(item, str) and item.strip() for item in given):
            raise UserMistake(f"{where}: {name} must be a list of texts.")
    if not row.get("human") and not (isinstance(row.get("reference"), str) and row["reference"].strip()):
        raise UserMistake(f"{where}: there is neither a reference nor a human rendering.")
    try:
        source = check_question(row["source"], field="source")
    except UserMistake as error:
        raise UserMistake(f"{where}: {error}") from None
    return Problem(number, source, _right(row)[0], row)


def _right(row: Mapping[str, Any]) -> list[str]:
    return list(row.get("human") or [row["reference"]])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
