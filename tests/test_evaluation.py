"""The harness, on an engine whose every answer is written down here: what it reports is then known exactly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from marco.config import SELECTIONS, options
from marco.engines.base import Around, Deliver, Engine, Request
from marco.engines.scripted import Fail, ScriptedEngine
from marco.errors import EngineError, MarcoError, UserMistake
from marco.evaluation import commands, plan, records, runner, summary, tasks
from marco.evaluation.replay import outcome, within
from marco.events import AnswerChosen
from marco.search import derive_seed
from marco.solver import Solver
from marco.translation.stream import defaults

TOKENS = 50
"""Every scripted rollout has so many, its end token included."""

WORK = {derive_seed(seed, work): (seed, work) for seed in range(4) for work in range(1, 100)}

SAID = {
    # question: (right answer, what rollouts 1, 2, 3 ... say)
    "How many are one and one?": ("2", ["2", "2", "3", "2"]),
    "How many are two and two?": ("4", ["5", "4", "5", "4"]),
    "How many are three and three?": ("6", ["7", "7", "7", "6"]),
    "How many are four and four?": ("8", ["9", "9", "9", "9"]),
}
SURE = {"2": 0.9, "3": 0.6, "5": 0.8, "4": 0.7, "7": 0.6, "6": 0.95, "9": 0.5}


def say(answer: str, tokens: int = TOKENS) -> str:
    text = f"<Thought>\n{{}}\n</Thought>\n<Output>{answer}</Output>"
    return text.format("x" * (tokens - 1 - len(text.format(""))))


def script(prefix: str, seed: int) -> str:
    question = next(q for q in SAID if q in prefix)
    _, work = WORK[seed]
    answers = SAID[question][1]
    return say(answers[(work - 1) % len(answers)])


def confidence(text: str, seed: int) -> float:
    return SURE[text.split("<Output>")[1][0]]


@pytest.fixture
def engine() -> Any:
    engine = ScriptedEngine(script, slots=4, confidence=confidence)
    yield engine
    engine.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "problems.tsv"
    path.write_text("".join(f"{question}\t{right}\n" for question, (right, _) in SAID.items()), encoding="utf-8")
    return path


def measure(
    engine: Engine,
    data: Path,
    out: Path,
    strategies: Sequence[str],
    *,
    seeds: int = 1,
    task: tasks.Task | None = None,
    workers: int = 3,
    keep_runs: bool = False,
    reuse: Sequence[Path] = (),
    settings: plan.Settings | None = None,
    **axes: Sequence[str],
) -> list[dict[str, Any]]:
    task = task or tasks.open_task("mgsm", "en", data)
    settings = settings or plan.Settings(budget=4 * TOKENS)
    combinations, generations = plan.expand(task, settings, strategies=strategies, **axes)
    with records.locked(out):
        records.add_combinations(out, combinations)
        work = runner.jobs([(task, tasks.load(task), generations)], seeds)
        runner.run(engine, work, out, workers=workers, keep_runs=keep_runs, reuse=reuse)
    return commands.write_summary(out, [task])


def line(found: list[dict[str, Any]], **wanted: object) -> dict[str, Any]:
    matching = [item for item in found if all(item[name] == value for name, value in wanted.items())]
    assert len(matching) == 1, [item["label"] for item in matching]
    return matching[0]


# -- what is reported --------------------------------------------------------------------------------------------------


def test_summary_has_the_accuracy_of_each_strategy_exactly(engine: Any, data: Path, tmp_path: Path) -> None:
    found = measure(engine, data, tmp_path / "out", ["cot", "self-consistency", "best-of-n"])
    # First answers: 2 right, 5 and 7 and 9 wrong.
    assert line(found, strategy="cot")["accuracy"] == 0.25
    # Votes: 2 wins; 4 and 5 tie and 5 is surer; 7 wins; 9 wins.
    assert line(found, strategy="self-consistency")["accuracy"] == 0.25
    # The surest: 2, 5, and this time 6.
    assert line(found, strategy="best-of-n")["accuracy"] == 0.5


def test_summary_has_its_fields_and_wilson_interval(engine: Any, data: Path, tmp_path: Path) -> None:
    found = line(measure(engine, data, tmp_path / "out", ["self-consistency"]), strategy="self-consistency")
    wanted = "task lang model strategy action reward select reflection budget problems seeds accuracy low high test_at"
    wanted += " tokens_per_problem prefilled_per_problem seconds_per_problem peak_memory_bytes"
    assert set(wanted.split()) <= set(found)
    assert (found["task"], found["lang"], found["model"]) == ("mgsm", "en", "scripted")
    assert (found["problems"], found["seeds"], found["budget"]) == (4, 1, 200)
    assert found["low"] == pytest.approx(0.0456, abs=1e-4)
    assert found["high"] == pytest.approx(0.6994, abs=1e-4)
    assert found["tokens_per_problem"] == 4 * TOKENS
    assert found["prefilled_per_problem"] > 0
    assert found["peak_memory_bytes"] > 2**20
    assert json.loads((tmp_path / "out" / "summary.json").read_text())[0] == found


def test_solved_at_least_once_is_reported_beside_accuracy_not_as_it(engine: Any, data: Path, tmp_path: Path) -> None:
    found = line(measure(engine, data, tmp_path / "out", ["self-consistency"]), strategy="self-consistency")
    # Right among four: 3, 2, 1 and 0. Of one: 3/4, 2/4, 1/4, 0. Of two: 1, 5/6, 1/2, 0.
    assert found["test_at_rule"] == "unbiased"
    assert found["test_at"] == pytest.approx({"1": 1.5 / 4, "2": (1 + 5 / 6 + 1 / 2) / 4, "4": 3 / 4})


def test_a_search_is_solved_at_k_by_its_first_k_rollouts(engine: Any, data: Path, tmp_path: Path) -> None:
    found = line(measure(engine, data, tmp_path / "out", ["mcts"], selects=["majority"]), strategy="mcts")
    assert found["test_at_rule"] == "first"
    assert found["test_at"] == {"1": 0.25, "2": 0.5, "4": 0.75}


def test_every_combination_of_a_search_is_a_line(engine: Any, data: Path, tmp_path: Path) -> None:
    found = measure(
        engine,
        data,
        tmp_path / "out",
        ["mcts", "cot"],
        actions=["step", "mini-step-32"],
        rewards=["mean", "agreement"],
        selects=["best", "majority"],
        reflections=["off", "always"],
    )
    assert len(found) == 2 * 2 * 2 * 2 + 1
    assert len({item["label"] for item in found}) == len(found)
    assert line(found, strategy="cot")["action"] is None


def test_seeds_repeat_problems_and_add_none_and_a_greedy_chain_needs_one(
    engine: Any, data: Path, tmp_path: Path
) -> None:
    found = measure(engine, data, tmp_path / "out", ["cot", "self-consistency"], seeds=3)
    sampled = line(found, strategy="self-consistency")
    assert (sampled["problems"], sampled["seeds"]) == (4, 3)
    assert sampled["high"] == pytest.approx(0.6994, abs=1e-4)
    assert line(found, strategy="cot")["seeds"] == 1
    assert sum(row["strategy"] == "cot" for row in records.read_rows(tmp_path / "out")) == 4


# -- what is generated -------------------------------------------------------------------------------------------------


def test_combinations_that_differ_in_selection_only_are_generated_once(engine: Any, data: Path, tmp_path: Path) -> None:
    measure(engine, data, tmp_path / "out", ["self-consistency"])
    once = engine.usage()["requests"]
    found = measure(
        engine,
        data,
        tmp_path / "out",
        ["self-consistency", "best-of-n"],
        selects=["majority", "weighted", "best"],
        rewards=["mean", "tail"],
    )
    assert engine.usage()["requests"] == once
    assert [item["label"] for item in found] == [
        "self-consistency · majority",
        "self-consistency · weighted",
        "best-of-n · mean · best",
        "best-of-n · tail · best",
    ]


def test_a_row_tells_what_was_done_and_what_came_of_it(engine: Any, data: Path, tmp_path: Path) -> None:
    measure(engine, data, tmp_path / "out", ["self-consistency"])
    row = records.read_rows(tmp_path / "out")[0]
    assert row["model_hash"] == "0" * 64
    assert row["options"]["sampling"]["temperature"] == options("marco").sampling.temperature
    assert (row["seed"], row["tokens"]) == (0, 4 * TOKENS)
    assert [item["answer"] for item in row["rollouts"]] == SAID[row["question"]][1]
    assert {"mean", "lowest-window", "tail", "top5-certainty"} <= set(row["rollouts"][0]["statistics"])
    assert row["seconds"] >= row["rollouts"][-1]["at"] > 0


def test_only_rollouts_within_the_budget_are_compared(engine: Any, data: Path, tmp_path: Path) -> None:
    settings = plan.Settings(budget=3 * TOKENS + 10, parallel=4)
    found = line(
        measure(engine, data, tmp_path / "out", ["self-consistency"], settings=settings), strategy="self-consistency"
    )
    assert found["tokens_per_problem"] == 3 * TOKENS
    # Three votes each: 2; 5; 7; 9.
    assert found["accuracy"] == 0.25
    assert found["rollouts_per_problem"] == 3


def test_one_rollout_is_compared_however_small_the_budget(engine: Any, data: Path, tmp_path: Path) -> None:
    found = measure(engine, data, tmp_path / "out", ["self-consistency"], settings=plan.Settings(budget=10))
    assert found[0]["rollouts_per_problem"] == 1
    assert found[0]["tokens_per_problem"] == TOKENS


def test_how_many_rollouts_are_under_way_changes_nothing_where_they_are_independent(data: Path, tmp_path: Path) -> None:
    accuracies = []
    for parallel in (1, 4):
        engine = ScriptedEngine(script, slots=4, confidence=confidence, seconds_per_token=0.0005)
        found = measure(
            engine,
            data,
            tmp_path / f"out{parallel}",
            ["self-consistency"],
            selects=["majority", "weighted"],
            settings=plan.Settings(budget=130, parallel=parallel),
        )
        engine.close()
        accuracies.append([(item["accuracy"], item["tokens_per_problem"], item["test_at"]) for item in found])
    assert accuracies[0] == accuracies[1]


def test_work_that_cannot_fit_the_budget_is_broken_off(data: Path, tmp_path: Path) -> None:
    def lengthy(prefix: str, seed: int) -> str:
        _, work = WORK[seed]
        return say("2", TOKENS if work == 1 else 4000)

    engine = ScriptedEngine(lengthy, slots=1, seconds_per_token=0.0002)
    measure(engine, data, tmp_path / "out", ["self-consistency"], settings=plan.Settings(budget=200, max_tokens=5000))
    for row in records.read_rows(tmp_path / "out"):
        assert row["tokens"] < 4000
        assert [item["rollout"] for item in row["rollouts"]] == [1]
        assert row["stopped_by"] == "tokens"
    engine.close()


def test_failed_rollouts_spend_budget_and_give_no_answer(data: Path, tmp_path: Path) -> None:
    def failing(prefix: str, seed: int) -> str | Fail:
        return Fail("Not this one.") if WORK[seed][1] == 2 else script(prefix, seed)

    engine = ScriptedEngine(failing, slots=2, confidence=confidence)
    measure(engine, data, tmp_path / "out", ["self-consistency"])
    row = records.read_rows(tmp_path / "out")[0]
    assert [item["work"] for item in row["failures"]] == [2]
    assert [item["rollout"] for item in row["rollouts"]] == [1, 3, 4, 5]
    engine.close()


# -- resuming ----------------------------------------------------------------------------------------------------------


class Silent(Around):
    """A model that must not be asked for anything that is on record."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.asked: list[Request] = []

    def submit(self, requests: Sequence[Request], deliver: Deliver) -> None:
        self.asked += requests
        super().submit(requests, deliver)


