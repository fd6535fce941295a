"""What the rows amount to: a line for each combination and language, and the statistics between and below them.

Seeds repeat problems; they add none. An accuracy is therefore the mean over problems of the mean over seeds, and
its interval is that of so many problems. Every pair is compared on the problems that both have.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marco.evaluation import metrics
from marco.evaluation.plan import Combination
from marco.evaluation.records import Record, Row
from marco.evaluation.replay import Outcome, outcome, values, within
from marco.evaluation.tasks import SOLVED, STANDARD, Problem, Strategy, Task

AT = (1, 2, 4, 8, 16, 32, 64, 128)

JUDGES = ("mean", "lowest-window", "tail", "top5-certainty", "mean-logprob", "tokens", "agreement", "hybrid")
"""What is compared with correctness. `tokens`: fewer counts as more confident."""

ALL = "all"
"""In place of a language: all of a task's languages pooled."""


@dataclass(frozen=True)
class Line:
    """A combination in one language, with what it said."""

    task: str
    lang: str
    combination: Combination
    rows: Sequence[Row]
    outcomes: Sequence[Outcome]
    """One a row, in the same order."""

    @property
    def scores(self) -> dict[str, float]:
        """Mean score over seeds, by problem."""
        return {problem: mean([o.score for o in found]) for problem, found in self.by_problem().items()}

    def by_problem(self) -> dict[str, list[Outcome]]:
        found: dict[str, list[Outcome]] = defaultdict(list)
        for item in sorted(
            self.outcomes, key=lambda o: (int(o.problem) if o.problem.isdigit() else 0, o.problem, o.seed)
        ):
            found[item.problem].append(item)
        return dict(found)


def strategies_of(tasks: Iterable[Task] = ()) -> dict[str, Strategy]:
    """What is known of strategies by name; a report needs no task at hand."""
    known = dict(STANDARD)
    for task in tasks:
        known.update(task.strategies)
    return known


def lines(record: Record, *, budget: int | None = None) -> list[Line]:
    """Every combination of the record in every language that has rows; at its own budget, or at a smaller one."""
    found = []
    for task, lang in record.languages:
        for combination in record.combinations:
            rows = [row for row in record.rows_of(combination.generation, lang) if row["task"] == task]
            if rows:
                found.append(line_of(task, lang, combination, rows, budget=budget))
    return found


def line_of(task: str, lang: str, combination: Combination, rows: Sequence[Row], *, budget: int | None = None) -> Line:
    chosen = [
        outcome(
            row,
            combination.select,
            budget=budget or combination.budget,
            # What steered is in the row; a reward that only judges is not.
            reward=None if row["options"]["search"]["strategy"] == "mcts" else combination.reward,
            stop_when_sure=combination.stop_when_sure,
        )
        for row in rows
    ]
    return Line(task, lang, combination, rows, chosen)


def summarise(record: Record, tasks: Sequence[Task] = ()) -> list[dict[str, Any]]:
    """`summary.json`: an object for each combination and language.

    `tasks` add measures of their own; their problems are rebuilt from the rows where need be.
    """
    by_name = {(task.name, task.lang): task for task in tasks}
    return [_object(line, by_name.get((line.task, line.lang))) for line in lines(record)]


def _object(line: Line, task: Task | None) -> dict[str, Any]:
    combination, outcomes, rows = line.combination, line.outcomes, line.rows
    accuracy, low, high = interval(line)
    rule, at = solved_at(line)
    found: dict[str, Any] = {
        "task": line.task,
        "lang": line.lang,
        "model": rows[0]["model"],
        "strategy": combination.strategy,
        "action": combination.action,
        "reward": combination.reward,
        "select": combination.select,
        "reflection": combination.reflection,
        "budget": combination.budget,
        "problems": len(line.scores),
        "seeds": len({row["seed"] for row in rows}),
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "test_at": at,
        "test_at_rule": rule,
        "tokens_per_problem": mean([o.tokens for o in outcomes]),
        "prefilled_per_problem": mean([o.prefilled for o in outcomes]),
        "seconds_per_problem": seconds(line),
        "rollouts_per_problem": mean([o.rollouts for o in outcomes]),
        "written_per_problem": mean([row["tokens"] for row in rows]),
        "peak_memory_bytes": max(row["peak_memory_bytes"] for row in rows),
        "degenerate": degenerate_share(line),
        "stop_when_sure": combination.stop_when_sure,
        "settings": dict(combination.settings),
        "upper_bound": combination.reward == "outcome",
        "model_hash": rows[0]["model_hash"],
        "engine": rows[0]["engine"],
        "device": rows[0]["device"],
        "label": combination.label,
    }
    if task is not None:
        found.update(task.measures(_chosen(line, task)))
    return found


