"""Run files, and going on with a search that was killed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thinking import bolts

from marco import Solver, options
from marco.engines.scripted import Fail, ScriptedEngine
from marco.errors import RunFileError
from marco.events import AnswerChosen, SearchEnded, Steered, Warned
from marco.runs import RunWriter, list_runs, read_run, run_path
from marco.solver import Solution

QUESTION = "How many bolts in total does it take?"


def solver(tmp_path, script=bolts, **given) -> Solver:
    given = {"rollouts": 8, "parallel": 3, "reflection": "always", "seed": 4, **given}
    return Solver(ScriptedEngine(script), options("marco", **given), runs=tmp_path)


def tree_of(events) -> dict:
    """The tree without what depends on the clock."""
    data = Solution.of(events).tree.to_dict()
    for item in data["rollouts"]:
        item["seconds"] = 0
    return data


def same_tree(one: dict, other: dict) -> bool:
    """Equal but for the order of dictionaries."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def sorted_tree(events) -> dict:
    data = tree_of(events)
    data["nodes"] = sorted(data["nodes"], key=lambda node: node["id"])
    for node in data["nodes"]:
        node["children"] = sorted(node["children"])
        node["value_sum"] = round(node["value_sum"], 9)
    return data


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run: its bytes and its tree."""
    folder = tmp_path_factory.mktemp("runs")
    s = solver(folder)
    events = list(s.stream(QUESTION))
    return s.run.read_bytes(), sorted_tree(events), Solution.of(events)


def test_a_run_file_holds_the_events_of_the_search(tmp_path):
    s = solver(tmp_path)
    events = list(s.stream(QUESTION))
    run = read_run(s.run)
    assert run.events == tuple(events)
    assert not run.torn
    assert run.ended == events[-1]


def test_a_run_that_is_cut_off_at_any_byte_behind_its_header_ends_in_the_same_tree(finished, tmp_path):
    data, tree, solution = finished
    header = data.index(b"\n") + 1
    # Every end of a line, the bytes beside every fourth, and a spread of bytes within lines.
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    beside = {end + shift for end in ends[::4] for shift in (-1, 1)}
    cuts = sorted({*ends, *beside, *range(header, len(data), 9999)})
    cuts = [cut for cut in cuts if header <= cut <= len(data)]
    assert len(cuts) > 50
    for cut in cuts:
        path = tmp_path / f"cut-{cut}.jsonl"
        path.write_bytes(data[:cut])
        resumed = list(Solver(ScriptedEngine(bolts)).resume(path))
        assert sorted_tree(resumed) == tree, cut
        assert Solution.of(resumed).answer == solution.answer
        assert sorted_tree(read_run(path).events) == tree, cut
        path.unlink()


def test_a_longer_search_is_the_same_whether_it_was_interrupted_or_not(tmp_path):
    short = solver(tmp_path, rollouts=4)
    list(short.stream(QUESTION))
    longer = list(Solver(ScriptedEngine(bolts)).resume(short.run, rollouts=10))
    straight = list(solver(tmp_path, rollouts=10).stream(QUESTION))
    assert Solution.of(longer).rollouts == 10
    expected = sorted_tree(straight)
    assert sorted_tree(longer)["nodes"] == expected["nodes"]
    assert sorted_tree(read_run(short.run).events)["nodes"] == expected["nodes"]


def test_more_is_given_to_a_search_that_was_given_more_before(tmp_path):
    s = solver(tmp_path, rollouts=3, reflection="off")
    for event in s.stream(QUESTION):
        if isinstance(event, AnswerChosen):
            s.steer("budget", rollouts=5)
    assert Solution.of(read_run(s.run).events).rollouts == 5
    for wanted in (8, 11):
        list(Solver(ScriptedEngine(bolts)).resume(s.run, rollouts=wanted))
        assert Solution.of(read_run(s.run).events).rollouts == wanted
    # Without a word the last limits hold.
    assert Solution.of(list(Solver(ScriptedEngine(bolts)).resume(s.run))).rollouts == 11


def test_nothing_on_record_is_written_twice(finished, tmp_path):
    data, *_ = finished
    path = tmp_path / "run.jsonl"
    path.write_bytes(data)
    list(Solver(ScriptedEngine(bolts)).resume(path))
    lines = path.read_bytes().splitlines()
    kept = [line for line in lines if b'"type":"SearchEnded"' not in line]
    assert len(kept) == len(set(kept))
    assert path.read_bytes().startswith(data)


def test_failures_on_record_are_failures_again(tmp_path):
    def moody(prefix, seed):
        return Fail() if seed % 3 == 0 else bolts(prefix, seed)

    s = solver(tmp_path, script=moody, rollouts=12)
    events = list(s.stream(QUESTION))
    data = s.run.read_bytes()
    s.run.write_bytes(data[: len(data) * 2 // 3])
    resumed = list(Solver(ScriptedEngine(moody)).resume(s.run))
    assert sorted_tree(resumed) == sorted_tree(events)


def test_interventions_are_on_record_and_in_the_continuation(tmp_path):
    s = solver(tmp_path, rollouts=5, reflection="off")
    list(s.stream(QUESTION))
    first = Solver(ScriptedEngine(bolts))
    events = list(
        first.resume(
            s.run,
            interventions=[
                ("budget", None, {"rollouts": 9}),
                ("edit", "1.0", {"text": "Blue is 2, white is 1.\n\n"}),
                ("prune", "1.0", {}),
            ],
        )
    )
    tree = Solution.of(events).tree
    assert [event.action for event in events if isinstance(event, Steered)] == ["budget", "edit", "prune"]
    assert tree["e2"].text == "Blue is 2, white is 1.\n\n"
    assert tree["e2"].visits > 0
    assert tree["1.0"].pruned
    again = list(Solver(ScriptedEngine(bolts)).resume(s.run))
    assert sorted_tree(again) == sorted_tree(events)


def test_an_impossible_intervention_is_told_and_the_search_goes_on(tmp_path):
    s = solver(tmp_path, rollouts=3)
    list(s.stream(QUESTION))
    events = list(Solver(ScriptedEngine(bolts)).resume(s.run, interventions=[("expand", "nowhere", {})]))
    assert any(isinstance(event, Warned) and "nowhere" in event.message for event in events)
    assert isinstance(events[-1], SearchEnded)


@pytest.mark.parametrize(
    ("damage", "line", "says"),
    [
        (lambda d: b"", 1, "header"),
        (lambda d: d[:40], 1, "header"),
        (lambda d: b"not json\n" + d, 1, "header"),
        (lambda d: d.replace(b'"version":1', b'"version":99', 1), 1, "99"),
        (lambda d: d.replace(b'"version":1', b'"version":"1"', 1), 1, "version"),
        (lambda d: d.split(b"\n", 1)[1], 1, "no run"),
        (lambda d: d.replace(b"\n", b"\n{broken}\n", 2).replace(b"\n{broken}\n", b"\n", 1), 3, "JSON"),
        (lambda d: d.replace(b"\n", b'\n{"type":"Nonsense"}\n', 1), 2, "Nonsense"),
        (lambda d: d.replace(b"\n", b"\n[]\n", 1), 2, "object"),
        (lambda d: d.replace(b"\n", b'\n{"type":"WorkIssued","work":"x","node":"root","seed":1}\n', 1), 2, "work"),
        (lambda d: d.replace(b"\n", b'\n{"type":"WorkIssued","work":1}\n', 1), 2, "WorkIssued"),
        (lambda d: d + b"\xff\xfe\n", None, "JSON"),
        (lambda d: d.replace(b"\n", b"\n" + d.split(b"\n", 1)[0] + b"\n", 1), 2, "second header"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(finished, tmp_path, damage, line, says):
    path = tmp_path / "run.jsonl"
    path.write_bytes(damage(finished[0]))
    with pytest.raises(RunFileError) as caught:
        read_run(path)
    assert says in str(caught.value)
    if line is not None:
        assert caught.value.line == line


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(tmp_path_factory, junk):
    path = tmp_path_factory.mktemp("junk") / "run.jsonl"
    path.write_bytes(junk)
    with pytest.raises(RunFileError):
        read_run(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunFileError, match="no such run file"):
        read_run(tmp_path / "gone.jsonl")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "", ".", "x" * 100, "a\x00b"])
def test_a_run_name_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(RunFileError):
        run_path(tmp_path, name)


def test_another_model_is_refused(tmp_path):
    s = solver(tmp_path)
    list(s.stream(QUESTION))
    other = ScriptedEngine(bolts)
    object.__setattr__(other._info, "model_hash", "1" * 64)
    with pytest.raises(RunFileError, match="model"):
        Solver(other).resume(s.run)


def test_a_full_disk_is_told_once_and_the_search_goes_on_in_memory(tmp_path, monkeypatch):
    written = []
    real = RunWriter.append

    def fills_up(self, event):
        written.append(event)
        if len(written) == 5 and self._file is not None:
            self._file.close()
            self._file = open("/dev/full", "ab", buffering=0)  # noqa: PTH123, SIM115
        real(self, event)

    monkeypatch.setattr(RunWriter, "append", fills_up)
    s = solver(tmp_path)
    events = list(s.stream(QUESTION))
    warned = [event.message for event in events if isinstance(event, Warned)]
    assert len(warned) == 1
    assert "space" in warned[0]
    assert any(isinstance(event, AnswerChosen) for event in events)
    assert isinstance(events[-1], SearchEnded)


def test_runs_are_listed_newest_first_and_damaged_ones_left_out(tmp_path):
    for question in ("one?", "two?"):
        list(solver(tmp_path).stream(question))
    (tmp_path / "damaged.jsonl").write_text("{}")
    assert sorted(run.question for run in list_runs(tmp_path)) == ["one?", "two?"]
    assert {run.stopped_by for run in list_runs(tmp_path)} == {"rollouts"}
