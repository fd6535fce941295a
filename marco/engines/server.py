"""An engine over the HTTP API of a server that runs the model: llama.cpp's server, or vLLM.

    engine = ServerEngine("http://127.0.0.1:8080")

Prompts are token ids, sampling is temperature and top-p and nothing else, log-probabilities are raw. Requests of
one `submit` with the same prefix go out in one call, so that the server reads the prefix once; sibling i of such a
call draws with the seed of the first plus i. At most `slots` rollouts are under way; the rest wait here.

All traffic runs on one thread with an event loop. A request whose `cancel` is set gets its Completion within
`POLL` seconds, and once all of a call are cancelled its connection is closed, which stops the server.

What differs between kinds of server is in an `Adapter`: which address, which payload, how a chunk reads.
The key for a server that asks for one comes from the environment variable `MARCO_API_KEY`, from nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import re
import secrets
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import urlsplit

from marco.config import SamplingConfig
from marco.engines import models
from marco.engines.base import ChatTokenizer, Chunk, Completion, Deliver, EngineInfo, Finish, Request, TopTokens
from marco.engines.chat import load_tokenizer
from marco.errors import EngineError, MarcoError, ModelUnavailable, ServerError, ServerUnreachable

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

POLL = 0.05
"""Seconds between two looks at a request's `cancel`."""
TOP = 5
CONNECT_SECONDS = 4.0
ANSWER_SECONDS = 15.0
"""Longest wait for what takes a server no time: what it is, what a text's tokens are."""
SILENCE_SECONDS = 600.0
"""A server that says nothing for this long, while it reads a prompt or writes, counts as gone."""
ATTEMPTS = 4
"""How often a call is made in all before its failure counts."""


# What a server says


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token as a server reports it."""

    id: int
    logprob: float | None = None
    top: TopTokens = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """What one chunk of a stream says about one of the rollouts of a call."""

    index: int
    tokens: tuple[Token, ...] = ()
    data: bytes = b""
    """The bytes that these tokens, and those withheld before them, wrote."""
    written: int | None = None
    """Tokens sampled so far, by the server's own count; more than were told means that some were withheld."""
    finish: Finish | None = None
    prefilled: int = 0
    cached: int = 0


class Adapter(Protocol):
    """One kind of server."""

    kind: str
    path: str

    def payload(self, prefix: Sequence[int], sampling: SamplingConfig, seed: int, count: int) -> dict[str, Any]:
        """The body of a call for `count` rollouts from `prefix`, streamed."""
        ...

    def deltas(self, event: Mapping[str, Any]) -> list[Delta]:
        """What one event of the stream says. Raises KeyError, TypeError or ValueError where it is malformed."""
        ...


class Counting(Protocol):
    """An adapter whose server withholds tokens but, asked again without streaming, names them all."""

    def rest_payload(self, prefix: Sequence[int], sampling: SamplingConfig, seed: int) -> dict[str, Any]: ...

    def rest(self, answer: Mapping[str, Any]) -> tuple[list[Token], Finish]: ...