def _chosen(line: Line, task: Task) -> list[tuple[Problem, list[str | None]]]:
    problems = {problem.id: problem for problem in task.load()}
    return [
        (problems[name], [item.answer for item in found])
        for name, found in line.by_problem().items()
        if name in problems
    ]


def interval(line: Line) -> tuple[float, float, float]:
    """(mean, low, high), 95%. Wilson where every answer is right or wrong; a bootstrap for graded scores."""
    scores = list(line.scores.values())
    if all(item.score in (0.0, 1.0) for item in line.outcomes):
        return (mean(scores), *metrics.wilson(math.fsum(scores), len(scores)))
    return (mean(scores), *metrics.bootstrap(scores))


def solved_at(line: Line) -> tuple[str, dict[str, float]]:
    """How it was reckoned, and by k the share of problems solved at least once in k rollouts within the budget.

    `unbiased`: of independent rollouts any k stand for the first k. `first`: the first k of a search.
    """
    exchangeable = line.combination.strategy in ("self-consistency", "best-of-n") or all(
        row["options"]["search"]["strategy"] == "self-consistency" for row in line.rows
    )
    most = max((o.rollouts for o in line.outcomes), default=0)
    found = {}
    for k in AT:
        if k > max(1, most):
            break
        by_problem = []
        for items in line.by_problem().values():
            solved = [[score >= SOLVED for score in item.scores] for item in items]
            if exchangeable:
                by_problem.append(mean([metrics.pass_at(len(s), sum(s), k) for s in solved]))
            else:
                by_problem.append(mean([metrics.first_at(s, k) for s in solved]))
        found[str(k)] = mean(by_problem)
    return ("unbiased" if exchangeable else "first"), found


def degenerate_share(line: Line) -> float:
    """Share of the compared rollouts that loop, were cut off or gave no answer."""
    items = [item for row in line.rows for item in within(row, line.combination.budget).rollouts]
    return sum(item["degenerate"] is not None for item in items) / len(items) if items else 0.0


# -- statistics ------------------------------------------------------------------------------------------------------


def statistics(record: Record, tasks: Sequence[Task] = ()) -> dict[str, Any]:
    """`statistics.json`: `pairs`, `marks`, `confidence`, `margins`, `reflection`, `agreement`.

    `tasks` are those whose `marks` are compared.
    """
    found = lines(record)
    by_name = {(task.name, task.lang): task for task in tasks}
    pooled = [*found, *_pooled(found)]
    return {
        "pairs": [pair for group in _groups(pooled).values() for pair in pairs(group)],
        "marks": [
            mark
            for (name, lang, _), group in _groups(found).items()
            if (name, lang) in by_name
            for one, other in itertools.combinations(group, 2)
            for mark in compare_marks(one, other, by_name[name, lang])
        ],
        "confidence": confidence(record),
        "margins": [margin for line in pooled if (margin := _margin(line)) is not None],
        "reflection": reflections(record),
        "agreement": [item for line in found if (item := _agreement(line)) is not None],
    }


