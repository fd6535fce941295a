"""Marco beside other tree searches, on one model object: seconds, tokens computed, answers right.

    make peers
    .venv-peers/bin/python benchmarks/peers/run.py --data FILE --problems 2 --seeds 3 --out benchmarks/peers/RECORD

Each (system, problem, seed) is a row in OUT/rows.jsonl; what is there isn't run again. The tables go to stdout.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))

SYSTEMS = ("marco", "greedy", "self-consistency", "treequest", "llm-reasoners", "optillm")


def main(
    data: Annotated[Path, typer.Option(help="Rows of question, tab, answer.")],
    out: Annotated[Path, typer.Option(help="Folder of the record.")],
    model: str = "qwen2.5-coder-0.5b",
    problems: int = 2,
    seeds: int = 3,
    rollouts: int = 8,
    max_tokens: int = 192,
    step: int = 32,
    system: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
) -> None:
    """Fill the record, then print it."""
    from marco.evaluation.tasks import load, open_task

    console = Console(stderr=True)
    chosen = load(open_task("mgsm", "en", data), problems)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "rows.jsonl"
    rows = [json.loads(line) for line in path.open(encoding="utf-8")] if path.exists() else []
    setting = {"model": model, "rollouts": rollouts, "max_tokens": max_tokens, "step": step}
    known = {(row["system"], row["problem"], row["seed"]) for row in rows if row["setting"] == setting}
    left = [
        (name, problem, seed)
        for seed in range(seeds)
        for problem in chosen
        for name in system or SYSTEMS
        if (name, problem.id, seed) not in known
    ]
    if left:
        rows += _run(left, setting, path, console)
    _print_tables([row for row in rows if row["setting"] == setting])


def _run(left: list[Any], setting: dict[str, Any], path: Path, console: Console) -> list[dict[str, Any]]:
    import systems
    from plain import PlainModel

    from marco.config import ModelConfig
    from marco.engines.local import open_local
    from marco.provenance import commit

    peers = {"treequest": systems.treequest, "llm-reasoners": systems.llm_reasoners, "optillm": systems.optillm}
    own = {"marco": "mcts", "greedy": "cot", "self-consistency": "self-consistency"}
    engine = open_local(ModelConfig(model=setting["model"], engine="local", slots=setting["rollouts"]))
    made = []
    with path.open("a", encoding="utf-8") as file:
        for number, (name, problem, seed) in enumerate(left, 1):
            setup = systems.Setup(
                setting["rollouts"], setting["max_tokens"], setting["step"], temperature=0.8, top_p=0.95, seed=seed
            )
            started = time.perf_counter()
            if name in own:
                found = systems.marco(engine, problem.question, setup, own[name])
            else:
                plain = PlainModel(engine.model, engine.tokenizer, setup.temperature, setup.top_p)
                found = peers[name](plain, engine, problem.question, setup)
            row = {
                "system": name,
                "problem": problem.id,
                "seed": seed,
                "setting": setting,
                "seconds": round(time.perf_counter() - started, 2),
                "rollouts": found.rollouts,
                "prefilled": found.prefilled,
                "generated": found.generated,
                "computed": found.prefilled + found.generated,
                "distinct": found.distinct,
                "answer": found.answer,
                "right": _right(found.answer, problem.reference),
                "history": [[tokens, answer, _right(answer, problem.reference)] for tokens, answer in found.history],
                "device": engine.info.device,
                "dtype": engine.info.details.get("dtype"),
                "machine": platform.processor() or platform.machine(),
                "commit": commit(),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            made.append(row)
            console.print(f"{number} of {len(left)}: {name}, problem {problem.id}, seed {seed}: {row['seconds']} s")
    engine.close()
    return made


def _right(answer: str | None, reference: str) -> bool:
    from marco.answer import same

    return answer is not None and same(answer, reference, "number")


def _print_tables(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    first = rows[0]
    print(
        f"{first['setting']} · {first['device']} · {first['dtype']} · commits {sorted({r['commit'] for r in rows})}\n"
    )
    print("| system | runs | rollouts | seconds | generated | prefilled | computed / distinct | right |")
    print("|---|---|---|---|---|---|---|---|")
    for name in SYSTEMS:
        own = [row for row in rows if row["system"] == name]
        if own:
            means = {
                field: statistics.mean(row[field] for row in own)
                for field in ("rollouts", "seconds", "generated", "prefilled")
            }
            again = sum(row["computed"] for row in own) / sum(row["distinct"] for row in own)
            print(
                f"| {name} | {len(own)} | {means['rollouts']:.1f} | {means['seconds']:.1f} | "
                f"{means['generated']:.0f} | "
                f"{means['prefilled']:.0f} | {again:.2f} | {sum(row['right'] for row in own)} of {len(own)} |"
            )
    budgets = [row["generated"] for row in rows if row["system"] == "marco"]
    if not budgets:
        return
    budget = int(statistics.mean(budgets))
    print(f"\nThe answer as it stood within {budget} generated tokens (the mean of Marco's runs):\n")
    print("| system | right |\n|---|---|")
    for name in SYSTEMS:
        own = [row for row in rows if row["system"] == name]
        if own:
            within = [[right for tokens, _, right in row["history"] if tokens <= budget] for row in own]
            print(f"| {name} | {sum(bool(found and found[-1]) for found in within)} of {len(own)} |")


if __name__ == "__main__":
    typer.run(main)
