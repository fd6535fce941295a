"""Supervised fine-tuning: rows in, a folder with an adapter or a model out.

`train` writes into a run folder:

- `config.json`: model, data and their hashes, every setting, the seed, versions, and what memory was foretold;
- `metrics.jsonl` and `samples.jsonl`: loss as it goes, and what the model writes to prompts it never learnt;
- `checkpoints/`: where `resume` goes on, with the same losses as if nothing had happened (on a CPU: to the bit);
- `adapter/` (lora, qlora) or `model/` (full), and `README.md`, the model card.

The work is TRL's and PEFT's; nothing is sent anywhere, and a local model is never looked up on the hub. Metrics also go
to trackio's local store: `trackio show --project marco`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marco.engines import loading
from marco.engines.chat import HFChatTokenizer, load_tokenizer, tokenizer_folder
from marco.engines.models import SMALL, Model, Progress, catalogue, resolve
from marco.errors import InvalidOption, OutOfMemory, UserMistake
from marco.evaluation.records import write_json
from marco.provenance import peak_memory_bytes
from marco.training import card, memory, require
from marco.training.data import TRAIN, VALIDATION, load
from marco.training.examples import Example, example_of
from marco.training.merge import save_model
from marco.training.rules import well_formed

METHODS = ("full", "lora", "qlora")
RATES: Mapping[str, float] = {"full": 1e-5, "lora": 2e-4, "qlora": 2e-4}
"""Learning rate of each method, where none is given."""

CONFIG = "config.json"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
MODEL = "model"

PROJECT = "marco"
"""The runs' project in trackio."""
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets")


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """How to train. Raises `InvalidOption` for a wrong value."""

    method: str = "lora"
    epochs: float = 3.0
    steps: int | None = None
    """Optimiser steps in all, instead of epochs."""
    learning_rate: float | None = None
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    max_length: int = 4096
    """Tokens of a row, prompt included; longer rows are left out. With packing, tokens of a packed row."""
    batch: int = 1
    """Rows (packed rows) in one forward pass."""
    accumulate: int = 8
    """Forward passes a step."""
    packing: bool = True
    """Put several rows into one, each attending to itself alone."""
    checkpointing: bool = True
    """Compute activations twice rather than keep them."""
    warmup: float = 0.03
    """Share of the steps in which the rate rises; then it falls along a cosine."""
    evaluations: int = 10
    """How often, in the whole run, loss is evaluated, samples are written and a checkpoint is kept."""
    samples: int = 2
    """Prompts that the model answers at every evaluation."""
    sample_tokens: int = 256
    seed: int = 0
    system: str = "auto"
    """See `marco.training.examples.prompt_of`."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidOption("method", self.method, "one of " + ", ".join(METHODS))
        low = {"rank": 1, "alpha": 1, "max_length": 16, "batch": 1, "accumulate": 1, "evaluations": 1, "samples": 0}
        for name, least in {**low, "sample_tokens": 1, "seed": 0}.items():
            if getattr(self, name) < least:
                raise InvalidOption(name, getattr(self, name), f"a whole number of at least {least}")
        if self.steps is not None and self.steps < 1:
            raise InvalidOption("steps", self.steps, "a whole number of at least 1")
        if not 0 < self.epochs <= 1000:
            raise InvalidOption("epochs", self.epochs, "a number from 0 (exclusive) to 1000")
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:
            raise InvalidOption("learning_rate", self.learning_rate, "a number from 0 (exclusive) to 1")
        for name in ("dropout", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidOption(name, getattr(self, name), "a number from 0 to 1 (exclusive)")

    @property
    def rate(self) -> float:
        return RATES[self.method] if self.learning_rate is None else self.learning_rate


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run starts from."""

    config: SftConfig
    model: Model
    tokenizer: HFChatTokenizer
    train: Sequence[Example]
    validation: Sequence[Example]
    too_long: Sequence[str]
    """Places of rows that are longer than `max_length`."""
    data: Path
    data_hash: str
    estimate: memory.Estimate
    free: int
    device: Any


Say = Callable[[str], None]


def data_hash(folder: Path) -> str:
    """sha256 over the rows to train on and those held out."""
    digest = hashlib.sha256()
    for name in (TRAIN, VALIDATION):
        path = folder / name
        digest.update(path.read_bytes() if path.is_file() else b"")
        digest.update(b"\0")
    return digest.hexdigest()


