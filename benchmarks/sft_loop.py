"""The loop closed and measured: a model as it is, after SFT on given data, and after SFT on its own traces.

    python benchmarks/sft_loop.py --demo marco_cot_demo.json --questions mgsm_en.tsv --out loop

`cot` and `mcts` on the same problems with the same tokens, all on engine `local`. Every step goes on where it was:
give the same command again until it ends. `OUT/commands.txt` has the commands, `OUT/summary.md` and
`OUT/summary.json` what came out, whatever it is.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from marco.evaluation.metrics import wilson
from marco.evaluation.records import Record
from marco.evaluation.summary import compare, lines
from marco.runs import read_run
from marco.training.rules import well_formed
from marco.tree import Tree

VARIANTS = ("base", "demo", "own")


def marco(out: Path, *arguments: object) -> None:
    """One command; its line is kept, and a failure ends the loop with its exit code."""
    command = ["marco", *map(str, arguments)]
    with (out / "commands.txt").open("a", encoding="utf-8") as file:
        file.write(shlex.join(command) + "\n")
    print("+", shlex.join(command), flush=True)
    done = subprocess.run([sys.executable, "-m", *command], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def run(given: argparse.Namespace) -> None:
    out = given.out
    out.mkdir(parents=True, exist_ok=True)
    questions = ("--data", given.questions, "--lang", given.lang)
    engine = ("--engine", "local", "--slots", given.slots, "--quantize", given.quantize)
    if not (out / "data-demo" / "report.json").is_file():
        marco(out, "train", "data", given.demo, "--out", out / "data-demo", "--seed", given.seed)
    marco(
        out, "train", "synthesize", *questions, "--skip", given.problems, "--limit", given.synthesise,
        "--model", given.model, *engine, "--rollouts", given.rollouts, "--max-tokens", given.max_tokens, "--repaired",
        "--seed", given.seed, "--out", out / "traces",
    )  # fmt: skip
    if not (out / "data-own" / "report.json").is_file():
        marco(out, "train", "data", out / "traces" / "traces.json", "--out", out / "data-own", "--seed", given.seed)
    for name in ("demo", "own"):
        steps = ("--steps", given.steps) if given.steps else ("--epochs", given.epochs)
        marco(
            out, "train", "sft", "--resume", "--model", given.model, "--data", out / f"data-{name}",
            "--out", out / f"run-{name}", "--method", given.method, "--max-length", given.max_length, *steps,
            "--accumulate", given.accumulate, "--evaluations", given.evaluations, "--samples", given.samples,
            "--seed", given.seed, *(("--no-gradient-checkpointing",) if given.no_gradient_checkpointing else ()),
        )  # fmt: skip
    for name in VARIANTS:
        adapter = () if name == "base" else ("--adapter", out / f"run-{name}" / "adapter")
        marco(
            out, "evaluate", "--task", "mgsm", *questions, "--limit", given.problems, "--strategy", "cot",
            "--strategy", "mcts", "--reflection", given.reflection, "--budget", given.budget,
            "--max-tokens", given.max_tokens, "--model", given.model, *engine, *adapter,
            "--keep-runs", "--without-questions", "--out", out / f"eval-{name}",
        )  # fmt: skip
    write_summary(out)


def measure(folder: Path) -> list[dict[str, Any]]:
    """One object a strategy of an evaluation: accuracy, well-formed texts, reflections."""
    formed: Counter[str] = Counter()
    texts: Counter[str] = Counter()
    for path in sorted((folder / "runs").glob("*.jsonl")):
        found = read_run(path)
        tree = Tree.fold([found.started, *found.events])
        strategy = str(found.started.options["search"]["strategy"])
        for number in tree.rollouts:
            texts[strategy] += 1
            formed[strategy] += well_formed(tree.rollout_text(number))
    reflections = json.loads((folder / "statistics.json").read_text())["reflection"]
    measured = []
    for item in json.loads((folder / "summary.json").read_text()):
        name = item["strategy"]
        low, high = wilson(formed[name], texts[name])
        measured.append(
            {
                **{key: item[key] for key in ("strategy", "label", "problems", "accuracy", "low", "high")},
                "tokens": item["tokens_per_problem"],
                "texts": texts[name],
                "well_formed": formed[name] / texts[name] if texts[name] else None,
                "well_formed_low": low,
                "well_formed_high": high,
                "reflections": [part for part in reflections if part["generation"].startswith(name)],
            }
        )
    return measured


def against_base(out: Path, name: str) -> dict[str, Any]:
    """The same problems with and without the fine-tuning, by strategy: `marco.evaluation.summary.compare`."""
    base = {line.combination.strategy: line for line in lines(Record.read(out / "eval-base"))}
    tuned = {line.combination.strategy: line for line in lines(Record.read(out / f"eval-{name}"))}
    return {strategy: compare(line, base[strategy]) for strategy, line in tuned.items()}


def write_summary(out: Path) -> None:
    found = {name: measure(out / f"eval-{name}") for name in VARIANTS}
    for name in VARIANTS[1:]:
        paired = against_base(out, name)
        for row in found[name]:
            row["against_base"] = paired[row["strategy"]]
    runs = {name: json.loads((out / f"run-{name}" / "result.json").read_text()) for name in VARIANTS if name != "base"}
    (out / "summary.json").write_text(json.dumps({"evaluations": found, "runs": runs}, indent=1) + "\n")
    table = [
        "| model | how | problems | accuracy | 95% | against base | tokens | well-formed | 95% | repaired | spoiled |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in found.items():
        for row in rows:
            table.append(
                f"| {name} | {row['label']} | {row['problems']} | {row['accuracy']:.1%} "
                f"| {row['low']:.1%} to {row['high']:.1%} | {_pair(row.get('against_base'))} | {row['tokens']:.0f} "
                f"| {_share(row['well_formed'])} | {row['well_formed_low']:.1%} to {row['well_formed_high']:.1%} "
                f"| {_of(row, 'repaired', 'failures')} | {_of(row, 'spoiled', 'successes')} |"
            )
    text = "\n".join(table)
    (out / "summary.md").write_text(text + "\n")
    print(text)


def _share(value: float | None) -> str:
    return "—" if value is None else f"{value:.1%}"


def _pair(pair: dict[str, Any] | None) -> str:
    """Problems that only the tuned model solved, that only the base solved, and McNemar's p."""
    return "—" if pair is None else f"+{pair['only_first']} −{pair['only_second']} (p = {pair['mcnemar_p']:.2f})"


