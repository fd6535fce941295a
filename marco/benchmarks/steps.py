"""`marco bench steps`: what one decoding step of the local engine takes, by the number of rows that share it.

A step is what the engine does for each token: the model's body for all rows, the output head, the draw. Rows stand
at position 128, about the middle of a short rollout.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from marco.config import ModelConfig

if TYPE_CHECKING:
    from marco.engines.local import LocalEngine

Progress = Callable[[int, int, str], None]

BATCHES = (1, 8, 16, 32, 64)
POSITION = 128
WARM_UP = 2


def bench_steps(
    config: ModelConfig,
    progress: Progress | None = None,
    *,
    batches: Sequence[int] = BATCHES,
    steps: int = 16,
    seed: int = 0,
) -> dict[str, Any]:
    """Median milliseconds a step and tokens a second for each batch size; `config` is for engine local."""
    from marco.engines.local import open_local

    report = progress or (lambda _done, _total, _what: None)
    engine = open_local(config, progress)
    try:
        measured = {}
        for done, rows in enumerate(batches):
            report(done, len(batches), f"{rows} rows")
            measured[rows] = _step_seconds(engine, rows, steps, seed)
        report(len(batches), len(batches), "Done")
        return {
            "model": engine.info.model,
            "quantize": engine.info.details.get("quantize", ""),
            "dtype": engine.info.details.get("dtype", ""),
            "device": engine.info.device,
            "position": POSITION,
            "steps": steps,
            "milliseconds_a_step": {rows: round(1000 * seconds, 1) for rows, seconds in measured.items()},
            "tokens_per_second": {rows: round(rows / seconds, 1) for rows, seconds in measured.items()},
        }
    finally:
        engine.close()


def _step_seconds(engine: LocalEngine, rows: int, steps: int, seed: int) -> float:
    import numpy as np
    import torch

    from marco.engines import loading
    from marco.engines.decode import Decoder, draw, uniforms
    from marco.engines.kv import Slots

    model = engine.model
    decoder = Decoder(model)
    slots = Slots(loading.geometry(model.config, decoder.dtype, decoder.device), rows)
    slots.reserve(POSITION + WARM_UP + steps, 0)
    heat, share, seeds = np.ones(rows), np.full(rows, 0.95), np.arange(seed, seed + rows, dtype=np.uint64)
    tokens = np.arange(rows, dtype=np.int64)
    places = torch.arange(rows, device=decoder.device)
    times = []
    for step in range(WARM_UP + steps):
        began = time.perf_counter()
        with torch.inference_mode():
            decoder.step(slots, tokens, np.full(rows, POSITION + step))
            hidden = slots.hidden[places, POSITION + step]
            # Reading the tokens back waits for the device.
            tokens = draw(decoder.logits(hidden), heat, share, uniforms(seeds, np.full(rows, step))).tokens
        times.append(time.perf_counter() - began)
    return statistics.median(times[WARM_UP:])