def prepare(
    model: str | None, data: Path, config: SftConfig, *, progress: Progress | None = None, free: int | None = None
) -> Prepared:
    """Read the data, find the model, count tokens and foretell the memory; loads no weights.

    Without a model, the small one of the catalogue. `free` (bytes) is measured where it isn't given. Raises
    `UserMistake` where no row is short enough, `ModelUnavailable` where the run can't fit, with the figures.
    """
    require("trl", "peft", "datasets")
    rows, held_out = load(data)
    found = resolve(model or SMALL, engine="local", progress=progress)
    tokenizer = load_tokenizer(found.path)
    given: list[list[Example]] = []
    too_long: list[str] = []
    for part in (rows, held_out):
        given.append([])
        for row in part:
            example = example_of(row, tokenizer, model=found.name, system=config.system)
            if len(example) <= config.max_length:
                given[-1].append(example)
            else:
                too_long.append(row.place)
    if not given[0]:
        raise UserMistake(
            f"All {len(rows)} rows are longer than {config.max_length} tokens: choose a greater max_length."
        )
    device = loading.default_device()
    shape = loading.read_config(found.path)
    # Without packing no row is longer than the longest.
    length = config.max_length if config.packing else max(len(example) for part in given for example in part)
    estimates = {
        method: memory.estimate(
            shape,
            method,
            device=device,
            rank=config.rank,
            length=length,
            batch=config.batch,
            checkpointing=config.checkpointing,
        )
        for method in METHODS
    }
    available = loading.free_memory(device) if free is None else free
    own = estimates[config.method]
    cheaper = [other for other in estimates.values() if other.total < own.total]
    memory.check(own, available, device, cheaper)
    return Prepared(
        config=config,
        model=found,
        tokenizer=tokenizer,
        train=given[0],
        validation=given[1],
        too_long=too_long,
        data=data,
        data_hash=data_hash(data),
        estimate=own,
        free=available,
        device=device,
    )


