"""An engine that says what it is told to: for tests and for those who write them. No model, no network.

    engine = ScriptedEngine(lambda prefix, seed: "<Thought>\n2 + 1 = 3\n</Thought>\n<Output>3</Output>")

Its tokens are the bytes of UTF-8, so that characters of any script are split between tokens, and its
log-probabilities are a function of the request's seed and the position: the same request gives the same completion.
"""

from __future__ import annotations

import hashlib
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from marco.engines.base import Chunk, Completion, Deliver, EngineInfo, Request, TopTokens

END = 256
"""The one special token: the end of the assistant's turn."""


class ByteTokenizer:
    """Token id = byte of UTF-8; 256 ends a turn. The chat format is `role: content` lines."""

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset({END})

    def chat_ids(self, messages: Sequence[Mapping[str, str]], *, prefill: str = "") -> tuple[int, ...]:
        turns = "".join(f"{message['role']}: {message['content']}\n" for message in messages)
        return self.encode(f"{turns}assistant: {prefill}")

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode("utf-8", "replace"))

    def decode(self, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        data = bytes(token for token in ids if token < END)
        text = data.decode("utf-8", "replace")
        offsets = []
        characters = 0
        expected = 0
        for token in ids:
            if token < END:
                if expected:
                    expected -= 1
                elif token >= 0xF0:
                    expected = 3
                elif token >= 0xE0:
                    expected = 2
                elif token >= 0xC0:
                    expected = 1
                if not expected:
                    characters += 1
            offsets.append(min(characters, len(text)))
        return text, tuple(offsets)


@dataclass(frozen=True, slots=True)
class Fail:
    """Returned by a script: this rollout fails with `error`."""

    error: str = "The script said so."


Script = Callable[[str, int], "str | Fail"]
"""(text of the prefix, seed) -> what the model writes. The end token is added."""


class ScriptedEngine:
    """Writes what `script` returns, `seconds_per_token` apart, one request after another."""

    def __init__(
        self,
        script: Script,
        *,
        seconds_per_token: float = 0.0,
        slots: int = 4,
        context: int = 100_000,
        logprobs: bool = True,
        confidence: Callable[[str, int], float] | None = None,
        model: str = "scripted",
    ) -> None:
        """`confidence(text, seed)` gives the mean c_i to aim at (0 to 1); by default it follows the seed."""
        self._script = script
        self._pause = seconds_per_token
        self._confidence = confidence
        self._tokenizer = ByteTokenizer()
        self._info = EngineInfo(
            engine="scripted", model=model, model_hash="0" * 64, context=context, slots=slots, logprobs=logprobs
        )
        self._waiting: queue.SimpleQueue[tuple[Request, Deliver] | None] = queue.SimpleQueue()
        self._totals = {"generated": 0, "prefilled": 0, "cached": 0, "requests": 0}
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(slots if self._pause else 1)]
        for thread in self._threads:
            thread.start()

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def tokenizer(self) -> ByteTokenizer:
        return self._tokenizer

    def submit(self, requests: Sequence[Request], deliver: Deliver) -> None:
        for request in requests:
            self._waiting.put((request, deliver))

    def usage(self) -> Mapping[str, float]:
        return dict(self._totals)

    def close(self) -> None:
        for _ in self._threads:
            self._waiting.put(None)

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            request, deliver = job
            completion = self._write(request, deliver)
            self._totals["requests"] += 1
            self._totals["generated"] += len(completion.token_ids)
            self._totals["prefilled"] += completion.prefilled
            deliver(completion)

    def _write(self, request: Request, deliver: Deliver) -> Completion:
        prefix, _ = self._tokenizer.decode(request.prefix)
        try:
            said = self._script(prefix, request.seed)
        except Exception as error:  # an engine never raises: what goes wrong in the work is told
            said = Fail(f"The script raised {type(error).__name__}: {error}")
        if isinstance(said, Fail):
            return Completion(request.work, (), "", (), (), (), "failed", len(request.prefix), 0, said.error)
        ids = (*self._tokenizer.encode(said), END)[: request.sampling.max_tokens]
        finish = "stop" if ids[-1:] == (END,) else "length"
        shown = 0
        text, offsets = self._tokenizer.decode(ids)
        for count, offset in enumerate(offsets, start=1):
            if request.cancel.is_set():
                ids, finish = ids[: count - 1], "cancelled"
                break
            if self._pause:
                time.sleep(self._pause)
                if count % 8 == 0 and offset > shown:
                    deliver(Chunk(request.work, text[shown:offset], count))
                    shown = offset
        text, offsets = self._tokenizer.decode(ids)
        logprobs, top = self._probabilities(ids, said, request.seed)
        return Completion(
            request.work,
            ids,
            text,
            offsets,
            logprobs,
            top,
            finish,  # type: ignore[arg-type]
            len(request.prefix),
        )

    def _probabilities(
        self, ids: Sequence[int], text: str, seed: int
    ) -> tuple[tuple[float | None, ...], tuple[TopTokens, ...]]:
        if not self._info.logprobs:
            return (None,) * len(ids), ((),) * len(ids)
        digest = hashlib.blake2b(f"{seed}:{text}".encode("utf-8", "replace"), digest_size=8).digest()
        draw = random.Random(digest)
        aim = self._confidence(text, seed) if self._confidence else 0.5 + 0.45 * draw.random()
        logprobs: list[float | None] = []
        top: list[TopTokens] = []
        for token in ids:
            chosen = min(0.999, max(0.001, aim + 0.04 * (draw.random() - 0.5)))
            rest = (1.0 - chosen) / 4
            others = [(token + step) % 256 for step in (1, 2, 3, 4)]
            tops = sorted([(token, chosen), *((other, rest) for other in others)], key=lambda item: -item[1])
            logprobs.append(math.log(chosen))
            top.append(tuple((other, math.log(share)) for other, share in tops))
        return tuple(logprobs), tuple(top)
