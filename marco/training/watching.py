"""What is seen of a run while it is under way: metrics, samples, and how far it is. Callbacks of transformers.

Importing this module imports transformers.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from marco.engines.chat import HFChatTokenizer
from marco.training.examples import Example
from marco.training.rules import well_formed

Progress = Callable[[int, int, str], None]
Say = Callable[[str], None]

ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_WEBHOOK_URL")
"""Variables that would send metrics to another machine."""
SAID_EVERY = 30.0
"""Seconds between lines of progress."""


class Metrics(TrainerCallback):  # type: ignore[misc]
    """Every logged number, in a file of JSON lines and in trackio's local store."""

    def __init__(self, path: Path, *, project: str, run: str, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._project = project
        self._run = run
        self._settings = settings
        self._tracker: Any = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        with contextlib.suppress(ImportError), _at_home(), contextlib.redirect_stdout(io.StringIO()):
            import trackio

            self._tracker = trackio.init(
                project=self._project,
                name=self._run,
                config=dict(self._settings),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        numbers = {name: value for name, value in (logs or {}).items() if isinstance(value, int | float)}
        self.note(int(state.global_step), numbers)

    def note(self, step: int, numbers: Mapping[str, float]) -> None:
        line = json.dumps({"step": step, **numbers})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self._tracker is not None:
            self._tracker.log(dict(numbers), step=step)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._tracker = None
        close_tracker()


def close_tracker() -> None:
    """End the record of a run that is under way, if any; else trackio does so at exit, with a line on stdout."""
    trackio: Any = sys.modules.get("trackio")
    if trackio is not None and trackio.context_vars.current_run.get() is not None:
        with contextlib.redirect_stdout(io.StringIO()):
            trackio.finish()


@contextlib.contextmanager
def _at_home() -> Iterator[None]:
    """Metrics stay on this machine, whatever the environment says."""
    away = {name: os.environ.pop(name) for name in ELSEWHERE if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(away)


class Samples(TrainerCallback):  # type: ignore[misc]
    """What the model writes to a few prompts, greedily, now and then; and how much of it is in form."""

    def __init__(
        self,
        path: Path,
        tokenizer: HFChatTokenizer,
        prompts: Sequence[Example],
        tokens: int,
        metrics: Metrics,
        every: int,
    ) -> None:
        self._path = path
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._tokens = tokens
        self._metrics = metrics
        self._every = every

    def on_step_end(self, _args: Any, state: Any, _control: Any, model: Any = None, **_: Any) -> None:
        if self._prompts and (state.global_step % self._every == 0 or state.global_step == state.max_steps):
            self._write(int(state.global_step), model)

    def _write(self, step: int, model: Any) -> None:
        import torch
        from transformers import GenerationConfig

        ends = sorted(self._tokenizer.end_ids)
        greedy = GenerationConfig(
            max_new_tokens=self._tokens, do_sample=False, eos_token_id=ends, pad_token_id=ends[0], use_cache=True
        )
        was_training = model.training
        model.eval()
        in_form = 0
        with self._path.open("a", encoding="utf-8") as file:
            for example in self._prompts:
                ids = torch.tensor([example.input_ids[: example.prompt]], device=model.device)
                with torch.no_grad():
                    written = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedy)
                new = written[0, ids.shape[1] :].tolist()
                text, _ = self._tokenizer.decode(new)
                in_form += well_formed(text)
                line = {"step": step, "place": example.place, "text": text, "ended": bool(set(new) & set(ends))}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        model.train(was_training)
        self._metrics.note(step, {"well_formed_samples": in_form / len(self._prompts)})


class Shown(TrainerCallback):  # type: ignore[misc]
    """How far the run is."""

    def __init__(self, progress: Progress, say: Say) -> None:
        self._progress = progress
        self._say = say
        self._loss: float | None = None
        self._held_out: float | None = None
        self._begun = self._said = 0.0
        self._first = 0

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self._begun = self._said = time.monotonic()
        self._first = int(state.global_step)

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        found = logs or {}
        self._loss = found.get("loss", self._loss)
        self._held_out = found.get("eval_loss", self._held_out)
        self._show(int(state.global_step), int(state.max_steps))

    def _show(self, step: int, total: int) -> None:
        parts = [f"loss {self._loss:.3f}"] if self._loss is not None else []
        parts += [f"held out {self._held_out:.3f}"] if self._held_out is not None else []
        self._progress(step, total, ", ".join(["Training", *parts]))
        now = time.monotonic()
        if step > self._first and now - self._said >= SAID_EVERY:
            self._said = now
            left = (now - self._begun) / (step - self._first) * (total - step)
            self._say(f"step {step} of {total}, {', '.join(parts)}, about {left / 60:.0f} min left")