class LlamaCpp:
    """llama.cpp's own completion API: unlike its OpenAI-compatible one it counts, in every chunk, the tokens that
    it withholds because they end in mid-character."""

    kind = "llama.cpp"
    path = "/completion"

    def payload(self, prefix: Sequence[int], sampling: SamplingConfig, seed: int, count: int) -> dict[str, Any]:
        return {
            "prompt": list(prefix),
            "n_predict": sampling.max_tokens,
            "n_cmpl": count,
            "seed": seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            # Its default chain cuts by top_p before temperature, and filters in half a dozen other ways.
            "samplers": ["temperature", "top_p"],
            "n_probs": TOP,
            "post_sampling_probs": False,
            "return_tokens": True,
            "cache_prompt": True,
            "stop": [],
            "stream": True,
        }

    def deltas(self, event: Mapping[str, Any]) -> list[Delta]:
        index = int(event.get("index", 0))
        written = int(event["tokens_predicted"])
        if event["stop"]:
            timings = event.get("timings", {})
            prefilled, cached = int(timings.get("prompt_n", 0)), int(timings.get("cache_n", 0))
            if index:
                # Siblings take over the first one's state, and its figures with it.
                prefilled, cached = 0, cached + prefilled
            return [Delta(index, written=written, finish=self._finish(event), prefilled=prefilled, cached=cached)]
        tokens = tuple(Token(int(number)) for number in event["tokens"])
        data = str(event.get("content", "")).encode()
        for told in event.get("completion_probabilities") or ():
            tokens = (self._token(told),)
            data = bytes(told["bytes"])
        return [Delta(index, tokens, data, written)]

    def rest_payload(self, prefix: Sequence[int], sampling: SamplingConfig, seed: int) -> dict[str, Any]:
        return {**self.payload(prefix, sampling, seed, 1), "stream": False}

    def rest(self, answer: Mapping[str, Any]) -> tuple[list[Token], Finish]:
        """All tokens of an answer that was not streamed; those in mid-character have no log-probability."""
        told = [self._token(one) for one in answer.get("completion_probabilities") or ()]
        tokens = []
        for number in answer["tokens"]:
            known = bool(told) and told[0].id == int(number)
            tokens.append(told.pop(0) if known else Token(int(number)))
        return tokens, self._finish(answer)

    def _finish(self, event: Mapping[str, Any]) -> Finish:
        return "stop" if event.get("stop_type") in ("eos", "word") else "length"

    def _token(self, told: Mapping[str, Any]) -> Token:
        top = tuple((int(one["id"]), _logprob(one["logprob"])) for one in told["top_logprobs"][:TOP])
        return Token(int(told["id"]), _logprob(told["logprob"]), top)


