"""Several servers of one model as one engine: a branch stays where its prefix is, a dead server's work moves on.

    engine = open_servers(("http://10.0.0.1:8000", "http://10.0.0.2:8000"))

Each request goes to the server for which the sum of what it would have to read anew and of how busy it is, both in
tokens, is least. What each server has read is remembered in blocks, so a thought goes on where its beginning was
written.

A rollout whose server fails goes on at another one from the last token that came, so nothing is written twice and what
was shown stays true. A server that doesn't answer gets no work until it answers again. The tree is the search's, not
a server's: only work under way is ever at stake, and it is lost only when no server is left.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from marco.engines.base import ChatTokenizer, Chunk, Completion, Deliver, Engine, EngineInfo, Request
from marco.errors import EngineError, MarcoError, ModelUnavailable, ServerUnreachable

if TYPE_CHECKING:
    from marco.engines.models import Progress

T = TypeVar("T")

log = logging.getLogger(__name__)

BLOCK = 16
"""Tokens of a block; servers share prefixes in blocks of about this size."""
REMEMBERED = 65_536
"""Blocks remembered for each server: a million tokens, more than most caches hold."""
BUSY = 512.0
"""What a server that is full costs, in tokens read anew: reading is ten to a hundred times as fast as writing."""
AGAIN_SECONDS = 5.0
"""Pause between two looks at a server that doesn't answer."""


class Server(Engine, Protocol):
    """An engine that can tell whether its server is there."""

    def answers(self) -> bool: ...


def open_servers(
    urls: Sequence[str],
    *,
    model: str | None = None,
    slots: int = 8,
    context: int = 8192,
    progress: Progress | None = None,
) -> RoutingEngine:
    """An engine over the servers that answer now; `info.details["lacks"]` names those that don't.

    Raises `ServerUnreachable` where none answers, `ModelUnavailable` where they have different tokenizers.
    """
    from marco.engines.server import ServerEngine

    engines: list[ServerEngine] = []
    absent: list[ServerUnreachable] = []
    try:
        for url in dict.fromkeys(urls):
            try:
                engines.append(ServerEngine(url, model=model, slots=slots, context=context, progress=progress))
            except ServerUnreachable as error:
                absent.append(error)
        if not engines:
            raise absent[0]
        return RoutingEngine(engines, notes=[f"{error} The others do its work." for error in absent])
    except BaseException:
        for engine in engines:
            engine.close()
        raise


@dataclass(slots=True, eq=False)
class _Place:
    """One server, as the router sees it."""

    engine: Server
    load: int = 0
    up: bool = True
    blocks: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def known(self, chain: Sequence[int]) -> int:
        """Tokens at the beginning of a prefix that this server has read or written before."""
        count = 0
        for mark in chain:
            if mark not in self.blocks:
                break
            self.blocks.move_to_end(mark)
            count += BLOCK
        return count

    def remember(self, chain: Sequence[int]) -> None:
        for mark in chain:
            self.blocks[mark] = None
            self.blocks.move_to_end(mark)
        while len(self.blocks) > REMEMBERED:
            self.blocks.popitem(last=False)


@dataclass(slots=True, eq=False)
class _Job:
    """One request, and what the servers it was with have written of it."""

    request: Request
    deliver: Deliver
    tried: list[_Place] = field(default_factory=list)
    written: list[Completion] = field(default_factory=list)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token for part in self.written for token in part.token_ids)

    def rest(self) -> Request:
        """What is still to be written."""
        done = self.ids
        sampling = self.request.sampling
        return replace(
            self.request,
            prefix=(*self.request.prefix, *done),
            sampling=replace(sampling, max_tokens=sampling.max_tokens - len(done)),
        )