def describe(prepared: Prepared) -> dict[str, Any]:
    """What `config.json` holds."""
    return {
        "version": 1,
        "model": named(prepared.model),
        "model_name": prepared.model.name,
        "model_hash": prepared.model.hash,
        "data": str(prepared.data),
        "data_sha256": prepared.data_hash,
        "rows": {
            "train": len(prepared.train),
            "validation": len(prepared.validation),
            "too_long": len(prepared.too_long),
            "tokens": sum(map(len, prepared.train)),
            "learnt_tokens": sum(len(example) - example.prompt for example in prepared.train),
        },
        "settings": dataclasses.asdict(prepared.config),
        "learning_rate": prepared.config.rate,
        "seed": prepared.config.seed,
        "device": str(prepared.device),
        "memory": {**prepared.estimate.to_dict(), "free": prepared.free},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def named(model: Model) -> str:
    """What `--model` takes to find it again: a name of the catalogue, a hub id, or a path."""
    known = any(card.name == model.name for card in catalogue())
    return model.name if known or "/" in model.name else str(model.path)


def read_run(folder: Path) -> dict[str, Any]:
    """The `config.json` of a run folder. Raises `UserMistake` where there is none."""
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        SftConfig(**found["settings"])
    except FileNotFoundError:
        raise UserMistake(f"{folder} holds no run: there is no {CONFIG} in it.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserMistake(f"{folder / CONFIG} is damaged ({type(error).__name__}): start the run anew.") from error
    return dict(found)


def train(
    prepared: Prepared,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    say: Say = lambda line: None,
    callbacks: Sequence[Any] = (),
) -> dict[str, Any]:
    """Train, and return what `result.json` holds. `callbacks` are further ones of transformers.

    Raises `UserMistake` where the folder holds a run and `resume` is not asked for, or a run of other data, another
    model or other settings; `OutOfMemory` where memory ran out after all.
    """
    _claim(prepared, out, resume)
    report = progress or loading.silent
    if resume and (out / RESULT).is_file():
        say(f"{out} is finished.")
        return dict(json.loads((out / RESULT).read_text(encoding="utf-8")))
    checkpoint = last_checkpoint(out / CHECKPOINTS) if resume else None
    say(prepared.estimate.sentence + f"; {prepared.free / 1e9:.2f} GB are free on {prepared.device}.")
    if prepared.too_long:
        say(
            f"{len(prepared.too_long)} rows are longer than {prepared.config.max_length} tokens and left out, the "
            f"first of them {prepared.too_long[0]}."
        )
    from marco.training import watching

    begun = time.monotonic()
    try:
        # The libraries print; stdout is for what was asked for.
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            # About names in TRL's own settings, which is not for who trains to change.
            warnings.simplefilter("ignore", FutureWarning)
            trainer = _trainer(prepared, out, report, say, callbacks)
            _forget_after(out, int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0)
            if checkpoint:
                say(f"Going on behind step {checkpoint.name.rpartition('-')[2]}.")
                trainer.args.eval_on_start = False
            outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            report(0, 0, "Writing the result")
            place = _save(trainer, prepared, out)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "out of memory" not in str(error).lower():
            raise
        raise OutOfMemory(
            f"Memory ran out after all, though {prepared.estimate.total / 1e9:.2f} GB were foretold and "
            f"{prepared.free / 1e9:.2f} GB were free: take a shorter max_length, or another method, and --resume."
        ) from error
    finally:
        watching.close_tracker()
    result = _result(out, prepared, place, outcome, time.monotonic() - begun)
    write_json(out / RESULT, result)
    card.write(out, place, describe(prepared), result)
    return result


def _claim(prepared: Prepared, out: Path, resume: bool) -> None:
    """Make the folder, or see that it holds this very run."""
    if not (out / CONFIG).is_file():
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_json(out / CONFIG, describe(prepared))
        except OSError as error:
            raise UserMistake(f"{out} can't be written to ({error.strerror or error}): choose another --out.") from None
        return
    if not resume:
        raise UserMistake(f"{out} holds a run: go on with it by --resume, or choose another --out.")
    before, now = read_run(out), describe(prepared)
    for name, what in (("data_sha256", "data"), ("model_hash", "model"), ("settings", "settings")):
        if before[name] != now[name]:
            raise UserMistake(f"{out} was begun with other {what}: choose another --out for this.")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    # The state is what a checkpoint is closed with.
    complete = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _forget_after(out: Path, step: int) -> None:
    """Take back lines of steps that will be made again."""
    for name in (METRICS, SAMPLES):
        path = out / name
        if not path.is_file():
            continue
        kept = []
        # By line feeds alone: splitlines() also breaks at characters that a model may write.
        for line in path.read_text(encoding="utf-8").split("\n"):
            with contextlib.suppress(ValueError):
                if json.loads(line)["step"] <= step and step:
                    kept.append(line + "\n")
        path.write_text("".join(kept), encoding="utf-8")


def _trainer(prepared: Prepared, out: Path, report: Progress, say: Say, further: Sequence[Any]) -> Any:
    import torch
    import transformers
    from datasets import Dataset
    from trl import SFTConfig as Arguments
    from trl import SFTTrainer

    from marco.training.watching import Metrics, Samples, Shown

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    class Trainer(SFTTrainer):  # type: ignore[misc]
        """Tells nobody elsewhere that it runs, and leaves model cards to Marco."""

        def _send_telemetry(self) -> None: ...

        def create_model_card(self, *_: object, **__: object) -> None: ...

    config = prepared.config
    on_gpu = prepared.device.type == "cuda"
    total = steps_of(prepared)
    every = max(1, math.ceil(total / config.evaluations))
    arguments = Arguments(
        output_dir=str(out / CHECKPOINTS),
        seed=config.seed,
        data_seed=config.seed,
        num_train_epochs=config.epochs,
        max_steps=config.steps or -1,
        learning_rate=config.rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup,
        per_device_train_batch_size=config.batch,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=config.accumulate,
        gradient_checkpointing=config.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if config.checkpointing else None,
        max_length=config.max_length,
        packing=config.packing,
        packing_strategy="bfd",
        # One row at a time, so that the loss of the rows held out does not depend on how they are packed.
        eval_packing=False,
        bf16=on_gpu and torch.cuda.is_bf16_supported(),
        fp16=on_gpu and not torch.cuda.is_bf16_supported(),
        use_cpu=not on_gpu,
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if prepared.validation else "no",
        eval_steps=every,
        eval_on_start=bool(prepared.validation),
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=on_gpu,
    )
    # Several GPUs and one process: one of them works.
    arguments._n_gpu = min(1, arguments.n_gpu)
    # PEFT draws an adapter's first weights, TRL seeds it.
    model = _load(prepared, report)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        str(tokenizer_folder(prepared.model.path)), local_files_only=True
    )
    metrics = Metrics(out / METRICS, project=PROJECT, run=out.resolve().name, settings=describe(prepared))
    samples = Samples(out / SAMPLES, prepared.tokenizer, prompts(prepared), config.sample_tokens, metrics, every)
    with _quietly():
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=_dataset(Dataset, prepared.train),
            eval_dataset=_dataset(Dataset, prepared.validation) if prepared.validation else None,
            processing_class=tokenizer,
            peft_config=None if config.method == "full" else _lora(config),
            callbacks=[metrics, samples, Shown(report, say), *further],
        )
    trainer.remove_callback(transformers.PrinterCallback)
    if config.method != "full":
        # In bfloat16 the small updates of a small rate are lost; an adapter is small enough for float32.
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return trainer


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the data library's bars between Marco's own."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _dataset(kind: Any, examples: Sequence[Example]) -> Any:
    return kind.from_dict(
        {
            "input_ids": [list(example.input_ids) for example in examples],
            "labels": [list(example.labels) for example in examples],
        }
    )