class VLLM:
    """vLLM's OpenAI-compatible completions, with its options for token ids."""

    kind = "vllm"
    path = "/v1/completions"

    def __init__(self, model: str) -> None:
        self.model = model

    def payload(self, prefix: Sequence[int], sampling: SamplingConfig, seed: int, count: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": list(prefix),
            "max_tokens": sampling.max_tokens,
            "n": count,
            "seed": seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": -1,
            "min_p": 0.0,
            "logprobs": TOP,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def deltas(self, event: Mapping[str, Any]) -> list[Delta]:
        deltas = []
        for choice in event.get("choices", ()):
            ids = [int(number) for number in choice.get("token_ids") or ()]
            told = choice.get("logprobs") or {}
            chosen = told.get("token_logprobs") or [None] * len(ids)
            tops = told.get("top_logprobs") or [None] * len(ids)
            tokens = tuple(
                Token(number, None if logprob is None else _logprob(logprob), _named_top(top or {}))
                for number, logprob, top in zip(ids, chosen, tops, strict=True)
            )
            reason = choice.get("finish_reason")
            finish: Finish | None = None if reason is None else "length" if reason == "length" else "stop"
            deltas.append(Delta(int(choice["index"]), tokens, str(choice.get("text") or "").encode(), finish=finish))
        return deltas


def _logprob(value: Any) -> float:
    number = float(value)
    if math.isnan(number) or number == math.inf:
        raise ValueError(f"a log-probability of {number}")
    return min(number, 0.0)


def _named_top(told: Mapping[str, Any]) -> TopTokens:
    """The shape {"token_id:17": -0.5, ...}; vLLM adds the chosen token, sixth where it is not among the five."""
    pairs = ((int(name.rpartition(":")[2]), _logprob(value)) for name, value in told.items())
    return tuple(sorted(pairs, key=lambda pair: -pair[1])[:TOP])


# The tokenizer of a server whose model is not here


class ServerTokenizer:
    """A llama.cpp server's own tokenizer and chat template, over HTTP. Slower than one that is here; as right."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._texts: dict[int, str] = {}
        mark = _mark()
        turns = [("user", "?"), ("assistant", mark), ("user", "?")]
        rendered = self._render([{"role": role, "content": content} for role, content in turns])
        # What follows the assistant's words begins with the token that ends a turn.
        self._end_ids = frozenset(self._ids(rendered.partition(mark)[2], special=True)[:1])

    @property
    def end_ids(self) -> frozenset[int]:
        return self._end_ids

    def chat_ids(self, messages: Sequence[Mapping[str, str]], *, prefill: str = "") -> tuple[int, ...]:
        marks = [_mark() for _ in messages]
        rendered = self._render([{"role": m["role"], "content": mark} for m, mark in zip(messages, marks, strict=True)])
        contents = dict(zip(marks, (message["content"] for message in messages), strict=True))
        ids: list[int] = []
        for part in re.split("(" + "|".join(marks) + ")", rendered):
            # The server adds what opens every text (a BOS token) itself: its templates leave it out.
            ids.extend(self._ids(contents.get(part, part), special=part not in contents, opening=not ids))
        return (*ids, *self.encode(prefill))

    def encode(self, text: str) -> tuple[int, ...]:
        return self._ids(text, special=False)

    def decode(self, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        text = ""
        offsets = []
        waiting: list[int] = []
        for number in ids:
            waiting.append(number)
            written = self._text(waiting)
            complete = len(written.rstrip("\ufffd"))
            offsets.append(len(text) + complete)
            if complete == len(written):
                text += written
                waiting = []
        return text + (self._text(waiting) if waiting else ""), tuple(offsets)

    def withheld(self, data: bytes, count: int, last: int) -> tuple[int, ...] | None:
        """The server's own way of writing `data`, where that has the right length and end."""
        ids = self.encode(data.decode("utf-8", "replace"))
        return ids[:-1] if len(ids) == count + 1 and ids[-1] == last else None

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return str(self._post("/apply-template", {"messages": list(messages)})["prompt"])

    def _ids(self, text: str, *, special: bool, opening: bool = False) -> tuple[int, ...]:
        if not text:
            return ()
        answer = self._post("/tokenize", {"content": text, "add_special": opening, "parse_special": special})
        return tuple(int(number) for number in answer["tokens"])

    def _text(self, ids: list[int]) -> str:
        if len(ids) == 1 and ids[0] in self._texts:
            return self._texts[ids[0]]
        text = "" if ids[0] in self._end_ids else str(self._post("/detokenize", {"tokens": ids})["content"])
        if len(ids) == 1:
            self._texts[ids[0]] = text
        return text

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        import httpx

        try:
            answer = self._client.post(path, json=body)
            answer.raise_for_status()
            return dict(answer.json())
        except (httpx.HTTPError, ValueError) as error:
            raise ServerError(f"The server at {self._client.base_url} could not do {path}: {error}.") from error


def _mark() -> str:
    return f"m{secrets.token_hex(12)}m"


# The engine


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


class _Broken(Exception):
    """The call broke down in a way that may pass: try again, unless tokens have come."""


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
        # llama.cpp closes kept-alive connections at moments of its own; a new one for each call costs nothing here.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        # A proxy named in the environment is for the world outside.
        proxies = urlsplit(self.base_url).hostname not in ("127.0.0.1", "localhost", "::1")
        self._client = httpx.Client(
            base_url=self.base_url,
            headers=headers,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            limits=limits,
            trust_env=proxies,
        )
        self._closed = False
        try:
            found = _look_at(self._client, self.base_url)
            self._adapter = found.adapter
            self._tokenizer = tokenizer or _find_tokenizer(self._client, found, model, progress)
            self._info = info or EngineInfo(
                engine="server",
                model=model or found.model,
                device=f"{found.adapter.kind} at {self.base_url}",
                context=min(context, found.context or context),
                slots=min(slots, found.slots or slots),
                logprobs=_gives_logprobs(self._client, found.adapter, self._tokenizer, self._name),
            )
        except BaseException:
            self._client.close()
            raise
        self._cells = cells or self._info.slots * self._info.context
        self._free_slots = self._info.slots
        self._free_cells = self._cells
        self._totals = {"requests": 0, "generated": 0, "prefilled": 0, "cached": 0}
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stream_client = httpx.AsyncClient(
            base_url=self.base_url,
            headers=headers,
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            limits=limits,
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
        totals["rows"] = self._info.slots - self._free_slots
        return totals

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
            error = f"{self._name} could not be worked with ({_said(failure)})."
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
        cells = min(prefix + slots * first.limit, self._cells)
        # First come, first served: a small group must not overtake a large one for ever.
        async with self._turn:
            while self._free_slots < slots or self._free_cells < cells:
                self._freed.clear()
                await self._freed.wait()
        self._free_slots -= slots
        self._free_cells -= cells
        try:
            await self._call(rollouts)
        finally:
            self._free_slots += slots
            self._free_cells += cells
            self._freed.set()

    async def _call(self, rollouts: list[_Rollout]) -> None:
        import tenacity

        first = rollouts[0].request
        sampling = replace(first.sampling, max_tokens=rollouts[0].limit)
        body = self._adapter.payload(first.prefix, sampling, first.seed, len(rollouts))
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, _Broken) and not any(rollout.tokens for rollout in rollouts)
            ),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_exponential_jitter(initial=0.25, max=4),
            reraise=True,
        )
        try:
            await attempts(self._stream, body, rollouts)
        except _Broken as error:
            begun = any(rollout.tokens for rollout in rollouts)
            when = "broke off in the middle of an answer" if begun else f"failed {ATTEMPTS} times"
            raise ServerError(f"{self._name} {when} ({error}).") from error

    async def _stream(self, body: Mapping[str, Any], rollouts: list[_Rollout]) -> None:
        import httpx

        try:
            async with self._stream_client.stream("POST", self._adapter.path, json=body) as answer:
                if answer.status_code >= 400:
                    _refuse(self._name, answer.status_code, await answer.aread())
                async for line in answer.aiter_lines():
                    for delta in _read(self._name, self._adapter, line):
                        if 0 <= delta.index < len(rollouts) and not rollouts[delta.index].delivered:
                            await self._take(rollouts[delta.index], delta)
        except httpx.TransportError as error:
            raise _Broken(_said(error)) from error
        if not all(rollout.delivered for rollout in rollouts):
            raise _Broken("the answer ended early")

    async def _take(self, rollout: _Rollout, delta: Delta) -> None:
        """Add what a chunk says, and what it leaves out, to a rollout."""
        if not rollout.ended:
            missing = (delta.written or 0) - len(rollout.tokens) - len(delta.tokens)
            if missing > 0 and delta.finish is None:
                rollout.tokens.extend(self._withheld(delta, missing))
            rollout.tokens.extend(delta.tokens)
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
            _refuse(self._name, answer.status_code, answer.content)
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