def test_rollouts_that_another_evaluation_wrote_are_reused_and_count_as_generated(
    engine: Any, data: Path, tmp_path: Path
) -> None:
    few = plan.Settings(budget=3 * TOKENS)
    measure(engine, data, tmp_path / "samples", ["self-consistency", "cot"], settings=few, keep_runs=True)
    settings = plan.Settings(budget=4 * TOKENS, further={"branching": 4, "greedy_first": True})
    anew = measure(engine, data, tmp_path / "anew", ["mcts"], settings=settings)
    watched = Silent(engine)
    found = measure(
        watched, data, tmp_path / "reused", ["mcts"], settings=settings, reuse=[tmp_path / "samples"], keep_runs=True
    )
    # Of four rollouts the greedy one and two samples are on record.
    assert len(watched.asked) == len(SAID)
    assert all(request.sampling.temperature > 0 for request in watched.asked)
    (row, *_) = records.read_rows(tmp_path / "reused")
    assert row["reused"] == 3
    same = ("accuracy", "tokens_per_problem", "rollouts_per_problem", "prefilled_per_problem", "test_at")
    assert [found[0][name] for name in same] == [anew[0][name] for name in same]
    assert anew[0]["seconds_per_problem"] > 0
    assert found[0]["seconds_per_problem"] is None

    again = Silent(engine)
    measure(again, data, tmp_path / "again", ["mcts"], settings=settings, reuse=[tmp_path / "reused"])
    assert again.asked == []