def _pooled(found: Sequence[Line]) -> list[Line]:
    """The languages of a task as one, for combinations that have several. Problems keep their language's name."""
    from dataclasses import replace

    groups: dict[tuple[str, Combination], list[Line]] = defaultdict(list)
    for line in found:
        groups[line.task, line.combination].append(line)
    return [
        Line(
            task,
            ALL,
            combination,
            [row for line in group for row in line.rows],
            [replace(o, problem=f"{line.lang}:{o.problem}") for line in group for o in line.outcomes],
        )
        for (task, combination), group in groups.items()
        if len(group) > 1
    ]


def _groups(found: Sequence[Line]) -> dict[tuple[str, str, int], list[Line]]:
    """Lines that may be compared: same problems, same budget."""
    groups: dict[tuple[str, str, int], list[Line]] = defaultdict(list)
    for line in found:
        groups[line.task, line.lang, line.combination.budget].append(line)
    return groups


def pairs(group: Sequence[Line]) -> list[dict[str, Any]]:
    """Each two of a group, on the (problem, seed) pairs that both have; one greedy rollout stands for every seed."""
    return [pair for one, other in itertools.combinations(group, 2) if (pair := compare(one, other)) is not None]


def compare(one: Line, other: Line) -> dict[str, Any] | None:
    """McNemar over (problem, seed), and the difference over problems; None where they have none in common."""
    first, second = _by_seed(one), _by_seed(other)
    seeds = sorted({s for _, s in first} | {s for _, s in second})
    only_first = only_second = both = neither = 0
    differences: dict[str, list[float]] = defaultdict(list)
    for problem in dict.fromkeys(p for p, _ in first):
        for seed in seeds:
            a = _at_seed(one, first, problem, seed)
            b = _at_seed(other, second, problem, seed)
            if a is None or b is None:
                continue
            differences[problem].append(a.score - b.score)
            only_first += a.solved and not b.solved
            only_second += b.solved and not a.solved
            both += a.solved and b.solved
            neither += not a.solved and not b.solved
    if not differences:
        return None
    by_problem = [mean(items) for items in differences.values()]
    low, high = metrics.bootstrap(by_problem)
    return {
        "task": one.task,
        "lang": one.lang,
        "budget": one.combination.budget,
        "first": one.combination.label,
        "second": other.combination.label,
        "problems": len(differences),
        "both": both,
        "only_first": only_first,
        "only_second": only_second,
        "neither": neither,
        "mcnemar_p": metrics.mcnemar(only_first, only_second),
        "difference": mean(by_problem),
        "low": low,
        "high": high,
        "sign_flip_p": metrics.sign_flip(by_problem),
    }


def compare_marks(one: Line, other: Line, task: Task) -> list[dict[str, Any]]:
    """McNemar over the problems that both have, for each of the task's marks; of several seeds the first counts."""
    first, second = ({problem.id: (problem, answers[0]) for problem, answers in _chosen(x, task)} for x in (one, other))
    counts: dict[str, Counter[tuple[bool, bool]]] = defaultdict(Counter)
    for name in first.keys() & second.keys():
        problem, answer = first[name]
        theirs = task.marks(second[name][1], problem)
        for mark, holds in task.marks(answer, problem).items():
            counts[mark][holds, theirs[mark]] += 1
    return [
        {
            "task": one.task,
            "lang": one.lang,
            "budget": one.combination.budget,
            "first": one.combination.label,
            "second": other.combination.label,
            "mark": mark,
            "problems": count.total(),
            "both": count[True, True],
            "only_first": count[True, False],
            "only_second": count[False, True],
            "neither": count[False, False],
            "mcnemar_p": metrics.mcnemar(count[True, False], count[False, True]),
        }
        for mark, count in sorted(counts.items())
    ]


def _by_seed(line: Line) -> dict[tuple[str, int], Outcome]:
    return {(item.problem, item.seed): item for item in line.outcomes}


def _at_seed(line: Line, found: Mapping[tuple[str, int], Outcome], problem: str, seed: int) -> Outcome | None:
    single = line.combination.select is None
    return found.get((problem, 0 if single else seed))


