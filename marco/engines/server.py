"""An engine over the HTTP API of a server that runs the model: llama.cpp's server, vLLM or SGLang.

    engine = ServerEngine("http://127.0.0.1:8080")

Prompts are token ids, sampling is temperature and top-p and nothing else, log-probabilities are raw. Requests of
one `submit` with the same prefix go out in one call, so that the server reads the prefix once; sibling i of such a
call draws with the seed of the first plus i. At most `slots` rollouts are under way; the rest wait here, and searches
take turns.

All traffic runs on one thread with an event loop. A request whose `cancel` is set gets its Completion within
`POLL` seconds, and once all of a call are cancelled its connection is closed, which stops the server.

What differs between kinds of server is in `marco.engines.servers`: which address, which payload, how a chunk reads.
What a server lacks stands in `info.details["lacks"]`, in sentences. Several servers of one model are
`marco.engines.routing`.
The key for a server that asks for one comes from the environment variable `MARCO_API_KEY`, from nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast
from urllib.parse import urlsplit

from marco.config import SamplingConfig
from marco.engines import models
from marco.engines.base import ChatTokenizer, Chunk, Completion, Deliver, EngineInfo, Finish, Request
from marco.engines.room import Room
from marco.engines.servers.base import Broken, Counting, Delta, Token, read_line, refuse, said, without_temperature
from marco.engines.servers.look import Examined, examine, find_tokenizer, look_at
from marco.errors import EngineError, MarcoError, ServerError

log = logging.getLogger(__name__)

POLL = 0.05
"""Seconds between two looks at a request's `cancel`."""
CONNECT_SECONDS = 4.0
ANSWER_SECONDS = 15.0
"""Longest wait for what takes a server no time: what it is, what a text's tokens are."""
SILENCE_SECONDS = 600.0
"""A server that says nothing for this long, while it reads a prompt or writes, counts as gone."""
IDLE_SECONDS = 4.0
"""How long a connection that nobody uses is kept: less than servers keep it (uvicorn: 5)."""
ATTEMPTS = 4
"""How often a call is made in all before its failure counts."""


@dataclass(slots=True)
class _Rollout:
    """What is known so far of one request under way."""

    request: Request
    deliver: Deliver
    limit: int
    """Tokens that it may have: what was asked for, or what the context has room for."""
    tokens: list[Token] = field(default_factory=list)
    ended: bool = False
    """A token that ends the turn has come."""
    prefilled: int = 0
    cached: int = 0
    delivered: bool = False

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)

    def tell(self, news: Chunk | Completion) -> None:
        """A listener that fails must not take its siblings' rollouts with it."""
        try:
            self.deliver(news)
        except Exception:
            log.exception("What listens to a rollout failed")