def test_nothing_is_reused_from_a_folder_without_runs(engine: Any, data: Path, tmp_path: Path) -> None:
    measure(engine, data, tmp_path / "samples", ["cot"])
    with pytest.raises(UserMistake, match="--keep-runs"):
        measure(engine, data, tmp_path / "out", ["mcts"], reuse=[tmp_path / "samples"])


def test_a_killed_run_goes_on_where_it_was(engine: Any, data: Path, tmp_path: Path) -> None:
    whole = measure(engine, data, tmp_path / "whole", ["cot", "mcts"], selects=["majority"])
    measure(engine, data, tmp_path / "out", ["cot", "mcts"], selects=["majority"])
    path = tmp_path / "out" / "rows.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:40])
    before = engine.usage()["requests"]
    found = measure(engine, data, tmp_path / "out", ["cot", "mcts"], selects=["majority"])
    made = sum(len(json.loads(text)["rollouts"]) for text in path.read_bytes().splitlines()[5:])
    assert engine.usage()["requests"] - before == made
    assert len(path.read_bytes().splitlines()) == len(lines)
    same = ("label", "accuracy", "test_at", "tokens_per_problem")
    assert [[item[name] for name in same] for item in found] == [[item[name] for name in same] for item in whole]


def test_other_options_add_lines_to_the_same_folder(engine: Any, data: Path, tmp_path: Path) -> None:
    measure(engine, data, tmp_path / "out", ["cot"])
    found = measure(
        engine, data, tmp_path / "out", ["mcts"], settings=plan.Settings(budget=200, further={"branching": 2})
    )
    assert [item["strategy"] for item in found] == ["cot", "mcts"]
    assert found[1]["settings"] == {"branching": 2}