def confidence(record: Record) -> list[dict[str, Any]]:
    """For each generation and language: how each statistic of a rollout goes with its being right."""
    found = []
    budgets = {c.generation: c.budget for c in record.combinations}
    names = generation_labels(record)
    languages = dict.fromkeys((row["generation"], row["task"], row["lang"]) for row in record.rows)
    for generation, task, lang in languages:
        if generation not in budgets:
            continue
        rows = [row for row in record.rows_of(generation, lang) if row["task"] == task]
        for judge in JUDGES:
            measured = _judge(rows, judge, budgets[generation])
            if measured is not None:
                found.append(
                    {"task": task, "lang": lang, "generation": names[generation], "statistic": judge, **measured}
                )
    return found


def _judge(rows: Sequence[Row], judge: str, budget: int) -> dict[str, Any] | None:
    groups = [judged(row, judge, budget) for row in rows]
    scores = [score for group, _ in groups for score in group]
    labels = [label for _, group in groups for label in group]
    if not scores:
        return None
    within_problem, problems = metrics.auroc_within(groups)
    probabilities: list[float] | None = scores
    if judge == "mean-logprob":
        probabilities = [math.exp(min(0.0, score)) for score in scores]
    elif judge == "tokens":
        probabilities = None
    return {
        "rollouts": len(scores),
        "right": sum(labels) / len(labels),
        "auroc": metrics.auroc(scores, labels),
        "auroc_within": within_problem,
        "problems_within": problems,
        "ece": metrics.ece(probabilities, labels) if probabilities is not None else None,
        "spearman": metrics.spearman(scores, [float(label) for label in labels]),
    }


def judged(row: Row, judge: str, budget: int | None) -> tuple[list[float], list[bool]]:
    """(what the judge says, whether it is right) of the rollouts within the budget of which the judge can tell."""
    items = within(row, budget).rollouts
    if judge in ("agreement", "hybrid"):
        said: Sequence[float | None] = values(items, judge)
    elif judge == "tokens":
        said = [-float(item["tokens"]) for item in items]
    else:
        said = [item["statistics"].get(judge) for item in items]
    both = [(value, item["score"] >= SOLVED) for value, item in zip(said, items, strict=True) if value is not None]
    return [value for value, _ in both], [label for _, label in both]


def _margin(line: Line) -> dict[str, Any] | None:
    """The margin of the vote as a confidence in the chosen answer."""
    if line.combination.select is None:
        return None
    margins = [item.margin for item in line.outcomes]
    labels = [item.solved for item in line.outcomes]
    return {
        "task": line.task,
        "lang": line.lang,
        "label": line.combination.label,
        "answers": len(labels),
        "auroc": metrics.auroc(margins, labels),
        "ece": metrics.ece(margins, labels),
        "spearman": metrics.spearman(margins, [float(label) for label in labels]),
    }


def reflections(record: Record) -> list[dict[str, Any]]:
    """First failures that a reflection repaired and first successes that it spoiled, by generation and language."""
    found = []
    names = generation_labels(record)
    for generation, task, lang in dict.fromkeys((row["generation"], row["task"], row["lang"]) for row in record.rows):
        counts = {"failures": 0, "repaired": 0, "successes": 0, "spoiled": 0, "changed": 0}
        for row in record.rows_of(generation, lang):
            if row["task"] != task:
                continue
            by_id = {item["rollout"]: item for item in row["rollouts"]}
            for item in row["rollouts"]:
                first = by_id.get(item["origin"])
                if first is None:
                    continue
                was, now = first["score"] >= SOLVED, item["score"] >= SOLVED
                counts["failures"] += not was
                counts["repaired"] += now and not was
                counts["successes"] += was
                counts["spoiled"] += was and not now
                counts["changed"] += first["key"] != item["key"]
        total = counts["failures"] + counts["successes"]
        if not total:
            continue
        repaired = metrics.wilson(counts["repaired"], counts["failures"])
        spoiled = metrics.wilson(counts["spoiled"], counts["successes"])
        found.append(
            {
                "task": task,
                "lang": lang,
                "generation": names.get(generation, generation),
                "reflections": total,
                **counts,
                "repaired_share": counts["repaired"] / counts["failures"] if counts["failures"] else None,
                "repaired_low": repaired[0],
                "repaired_high": repaired[1],
                "spoiled_share": counts["spoiled"] / counts["successes"] if counts["successes"] else None,
                "spoiled_low": spoiled[0],
                "spoiled_high": spoiled[1],
            }
        )
    return found