def _read(name: str, adapter: Adapter, line: str) -> list[Delta]:
    """What one line of an event stream says."""
    if line.startswith("error:"):
        raise ServerError(f"{name} reported: {_complaint(line.removeprefix('error:').encode())}")
    if not line.startswith("data:") or line.endswith("[DONE]"):
        return []
    try:
        event = json.loads(line.removeprefix("data:"))
        if "error" in event:
            raise ServerError(f"{name} reported: {_complaint(line.removeprefix('data:').encode())}")
        return adapter.deltas(event)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ServerError(f"{name} sent a chunk that makes no sense ({_said(error)}).") from error


def _refuse(name: str, status: int, body: bytes) -> None:
    if status in (401, 403):
        raise ServerError(f"{name} asks for a key, or for another one: set MARCO_API_KEY.")
    if status >= 500 or status == 429:
        raise _Broken(f"HTTP {status}: {_complaint(body)}")
    raise ServerError(f"{name} refused the request (HTTP {status}: {_complaint(body)}).")


def _complaint(body: bytes) -> str:
    """What a server says is wrong, in at most a line."""
    text = body.decode("utf-8", "replace").strip()
    with contextlib.suppress(ValueError, TypeError, KeyError):
        told = json.loads(text)
        told = told.get("error", told)
        text = str(told["message"] if isinstance(told, dict) else told)
    return " ".join(text.split())[:200] or "no reason given"


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