def test_rows_of_another_model_are_refused(engine: Any, data: Path, tmp_path: Path) -> None:
    measure(engine, data, tmp_path / "out", ["cot"])
    path = tmp_path / "out" / "rows.jsonl"
    path.write_text(path.read_text().replace('"model_hash":"000', '"model_hash":"abc'))
    with pytest.raises(UserMistake, match=r"rows of the model scripted .hash abc.*choose another --out"):
        measure(engine, data, tmp_path / "out", ["cot"])


def test_a_damaged_row_names_its_line(engine: Any, data: Path, tmp_path: Path) -> None:
    measure(engine, data, tmp_path / "out", ["cot"])
    path = tmp_path / "out" / "rows.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = lines[1][:50]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserMistake, match=r"rows\.jsonl, line 2"):
        records.read_rows(tmp_path / "out")


def test_two_evaluations_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with (
        records.locked(tmp_path / "out"),
        pytest.raises(UserMistake, match="Another evaluation"),
        records.locked(tmp_path / "out"),
    ):
        pass


def test_an_engine_that_gives_up_ends_the_run_and_is_no_wrong_answer(data: Path, tmp_path: Path) -> None:
    def breaking(prefix: str, seed: int) -> str | Fail:
        return Fail("The machine is on fire.") if "three" in prefix else script(prefix, seed)

    engine = ScriptedEngine(breaking, slots=1, confidence=confidence)
    with pytest.raises(EngineError, match="on fire"):
        measure(engine, data, tmp_path / "out", ["cot"], workers=1)
    assert [row["problem"] for row in records.read_rows(tmp_path / "out")] == ["1", "2"]
    engine.close()


def test_an_interrupted_run_keeps_what_was_done_and_goes_on(engine: Any, data: Path, tmp_path: Path) -> None:
    task = tasks.open_task("mgsm", "en", data)
    combinations, generations = plan.expand(task, plan.Settings(budget=200), strategies=["cot"])
    work = runner.jobs([(task, tasks.load(task), generations)], 1)
    records.add_combinations(tmp_path, combinations)

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(engine, work, tmp_path, workers=1, watch=interrupt)
    assert [row["problem"] for row in records.read_rows(tmp_path)] == ["1", "2"]
    assert runner.run(engine, work, tmp_path, workers=1) == 2
    assert [row["problem"] for row in records.read_rows(tmp_path)] == ["1", "2", "3", "4"]


# -- replay ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("select", SELECTIONS)
@pytest.mark.parametrize("reward", ["mean", "agreement", "hybrid"])
def test_replay_chooses_what_the_search_itself_chose_after_every_rollout(
    engine: Any, data: Path, tmp_path: Path, select: str, reward: str
) -> None:
    settings = plan.Settings(budget=10 * TOKENS, parallel=2, further={"branching": 2})
    axes: dict[str, Sequence[str]] = {
        "actions": ["mini-step-16"],
        "rewards": [reward],
        "reflections": ["always"],
        "selects": [select],
    }
    measure(engine, data, tmp_path / "out", ["mcts"], settings=settings, **axes)
    _, (generation,) = plan.expand(tasks.Mgsm("en", data), settings, strategies=["mcts"], **axes)
    for row in records.read_rows(tmp_path / "out"):
        options = generation.with_seed(0)
        config = {**options.to_dict()["search"], "select": select}
        live = Solver(engine, type(options).from_dict({**options.to_dict(), "search": config})).stream(row["question"])
        chosen = {event.after: event for event in live if isinstance(event, AnswerChosen)}
        assert len(row["rollouts"]) >= 8
        for count, item in enumerate(row["rollouts"], start=1):
            # Failures aside a prefix of so many rollouts is one of so many tokens.
            replayed = outcome(row, select, budget=count * TOKENS)
            event = chosen[item["rollout"]]
            assert replayed.rollouts == count
            assert (replayed.answer, replayed.rollout) == (event.answer, event.rollout)
            assert replayed.margin == pytest.approx(event.confidence)


