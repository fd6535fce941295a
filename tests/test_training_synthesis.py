"""Traces made by search: which are kept, in what form, and that a broken run goes on."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path

import pytest

import marco.engines
from marco import options
from marco.engines.scripted import Fail, ScriptedEngine
from marco.errors import EngineError, InvalidOption, UserMistake
from marco.evaluation.records import read_rows
from marco.evaluation.tasks import Problem, open_task
from marco.reflection import SENTENCE
from marco.training import data, synthesis
from marco.training.rules import Dropped, Rules, sift, well_formed
from marco.training.sources import read, source_of

QUESTIONS = {"How many are one and one?": "2", "How many are two and two?": "4", "How many are three and three?": "6"}


def say(answer: str, thought: str = "I count them one by one, and what I get is") -> str:
    return f"<Thought>\n{thought} {answer}.\n</Thought>\n<Output>\n{answer}\n</Output>"


def mostly_right(prefix: str, seed: int) -> str:
    right = next(answer for question, answer in QUESTIONS.items() if question in prefix)
    return say(right if seed % 3 else "7", thought=f"On my way number {seed % 1000} I get")


def second_thoughts(prefix: str, seed: int) -> str:
    """Wrong at first; right once it was told to think again."""
    right = next(answer for question, answer in QUESTIONS.items() if question in prefix)
    if SENTENCE in prefix:
        return f"Now I see that it is {right}.\n</Thought>\n<Output>\n{right}\n</Output>"
    return say("7", thought=f"On my way number {seed % 1000} I get")


@pytest.fixture
def questions(tmp_path) -> Path:
    path = tmp_path / "q.tsv"
    path.write_text("".join(f"{question}\t{answer}\n" for question, answer in QUESTIONS.items()))
    return path


@pytest.fixture
def make(tmp_path, questions):
    """Synthesise into a folder with a script; returns (searched, rows by question, traces)."""

    def call(script, *, keep=None, limit=3, rollouts=6, folder="out", stop=None, watch=None, workers=1):
        task = open_task("mgsm", "en", questions)
        engine = ScriptedEngine(script, slots=workers)
        (tmp_path / folder).mkdir(exist_ok=True)
        try:
            searched = synthesis.synthesise(
                engine,
                task,
                task.load()[:limit],
                options("marco", rollouts=rollouts, parallel=1),
                keep or synthesis.Keep(),
                tmp_path / folder,
                workers=workers,
                stop=stop,
                **({"watch": watch} if watch else {}),
            )
        finally:
            engine.close()
        synthesis.export(tmp_path / folder)
        rows = {row["question"]: row for row in read_rows(tmp_path / folder)}
        return searched, rows, json.loads((tmp_path / folder / "traces.json").read_text())

    return call


def test_traces_with_the_right_answer_are_kept_in_the_released_form(make):
    _, rows, traces = make(mostly_right)
    assert {trace["instruction"] for trace in traces} == set(QUESTIONS)
    for trace in traces:
        assert well_formed(trace["response"])
        assert trace["response"].endswith(f"<Output>\n{QUESTIONS[trace['instruction']]}\n</Output>")
        assert trace["reference"] == QUESTIONS[trace["instruction"]]
    for row in rows.values():
        assert 0 < row["right"] <= row["rollouts"] == 6


def test_a_question_without_a_right_trace_leaves_none_and_is_on_record(make):
    _, rows, traces = make(lambda prefix, seed: say("7"))
    assert traces == []
    assert [row["traces"] for row in rows.values()] == [[], [], []]


def test_at_most_so_many_of_a_question_are_kept_and_no_text_twice(make):
    _, rows, _ = make(lambda p, s: mostly_right(p, s), keep=synthesis.Keep(each=1))
    assert {len(row["traces"]) for row in rows.values()} == {1}
    right = "How many are one and one?"
    _, rows, _ = make(lambda p, s: say("2"), keep=synthesis.Keep(each=5), limit=1, folder="same")
    assert len(rows[right]["traces"]) == 1


def test_the_most_confident_are_kept(make, tmp_path, questions):
    task = open_task("mgsm", "en", questions)
    engine = ScriptedEngine(
        lambda p, s: say("2", f"Way {s % 1000}:"), slots=1, confidence=lambda text, seed: 0.3 + seed % 7 / 10
    )
    (tmp_path / "c").mkdir()
    synthesis.synthesise(
        engine, task, task.load()[:1], options("marco", rollouts=6, parallel=1), synthesis.Keep(each=6), tmp_path / "c"
    )
    engine.close()
    values = [trace["value"] for trace in read_rows(tmp_path / "c")[0]["traces"]]
    assert values == sorted(values, reverse=True)
    assert len(values) > 1


@pytest.mark.parametrize(
    "said",
    [
        "It is 2.",
        "<Output>\n2\n</Output>",
        "<Thought>\n" + "It is two. " * 80 + "\n</Thought>\n<Output>\n2\n</Output>",
    ],
    ids=["no tags", "no thought", "a loop"],
)
def test_a_right_answer_in_a_bad_text_is_no_trace(make, said):
    _, _, traces = make(lambda prefix, seed: said, limit=1)
    assert traces == []


def test_loose_tags_are_brought_into_form(make):
    _, _, traces = make(lambda prefix, seed: "<thought>It is 2, I think.</thought>\nThe answer is 2.", limit=1)
    assert traces[0]["response"] == "<Thought>\nIt is 2, I think.\n</Thought>\n<Output>\nThe answer is 2.\n</Output>"


def test_what_reflection_repaired_is_kept_with_the_reflection(make):
    _, rows, traces = make(second_thoughts, keep=synthesis.Keep(repaired=True))
    assert len(traces) >= 3
    for trace in traces:
        wrong, reflected, right = trace["response"].partition(SENTENCE)
        assert reflected
        assert "I get 7." in wrong and "Now I see" in right
        assert well_formed(trace["response"])
    assert all(trace["repaired"] for row in rows.values() for trace in row["traces"])


def test_without_asking_nothing_is_reflected_on(make):
    _, rows, traces = make(second_thoughts)
    assert traces == []
    assert all(row["rollouts"] == 6 and not row["right"] for row in rows.values())


def test_a_reflection_on_what_was_right_is_no_repair(make):
    _, _, traces = make(
        lambda prefix, seed: (
            "It is still 2.\n</Thought>\n<Output>\n2\n</Output>" if SENTENCE in prefix else say("2", f"Way {seed}:")
        ),
        keep=synthesis.Keep(repaired=True, each=9),
        limit=1,
    )
    assert traces
    assert not any(SENTENCE in trace["response"] for trace in traces)


def test_a_run_goes_on_where_it_was(make):
    first, rows, _ = make(mostly_right, limit=1)
    searched: list[str] = []

    def script(prefix: str, seed: int) -> str:
        searched.append(prefix)
        return mostly_right(prefix, seed)

    again, all_rows, traces = make(script)
    assert (first, again) == (1, 2)
    assert not any("one and one" in prefix for prefix in searched)
    assert all_rows["How many are one and one?"] == rows["How many are one and one?"]
    _, _, at_once = make(mostly_right, folder="at-once")
    assert traces == at_once


def test_a_torn_row_is_made_again(make, tmp_path):
    make(mostly_right, limit=2)
    path = tmp_path / "out" / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    searched, rows, _ = make(mostly_right, limit=2)
    assert searched == 1
    assert len(rows) == 2


def test_a_stopped_search_is_dropped_and_those_before_are_kept(make):
    stop = threading.Event()

    def watch(done: int, total: int, kept: int) -> None:
        if done == 1:
            stop.set()

    _, rows, _ = make(mostly_right, stop=stop, watch=watch)
    assert len(rows) == 1


def test_questions_searched_at_once_leave_the_traces_of_questions_in_turn(make):
    _, one_by_one, _ = make(mostly_right)
    searched, at_once, _ = make(mostly_right, workers=3, folder="at once")
    assert searched == 3
    assert {question: row["traces"] for question, row in at_once.items()} == {
        question: row["traces"] for question, row in one_by_one.items()
    }


def test_an_engine_that_gives_up_at_one_of_several_questions_ends_them_all(make, tmp_path):
    stop = threading.Event()
    with pytest.raises(EngineError, match="Question"):
        make(lambda prefix, seed: Fail("no power") if "two and two" in prefix else say("7"), workers=3, stop=stop)
    assert stop.is_set()


def test_an_engine_that_gives_up_is_told_with_the_question(make, tmp_path):
    with pytest.raises(EngineError, match="Question 1"):
        make(lambda prefix, seed: Fail("no power"))


def test_rows_of_another_model_are_refused(make, tmp_path, questions):
    make(mostly_right, limit=1)
    task = open_task("mgsm", "en", questions)
    engine = ScriptedEngine(mostly_right, slots=1)
    with pytest.raises(UserMistake, match="made with"):
        synthesis.synthesise(
            engine, task, task.load(), options("marco"), synthesis.Keep(), tmp_path / "out", setup={"adapter": "x"}
        )
    engine.close()


def test_what_is_made_passes_the_rules_for_training_data(make, tmp_path):
    make(mostly_right)
    source = source_of(str(tmp_path / "out" / "traces.json"))
    found = list(sift(read(source), Rules()))
    assert len(found) >= 3
    assert not [item for item in found if isinstance(item, Dropped)]
    assert data.prepare([source], Rules()).train[0].reference is not None


def test_a_question_that_is_too_long_is_on_record_and_does_not_stop_the_rest(tmp_path):
    task = open_task("mgsm", "en", tmp_path / "unused.tsv")
    engine = ScriptedEngine(lambda p, s: say("2"), slots=1, context=300)
    (tmp_path / "out").mkdir()
    problems = [Problem("1", "word " * 2000, "2"), Problem("2", "Short: 1 + 1?", "2")]
    synthesis.synthesise(
        engine, task, problems, options("marco", rollouts=1, parallel=1), synthesis.Keep(), tmp_path / "out"
    )
    engine.close()
    rows = read_rows(tmp_path / "out")
    assert rows[0]["refused"]
    assert [row["problem"] for row in rows] == ["1", "2"]


@pytest.fixture
def command(monkeypatch, marco_cli):
    """Call `marco train synthesize ARGUMENTS` with a scripted engine; returns (exit code, stdout, stderr)."""
    monkeypatch.setattr(marco.engines, "open_engine", lambda config, progress=None: ScriptedEngine(mostly_right))

    return partial(marco_cli, "train", "synthesize")


def test_the_command_prints_one_object_and_writes_the_traces(command, questions, tmp_path):
    out = tmp_path / "made"
    code, said, _ = command("--data", questions, "--limit", 1, "--skip", 1, "--rollouts", 4, "--out", out, "--json")
    found = json.loads(said)
    assert code == 0
    assert (found["questions"], found["solved"]) == (1, 1)
    traces = json.loads((out / "traces.json").read_text())
    assert len(traces) == found["traces"]
    assert {trace["instruction"] for trace in traces} == {"How many are two and two?"}
    code, said, _ = command("--data", questions, "--rollouts", 4, "--out", out)
    assert code == 0
    assert said.startswith("3 questions, 3 solved")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "none.tsv"), "There is no data file"),
        (("--data", "Q", "--reflection", "always"), "--repaired"),
        (("--data", "Q", "--skip", "3"), "No question is left"),
        (("--data", "Q", "--strategy", "magic"), "strategy"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(command, questions, tmp_path, arguments, message):
    arguments = [questions if part == "Q" else part for part in arguments]
    code, out, err = command(*arguments, "--out", tmp_path / "made")
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1


def test_a_wrong_number_of_traces_is_refused():
    with pytest.raises(InvalidOption, match="each"):
        synthesis.Keep(each=0)