# Looking at a server


@dataclass(frozen=True, slots=True)
class _Found:
    adapter: Adapter
    model: str
    slots: int = 0
    context: int = 0
    file: Path | None = None
    """Where the server says its model lies, on the server's machine."""


def _look_at(client: httpx.Client, url: str) -> _Found:
    import httpx

    try:
        props = client.get("/props")
        if props.status_code in (401, 403):
            raise ServerUnreachable(f"The server at {url} lets nobody in without the right key: set MARCO_API_KEY.")
        if props.status_code == 503:
            raise ServerUnreachable(f"The server at {url} is not ready yet ({_complaint(props.content)}).")
        if props.status_code == 200 and "default_generation_settings" in (told := props.json()):
            file = Path(told["model_path"])
            context = int(told["default_generation_settings"].get("n_ctx", 0))
            return _Found(LlamaCpp(), file.name, int(told.get("total_slots", 0)), context, file)
        listed = client.get("/v1/models")
        listed.raise_for_status()
        card = listed.json()["data"][0]
        if card.get("owned_by") == "vllm":
            root = Path(card.get("root") or card["id"])
            return _Found(VLLM(card["id"]), card["id"], context=int(card.get("max_model_len") or 0), file=root)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise ServerUnreachable(f"No server answers at {url} ({_said(error)}).") from error
    except (httpx.HTTPError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ServerUnreachable(f"What answers at {url} is no server that Marco knows ({_said(error)}).") from error
    raise ServerUnreachable(f"What answers at {url} is neither llama.cpp's server nor vLLM.")


def _find_tokenizer(
    client: httpx.Client, found: _Found, model: str | None, progress: models.Progress | None
) -> ChatTokenizer:
    if model is not None:
        tokenizer = load_tokenizer(models.resolve(model, progress=progress).path, progress=progress)
        if not _agree(client, found, tokenizer):
            raise ModelUnavailable(
                f"The tokenizer of {model} is not the one that the server at {client.base_url} uses."
            )
        return tokenizer
    if found.file is not None and found.file.exists():
        with contextlib.suppress(ModelUnavailable):
            tokenizer = load_tokenizer(found.file, progress=progress)
            if _agree(client, found, tokenizer):
                return tokenizer
    if isinstance(found.adapter, LlamaCpp):
        return ServerTokenizer(client)
    return load_tokenizer(models.resolve(found.model, progress=progress).path, progress=progress)


def _agree(client: httpx.Client, found: _Found, tokenizer: ChatTokenizer) -> bool:
    """Whether server and tokenizer write a sample in the same ids."""
    sample = "Let x = 17.5; 你好, wörld 🎉\n\n  <Thought>"
    if isinstance(found.adapter, LlamaCpp):
        body = {"content": sample, "add_special": False, "parse_special": False}
    else:
        body = {"model": found.model, "prompt": sample, "add_special_tokens": False}
    answer = client.post("/tokenize", json=body)
    return answer.status_code == 200 and tuple(answer.json().get("tokens", ())) == tokenizer.encode(sample)


def _gives_logprobs(client: httpx.Client, adapter: Adapter, tokenizer: ChatTokenizer, name: str) -> bool:
    """Whether one token, asked for as all others will be, comes with its log-probability."""
    import httpx

    body = adapter.payload(tokenizer.encode("Hello"), SamplingConfig(temperature=0.0, max_tokens=1), 0, 1)
    try:
        # It may have to wait for its turn on a server that others use as well.
        with client.stream("POST", adapter.path, json=body, timeout=SILENCE_SECONDS / 4) as answer:
            if answer.status_code >= 400:
                _refuse(name, answer.status_code, answer.read())
            tokens = [token for line in answer.iter_lines() for d in _read(name, adapter, line) for token in d.tokens]
    except (httpx.TransportError, _Broken) as error:
        raise ServerError(f"{name} could not write a first token ({_said(error)}).") from error
    return any(token.logprob is not None for token in tokens)
