"""`marco bench`: how much of the machine a whole search gets, measured three ways in one run.

The same rollouts are written (a) naively, one `generate` after the other, each reading its prompt again; (b) by
a plain batched loop that shares the prompt, knows no tree and lets no row leave: the ceiling of what batching gives;
(c) by a search. Rollouts run to `max_tokens`, past end tokens, so that all three write equally many. Where the
engine is a server, (a) is one request after the other and (b) all at once: its raw throughput.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from marco.config import BudgetConfig, ModelConfig, Options
from marco.engines.base import Around, Chunk, Completion, Deliver, Engine, Request
from marco.errors import EngineError
from marco.events import SearchEnded
from marco.provenance import peak_memory_bytes
from marco.solver import Solver

if TYPE_CHECKING:
    from marco.engines.local import LocalEngine

Progress = Callable[[int, int, str], None]

QUESTION = (
    "A farmer has 17 crates with 24 eggs each. On Monday a third of the crates are sold, and 31 eggs break on the way. "
    "On Tuesday the hens lay 156 more eggs. How many full crates can be packed on Tuesday evening?"
)
WARM_UP_TOKENS = 4


def bench_speed(
    config: ModelConfig,
    options: Options,
    rollouts: int = 8,
    progress: Progress | None = None,
    *,
    max_tokens: int = 128,
    repeats: int = 1,
    naive_rollouts: int | None = None,
) -> dict[str, Any]:
    """Measure one model. The batch is `rollouts` or `config.slots`, whichever is less; `search.parallel` is the same,
    and the root may have as many children, as otherwise the first rollouts couldn't fill the batch.

    `repeats` rounds of (c) and (b) in turns, of which the medians count; `naive_rollouts` replays only so many of the
    search's rollouts in (a) (None: all). Returns the fields of the table; speeds are sampled tokens a second, prompt
    reading included. `roofline_*` are None where the engine isn't in this process.
    Raises `EngineError` if the engine fails on the way.
    """
    report = progress or (lambda _done, _total, _what: None)
    batch = min(rollouts, config.slots)
    options = replace(
        options,
        search=replace(
            options.search,
            strategy="mcts",
            parallel=batch,
            branching=max(options.search.branching, batch),
            reflection="off",
            stop_when_sure=None,
        ),
        sampling=replace(options.sampling, max_tokens=max_tokens),
        budget=BudgetConfig(rollouts=rollouts),
    )
    engine = _open(config, progress)
    try:
        steps = 2 * repeats + 2
        report(0, steps, "Warming up")
        _search(engine, replace(options, sampling=replace(options.sampling, max_tokens=WARM_UP_TOKENS)))
        searches, batches = [], []
        recorder = _Recorder(engine)
        for turn in range(repeats):
            report(2 * turn + 1, steps, "A whole search")
            recorder = _Recorder(engine)
            if engine.info.engine == "local":
                _local(engine).forget()
            searches.append(_search(recorder, options))
            report(2 * turn + 2, steps, "The plain batched loop")
            batches.append(_batched(engine, recorder, batch, options))
        report(steps - 1, steps, "One rollout after the other")
        naive = _naive(engine, recorder, options, naive_rollouts)
        search = statistics.median(speed for speed, _ in searches)
        batched = statistics.median(batches)
        tokens = searches[-1][1]
        fields: dict[str, Any] = {
            "model": engine.info.model,
            "engine": engine.info.engine,
            "quantize": engine.info.details.get("quantize", ""),
            "dtype": engine.info.details.get("dtype", ""),
            "device": engine.info.device,
            "batch": batch,
            "rollouts": rollouts,
            "action": options.search.action,
            "tokens_a_rollout": max_tokens,
            "generated_tokens": tokens["generated"],
            "naive_tokens_per_second": naive,
            "batched_tokens_per_second": batched,
            "search_tokens_per_second": search,
            "search_over_naive": search / naive,
            "search_over_batched": search / batched,
            "computed_over_distinct": tokens["computed"] / max(1, tokens["distinct"]),
            "roofline_tokens_per_second": None,
            "roofline_fraction": None,
            "peak_memory_bytes": None,
            "question": QUESTION,
        }
        if engine.info.engine == "local":
            positions = statistics.mean(len(request.prefix) + max_tokens / 2 for request in recorder.requests)
            fields.update(_roofline(_local(engine), batch, positions))
            fields["roofline_fraction"] = search / fields["roofline_tokens_per_second"]
            fields["peak_memory_bytes"] = peak_memory_bytes()
        report(steps, steps, "Done")
        return fields
    finally:
        engine.close()


def _open(config: ModelConfig, progress: Progress | None) -> Engine:
    local = config.engine == "local" or (config.engine == "auto" and (config.model or "").startswith("shape:"))
    if local:
        from marco.engines.local import open_local

        engine = open_local(config, progress)
        engine.ignore_ends = True
        return engine
    from marco.engines import open_engine

    return open_engine(config, progress=progress)


def _local(engine: Engine) -> LocalEngine:
    from marco.engines.local import LocalEngine

    assert isinstance(engine, LocalEngine)
    return engine


class _Recorder(Around):
    """An engine that notes what it is asked for."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.requests: list[Request] = []

    def submit(self, requests: Sequence[Request], deliver: Deliver) -> None:
        self.requests.extend(requests)
        super().submit(requests, deliver)


