"""The examples run, and say what they promise."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from thinking import bolts

from marco import Solver, options
from marco.engines.scripted import ScriptedEngine

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_solve_shows_the_answer_improving(capsys):
    load("solve").main(ScriptedEngine(bolts))
    said = capsys.readouterr().out
    assert said.count("rollout ") == 4
    assert "best so far: 3" in said


def test_a_custom_reward_prefers_the_shortest_thought(capsys):
    load("custom_reward").main(
        ScriptedEngine(lambda p, s: f"<Thought>{'so ' * (s % 9)}</Thought><Output>{s % 9}</Output>")
    )
    said = capsys.readouterr().out.splitlines()
    rows = [line.split(": ", 1)[1] for line in said if line.startswith("rollout")]
    shortest = min(rows, key=lambda row: int(row.split()[0]))
    assert said[-1].removeprefix("shortest: ") == shortest.rsplit(" ", 1)[1]


def test_a_run_is_read(tmp_path, capsys):
    solver = Solver(ScriptedEngine(bolts), options("marco", rollouts=3), runs=tmp_path)
    solver.solve("How many?")
    load("read_run").main(solver.run)
    said = capsys.readouterr().out
    assert said.startswith("How many?")
    assert "the best path is root" in said


def test_a_translation_says_how_the_expressions_were_read(capsys):
    say = "<Thought>\n“spill the tea” | word for word: pour tea | here: gossip | say: cuenta el chisme\n</Thought>"
    engine = ScriptedEngine(lambda prefix, seed: f"{say}\n<Output>\nCuenta el chisme\n</Output>")
    load("translate").main(engine, [("Spill the tea!", "Spanish")])
    assert capsys.readouterr().out == "Spill the tea!\n  Spanish: Cuenta el chisme\n    Spill the tea: gossip\n"


def test_training_data_is_sifted(tmp_path, capsys):
    rows = [
        {"instruction": "1 + 1?", "response": "<thought>One and one are two, I think.</thought><output>2</output>"},
        {"instruction": "2 + 2?", "response": "4"},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=1))
    load("training_data").main(str(tmp_path / "rows.json"))
    said = capsys.readouterr().out
    assert "line 6: format: it has no <Thought> and <Output>" in said
    assert said.endswith("1 rows are fit to learn from\n")


def test_a_server_is_asked(small_engine, small_model, capsys, monkeypatch):
    child = small_engine._child
    monkeypatch.setenv("MARCO_API_KEY", child.key)
    load("server_engine").main(child.wait(None), str(small_model))
    assert "ended by" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_says_how_to_run_it(path):
    assert f"python examples/{path.name}" in path.read_text()