class _AnyTokenizer:
    """The tokenizer of whichever server can be asked: some have it on the server's side alone."""

    def __init__(self, places: Sequence[_Place]) -> None:
        self._places = places

    @property
    def end_ids(self) -> frozenset[int]:
        return self._places[0].engine.tokenizer.end_ids

    def chat_ids(self, messages: Sequence[Mapping[str, str]], *, prefill: str = "") -> tuple[int, ...]:
        return self._ask(lambda tokenizer: tokenizer.chat_ids(messages, prefill=prefill))

    def encode(self, text: str) -> tuple[int, ...]:
        return self._ask(lambda tokenizer: tokenizer.encode(text))

    def decode(self, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        return self._ask(lambda tokenizer: tokenizer.decode(ids))

    def _ask(self, question: Callable[[ChatTokenizer], T]) -> T:
        failure: MarcoError | None = None
        for place in sorted(self._places, key=lambda place: not place.up):
            try:
                return question(place.engine.tokenizer)
            except MarcoError as error:
                failure = error
        assert failure is not None
        raise failure


class RoutingEngine:
    """See the module's docstring."""

    def __init__(self, engines: Sequence[Server], *, notes: Sequence[str] = ()) -> None:
        """Takes over `engines` (at least one), which must have the same model; closes them when it is closed."""
        first = engines[0]
        for other in engines[1:]:
            if not _same_tokens(first.tokenizer, other.tokenizer):
                raise ModelUnavailable(
                    f"{other.info.device} has another tokenizer than {first.info.device}: give servers of one model."
                )
        self._places = [_Place(engine) for engine in engines]
        self._tokenizer = _AnyTokenizer(self._places)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._looking = False
        self._moved = 0
        lacks = [*notes]
        for engine in engines:
            lacks += [f"{engine.info.device}: {lack}" for lack in engine.info.details.get("lacks", ())]
        details = {"servers": [engine.info.device for engine in engines], "lacks": lacks}
        self._info = EngineInfo(
            engine="server",
            model=first.info.model,
            model_hash=first.info.model_hash,
            device=f"{len(engines)} servers: " + ", ".join(engine.info.device for engine in engines),
            context=min(engine.info.context for engine in engines),
            slots=sum(engine.info.slots for engine in engines),
            logprobs=all(engine.info.logprobs for engine in engines),
            details={**details, "note": " ".join(lacks)} if lacks else details,
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self._tokenizer

    def submit(self, requests: Sequence[Request], deliver: Deliver) -> None:
        if self._closed.is_set():
            raise EngineError("The engine is closed.")
        siblings: dict[tuple[int, ...], list[_Job]] = {}
        for request in requests:
            siblings.setdefault(request.prefix, []).append(_Job(request, deliver))
        for jobs in siblings.values():
            self._send(jobs)

    def usage(self) -> Mapping[str, float]:
        """The sums over all servers, and how many rollouts were `moved` from one to another."""
        totals: dict[str, float] = {"moved": self._moved}
        for place in self._places:
            for name, value in place.engine.usage().items():
                totals[name] = totals.get(name, 0) + value
        return totals

    def answers(self) -> bool:
        return any(place.up for place in self._places)

    def close(self) -> None:
        self._closed.set()
        for place in self._places:
            place.engine.close()

    def _choose(self, jobs: Sequence[_Job], chain: Sequence[int]) -> _Place | None:
        """The cheapest server for siblings, and its load raised by them; None where none is left."""
        with self._lock:
            left = [place for place in self._places if place not in jobs[0].tried]
            # Where none answers, one may be back all the same.
            among = [place for place in left if place.up] or left
            if not among:
                return None

            def cost(place: _Place) -> float:
                anew = len(chain) * BLOCK - place.known(chain)
                return anew + BUSY * place.load / place.engine.info.slots

            place = min(among, key=cost)
            place.load += len(jobs)
            place.remember(chain)
            return place

    def _send(self, jobs: Sequence[_Job]) -> None:
        rest = [job.rest() for job in jobs]
        place = self._choose(jobs, _chain(rest[0].prefix))
        if place is None:
            for job in jobs:
                self._finish(job, job.written[-1])
            return
        by_work = {job.request.work: job for job in jobs}
        for job in jobs:
            job.tried.append(place)
        try:
            place.engine.submit(rest, lambda told: self._told(place, by_work[told.work], told))
        except MarcoError as error:
            for job in jobs:
                self._told(place, job, _nothing(job, str(error)))

    def _told(self, place: _Place, job: _Job, told: Chunk | Completion) -> None:
        if isinstance(told, Chunk):
            job.deliver(replace(told, tokens=told.tokens + len(job.ids)))
            return
        with self._lock:
            place.load -= 1
        job.written.append(told)
        if told.finish == "failed" and not job.request.cancel.is_set() and not self._closed.is_set():
            # Whether the server is there takes a moment to learn; the thread that tells is the server engine's own.
            threading.Thread(target=self._move, args=(place, job), name="marco-move", daemon=True).start()
            return
        with self._lock:
            place.remember(_chain((*job.request.prefix, *job.ids)))
        self._finish(job, told)

    def _move(self, place: _Place, job: _Job) -> None:
        """Let a failed rollout go on elsewhere, and find out whether its server is gone."""
        if not place.engine.answers():
            self._lose(place)
        if len(job.ids) >= job.request.sampling.max_tokens:
            self._finish(job, replace(job.written[-1], finish="length", error=None))
            return
        self._moved += 1
        self._send([job])

    def _finish(self, job: _Job, last: Completion) -> None:
        job.deliver(_joined(job, last, self.tokenizer.decode))

    def _lose(self, place: _Place) -> None:
        with self._lock:
            if not place.up:
                return
            place.up = False
            # Its cache is gone with it.
            place.blocks.clear()
            start, self._looking = not self._looking, True
        log.warning("%s does not answer; its work moves on", place.engine.info.device)
        if start:
            threading.Thread(target=self._look_again, name="marco-servers", daemon=True).start()

    def _look_again(self) -> None:
        """Ask the servers that are gone, every few seconds, until all are back."""
        while not self._closed.wait(AGAIN_SECONDS):
            for place in [place for place in self._places if not place.up]:
                if place.engine.answers():
                    place.up = True
                    log.info("%s answers again", place.engine.info.device)
            with self._lock:
                if all(place.up for place in self._places):
                    self._looking = False
                    return


def _chain(ids: Sequence[int]) -> list[int]:
    """A mark for each whole block of a prefix, which stands for everything up to its end."""
    marks = []
    mark = 0
    for start in range(0, len(ids) - len(ids) % BLOCK, BLOCK):
        mark = hash((mark, tuple(ids[start : start + BLOCK])))
        marks.append(mark)
    return marks


def _nothing(job: _Job, error: str) -> Completion:
    return Completion(job.request.work, (), "", (), (), (), "failed", error=error)


def _joined(job: _Job, last: Completion, decode: Callable[[Sequence[int]], tuple[str, tuple[int, ...]]]) -> Completion:
    """The parts that the servers wrote, as one completion that ended as `last` did."""
    parts = job.written
    if len(parts) == 1:
        return last
    ids = job.ids
    try:
        text, offsets = decode(ids)
    except MarcoError as error:  # where the server that has the tokenizer is gone
        text, offsets = "", (0,) * len(ids)
        last = replace(last, finish="failed", error=str(error))
    return Completion(
        work=job.request.work,
        token_ids=ids,
        text=text,
        offsets=offsets,
        logprobs=tuple(value for part in parts for value in part.logprobs),
        top=tuple(tops for part in parts for tops in part.top),
        finish=last.finish,
        prefilled=sum(part.prefilled for part in parts),
        cached=sum(part.cached for part in parts),
        error=last.error,
    )


def _same_tokens(one: ChatTokenizer, other: ChatTokenizer) -> bool:
    from marco.engines.servers.look import SAMPLE

    turn = [{"role": "user", "content": SAMPLE}]
    return one.chat_ids(turn) == other.chat_ids(turn) and one.end_ids == other.end_ids