def test_replay_compares_selections_and_rewards_without_generating(engine: Any, data: Path, tmp_path: Path) -> None:
    measure(engine, data, tmp_path / "out", ["self-consistency"])
    before = engine.usage()["requests"]
    found = summary.replay(
        records.Record.read(tmp_path / "out"), selects=["best", "majority"], rewards=["mean", "agreement", "outcome"]
    )
    assert engine.usage()["requests"] == before
    accuracy = {(item["select"], item["reward"]): item["accuracy"] for item in found}
    assert accuracy == {
        ("best", "mean"): 0.5,
        ("best", "agreement"): 0.25,
        ("best", "outcome"): 0.75,
        ("majority", None): 0.25,
    }
    assert all(item["replayed"] for item in found)
    assert [item["reward"] for item in found if item["upper_bound"]] == ["outcome"]


def test_a_settled_vote_ends_the_comparison_early(engine: Any, data: Path, tmp_path: Path) -> None:
    settings = plan.Settings(budget=4 * TOKENS, stop_when_sure=1.0)
    found = measure(engine, data, tmp_path / "out", ["self-consistency"], settings=settings)
    # 9 is settled after three of four; so is 7; 2 2 3 is not (one more 3 ties); 5 4 5 neither.
    assert found[0]["tokens_per_problem"] == (4 + 4 + 3 + 3) / 4 * TOKENS
    assert found[0]["accuracy"] == 0.25


def test_a_prefix_counts_what_failed_before_it() -> None:
    row = {
        "rollouts": [
            {"rollout": 1, "tokens": 40, "prefilled": 5},
            {"rollout": 3, "tokens": 40, "prefilled": 0},
        ],
        "failures": [{"work": 2, "tokens": 30, "prefilled": 1}],
    }
    assert [item["rollout"] for item in within(row, 110).rollouts] == [1, 3]
    cut = within(row, 109)
    assert ([item["rollout"] for item in cut.rollouts], cut.tokens, cut.prefilled) == ([1], 70, 6)


# -- statistics --------------------------------------------------------------------------------------------------------


def test_pairs_are_compared_problem_by_problem(engine: Any, data: Path, tmp_path: Path) -> None:
    measure(engine, data, tmp_path / "out", ["self-consistency", "best-of-n"])
    (pair,) = json.loads((tmp_path / "out" / "statistics.json").read_text())["pairs"]
    assert (pair["both"], pair["only_first"], pair["only_second"], pair["neither"]) == (1, 0, 1, 2)
    assert pair["difference"] == -0.25
    assert pair["mcnemar_p"] == 1.0