class ServerEngine:
    """Rollouts through a server. See the module's docstring."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        slots: int = 8,
        context: int = 8192,
        progress: models.Progress | None = None,
        tokenizer: ChatTokenizer | None = None,
        info: EngineInfo | None = None,
        cells: int | None = None,
        api_key: str | None = None,
    ) -> None:
        """Look at the server and get ready.

        `model` (a catalogue name, a path or a hub id) says whose tokenizer to use where the server's own model file
        is not on this machine. `tokenizer`, `info` and `cells` (positions that all rollouts together may hold) are
        for callers that know the server already.

        Raises `ServerUnreachable` where nobody answers within seconds, or nobody that Marco can talk to;
        `ModelUnavailable` where no tokenizer is found; `ServerError` where a first token can't be had.
        """
        import httpx

        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        key = api_key or os.environ.get("MARCO_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        once = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        # A proxy named in the environment is for the world outside.
        proxies = urlsplit(self.base_url).hostname not in ("127.0.0.1", "localhost", "::1")
        self._client = httpx.Client(
            base_url=self.base_url,
            headers=headers,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            limits=once,
            trust_env=proxies,
        )
        self._closed = False
        try:
            found = look_at(self._client, self.base_url)
            self._adapter = found.adapter
            self._tokenizer = tokenizer or find_tokenizer(self._client, found, model, progress)
            seen = (
                Examined(info.logprobs, False, ())
                if info
                else examine(self._client, found, self._tokenizer, self._name)
            )
            self._tempered = seen.tempered
            self._info = info or EngineInfo(
                engine="server",
                model=model or found.model,
                device=f"{found.adapter.kind} at {self.base_url}",
                context=min(context, found.context or context),
                slots=min(slots, found.slots or slots),
                logprobs=seen.logprobs,
                details=_details(seen, self._name),
            )
        except BaseException:
            self._client.close()
            raise
        self._room = Room(self._info.slots, cells or self._info.slots * self._info.context)
        self._totals = {"requests": 0, "generated": 0, "prefilled": 0, "cached": 0}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stream_client = httpx.AsyncClient(
            base_url=self.base_url,
            headers=headers,
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=IDLE_SECONDS)
            if found.adapter.keeps_connections
            else once,
            trust_env=proxies,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="marco-server-engine", daemon=True)
        self._thread.start()

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self._tokenizer

    def submit(self, requests: Sequence[Request], deliver: Deliver) -> None:
        if self._closed:
            raise EngineError("The engine is closed.")
        siblings: dict[tuple[tuple[int, ...], SamplingConfig], list[_Rollout]] = {}
        for request in requests:
            limit = min(request.sampling.max_tokens, self._info.context - len(request.prefix))
            rollouts = siblings.setdefault((request.prefix, request.sampling), [])
            rollouts.append(_Rollout(request, deliver, limit))
        for rollouts in siblings.values():
            for start in range(0, len(rollouts), self._info.slots):
                self._start(self._serve(rollouts[start : start + self._info.slots]))

    def usage(self) -> Mapping[str, float]:
        """`requests`, `generated`, `prefilled`, `cached`, `computed` so far, and `rows` now under way."""
        totals = dict(self._totals)
        totals["computed"] = totals["generated"] + totals["prefilled"]
        totals["rows"] = self._room.slots - self._room.free_slots
        return totals

    def answers(self) -> bool:
        """Whether the server is there and can be talked to."""
        import httpx

        try:
            return self._client.get("/health").status_code < 500
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._client.close()

    @property
    def _name(self) -> str:
        return f"The server at {self.base_url}"

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        def begin() -> None:
            task = self._loop.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._loop.call_soon_threadsafe(begin)

    # From here on: on the loop's thread

    async def _end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stream_client.aclose()

    async def _serve(self, rollouts: list[_Rollout]) -> None:
        """See siblings through: to their end, to the last one's cancellation, or to failure."""
        work = asyncio.ensure_future(self._when_there_is_room(rollouts))
        error = f"{self._name} ended the answer early."
        try:
            while not work.done() and not all(rollout.delivered for rollout in rollouts):
                await asyncio.wait([work], timeout=POLL)
                for rollout in rollouts:
                    if rollout.request.cancel.is_set():
                        self._complete(rollout, "cancelled")
            if work.done():
                await work
        except MarcoError as failure:
            error = str(failure)
        except asyncio.CancelledError:
            for rollout in rollouts:
                self._complete(rollout, "cancelled")
            raise
        except Exception as failure:
            log.exception("A rollout failed in a way that was not foreseen")
            error = f"{self._name} could not be worked with ({said(failure)})."
        finally:
            work.cancel()
            await asyncio.wait([work])
            for rollout in rollouts:
                self._complete(rollout, "failed", error)

    async def _when_there_is_room(self, rollouts: list[_Rollout]) -> None:
        first = rollouts[0]
        prefix = len(first.request.prefix)
        if first.limit < 1:
            raise EngineError(
                f"The conversation has {prefix} tokens and the context holds {self._info.context}: nothing can follow."
            )
        slots = len(rollouts)
        async with self._room.taken(first.request.search, slots, prefix + slots * first.limit):
            await self._call(rollouts)

    async def _call(self, rollouts: list[_Rollout]) -> None:
        import tenacity

        first = rollouts[0].request
        sampling = replace(first.sampling, max_tokens=rollouts[0].limit)
        body = self._adapter.payload(first.prefix, sampling, first.seed, len(rollouts))
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, Broken) and not any(rollout.tokens for rollout in rollouts)
            ),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_exponential_jitter(initial=0.25, max=4),
            reraise=True,
        )
        try:
            await attempts(self._stream, body, rollouts)
        except Broken as error:
            begun = any(rollout.tokens for rollout in rollouts)
            when = "broke off in the middle of an answer" if begun else f"failed {ATTEMPTS} times"
            raise ServerError(f"{self._name} {when} ({error}).") from error

    async def _stream(self, body: Mapping[str, Any], rollouts: list[_Rollout]) -> None:
        import httpx

        reader = self._adapter.reader()
        try:
            async with self._stream_client.stream("POST", self._adapter.path, json=body) as answer:
                if answer.status_code >= 400:
                    refuse(self._name, answer.status_code, await answer.aread())
                async for line in answer.aiter_lines():
                    for delta in read_line(self._name, reader, line):
                        if 0 <= delta.index < len(rollouts) and not rollouts[delta.index].delivered:
                            await self._take(rollouts[delta.index], delta)
        except httpx.ReadTimeout as error:
            # It had its time: the same wait once more would help nobody.
            raise ServerError(f"{self._name} said nothing for {SILENCE_SECONDS:.0f} seconds.") from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise Broken(said(error)) from error
        if not all(rollout.delivered for rollout in rollouts):
            raise Broken("the answer ended early")

    async def _take(self, rollout: _Rollout, delta: Delta) -> None:
        """Add what a chunk says, and what it leaves out, to a rollout."""
        if not rollout.ended:
            missing = (delta.written or 0) - len(rollout.tokens) - len(delta.tokens)
            if missing > 0 and delta.finish is None:
                rollout.tokens.extend(self._withheld(delta, missing))
            heat = rollout.request.sampling.temperature
            tokens = delta.tokens
            if self._tempered:
                tokens = tuple(without_temperature(token, heat) for token in tokens)
            rollout.tokens.extend(tokens)
            rollout.ended = any(token.id in self._tokenizer.end_ids for token in delta.tokens)
            if delta.data:
                text = delta.data.decode("utf-8", "replace")
                rollout.tell(Chunk(rollout.request.work, text, len(rollout.tokens)))
            if missing > 0 and delta.finish is not None:
                await self._take_rest(rollout, delta, missing)
                return
        elif delta.finish is None:
            # The server takes another token for the end than the chat template does; nothing more is wanted of it.
            self._complete(rollout, "stop")
            return
        if delta.finish is not None:
            rollout.prefilled, rollout.cached = delta.prefilled, delta.cached
            self._complete(rollout, "stop" if rollout.ended else delta.finish)

    def _withheld(self, delta: Delta, count: int) -> Iterator[Token]:
        """The tokens in mid-character that came before a chunk's own: known by the bytes they wrote."""
        find = getattr(self._tokenizer, "withheld", None)
        ids = find(delta.data, count, delta.tokens[-1].id) if find and delta.tokens else None
        if ids is None:
            raise ServerError(f"{self._name} left out {count} tokens, and what it wrote does not tell which.")
        return (Token(number) for number in ids)

    async def _take_rest(self, rollout: _Rollout, delta: Delta, count: int) -> None:
        """A rollout that was cut in mid-character: its last tokens were never told, so they are drawn once more."""
        request = rollout.request
        adapter = cast(Counting, self._adapter)
        sampling = replace(request.sampling, max_tokens=count)
        body = adapter.rest_payload((*request.prefix, *rollout.ids), sampling, request.seed)
        answer = await self._stream_client.post(self._adapter.path, json=body)
        if answer.status_code >= 400:
            refuse(self._name, answer.status_code, answer.content)
        tokens, finish = adapter.rest(answer.json())
        rollout.tokens.extend(tokens)
        rollout.prefilled, rollout.cached = delta.prefilled, delta.cached
        self._complete(rollout, finish)

    def _complete(self, rollout: _Rollout, finish: Finish, error: str | None = None) -> None:
        if rollout.delivered:
            return
        rollout.delivered = True
        # Without a pause from here to the end: a cancellation in between would swallow the completion.
        ids = rollout.ids
        try:
            text, offsets = self._tokenizer.decode(ids)
        except MarcoError as failure:  # where the server itself has the tokenizer
            text, offsets, finish, error = "", (0,) * len(ids), "failed", str(failure)
        self._totals["requests"] += 1
        self._totals["generated"] += len(ids)
        self._totals["prefilled"] += rollout.prefilled
        self._totals["cached"] += rollout.cached
        rollout.tell(
            Completion(
                work=rollout.request.work,
                token_ids=ids,
                text=text,
                offsets=offsets,
                logprobs=tuple(token.logprob for token in rollout.tokens),
                top=tuple(token.top for token in rollout.tokens),
                finish=finish,
                prefilled=rollout.prefilled,
                cached=rollout.cached,
                error=error,
            )
        )


def _details(seen: Examined, name: str) -> dict[str, Any]:
    """What a run file and the page say about a server that lacks something."""
    return {"lacks": list(seen.lacks), "note": f"{name}: {' '.join(seen.lacks)}"} if seen.lacks else {}
