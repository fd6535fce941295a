"""An adapter put into its model's weights: a folder that needs no adapter any more, for every engine that reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from marco.engines import loading
from marco.engines.chat import load_tokenizer, tokenizer_folder
from marco.engines.models import Progress, resolve
from marco.errors import ModelUnavailable, UserMistake
from marco.training import require


def merge(adapter: Path, out: Path, *, model: str | None = None, progress: Progress | None = None) -> Path:
    """Write the merged model and its tokenizer into `out`, in bfloat16 (a float32 model stays so), and return it.

    `model` is the adapter's model; by default the one that its run, or the adapter itself, names. Raises
    `UserMistake` where the folder holds something already, `ModelUnavailable` where adapter and model don't fit.
    """
    require("peft")
    report = progress or loading.silent
    settings = adapter / "adapter_config.json"
    if not settings.is_file():
        raise ModelUnavailable(f"{adapter} holds no adapter: there is no adapter_config.json in it.")
    if out.exists() and any(out.iterdir()):
        raise UserMistake(f"{out} is not empty: choose another --out.")
    found = resolve(model or named_base(adapter), engine="local", progress=progress)
    folder = loading.convert_gguf(found.path, report) if found.path.is_file() else found.path
    report(0, 0, f"Loading {found.name}")
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    # Marco reports progress itself.
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    base: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", device_map={"": "cpu"}, local_files_only=True
    )
    from peft import PeftModel

    try:
        adapted = PeftModel.from_pretrained(base, str(adapter))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise ModelUnavailable(
            f"The adapter {adapter} does not go with {found.name}: {reason[0] if reason else type(error).__name__}"
        ) from error
    report(0, 0, "Merging")
    with torch.no_grad():
        merged: Any = adapted.merge_and_unload()
    report(0, 0, f"Writing {out}")
    save_model(merged, found.path, out)
    return out


def named_base(adapter: Path) -> str:
    """The model that an adapter was trained on: as its run calls it, else as it says itself."""
    for path, field in ((adapter.parent / "config.json", "model"), (adapter / "adapter_config.json", "")):
        try:
            value = json.loads(path.read_text(encoding="utf-8")).get(field or "base_model_name_or_path")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(value, str) and value:
            return value
    raise UserMistake(f"{adapter} does not say which model it belongs to: name it with --model.")


def save_model(model: Any, source: Path, out: Path) -> None:
    """Write weights, tokenizer and end tokens into a folder that `--model` takes. `source` has the tokenizer."""
    from transformers import AutoTokenizer

    chat = load_tokenizer(source)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(tokenizer_folder(source)), local_files_only=True)
    # Ends that were never written down, as in some GGUF files, are written down here.
    model.generation_config.eos_token_id = sorted(chat.end_ids)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
