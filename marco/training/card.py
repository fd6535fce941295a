"""The model card of a run: what it is, what it came from, how it was made, what was measured."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from marco.engines.models import catalogue

CARD = "README.md"


def write(run: Path, place: Path, config: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Write the card into the run folder and beside the weights."""
    (run / CARD).write_text(text(run.resolve().name, config, result), encoding="utf-8")
    shutil.copyfile(run / CARD, place / CARD)


def text(name: str, config: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    settings, rows, memory = config["settings"], config["rows"], config["memory"]
    full = settings["method"] == "full"
    use = "--model model" if full else f"--model {config['model']} --adapter adapter"
    origin = next((card for card in catalogue() if card.name == config["model"]), None)
    known = [f"base_model: {origin.hub}", f"license: {origin.licence.lower()}"] if origin else []
    lines = [
        "---",
        f"library_name: {'transformers' if full else 'peft'}",
        "pipeline_tag: text-generation",
        "tags: [marco, chain-of-thought]",
        *known,
        "---",
        "",
        f"# {name}",
        "",
        f"{config['model_name']}, fine-tuned ({settings['method']}) with Marco to think inside `<Thought>` and answer "
        "inside `<Output>`. Its licence is that of the model and of the data that it was made from.",
        "",
        "```",
        f'marco solve "..." {use}',
        "```",
        "",
        "## Data",
        "",
        f"- {rows['train']:,} rows to train on, {rows['validation']:,} held out, {rows['too_long']:,} left out as too "
        "long",
        f"- {rows['tokens']:,} tokens, {rows['learnt_tokens']:,} of them with loss (the responses)",
        f"- sha256 of the rows: `{config['data_sha256']}`",
        "",
        "## Training",
        "",
        f"- model: {config['model_name']} (`{config['model_hash'][:16]}`)",
        f"- {result['steps']} steps in {result['seconds']:,} s on {config['device']}, learning rate "
        f"{config['learning_rate']:g}, seed {config['seed']}",
        *(f"- {key}: {value}" for key, value in settings.items() if key not in ("seed", "learning_rate", "system")),
        f"- memory: {memory['total'] / 1e9:.2f} GB foretold, {result['peak_memory_bytes'] / 1e9:.2f} GB at the peak",
        "- " + ", ".join(f"{package} {version}" for package, version in config["versions"].items()),
        "",
        "## Results",
        "",
        "| | before | after |",
        "| --- | --- | --- |",
        f"| loss of the rows held out | {_number(result['eval_loss_before'])} | {_number(result['eval_loss'])} |",
        f"| loss of a step | {_number(result['loss_first'])} | {_number(result['loss_last'])} |",
        "",
        f"{result['well_formed_samples']} of {result['samples']} samples after the last step are one thought and one "
        "output, in their tags. Whether it solves more than before is for `marco evaluate` to say.",
        "",
    ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.4f}"
