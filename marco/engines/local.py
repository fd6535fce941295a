"""The local engine: one model, one device, every token computed once.

One thread owns the model. Each of its turns admits waiting requests, reads a stretch of one prompt if one is new,
and decodes one token for all rows under way; rows join and leave between turns. What a rollout computed goes into
a `PrefixTree`, so that whatever continues any part of its path starts there, in this search or in another.

The cached path gives the logits of the uncached one up to rounding, which depends on the shape of the batch: in float32
that is about 1e-6, and one search alone writes the same tokens for the same seeds. In bfloat16 differences of 0.3
were seen, so that a token near a tie may come out otherwise in another company.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marco.config import ModelConfig
from marco.engines import heap, loading
from marco.engines.base import ChatTokenizer, Chunk, Completion, Deliver, EngineInfo, Finish, Request
from marco.engines.decode import TOP, Decoder, Draw, draw, uniforms
from marco.engines.kv import Geometry, PrefixTree, Slots, matched, shared

PREFILL_STRETCH = 512
"""Prompt positions computed in one turn: rows under way wait no longer than that."""
CHUNKS_A_SECOND = 20
HELD_BACK = 64
"""Tokens of text that are held back at most, whatever their bytes."""
REMEMBERED_SEARCHES = 256
"""Searches whose counts are kept."""
COUNTS = ("generated", "prefilled", "cached", "computed", "distinct", "recomputed", "rows")

_log = logging.getLogger(__name__)


class _Job:
    """One request on its way: waiting, in a slot, or put off with what it has written so far."""

    def __init__(self, request: Request, deliver: Deliver, room: int) -> None:
        self.request = request
        self.deliver = deliver
        self.limit = min(request.sampling.max_tokens, room)
        """Tokens it may write."""
        self.ids: tuple[int, ...] = request.prefix
        """What has to be in the cache before it can go on: the prefix, and what it wrote before it was put off."""
        self.written: _Written | None = None
        self.prefilled = 0
        self.known: int | None = None
        """Leading positions of `ids` that its search had seen before; None until it is looked at."""
        self.shown = 0
        """Tokens whose text has been delivered."""


@dataclass(frozen=True)
class _Written:
    """What a row has written. Arrays have one entry a token."""

    tokens: np.ndarray[Any, Any]
    logprobs: np.ndarray[Any, Any]
    top_ids: np.ndarray[Any, Any]
    top_logprobs: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.tokens)


class _Batch:
    """The rows under way, row i in slot i: what decides their next step, and what they have written.

    A leaving row's slot is taken by the last row, so that the rows are always the first ones.
    """

    def __init__(self, geometry: Geometry, slots: int) -> None:
        self.slots = Slots(geometry, slots)
        self.jobs: list[_Job] = []
        self.lengths = np.zeros(slots, np.int64)
        """Positions whose states are in the slot."""
        self.counts = np.zeros(slots, np.int64)
        """Tokens written."""
        self.limits = np.zeros(slots, np.int64)
        self.seeds = np.zeros(slots, np.uint64)
        self.temperature = np.zeros(slots)
        self.top_p = np.ones(slots)
        self._settings = (self.lengths, self.counts, self.limits, self.seeds, self.temperature, self.top_p)
        self._tokens = np.zeros((slots, 0), np.int32)
        self._logprobs = np.zeros((slots, 0), np.float32)
        self._top_ids = np.zeros((slots, 0, TOP), np.int32)
        self._top_logprobs = np.zeros((slots, 0, TOP), np.float32)

    def __len__(self) -> int:
        return len(self.jobs)

    def join(self, job: _Job) -> int:
        """Give a job the next slot; its states are the caller's to fill in."""
        slot = len(self.jobs)
        self.jobs.append(job)
        sampling = job.request.sampling
        self.lengths[slot] = len(job.ids)
        self.limits[slot] = job.limit
        self.seeds[slot] = np.uint64(job.request.seed % 2**64)
        self.temperature[slot] = sampling.temperature
        self.top_p[slot] = sampling.top_p
        self.counts[slot] = 0
        if job.written is not None:
            count = len(job.written)
            self._room(count)
            self._tokens[slot, :count] = job.written.tokens
            self._logprobs[slot, :count] = job.written.logprobs
            self._top_ids[slot, :count] = job.written.top_ids
            self._top_logprobs[slot, :count] = job.written.top_logprobs
            self.counts[slot] = count
        self.slots.reserve(len(job.ids) + 1, slot)
        return slot

    def leave(self, slot: int) -> None:
        last = len(self.jobs) - 1
        if slot != last:
            for setting in self._settings:
                setting[slot] = setting[last]
            count = self.counts[last]
            for array in (self._tokens, self._logprobs, self._top_ids, self._top_logprobs):
                array[slot, :count] = array[last, :count]
            self.slots.copy_from(self.slots, last, slot, int(self.lengths[last]))
            self.jobs[slot] = self.jobs[last]
        self.jobs.pop()

    def write(self, drawn: Draw) -> None:
        """Append one token to each row."""
        rows = np.arange(len(self.jobs))
        at = self.counts[rows]
        self._room(int(at.max()) + 1)
        width = drawn.top_ids.shape[1]
        self._tokens[rows, at] = drawn.tokens
        self._logprobs[rows, at] = drawn.logprobs
        self._top_ids[rows, at, :width] = drawn.top_ids
        self._top_logprobs[rows, at, :width] = drawn.top_logprobs
        self.counts[rows] += 1

    def last_tokens(self) -> np.ndarray[Any, Any]:
        rows = np.arange(len(self.jobs))
        return self._tokens[rows, self.counts[rows] - 1].astype(np.int64)

    def tokens(self, slot: int, start: int = 0) -> tuple[int, ...]:
        return tuple(self._tokens[slot, start : self.counts[slot]].tolist())

    def written(self, slot: int) -> _Written:
        count = self.counts[slot]
        return _Written(
            self._tokens[slot, :count].copy(),
            self._logprobs[slot, :count].copy(),
            self._top_ids[slot, :count].copy(),
            self._top_logprobs[slot, :count].copy(),
        )

    def path(self, slot: int) -> tuple[int, ...]:
        """All ids of a row, prefix first. The last ones may have no states yet."""
        return self.jobs[slot].request.prefix + self.tokens(slot)

    def _room(self, count: int) -> None:
        held = self._tokens.shape[1]
        if count <= held:
            return
        more = max(256, held, count - held)
        for name in ("_tokens", "_logprobs", "_top_ids", "_top_logprobs"):
            array = getattr(self, name)
            widths = [(0, 0), (0, more)] + [(0, 0)] * (array.ndim - 2)
            setattr(self, name, np.pad(array, widths))


