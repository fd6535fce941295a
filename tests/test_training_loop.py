"""The measured loop: its summary says what the evaluations on record say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from marco.engines.scripted import ScriptedEngine
from marco.evaluation import commands, plan, records, runner, tasks
from marco.reflection import SENTENCE

PATH = Path(__file__).resolve().parent.parent / "benchmarks" / "sft_loop.py"
SPEC = importlib.util.spec_from_file_location("sft_loop", PATH)
loop = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(loop)

RIGHT = {"How many are one and one?": "2", "How many are two and two?": "4"}


def think_again(prefix: str, seed: int) -> str:
    """In form; wrong at first, and right after a reflection on the first question alone."""
    question = next(question for question in RIGHT if question in prefix)
    if SENTENCE in prefix:
        answer = "2" if question.endswith("one?") else "7"
        return f"It is {answer}.\n</Thought>\n<Output>\n{answer}\n</Output>"
    opening = "" if prefix.rpartition("assistant: ")[2] else "<Thought>\n"
    return f"{opening}Way {seed}: it is 7.\n</Thought>\n<Output>\n7\n</Output>"


def never_in_form(prefix: str, seed: int) -> str:
    return f"The answer is {next(RIGHT[question] for question in RIGHT if question in prefix)}."


def evaluate(folder: Path, script) -> None:
    folder.mkdir(parents=True)
    questions = folder.parent / "q.tsv"
    questions.write_text("".join(f"{question}\t{answer}\n" for question, answer in RIGHT.items()))
    task = tasks.open_task("mgsm", "en", questions)
    combinations, generations = plan.expand(
        task, plan.Settings(budget=400), strategies=["cot", "mcts"], actions=(), rewards=(), selects=(),
        reflections=["always"],
    )  # fmt: skip
    engine = ScriptedEngine(script)
    runner.run(engine, runner.jobs([(task, task.load(), generations)], 1), folder, workers=1, keep_runs=True)
    engine.close()
    records.add_combinations(folder, combinations)
    commands.write_summary(folder, [task])


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("loop")
    for name, script in (("base", never_in_form), ("demo", think_again), ("own", think_again)):
        evaluate(out / f"eval-{name}", script)
        (out / f"run-{name}").mkdir()
        (out / f"run-{name}" / "result.json").write_text("{}")
    loop.write_summary(out)
    return out


def test_accuracy_and_form_are_told_for_each_model_and_strategy(measured):
    found = json.loads((measured / "summary.json").read_text())["evaluations"]
    by_strategy = {name: {row["strategy"]: row for row in rows} for name, rows in found.items()}
    assert by_strategy["base"]["cot"]["accuracy"] == 1
    assert by_strategy["base"]["mcts"]["well_formed"] == 0
    assert by_strategy["demo"]["cot"]["accuracy"] == 0
    assert by_strategy["demo"]["cot"]["well_formed"] == by_strategy["demo"]["mcts"]["well_formed"] == 1
    for rows in found.values():
        for row in rows:
            assert row["problems"] == 2
            for share in ("", "well_formed_"):
                low, high = row[f"{share}low"], row[f"{share}high"]
                assert low - 1e-9 <= row[share.rstrip("_") or "accuracy"] <= high + 1e-9
                assert low < high


def test_reflections_that_repaired_are_told_with_how_many_there_were(measured):
    found = json.loads((measured / "summary.json").read_text())["evaluations"]
    mcts = next(row for row in found["own"] if row["strategy"] == "mcts")
    cot = next(row for row in found["own"] if row["strategy"] == "cot")
    assert cot["reflections"] == []
    [told] = mcts["reflections"]
    assert 0 < told["repaired"] < told["failures"]
    line = next(line for line in (measured / "summary.md").read_text().splitlines() if line.startswith("| own | mcts"))
    assert f"{told['repaired']} of {told['failures']} (" in line


def test_each_tuned_model_is_compared_with_the_base_problem_by_problem(measured):
    found = json.loads((measured / "summary.json").read_text())["evaluations"]
    assert all("against_base" not in row for row in found["base"])
    for row in found["demo"]:
        pair = row["against_base"]
        assert pair["only_first"] == 0
        assert pair["only_second"] + pair["both"] == 2
        assert pair["difference"] == row["accuracy"] - 1
    assert "+0 −2" in next(
        line for line in (measured / "summary.md").read_text().splitlines() if line.startswith("| demo | cot")
    )


def test_the_loop_measures_all_three_alike(monkeypatch, tmp_path):
    """Same problems, budget and strategies, whatever the model; what is learnt from is not measured on."""
    said: list[list[str]] = []
    monkeypatch.setattr(loop, "marco", lambda out, *arguments: said.append([str(part) for part in arguments]))
    monkeypatch.setattr(loop, "write_summary", lambda out: None)
    loop.run(loop.parse(["--demo", "d.json", "--questions", "q.tsv", "--out", str(tmp_path), "--problems", "9"]))
    evaluations = [line for line in said if line[0] == "evaluate"]
    assert len(evaluations) == 3

    def alike(line: list[str]) -> list[str]:
        without = line[: line.index("--out")]
        return [part for part in without if part != "--adapter" and not part.endswith("adapter")]

    assert alike(evaluations[0]) == alike(evaluations[1]) == alike(evaluations[2])
    assert ["--adapter" in line for line in evaluations] == [False, True, True]
    made = next(line for line in said if line[1] == "synthesize")
    assert made[made.index("--skip") + 1] == evaluations[0][evaluations[0].index("--limit") + 1] == "9"