def _agreement(line: Line) -> dict[str, Any] | None:
    """Do seeds agree? None with a single one."""
    keys = {problem: [item.key for item in items] for problem, items in line.by_problem().items()}
    share = metrics.agreement(keys)
    if share is None:
        return None
    by_seed: dict[int, list[float]] = defaultdict(list)
    for item in line.outcomes:
        by_seed[item.seed].append(item.score)
    return {
        "task": line.task,
        "lang": line.lang,
        "label": line.combination.label,
        "agreement": share,
        "accuracy_by_seed": {str(seed): mean(scores) for seed, scores in sorted(by_seed.items())},
    }


def generation_labels(record: Record) -> dict[str, str]:
    """A name for each generation: its first combination's, without what does not shape it."""
    from dataclasses import replace

    names: dict[str, str] = {}
    for combination in record.combinations:
        steering = combination.reward if combination.strategy != "best-of-n" else None
        plain = replace(combination, select=None, stop_when_sure=None, reward=steering)
        if plain.strategy == "best-of-n":
            plain = replace(plain, strategy="self-consistency")
        names.setdefault(combination.generation, plain.label)
    return names


# -- replay ----------------------------------------------------------------------------------------------------------


def replay(
    record: Record,
    *,
    selects: Sequence[str],
    rewards: Sequence[str],
    budget: int | None = None,
    stop_when_sure: float | None = None,
) -> list[dict[str, Any]]:
    """`replay.json`: every selection, with every reward as its judge, on every generation with more than one rollout.

    `best` ranks by the reward. `weighted` weighs by it (a search itself always weighs by the paper's mean). The other
    selections look at no reward and appear once, with reward None.
    """
    names = generation_labels(record)
    steering = {c.generation: c for c in record.combinations if c.select is not None}
    found = []
    for generation, combination in steering.items():
        for task, lang in record.languages:
            rows = [row for row in record.rows_of(generation, lang) if row["task"] == task]
            if not rows:
                continue
            limit = min(budget or combination.budget, combination.budget)
            for select in selects:
                for reward in rewards if select in ("best", "weighted") else (None,):
                    outcomes = [
                        outcome(
                            row,
                            select,
                            budget=limit,
                            reward=reward,
                            weigh=reward if select == "weighted" else None,
                            stop_when_sure=stop_when_sure,
                        )
                        for row in rows
                    ]
                    line = Line(task, lang, combination, rows, outcomes)
                    accuracy, low, high = interval(line)
                    found.append(
                        {
                            "task": task,
                            "lang": lang,
                            "model": rows[0]["model"],
                            "generation": names[generation],
                            "steered_by": rows[0]["reward"] if combination.strategy == "mcts" else None,
                            "select": select,
                            "reward": reward,
                            "replayed": True,
                            "budget": limit,
                            "stop_when_sure": stop_when_sure,
                            "problems": len(line.scores),
                            "seeds": len({row["seed"] for row in rows}),
                            "accuracy": accuracy,
                            "low": low,
                            "high": high,
                            "at_least_once": mean([float(any(s >= SOLVED for s in o.scores)) for o in outcomes]),
                            "tokens_per_problem": mean([o.tokens for o in outcomes]),
                            "upper_bound": reward == "outcome",
                        }
                    )
    return found


def seconds(line: Line) -> float | None:
    """A problem's mean; None where any rollout came from another record."""
    known = [outcome.seconds for outcome in line.outcomes if outcome.seconds is not None]
    return mean(known) if len(known) == len(line.outcomes) else None


def mean(numbers: Sequence[float]) -> float:
    """0 for nothing."""
    return math.fsum(numbers) / len(numbers) if numbers else 0.0