def _of(row: dict[str, Any], what: str, among: str) -> str:
    """Reflections with that outcome, of how many, and the interval."""
    count = sum(part[what] for part in row["reflections"])
    whole = sum(part[among] for part in row["reflections"])
    if not whole:
        return "—"
    low, high = wilson(count, whole)
    return f"{count} of {whole} ({low:.0%} to {high:.0%})"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Base, SFT on given data, SFT on its own traces: measured alike.")
    parser.add_argument(
        "--demo", type=Path, required=True, help="training data in a form that `marco train data` reads"
    )
    parser.add_argument("--questions", type=Path, required=True, help="question, tab, number")
    parser.add_argument("--lang", default="en")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--problems", type=int, default=50, help="the first so many are measured on")
    parser.add_argument("--synthesise", type=int, default=100, help="so many behind them are learnt from")
    parser.add_argument("--rollouts", type=int, default=8, help="of each search for traces")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--steps", type=int, default=0, help="instead of epochs")
    parser.add_argument("--accumulate", type=int, default=8, help="forward passes a step")
    parser.add_argument("--evaluations", type=int, default=10, help="of loss, in a whole run of SFT")
    parser.add_argument("--samples", type=int, default=2, help="prompts that are answered at each evaluation")
    parser.add_argument("--no-gradient-checkpointing", action="store_true", help="a third faster, for more memory")
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--budget", type=int, default=2000, help="generated tokens a problem")
    parser.add_argument("--reflection", default="low-confidence")
    parser.add_argument("--quantize", default="auto", help="form of the model in searches, not in training")
    parser.add_argument("--slots", type=int, default=8, help="rollouts decoded together; 64 is fastest on a processor")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(parse())
