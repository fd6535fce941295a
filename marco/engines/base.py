"""What a search asks of a model: token prefixes in, completions out.

An engine is handed `Request`s and calls back, from threads of its own, with `Chunk`s while it writes and
with one `Completion` at the end of each. It never cuts at steps, knows no tree and no prompt. It does as many
requests at once as it can; those beyond its slots wait their turn inside it.

Setting a request's `cancel` event ends it within one step; its Completion then has finish "cancelled" and holds
what was written until then. An engine never raises through a callback: whatever goes wrong in the work
becomes a Completion with finish "failed" and one sentence in `error`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from marco.config import SamplingConfig

Finish = Literal["stop", "length", "cancelled", "failed"]
TopTokens = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """One rollout to be written."""

    work: int
    """The search's work id; comes back in every Chunk and in the Completion."""
    prefix: tuple[int, ...]
    """All token ids that the model sees, chat format and forced tokens included."""
    sampling: SamplingConfig
    seed: int
    cancel: threading.Event
    search: str = ""
    """Which search asks: engines that share a cache or are fair between searches group by it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Progress of one request: new text since the last chunk (never half a character)."""

    work: int
    text: str
    tokens: int
    """Tokens sampled so far for this request."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote for one request. Sequences have one entry a sampled token, the end token included."""

    work: int
    token_ids: tuple[int, ...]
    text: str
    """Decoded text of the sampled tokens; the end token adds nothing to it."""
    offsets: tuple[int, ...]
    """After token i, `text[:offsets[i]]` is what is complete: a token in mid-character doesn't move it."""
    logprobs: tuple[float | None, ...]
    """Raw natural log-probability (before temperature and top-p); None where the engine can't tell."""
    top: tuple[TopTokens, ...]
    """Up to five (token id, raw log-probability), most probable first; empty where the engine can't tell."""
    finish: Finish
    prefilled: int = 0
    """Prompt positions that were computed for this request."""
    cached: int = 0
    """Prompt positions that were found in a cache."""
    error: str | None = None


Deliver = Callable[[Chunk | Completion], None]


@runtime_checkable
class ChatTokenizer(Protocol):
    """The model's tokenizer and chat template. Thread-safe."""

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end the assistant's turn, the template's own first of all."""
        ...

    def chat_ids(self, messages: Sequence[Mapping[str, str]], *, prefill: str = "") -> tuple[int, ...]:
        """Ids of the rendered conversation, up to and including the opening of the assistant's turn.

        `messages` are {"role", "content"}; content is tokenised as plain text (a typed `<|im_end|>` is text).
        `prefill` opens the assistant's answer. Without a system message the template's own applies.
        """
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of plain text: special tokens in it are text."""
        ...

    def decode(self, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """Text of `ids` and, after each id, how many of its characters are complete. Special tokens add nothing;
        bytes that never complete a character show as U+FFFD once the sequence is over."""
        ...


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a run file and a result say about where they come from."""

    engine: str
    """`llama.cpp`, `local`, `server` or `scripted`."""
    model: str
    """Catalogue name, hub id, or file name."""
    model_hash: str = ""
    """sha256 of the weights where there is one file; else what identifies them."""
    device: str = ""
    context: int = 8192
    """Positions that one rollout may have, prefix included."""
    slots: int = 1
    """Requests decoded at once."""
    logprobs: bool = True
    """False where the server returns none: rewards then aren't available."""
    details: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Engine(Protocol):
    """A model at work. Thread-safe: several searches may submit at once."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def tokenizer(self) -> ChatTokenizer: ...

    def submit(self, requests: Sequence[Request], deliver: Deliver) -> None:
        """Start the requests and return at once; `deliver` is called from the engine's threads.

        Requests of one call may share prefix and sampling; an engine that can write siblings together does.
        """
        ...

    def usage(self) -> Mapping[str, float]:
        """Running totals, such as `generated`, `prefilled`, `cached`, `computed`, `distinct`, `rows`."""
        ...

    def close(self) -> None:
        """Cancel what is under way, free the model, end child processes. Idempotent."""
        ...


class Around:
    """An engine that hands everything on to another: the base of whatever looks at work, or changes it, on the way."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self._engine.tokenizer

    def submit(self, requests: Sequence[Request], deliver: Deliver) -> None:
        self._engine.submit(requests, deliver)

    def usage(self) -> Mapping[str, float]:
        return self._engine.usage()

    def close(self) -> None:
        self._engine.close()