def _search(engine: Engine, options: Options) -> tuple[float, Mapping[str, int]]:
    """(c): tokens a second of a whole search, and its counts."""
    started = time.perf_counter()
    ended: SearchEnded | None = None
    for event in Solver(engine, options).stream(QUESTION):
        if isinstance(event, SearchEnded):
            ended = event
    seconds = time.perf_counter() - started
    if ended is None or ended.stopped_by == "error" or not ended.tokens["generated"]:
        raise EngineError(f"The search failed: {ended.message if ended else 'it did not end'}")
    return ended.tokens["generated"] / seconds, ended.tokens


def _batched(engine: Engine, recorder: _Recorder, batch: int, options: Options) -> float:
    """(b): tokens a second of `batch` rollouts from the search's prompt, all at once."""
    prompt = recorder.requests[0].prefix
    if engine.info.engine == "local":
        return _batched_loop(_local(engine), prompt, batch, options)
    started = time.perf_counter()
    done = _run(engine, [_request(number, prompt, options) for number in range(batch)])
    return sum(len(completion.token_ids) for completion in done) / (time.perf_counter() - started)


def _naive(engine: Engine, recorder: _Recorder, options: Options, limit: int | None) -> float:
    """(a): tokens a second of the search's rollouts, one after the other."""
    requests = recorder.requests[:limit]
    if engine.info.engine == "local":
        return _naive_generate(_local(engine), [request.prefix for request in requests], options)
    written = 0
    started = time.perf_counter()
    for number, request in enumerate(requests):
        written += sum(len(one.token_ids) for one in _run(engine, [_request(number, request.prefix, options)]))
    return written / (time.perf_counter() - started)


def _request(number: int, prefix: tuple[int, ...], options: Options) -> Request:
    return Request(number, prefix, options.sampling, number, threading.Event(), f"bench-{number}")


def _run(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """Completions of some requests; raises `EngineError` if one fails."""
    done: list[Completion] = []
    ready = threading.Event()

    def deliver(message: Chunk | Completion) -> None:
        if isinstance(message, Completion):
            done.append(message)
            if len(done) == len(requests):
                ready.set()

    engine.submit(requests, deliver)
    ready.wait()
    for completion in done:
        if completion.finish == "failed":
            raise EngineError(f"A rollout failed: {completion.error}")
    return done


def _naive_generate(engine: LocalEngine, prefixes: Sequence[tuple[int, ...]], options: Options) -> float:
    import torch

    sampling, model = options.sampling, engine.model
    how: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        how = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    written = 0
    torch.manual_seed(0)
    started = time.perf_counter()
    for prefix in prefixes:
        ids = torch.tensor([prefix], device=model.device)
        count = min(sampling.max_tokens, engine.info.context - len(prefix))
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                pad_token_id=0,
                use_cache=True,
                **how,
            )
        written += out.shape[1] - ids.shape[1]
    _wait_for(model.device)
    return written / (time.perf_counter() - started)