class _Queue:
    """Waiting jobs by search. Those searches come first that have the fewest rows under way; among equals, turns."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, deque[_Job]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._jobs.values()))

    def push(self, job: _Job, *, first: bool = False) -> None:
        line = self._jobs.setdefault(job.request.search, deque())
        if first:
            line.appendleft(job)
        else:
            line.append(job)

    def heads(self, under_way: Mapping[str, int]) -> list[_Job]:
        """The next job of each search, in the order in which they should be served."""
        return [self._jobs[search][0] for search in sorted(self._jobs, key=lambda search: under_way.get(search, 0))]

    def remove(self, job: _Job) -> None:
        search = job.request.search
        self._jobs[search].remove(job)
        if self._jobs[search]:
            self._jobs.move_to_end(search)
        else:
            del self._jobs[search]

    def __iter__(self) -> Iterator[_Job]:
        return (job for line in list(self._jobs.values()) for job in list(line))


class LocalEngine:
    """A transformers model that decodes all rollouts of all searches in one batch. See `base.Engine`.

    `path_or_model` is a folder as transformers writes it, a GGUF file, a `shape:` name, or a model object that
    is already loaded (then `tokenizer` is needed). `slots` is the largest batch; `memory_limit` bounds the bytes of
    all cached states together (default: most of what is free once the model is loaded).
    Raises `ModelUnavailable` where the model can't be read or can't fit.
    """

    def __init__(
        self,
        path_or_model: str | Path | Any,
        *,
        quantize: str = "auto",
        slots: int = 32,
        context: int = 8192,
        memory_limit: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        adapter: str | None = None,
        progress: loading.Progress | None = None,
        tokenizer: ChatTokenizer | None = None,
        name: str | None = None,
        model_hash: str = "",
    ) -> None:
        details: dict[str, Any] = {}
        if isinstance(path_or_model, str | Path):
            label = name or (str(path_or_model) if _is_shape(path_or_model) else Path(path_or_model).name)
            model, details = _load(
                path_or_model, label, quantize, slots, context, dtype, device, adapter, progress or loading.silent
            )
            tokenizer = tokenizer or _tokenizer(path_or_model)
        else:
            model = path_or_model
            label = name or type(model).__name__
            loading.check_architecture(model.config, label)
            if tokenizer is None:
                raise ValueError("A model object comes without its tokenizer: give one.")
        self.ignore_ends = False
        """Write past end tokens, up to the limit: for benchmarks, where all runs must do the same work."""
        self._model = model
        self._tokenizer = tokenizer
        self._decoder = Decoder(model)
        self._vocabulary: int = model.get_input_embeddings().weight.shape[0]
        positions = getattr(model.config, "max_position_embeddings", context)
        self._context = min(context, positions)
        self._geometry = loading.geometry(model.config, self._decoder.dtype, self._decoder.device)
        self._ends = np.array(sorted(tokenizer.end_ids), np.int64)
        free = loading.free_memory(self._decoder.device)
        share = 0.8 if self._decoder.device.type == "cuda" else 0.5
        self._memory_limit = int(free * share) if memory_limit is None else memory_limit
        self._batch = _Batch(self._geometry, slots)
        self._scratch = Slots(self._geometry, 1)
        self._scratch_ids: tuple[int, ...] = ()
        self._store = PrefixTree(self._memory_limit)
        self._queue = _Queue()
        self._reading: _Job | None = None
        self._stretch = PREFILL_STRETCH
        self._ceiling = slots
        self._steps = 0
        self._row_steps = 0
        self._totals = dict.fromkeys(COUNTS, 0)
        self._of_search: OrderedDict[str, dict[str, int]] = OrderedDict()
        self._seen: OrderedDict[str, PrefixTree] = OrderedDict()
        self._next_chunks = 0.0
        self._inbox: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._forgetting = False
        self._info = EngineInfo(
            engine="local",
            model=label,
            model_hash=model_hash,
            device=_device_name(self._decoder.device),
            context=self._context,
            slots=slots,
            details={
                "dtype": str(self._decoder.dtype).removeprefix("torch."),
                "memory_limit_bytes": self._memory_limit,
                **details,
            },
        )
        self._thread = threading.Thread(target=self._run, name="marco-local", daemon=True)
        self._thread.start()

    # -- the protocol, called from any thread --------------------------------------------------------------

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self._tokenizer

    @property
    def model(self) -> Any:
        """The transformers model. Leave it alone while requests are under way: the engine's thread owns it."""
        return self._model

    def submit(self, requests: Sequence[Request], deliver: Deliver) -> None:
        """Start the requests and return at once. A request that can't be served is answered from this thread."""
        jobs = []
        for request in requests:
            problem = self._problem(request)
            if problem:
                _deliver(deliver, _failure(request, problem))
            else:
                jobs.append(_Job(request, deliver, self._context - len(request.prefix)))
        with self._wake:
            if not self._closing:
                self._inbox.extend(jobs)
                self._wake.notify_all()
                return
        for job in jobs:
            _deliver(deliver, _failure(job.request, "The engine is closed."))

    def usage(self) -> Mapping[str, float]:
        """Running totals: `generated` sampled positions, `prefilled` and `cached` prompt positions, `computed`
        (prefilled + generated), `distinct` (prompt + forced + generated positions kept), `recomputed` (prefilled
        though computed before: evicted, or put off for want of memory), `rows`; and what is held in memory."""
        counts = dict(self._totals)
        counts["computed"] = counts["prefilled"] + counts["generated"]
        stored = self._store.nbytes
        return {
            **counts,
            "steps": self._steps,
            "mean_batch": self._row_steps / self._steps if self._steps else 0.0,
            "evicted": self._store.evicted,
            "stored_bytes": stored,
            "cache_bytes": stored + self._batch.slots.nbytes + self._scratch.nbytes,
        }

    def usage_of(self, search: str) -> Mapping[str, int]:
        """`usage` of one search (`Request.search`): the counts alone."""
        counts = dict(self._of_search.get(search, dict.fromkeys(COUNTS, 0)))
        counts["computed"] = counts["prefilled"] + counts["generated"]
        return counts

    def forget(self) -> None:
        """Drop all stored states before the next turn, as if nothing had been computed: for benchmarks."""
        self._forgetting = True

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _problem(self, request: Request) -> str:
        prefix = request.prefix
        if not prefix:
            return "There is nothing to continue: the prefix is empty."
        if len(prefix) >= self._context:
            return f"The text is {len(prefix):,} tokens long and leaves no room in a context of {self._context:,}."
        if min(prefix) < 0 or max(prefix) >= self._vocabulary:
            return f"The prefix holds a token id outside of the model's vocabulary of {self._vocabulary:,}."
        return ""

    # -- the decoding thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        with torch.inference_mode():
            while True:
                with self._wake:
                    while not (self._inbox or self._queue or self._batch.jobs or self._closing):
                        self._wake.wait()
                    arrived = list(self._inbox)
                    self._inbox.clear()
                    closing = self._closing
                for job in arrived:
                    self._queue.push(job)
                if closing:
                    break
                try:
                    self._turn()
                except Exception as error:
                    _log.exception("A turn of the local engine failed")
                    self._give_up(f"The model failed: {_first_line(error)}")
            self._end_all("cancelled")
        self._release()

    def _turn(self) -> None:
        if self._forgetting:
            self._forgetting = False
            self._store.shrink(0)
            self._scratch_ids = ()
        self._drop_cancelled()
        self._admit()
        if self._batch.jobs and self._guarded(self._sample):
            self._guarded(self._advance)
        now = time.monotonic()
        if now >= self._next_chunks:
            self._next_chunks = now + 1 / CHUNKS_A_SECOND
            for slot in range(len(self._batch)):
                self._show(slot)
        if not self._batch.jobs:
            # Nothing is under way: memory that was short may be free again.
            self._ceiling = self._batch.slots.count
            if not self._queue:
                self._stretch = PREFILL_STRETCH

    def _drop_cancelled(self) -> None:
        for job in self._queue:
            if job.request.cancel.is_set():
                self._queue.remove(job)
                self._conclude(job, job.written, "cancelled")
        for slot in reversed(range(len(self._batch))):
            if self._batch.jobs[slot].request.cancel.is_set():
                self._finish(slot, "cancelled")

    def _admit(self) -> None:
        """Give free slots to waiting jobs whose positions are all in memory; read on in one that isn't."""
        may_read = True
        while len(self._batch) < self._ceiling and self._queue:
            under_way: dict[str, int] = {}
            for running in self._batch.jobs:
                under_way[running.request.search] = under_way.get(running.request.search, 0) + 1
            heads = self._queue.heads(under_way)
            if self._reading in heads:
                # What was begun is finished first: two prompts read in turns would wait for each other.
                heads.sort(key=lambda head: head is not self._reading)
            for job in heads:
                if not self._in_memory(job.ids) and may_read:
                    may_read = False
                    self._reading = job
                    if not self._read(job):
                        return
                if self._in_memory(job.ids):
                    self._join(job)
                    break
            else:
                return

    def _in_memory(self, ids: tuple[int, ...]) -> bool:
        return self._scratch_ids[: len(ids)] == ids or matched(self._store.match(ids)) == len(ids)

    def _read(self, job: _Job) -> bool:
        """Compute the next stretch of a job's missing positions. False if there was no memory for it, or no sense."""
        ids = job.ids
        self._look_at(job)
        held = shared(self._scratch_ids, ids)
        try:
            self._scratch.reserve(len(ids), 1)
            found = self._store.match(ids)
            if matched(found) > held:
                self._scratch_ids = self._scratch_ids[:held]
                self._scratch.load(0, found, skip=held)
                held = matched(found)
            self._scratch_ids = ids[:held]
            end = min(len(ids), held + self._stretch)
            hidden = self._decoder.prefill(self._scratch, 0, ids, held, end)
            sound = bool(hidden.isfinite().all())
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            self._scratch_ids = ()
            self._free_memory()
            if self._stretch > 16:
                self._stretch //= 2
            else:
                self._queue.remove(job)
                self._conclude(job, job.written, "failed", _no_memory(len(ids)))
            return False
        known = job.known or 0
        self._count(job, prefilled=end - held, recomputed=max(0, min(known, end) - held))
        job.prefilled += end - held
        if not sound:
            self._scratch.clear(0)
            self._scratch_ids = ()
            self._queue.remove(job)
            self._conclude(job, job.written, "failed", "The model gave no finite numbers for this text.")
            return False
        self._scratch_ids = ids[:end]
        self._store.insert(self._scratch_ids, lambda start, stop: self._scratch.states(0, start, stop))
        return True

    def _join(self, job: _Job) -> None:
        self._look_at(job)
        try:
            slot = self._batch.join(job)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            self._batch.jobs.pop()
            self._free_memory()
            self._ceiling = len(self._batch)
            if not self._batch.jobs:
                self._queue.remove(job)
                self._conclude(job, job.written, "failed", _no_memory(len(job.ids)))
            return
        self._queue.remove(job)
        if self._scratch_ids[: len(job.ids)] == job.ids:
            self._batch.slots.copy_from(self._scratch, 0, slot, len(job.ids))
        else:
            self._batch.slots.load(slot, self._store.match(job.ids))
        if job is self._reading:
            self._reading = None
        self._limit_store()

    def _look_at(self, job: _Job) -> None:
        """Count what a job's search had not seen before, the first time that its turn comes."""
        if job.known is not None:
            return
        search = job.request.search
        seen = self._seen.setdefault(search, PrefixTree())
        self._seen.move_to_end(search)
        while len(self._seen) > REMEMBERED_SEARCHES:
            self._seen.popitem(last=False)
        job.known = matched(seen.match(job.ids))
        seen.insert(job.ids)
        self._count(job, distinct=len(job.ids) - job.known, rows=1)

    def _sample(self) -> None:
        batch = self._batch
        rows = len(batch)
        places = torch.from_numpy(batch.lengths[:rows] - 1).to(self._geometry.device)
        hidden = batch.slots.hidden[torch.arange(rows, device=self._geometry.device), places]
        drawn = draw(
            self._decoder.logits(hidden),
            batch.temperature[:rows],
            batch.top_p[:rows],
            uniforms(batch.seeds[:rows], batch.counts[:rows]),
        )
        batch.write(drawn)
        ended = np.isin(drawn.tokens, self._ends) & (not self.ignore_ends)
        full = batch.counts[:rows] >= batch.limits[:rows]
        for slot in np.flatnonzero(ended | full | ~drawn.sound)[::-1].tolist():
            if not drawn.sound[slot]:
                batch.counts[slot] -= 1
                self._finish(slot, "failed", "The model's logits were not finite numbers.")
            else:
                self._finish(slot, "stop" if ended[slot] else "length")

    def _advance(self) -> None:
        """Compute the states of the token that each row has just written."""
        batch = self._batch
        rows = len(batch)
        if not rows:
            return
        positions = batch.lengths[:rows].copy()
        if batch.slots.reserve(int(positions.max()) + 1, rows):
            self._limit_store()
        self._decoder.step(batch.slots, batch.last_tokens(), positions)
        batch.lengths[:rows] += 1
        self._steps += 1
        self._row_steps += rows

    def _guarded(self, work: Callable[[], None]) -> bool:
        """Do a part of a step; where memory runs out, do it with half the rows, and so on. False if none is left."""
        freed = False
        while self._batch.jobs:
            try:
                work()
                return bool(self._batch.jobs)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                _log.warning("Out of memory with %d rows: %s", len(self._batch), _first_line(error))
            # Outside of the handler, whose traceback keeps the tensors of the failed attempt alive.
            rows = len(self._batch)
            if rows > 1:
                self._ceiling = rows // 2
                for slot in reversed(range(self._ceiling, rows)):
                    self._put_off(slot)
                self._free_memory()
            elif not freed:
                freed = True
                self._store.shrink(0)
                self._free_memory()
            else:
                self._finish(0, "failed", _no_memory(int(self._batch.lengths[0])))
        return False

    def _put_off(self, slot: int) -> None:
        """Send a row back to wait, with what it has written."""
        job = self._batch.jobs[slot]
        job.written = self._batch.written(slot)
        job.ids = self._batch.path(slot)
        job.known = len(job.ids)
        self._keep(slot)
        self._batch.leave(slot)
        self._queue.push(job, first=True)

    def _keep(self, slot: int) -> None:
        """Put a row's states into the long-term memory, if there is any to spare."""
        path = self._batch.path(slot)[: int(self._batch.lengths[slot])]
        try:
            self._store.insert(path, lambda start, end: self._batch.slots.states(slot, start, end))
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise

    def _limit_store(self) -> None:
        """What the working memory takes, the long-term memory can't have."""
        taken = self._batch.slots.nbytes + self._scratch.nbytes
        self._store.limit = max(0, self._memory_limit - taken)
        self._store.shrink()

    def _free_memory(self) -> None:
        self._store.shrink(self._store.nbytes // 2)
        gc.collect()
        if self._geometry.device.type == "cuda":
            torch.cuda.empty_cache()

    # -- results -------------------------------------------------------------------------------------------

    def _finish(self, slot: int, finish: Finish, error: str | None = None) -> None:
        """Take a row out of the batch and deliver what it wrote."""
        job = self._batch.jobs[slot]
        written = self._batch.written(slot)
        if finish == "failed":
            # Its states may hold NaN, which would spread through the mask of whoever comes next.
            self._batch.leave(slot)
            self._batch.slots.clear(len(self._batch))
        else:
            path = self._batch.path(slot)
            self._keep(slot)
            if finish != "cancelled":
                self._show(slot, to_the_end=True)
                self._seen[job.request.search].insert(path)
            self._batch.leave(slot)
        self._conclude(job, written, finish, error)

    def _conclude(self, job: _Job, written: _Written | None, finish: Finish, error: str | None = None) -> None:
        """Deliver a job's completion, and count what it wrote."""
        count = len(written) if written is not None else 0
        self._count(job, generated=count, distinct=count if finish in ("stop", "length") else 0)
        if job is self._reading:
            self._reading = None
        request = job.request
        cached = len(request.prefix) - min(job.prefilled, len(request.prefix)) if job.known is not None else 0
        self._count(job, cached=cached)
        _deliver(job.deliver, self._completion(request, written, finish, error, job.prefilled, cached))

    def _completion(
        self, request: Request, written: _Written | None, finish: Finish, error: str | None, prefilled: int, cached: int
    ) -> Completion:
        if written is None or not len(written):
            return Completion(request.work, (), "", (), (), (), finish, prefilled, cached, error)
        tokens = tuple(written.tokens.tolist())
        text, offsets = self._tokenizer.decode(tokens)
        width = min(TOP, self._vocabulary)
        top = tuple(
            tuple(zip(ids, values, strict=True))
            for ids, values in zip(
                written.top_ids[:, :width].tolist(), written.top_logprobs[:, :width].tolist(), strict=True
            )
        )
        logprobs = tuple(written.logprobs.tolist())
        return Completion(request.work, tokens, text, offsets, logprobs, top, finish, prefilled, cached, error)

    def _show(self, slot: int, *, to_the_end: bool = False) -> None:
        """Deliver a row's new text. Tokens in mid-character wait for the rest of it, save at the end."""
        job = self._batch.jobs[slot]
        tokens = self._batch.tokens(slot, job.shown)
        # No character has more than four bytes; what is still incomplete further back will never be whole.
        held_back = 0 if to_the_end or len(tokens) > HELD_BACK else 4
        for behind in range(min(held_back, len(tokens)) + 1):
            whole = tokens[: len(tokens) - behind]
            text, offsets = self._tokenizer.decode(whole) if whole else ("", ())
            if not whole or not held_back or offsets[-1] == len(text):
                break
        else:
            return
        if whole:
            job.shown += len(whole)
            _deliver(job.deliver, Chunk(job.request.work, text, job.shown))

    def _count(self, job: _Job, **counts: int) -> None:
        search = job.request.search
        own = self._of_search.setdefault(search, dict.fromkeys(COUNTS, 0))
        self._of_search.move_to_end(search)
        while len(self._of_search) > REMEMBERED_SEARCHES:
            self._of_search.popitem(last=False)
        for name, value in counts.items():
            self._totals[name] += value
            own[name] += value

    def _give_up(self, sentence: str) -> None:
        """After a crash: fail what was under way or may have caused it, and start afresh."""
        suspects = [self._reading] if self._reading is not None else []
        if not suspects and not self._batch.jobs:
            suspects = self._queue.heads({})[:1]
        for slot in reversed(range(len(self._batch))):
            self._finish(slot, "failed", sentence)
        for job in suspects:
            self._queue.remove(job)
            self._conclude(job, job.written, "failed", sentence)
        self._scratch_ids = ()
        if self._scratch.capacity:
            self._scratch.clear(0)

    def _end_all(self, finish: Finish) -> None:
        for slot in reversed(range(len(self._batch))):
            self._finish(slot, finish)
        for job in self._queue:
            self._queue.remove(job)
            self._conclude(job, job.written, finish)

    def _release(self) -> None:
        """Let go of the model and of all states, also where somebody still holds the engine."""
        cuda = self._geometry.device.type == "cuda"
        self._store = PrefixTree(0)
        self._batch = _Batch(self._geometry, 1)
        self._scratch = Slots(self._geometry, 1)
        del self._model, self._decoder
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()


def open_local(config: ModelConfig, progress: loading.Progress | None = None) -> LocalEngine:
    """The engine that a `ModelConfig` asks for: its model found, or fetched, and loaded."""
    name = config.model
    if name is not None and name.startswith(loading.SHAPE):
        source: str | Path = name
        label, digest = name, name
    else:
        from marco.engines import models

        found = models.resolve(name, engine="local", progress=progress)
        source, label, digest = found.path, found.name, found.hash
    return LocalEngine(
        source,
        quantize=config.quantize,
        slots=config.slots,
        context=config.context,
        dtype=None if config.dtype == "auto" else getattr(torch, config.dtype),
        adapter=config.adapter,
        progress=progress,
        name=label,
        model_hash=digest,
    )


def _load(
    source: str | Path,
    label: str,
    quantize: str,
    slots: int,
    context: int,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    adapter: str | None,
    progress: loading.Progress,
) -> tuple[Any, dict[str, Any]]:
    """The model, and what is worth knowing about how it was loaded."""
    place = torch.device(device) if device is not None else loading.default_device()
    path: str | Path = source if _is_shape(source) else Path(source).expanduser()
    if isinstance(path, Path) and path.is_file():
        path = loading.convert_gguf(path, progress)
    config = loading.read_config(path)
    decided = loading.plan(config, quantize, name=label, device=place, dtype=dtype, slots=slots, context=context)
    started = time.monotonic()
    try:
        model = loading.load(path, decided, adapter=adapter, progress=progress)
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        from marco.errors import ModelUnavailable

        raise ModelUnavailable(
            f"{label} did not fit into memory after all: {decided.predicted_bytes / 1e9:.2f} GB were predicted and "
            f"{decided.free_bytes / 1e9:.2f} GB were free; close other programs or choose a smaller form."
        ) from error
    if place.type == "cpu" and slots >= heap.MANY_ROWS:
        heap.keep()  # only now: what loading needed goes back
    details = {
        "quantize": decided.quantize,
        "why": decided.why,
        "predicted_weight_bytes": decided.weight_bytes,
        "weight_bytes": loading.model_bytes(model),
        "load_seconds": round(time.monotonic() - started, 1),
    }
    if adapter is not None:
        details["adapter"] = adapter
    return model, details


def _tokenizer(source: str | Path) -> ChatTokenizer:
    if _is_shape(source):
        from marco.engines.scripted import ByteTokenizer

        return ByteTokenizer()
    from marco.engines.chat import load_tokenizer

    return load_tokenizer(Path(source).expanduser())


def _is_shape(source: object) -> bool:
    return isinstance(source, str) and source.startswith(loading.SHAPE)


def _device_name(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def _deliver(deliver: Deliver, message: Chunk | Completion) -> None:
    try:
        deliver(message)
    except Exception:
        # Whoever listens may be gone; the other rows go on.
        _log.exception("A callback failed")


def _failure(request: Request, error: str) -> Completion:
    return Completion(request.work, (), "", (), (), (), "failed", error=error)


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()
    return "out of memory" in said or "can't allocate memory" in said or "not enough memory" in said


def _no_memory(length: int) -> str:
    return f"Memory ran out even for one rollout alone, {length:,} tokens long; free some or shorten the context."


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