def test_marks_are_compared_problem_by_problem(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(
        '{"source": "画大饼", "human": ["make empty promises"], "literal": ["draw a big flatbread"]}\n'
        '{"source": "守株待兔", "human": ["trust to luck"], "literal": ["wait by a stump"]}\n',
        encoding="utf-8",
    )

    def translator(prefix: str, seed: int) -> str:
        # Asked plainly, it takes the first literally and leaves the second; with examples it does better.
        if "system: You translate" not in prefix:
            return "draw a big flatbread" if "画大饼" in prefix else "等兔子"
        return "make empty promises" if prefix.rpartition("user: ")[2].startswith(("画大饼", "(A")) else "trust to luck"

    task = tasks.open_task("translation", "en", data)
    measure(ScriptedEngine(translator), data, tmp_path / "out", ["direct", "quick"], task=task)
    marks = json.loads((tmp_path / "out" / "statistics.json").read_text())["marks"]
    counted = {item["mark"]: (item["both"], item["only_first"], item["only_second"], item["neither"]) for item in marks}
    assert counted["untranslated"] == (0, 1, 0, 1)
    assert counted["nearer_to_human"][0] == 0 and counted["nearer_to_human"][2] >= 1


def test_confidence_is_compared_with_correctness(engine: Any, data: Path, tmp_path: Path) -> None:
    measure(engine, data, tmp_path / "out", ["self-consistency"])
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    mean = next(item for item in statistics["confidence"] if item["statistic"] == "mean")
    # Right: 0.9 (3), 0.7 (2), 0.95. Wrong: 0.6 (4), 0.8 (2), 0.5 (4). Only 0.7 against 0.8 goes wrong.
    assert mean["auroc"] == pytest.approx(1 - 4 / 60)
    # Within a problem: 1, 0, 1; the last has no right one.
    assert (mean["auroc_within"], mean["problems_within"]) == (pytest.approx(2 / 3), 3)
    assert mean["rollouts"] == 16


def test_reflections_that_repair_and_that_spoil_are_counted(data: Path, tmp_path: Path) -> None:
    def changing(prefix: str, seed: int) -> str:
        reflected = "rethink from scratch" in prefix
        if "one and one" in prefix:
            return say("3" if reflected else "2")
        return say("4" if reflected else "5")

    data.write_text("How many are one and one?\t2\nHow many are two and two?\t4\nHow many are six and six?\t12\n")
    engine = ScriptedEngine(changing, slots=1)
    measure(engine, data, tmp_path / "out", ["mcts"], settings=plan.Settings(budget=100), reflections=["always"])
    (found,) = json.loads((tmp_path / "out" / "statistics.json").read_text())["reflection"]
    assert (found["failures"], found["repaired"], found["successes"], found["spoiled"]) == (2, 1, 1, 1)
    assert found["changed"] == 3
    engine.close()


def test_seeds_that_disagree_are_seen(data: Path, tmp_path: Path) -> None:
    def by_seed(prefix: str, seed: int) -> str:
        run, _ = WORK[seed]
        return say("2" if "one and one" in prefix or run == 0 else "4")

    engine = ScriptedEngine(by_seed, slots=1)
    measure(engine, data, tmp_path / "out", ["self-consistency"], seeds=2)
    (found,) = json.loads((tmp_path / "out" / "statistics.json").read_text())["agreement"]
    assert found["agreement"] == 0.25
    assert found["accuracy_by_seed"] == {"0": 0.25, "1": 0.5}
    engine.close()


def test_languages_are_pooled_for_comparisons(engine: Any, data: Path, tmp_path: Path) -> None:
    for lang in ("en", "zh"):
        task = tasks.open_task("mgsm", lang, data)
        measure(engine, data, tmp_path / "out", ["self-consistency", "best-of-n"], task=task)
    pairs = json.loads((tmp_path / "out" / "statistics.json").read_text())["pairs"]
    assert {pair["lang"]: pair["problems"] for pair in pairs} == {"en": 4, "zh": 4, "all": 8}


# -- tasks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("1 + 1?\t2\n2 + 2?\n", "line 2: a row is question, tab, answer"),
        ("1 + 1?\t2\n\n2 + 2?\tfour\n", "line 3: the answer 'four' is no number"),
        ("1 + 1?\t2\textra\n", "line 1: a row is question, tab, answer; this one has 3 parts"),
        ("1 + 1?\t2\n \t4\n", "line 2"),
        ("\n\n", "is empty"),
        ("", "is empty"),
    ],
)
def test_a_bad_row_names_its_line(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text(content)
    with pytest.raises(UserMistake, match=complaint.replace("+", r"\+").replace("?", r"\?")):
        tasks.Mgsm("en", path).load()


def test_text_that_is_not_utf8_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.tsv"
    path.write_bytes(b"1 + 1?\t2\n\xff\xfe?\t3\n")
    with pytest.raises(UserMistake, match="line 2: this is not UTF-8"):
        tasks.Mgsm("en", path).load()


def test_a_byte_order_mark_windows_line_ends_and_thousands_are_read(tmp_path: Path) -> None:
    path = tmp_path / "good.tsv"
    path.write_bytes("\ufeffHow much?\t1,080\r\n".encode())
    (problem,) = tasks.Mgsm("en", path).load()
    assert (problem.question, problem.reference) == ("How much?", "1,080")
    assert tasks.Mgsm("en", path).score("1080", problem) == 1.0
    assert tasks.Mgsm("en", path).score("108", problem) == 0.0
    assert tasks.Mgsm("en", path).score(None, problem) == 0.0


def test_the_public_set_is_fetched_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import httpx

    asked = []

    def get(address: str, **_: Any) -> httpx.Response:
        asked.append(address)
        text = "".join(f"Wie viele sind {n} und 1?\t{n + 1}\n" for n in range(tasks.MGSM_PROBLEMS))
        return httpx.Response(200, text=text, request=httpx.Request("GET", address))

    monkeypatch.setattr(httpx, "get", get)
    monkeypatch.setenv("MARCO_CACHE", str(tmp_path))
    monkeypatch.delenv("MARCO_OFFLINE", raising=False)
    for _ in range(2):
        assert len(tasks.Mgsm("de").load()) == 250
    assert len(asked) == 1 and "mgsm_de.tsv" in asked[0]


def test_the_public_set_out_of_reach_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import httpx

    def get(address: str, **_: Any) -> httpx.Response:
        raise httpx.ConnectError("no route")

    monkeypatch.setattr(httpx, "get", get)
    monkeypatch.setenv("MARCO_CACHE", str(tmp_path))
    monkeypatch.delenv("MARCO_OFFLINE", raising=False)
    with pytest.raises(UserMistake, match=r"could not be fetched.*--data"):
        tasks.Mgsm("zh").load()
    monkeypatch.setenv("MARCO_OFFLINE", "1")
    with pytest.raises(UserMistake, match=r"stay offline.*--data"):
        tasks.Mgsm("zh").load()
    with pytest.raises(UserMistake, match="lang is 'xx'"):
        tasks.Mgsm("xx")


OWN = """
answer_kind = "number"

def load():
    yield {"question": "How many are one and one?", "answer": 2}
    yield {"question": "How many are four and four?", "answer": 8, "near": "9"}

def score(answer, row):
    return 1.0 if answer == str(row["answer"]) else 0.5 if answer == row.get("near") else 0.0
"""


def test_a_task_of_ones_own_is_a_file_with_load_and_score(engine: Any, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "sums.py"
    path.write_text(OWN)
    task = tasks.open_task(str(path), "en")
    (found,) = measure(engine, data, tmp_path / "out", ["cot"], task=task)
    assert (found["task"], found["problems"], found["accuracy"]) == ("sums", 2, 0.75)
    assert 0.5 <= found["low"] <= 0.75 <= found["high"] <= 1.0


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("def load():\n    return []\n", r"has no function score\(\)"),
        ("import nothing_of_that_name\n", "can't be imported: ModuleNotFoundError"),
        ("def load():\n    return []\ndef score(a, r):\n    return 1\n", "gave no rows"),
        ("def load():\n    return [{'q': 1}]\ndef score(a, r):\n    return 1\n", "row 1 of load.*question"),
        ("def load():\n    raise ValueError('x')\ndef score(a, r):\n    return 1\n", "load.* failed: ValueError: x"),
    ],
)
def test_a_task_file_that_is_wrong_is_told_in_a_sentence(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "own.py"
    path.write_text(content)
    with pytest.raises(UserMistake, match=complaint):
        tasks.open_task(str(path), "en").load()


def test_a_score_outside_its_range_is_refused(engine: Any, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("def load():\n    return [{'question': 'one and one'}]\ndef score(a, r):\n    return 7\n")
    task = tasks.open_task(str(path), "en")
    with pytest.raises(UserMistake, match=r"gave 7.0 on row 1: it must be from 0 to 1"):
        task.score("2", task.load()[0])


def test_ground_truth_never_reaches_a_search(data: Path, tmp_path: Path) -> None:
    prefixes = []

    def listening(prefix: str, seed: int) -> str:
        prefixes.append(prefix)
        return say("1")

    data.write_text("How many are one and one?\t987654\n")
    engine = ScriptedEngine(listening, slots=1)
    measure(engine, data, tmp_path / "out", ["cot", "mcts", "self-consistency"], reflections=["always"])
    assert prefixes and not any("987654" in prefix for prefix in prefixes)
    engine.close()


def test_an_outcome_reward_is_flagged_as_an_upper_bound(engine: Any, data: Path, tmp_path: Path) -> None:
    found = measure(engine, data, tmp_path / "out", ["mcts"], rewards=["mean", "outcome"], selects=["best"])
    assert {item["reward"]: item["upper_bound"] for item in found} == {"mean": False, "outcome": True}
    assert line(found, reward="outcome")["accuracy"] == 0.75


# -- time --------------------------------------------------------------------------------------------------------------


def test_shares_of_time_sum_to_the_time_that_passed() -> None:
    now = [0.0]
    clock = runner.SharedClock(lambda: now[0])
    with clock.running() as first:
        now[0] = 4.0
        with clock.running() as second:
            now[0] = 10.0
            assert (first(), second()) == (7.0, 3.0)
        now[0] = 11.0
        assert first() == 8.0


# -- the command -------------------------------------------------------------------------------------------------------

Invoke = Callable[..., Any]


@pytest.fixture
def invoke(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.setattr("marco.engines.open_engine", lambda config, progress=None: engine)
    monkeypatch.setattr(engine, "close", lambda: None)
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(commands.evaluate)
    app.command()(commands.report)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_json_prints_the_summary_and_nothing_else(invoke: Invoke, data: Path, tmp_path: Path) -> None:
    result = invoke("evaluate", "--data", data, "--strategy", "cot", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0
    (found,) = json.loads(result.stdout)
    assert found["accuracy"] == 0.25
    assert "4 of 4 searches" in result.stderr


def test_limit_and_languages_are_heeded(invoke: Invoke, data: Path, tmp_path: Path) -> None:
    words = ["--lang", "en", "--data", data, "--lang", "zh", "--data", data, "--strategy", "cot", "--limit", 2]
    found = json.loads(invoke("evaluate", *words, "--out", tmp_path / "out", "--json").stdout)
    assert [(item["lang"], item["problems"]) for item in found] == [("en", 2), ("zh", 2)]


def test_run_files_are_kept_on_request(invoke: Invoke, data: Path, tmp_path: Path) -> None:
    from marco.runs import read_run

    invoke("evaluate", "--data", data, "--strategy", "mcts", "--out", tmp_path / "out", "--keep-runs", "--limit", 1)
    (row,) = records.read_rows(tmp_path / "out")
    run = read_run(tmp_path / "out" / "runs" / f"{row['run']}.jsonl")
    assert run.started.question == row["question"]


def test_a_record_can_do_without_questions_and_goes_on_all_the_same(invoke: Invoke, data: Path, tmp_path: Path) -> None:
    words = ["evaluate", "--data", data, "--strategy", "cot", "--without-questions", "--json"]
    full = json.loads(invoke("evaluate", "--data", data, "--strategy", "cot", "--out", tmp_path / "a", "--json").stdout)
    invoke(*words, "--limit", 2, "--out", tmp_path / "b")
    bare = json.loads(invoke(*words, "--out", tmp_path / "b").stdout)
    rows = records.read_rows(tmp_path / "b")
    assert len(rows) == 4
    assert {(row["question"], row["reference"]) for row in rows} == {("", "")}
    assert not any(question in (tmp_path / "b" / "rows.jsonl").read_text() for question in SAID)
    assert [item["accuracy"] for item in bare] == [item["accuracy"] for item in full]
    assert invoke("report", tmp_path / "b").exit_code == 0


def test_replay_writes_its_own_file_and_prints_a_table(invoke: Invoke, data: Path, tmp_path: Path) -> None:
    invoke("evaluate", "--data", data, "--strategy", "self-consistency", "--out", tmp_path / "out", "--budget", 200)
    result = invoke("evaluate", "--replay", tmp_path / "out", "--select", "best", "--reward", "mean")
    assert result.exit_code == 0
    assert "50.0%" in result.stdout
    (found,) = json.loads((tmp_path / "out" / "replay.json").read_text())
    assert (found["select"], found["reward"], found["accuracy"]) == ("best", "mean", 0.5)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--data", "nowhere.tsv"], "There is no data file nowhere.tsv"),
        (["--data", "{empty}"], "is empty"),
        (["--data", "{data}", "--strategy", "magic"], "strategy is 'magic'"),
        (["--data", "{data}", "--reward", "magic"], "reward is 'magic'"),
        (["--data", "{data}", "--strategy", "mcts", "--action", "leap"], "action is 'leap'"),
        (["--data", "{data}", "--budget", "0"], "tokens is 0"),
        (["--data", "{data}", "--set", "magic=1"], "set is 'magic=1'"),
        (["--data", "{data}", "--data", "{data}"], "2 data files for 1 languages"),
        (["--data", "{data}", "--stop-when-sure", "0.2"], "stop_when_sure is 0.2"),
        (["--task", "magic"], "task is 'magic'"),
        (["--task", "nowhere.py"], "There is no task file nowhere.py"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path, words: list[str], complaint: str
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("marco.engines.open_engine", never)
    empty = tmp_path / "empty.tsv"
    empty.touch()
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(commands.evaluate)
    given = [word.format(data=data, empty=empty) for word in words]
    result = CliRunner().invoke(app, [*given, "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, MarcoError), result.exception
    assert complaint in str(result.exception)


def test_a_folder_is_asked_for(data: Path) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(commands.evaluate)
    result = CliRunner().invoke(app, ["--data", str(data)])
    assert isinstance(result.exception, UserMistake) and "--out" in str(result.exception)


@pytest.mark.parametrize("strategy", ["careful", "careful-no-dictionary"])
def test_what_is_measured_as_careful_is_what_people_get(strategy: str, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"source": "你好", "reference": "Hello"}', encoding="utf-8")
    task = tasks.open_task("translation", "en", data)
    _, (measured,) = plan.expand(task, plan.Settings(budget=400), strategies=[strategy])
    usual = defaults("careful")
    assert measured.options.sampling == usual.sampling
    # Chosen by replay, and one after the other, so that budgets are met.
    apart = {"select": usual.search.select, "parallel": usual.search.parallel}
    assert dataclasses.replace(measured.options.search, **apart) == usual.search
