"""The command line, as a script that calls it sees it: stdout, stderr, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from thinking import bolts

import marco.engines
from marco.engines.scripted import Fail, ScriptedEngine

QUESTION = "How many bolts in total does it take?"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def marco_command(monkeypatch, tmp_path, marco_cli):
    """Call `marco ARGUMENTS` with a scripted engine; returns (exit code, stdout, stderr)."""
    script = {"says": bolts}
    monkeypatch.setenv("MARCO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(
        marco.engines, "open_engine", lambda config, progress=None: ScriptedEngine(lambda p, s: script["says"](p, s))
    )

    def call(*arguments: str, says=None) -> tuple[int, str, str]:
        if says is not None:
            script["says"] = says
        return marco_cli(*arguments)

    return call


def test_the_answer_goes_to_stdout_and_all_else_to_stderr(marco_command):
    code, out, err = marco_command("solve", QUESTION, "--rollouts", "4")
    assert (code, out) == (0, "4\n") or (code, out) == (0, "3\n")
    assert "rollouts agree" in err
    assert "run:" in err


def test_json_is_exactly_one_object_on_stdout(marco_command):
    code, out, _ = marco_command("solve", QUESTION, "--rollouts", "4", "--seed", "2", "--json")
    found = json.loads(out)
    assert code == 0
    assert out.count("\n") == 1
    assert found["rollouts"] == 4
    assert found["seed"] == 2
    assert Path(found["run"]).exists()
    assert found["stopped_by"] == "rollouts"


def test_every_option_reaches_the_search(marco_command):
    _, out, _ = marco_command(
        "solve", QUESTION, "--json", "--preset", "paper", "--strategy", "mcts", "--action", "mini-step-32",
        "--rollouts", "3", "--branching", "2", "--reflection", "always", "--select", "majority", "--reward", "tail",
        "--temperature", "0.5", "--top-p", "0.9", "--max-tokens", "500", "--max-seconds", "60", "--seed", "5",
    )  # fmt: skip
    found = json.loads(out)
    started = json.loads(Path(found["run"]).read_text().splitlines()[0])
    assert (found["action"], found["reflection"], found["select"], found["reward"]) == (
        "mini-step-32", "always", "majority", "tail",
    )  # fmt: skip
    assert started["options"]["search"]["branching"] == 2
    assert started["options"]["sampling"] == {"temperature": 0.5, "top_p": 0.9, "max_tokens": 500}
    assert started["options"]["budget"] == {"rollouts": 3, "tokens": None, "seconds": 60.0}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["solve", ""], "question"),
        (["solve", "a\x00b"], "NUL"),
        (["solve", "x" * 30_000], "20,000"),
        (["solve", QUESTION, "--rollouts", "0"], "rollouts"),
        (["solve", QUESTION, "--strategy", "magic"], "strategy"),
        (["solve", QUESTION, "--action", "jump"], "action"),
        (["solve", QUESTION, "--preset", "best"], "preset"),
        (["solve", QUESTION, "--engine", "steam"], "engine"),
        (["solve", QUESTION, "--base-url", "nonsense"], "base_url"),
        (["solve", QUESTION, "--engine", "server"], "base_url"),
        (["solve", QUESTION, "--top-p", "nan"], "top_p"),
        (["solve"], "question"),
        (["solve", "--resume", "no-such-run.jsonl"], "no such run file"),
        (["show", "no-such-run.jsonl"], "no such run file"),
        (["models", "fetch", "no-such-model"], "no-such-model"),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr_and_exit_code_2(marco_command, arguments, says):
    code, out, err = marco_command(*arguments)
    assert code == 2
    assert out == ""
    assert says in err
    assert "Traceback" not in err
    assert err.strip().count("\n") == 0


def test_an_unknown_flag_is_exit_code_2(marco_command):
    assert marco_command("solve", QUESTION, "--rollout", "3")[0] == 2


def test_a_search_that_fails_is_exit_code_1_with_the_reason(marco_command):
    code, _, err = marco_command("solve", QUESTION, says=lambda p, s: Fail("The model is made of cheese."))
    assert code == 1
    assert "cheese" in err


def test_a_run_is_resumed_without_the_question(marco_command):
    _, out, _ = marco_command("solve", QUESTION, "--rollouts", "3", "--json")
    run = json.loads(out)["run"]
    code, out, _ = marco_command("solve", "--resume", run, "--rollouts", "6", "--json")
    found = json.loads(out)
    assert (code, found["rollouts"], found["run"]) == (0, 6, run)


@pytest.mark.parametrize(
    ("form", "says"), [("text", "answer:"), ("json", '"solution"'), ("graphml", "<graphml"), ("html", "<html")]
)
def test_a_run_is_shown_in_every_format(marco_command, tmp_path, form, says):
    _, out, _ = marco_command("solve", QUESTION, "--rollouts", "3", "--json")
    run = json.loads(out)["run"]
    code, out, _ = marco_command("show", run, "--format", form)
    assert code == 0
    assert says in out
    target = tmp_path / "out"
    assert marco_command("show", run, "--format", form, "--out", str(target))[0] == 0
    assert says in target.read_text()


def test_a_run_is_found_by_its_name(marco_command):
    _, out, _ = marco_command("solve", QUESTION, "--rollouts", "2", "--json")
    assert marco_command("show", Path(json.loads(out)["run"]).stem)[0] == 0


def test_graphml_is_read_back_by_networkx(marco_command, tmp_path):
    import networkx

    _, out, _ = marco_command("solve", QUESTION, "--rollouts", "5", "--json")
    found = json.loads(out)
    target = tmp_path / "tree.graphml"
    marco_command("show", found["run"], "--format", "graphml", "--out", str(target))
    assert networkx.read_graphml(target).number_of_nodes() == found["nodes"]


def test_the_page_of_a_run_reaches_nowhere(marco_command):
    import re

    says = lambda p, s: "<Output><script>alert(1)</script> http://example.com/x.png 3</Output>"  # noqa: E731
    _, out, _ = marco_command("solve", QUESTION, "--rollouts", "2", "--json", says=says)
    _, page, _ = marco_command("show", json.loads(out)["run"], "--format", "html")
    assert "<script>alert(1)</script>" not in page
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)


def test_the_catalogue_is_listed(marco_command):
    code, out, _ = marco_command("models", "--json")
    names = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert {"qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b", "marco-o1"} <= set(names)
    assert names["qwen2.5-coder-1.5b"]["size"] == 1_117_320_768
    assert set(names["marco-o1"]) == {"name", "size", "engine", "licence", "present"}


def test_a_server_out_of_reach_is_told_at_once_with_exit_code_2():
    found = subprocess.run(
        [sys.executable, "-m", "marco", "solve", QUESTION, "--base-url", "http://127.0.0.1:9"],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert found.returncode == 2
    assert "127.0.0.1:9" in found.stderr
    assert found.stdout == ""


def test_the_tree_benchmark_prints_its_figures(marco_command):
    code, out, _ = marco_command("bench", "tree", "--nodes", "50", "--json")
    assert code == 0
    assert {"nodes", "select_and_backpropagate_us_median", "select_and_backpropagate_us_p95"} <= set(json.loads(out))