def prompts(prepared: Prepared) -> list[Example]:
    """What samples are asked for: rows held out, else rows to train on."""
    return list((prepared.validation or prepared.train)[: prepared.config.samples])


def steps_of(prepared: Prepared) -> int:
    """Optimiser steps of the run. With packing an estimate from below: packed rows are never quite full."""
    config = prepared.config
    if config.steps is not None:
        return config.steps
    rows = len(prepared.train)
    if config.packing:
        rows = max(1, math.ceil(sum(map(len, prepared.train)) / config.max_length))
    return max(1, math.ceil(math.ceil(rows / (config.batch * config.accumulate)) * config.epochs))


def _load(prepared: Prepared, report: Progress) -> Any:
    config, found = prepared.config, prepared.estimate
    decided = loading.Plan(
        quantize="4bit" if config.method == "qlora" else "none",
        dtype=memory.base_dtype(config.method, prepared.device),
        device=prepared.device,
        weight_bytes=found.weights,
        room_bytes=found.total - found.weights,
        free_bytes=prepared.free,
        why=found.sentence,
    )
    model = loading.load(prepared.model.path, decided, progress=report)
    # A file converted from GGUF keeps head and embedding apart, a folder may tie them: either trains as it is.
    model.config.use_cache = False
    return model.train()


def _lora(config: SftConfig) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _save(trainer: Any, prepared: Prepared, out: Path) -> Path:
    if prepared.config.method != "full":
        place = out / ADAPTER
        for settings in trainer.model.peft_config.values():
            # Not the folder in a cache that it was read from.
            settings.base_model_name_or_path = named(prepared.model)
        # The embedding is no part of it, so nobody need look on a hub whether it changed.
        trainer.model.save_pretrained(str(place), save_embedding_layers=False)
        return place
    place = out / MODEL
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.config.use_cache = True
    shape = loading.read_config(prepared.model.path)
    given = getattr(shape, "dtype", None)
    save_model(model.to(given) if given is not None else model, prepared.model.path, place)
    return place


def _result(out: Path, prepared: Prepared, place: Path, outcome: Any, seconds: float) -> dict[str, Any]:
    lines = read_lines(out / METRICS)
    evaluated = [line["eval_loss"] for line in lines if "eval_loss" in line]
    losses = [line["loss"] for line in lines if "loss" in line]
    samples = read_lines(out / SAMPLES)
    last = [line for line in samples if line["step"] == samples[-1]["step"]] if samples else []
    return {
        "run": str(out),
        "method": prepared.config.method,
        "path": str(place),
        "steps": int(outcome.global_step),
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
        "eval_loss_before": evaluated[0] if evaluated else None,
        "eval_loss": evaluated[-1] if evaluated else None,
        "well_formed_samples": sum(well_formed(line["text"]) for line in last),
        "samples": len(last),
        "seconds": round(seconds, 1),
        "peak_memory_bytes": _peak(prepared),
    }


def _peak(prepared: Prepared) -> int:
    if prepared.device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(prepared.device))
    return peak_memory_bytes()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:  # not splitlines(), which breaks at characters that a model may write
        return [json.loads(line) for line in file]