def _batched_loop(engine: LocalEngine, prompt: tuple[int, ...], batch: int, options: Options) -> float:
    """The loop one would write by hand: read the prompt once, repeat its cache for each row, decode all rows."""
    import numpy as np
    import torch
    from transformers import DynamicCache

    from marco.engines.decode import draw, uniforms

    model, sampling = engine.model, options.sampling
    seeds = np.arange(batch, dtype=np.uint64)
    heat, share = np.full(batch, sampling.temperature), np.full(batch, sampling.top_p)
    kept: list[Any] = []
    started = time.perf_counter()
    with torch.inference_mode():
        cache = DynamicCache(config=model.config)
        ids = torch.tensor([prompt], device=model.device)
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        cache.batch_repeat_interleave(batch)
        logits = logits.expand(batch, -1)
        for step in range(sampling.max_tokens):
            drawn = draw(logits, heat, share, uniforms(seeds, np.full(batch, step)))
            kept.append(drawn)
            if step + 1 == sampling.max_tokens:
                break
            tokens = torch.from_numpy(drawn.tokens).to(model.device)[:, None]
            positions = torch.full((batch, 1), len(prompt) + step, device=model.device)
            logits = model(input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True).logits[
                :, -1
            ]
    _wait_for(model.device)
    return batch * len(kept) / (time.perf_counter() - started)


def _roofline(engine: LocalEngine, batch: int, positions: float) -> dict[str, Any]:
    """The least time that one step can take: all weights and the rows' caches read once, all products computed."""
    from marco.engines import loading

    model = engine.model
    bandwidth, rate = measured_bandwidth(model.device), measured_rate(model.device, model.dtype)
    linear, _ = loading.weight_counts(model.config)
    head = model.get_output_embeddings().weight
    embedding = model.get_input_embeddings().weight
    # A row of the embedding is looked up; where it is the head as well, it is read as the head.
    weights = loading.model_bytes(model) - (embedding.nbytes if embedding.data_ptr() != head.data_ptr() else 0)
    geometry = loading.geometry(model.config, model.dtype, model.device)
    cache = 2 * geometry.layers * geometry.kv_heads * geometry.head_dim * geometry.dtype.itemsize * positions
    attention = 4 * geometry.layers * model.config.num_attention_heads * geometry.head_dim * positions
    reading = (weights + batch * cache) / bandwidth
    computing = batch * (2 * (linear + head.numel()) + attention) / rate
    return {
        "bandwidth_bytes_per_second": bandwidth,
        "matrix_flops_per_second": rate,
        "roofline_tokens_per_second": batch / max(reading, computing),
    }


def measured_bandwidth(device: Any) -> float:
    """Bytes a second, read and written, of copying a large tensor: the best of several tries."""
    import torch

    size = (1 << 30) if device.type == "cuda" else (1 << 28)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _best_time(lambda: target.copy_(source), device)


def measured_rate(device: Any, dtype: Any) -> float:
    """Floating-point operations a second of a large matrix product: the best of several tries."""
    import torch

    side = 8192 if device.type == "cuda" else 1024
    left = torch.ones(side, side, dtype=dtype, device=device)
    return 2 * side**3 / _best_time(lambda: left @ left, device)


def _best_time(work: Callable[[], object], device: Any, tries: int = 7) -> float:
    best = math.inf
    for _ in range(tries):
        _wait_for(device)
        started = time.perf_counter()
        work()
        _wait_for(device)
        best = min(best, time.perf_counter() - started)
    return best


def _wait_for(device: Any) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
