"""What an adapter is: which address a call goes to, what it carries, and how what comes back reads.

An adapter knows one kind of server and nothing of connections, slots or searches: `marco.engines.server` has those.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from marco.config import SamplingConfig
from marco.engines.base import Finish, TopTokens
from marco.errors import ServerError

TOP = 5


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token as a server reports it."""

    id: int
    logprob: float | None = None
    top: TopTokens = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """What one event of a stream says about one of the rollouts of a call."""

    index: int
    tokens: tuple[Token, ...] = ()
    data: bytes = b""
    """The bytes that these tokens, and those withheld before them, wrote."""
    written: int | None = None
    """Tokens sampled so far, by the server's own count; more than were told means that some were withheld."""
    finish: Finish | None = None
    prefilled: int = 0
    cached: int = 0


Reader = Callable[[Mapping[str, Any]], list[Delta]]


class Adapter(Protocol):
    """One kind of server."""

    kind: str
    path: str
    keeps_connections: bool
    """Whether a connection may be used again for the next call."""

    def payload(self, prefix: Sequence[int], sampling: SamplingConfig, seed: int, count: int) -> dict[str, Any]:
        """The body of a call for `count` rollouts from `prefix`, streamed; sibling i draws with `seed` + i."""
        ...

    def reader(self) -> Reader:
        """Reads the events of one call, in order. Raises KeyError, TypeError or ValueError where one is malformed."""
        ...

    def tokenize(self, text: str) -> dict[str, Any]:
        """The body of a call to `/tokenize`, special tokens being text."""
        ...


class Counting(Protocol):
    """An adapter whose server withholds tokens but, asked again without streaming, names them all."""

    def rest_payload(self, prefix: Sequence[int], sampling: SamplingConfig, seed: int) -> dict[str, Any]: ...

    def rest(self, answer: Mapping[str, Any]) -> tuple[list[Token], Finish]: ...


class Broken(Exception):
    """A call broke down in a way that may pass: try again, unless tokens have come."""


def logprob_of(value: Any) -> float:
    """A log-probability as a server wrote it: at most 0. Raises ValueError for what is none."""
    number = float(value)
    if math.isnan(number) or number == math.inf:
        raise ValueError(f"a log-probability of {number}")
    return min(number, 0.0)


def most_probable(pairs: Sequence[tuple[int, float]]) -> TopTokens:
    """The first five, most probable first."""
    return tuple(sorted(pairs, key=lambda pair: -pair[1])[:TOP])


def without_temperature(token: Token, temperature: float) -> Token:
    """A token of a server that divides logits by the temperature first, as it would be without.

    Multiplying by the temperature restores the distances between log-probabilities, so that the token confidence,
    exp(p) over the sum of exp(p) of the five, is exact. What the distances are measured from is lost; the five are
    taken for all there is, so each log-probability comes out a little too high.
    """
    if not token.top or temperature in (0.0, 1.0):
        return token
    scaled = [(number, temperature * value) for number, value in token.top if value > -math.inf]
    if not scaled:
        return token
    highest = scaled[0][1]
    whole = highest + math.log(sum(math.exp(value - highest) for _, value in scaled))
    chosen = None if token.logprob is None else min(0.0, temperature * token.logprob - whole)
    return Token(token.id, chosen, tuple((number, value - whole) for number, value in scaled))


def read_line(name: str, reader: Reader, line: str) -> list[Delta]:
    """What one line of an event stream says. Raises `ServerError` where it reports an error or makes no sense."""
    if line.startswith("error:"):
        raise ServerError(f"{name} reported: {complaint(line.removeprefix('error:').encode())}")
    if not line.startswith("data:") or line.endswith("[DONE]"):
        return []
    try:
        event = json.loads(line.removeprefix("data:"))
        if "error" in event:
            raise ServerError(f"{name} reported: {complaint(line.removeprefix('data:').encode())}")
        return reader(event)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ServerError(f"{name} sent a chunk that makes no sense ({said(error)}).") from error


def refuse(name: str, status: int, body: bytes) -> None:
    """Raise what an HTTP status of 400 or more means."""
    if status in (401, 403):
        raise ServerError(f"{name} asks for a key, or for another one: set MARCO_API_KEY.")
    if status >= 500 or status in (408, 429):
        raise Broken(f"HTTP {status}: {complaint(body)}")
    raise ServerError(f"{name} refused the request (HTTP {status}: {complaint(body)}).")


def complaint(body: bytes) -> str:
    """What a server says is wrong, in at most a line."""
    text = body.decode("utf-8", "replace").strip()
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        told = json.loads(text)
        told = told.get("error", told)
        text = str(told["message"] if isinstance(told, dict) else told)
    return " ".join(text.split())[:200] or "no reason given"


def said(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
