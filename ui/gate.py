"""What every request passes before the page sees it: how large, how often, and whether there is room.

A refusal comes at once, costs nothing, and says in a sentence what to do; nothing that a visitor typed is lost by it,
since the page clears nothing before its search runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FULL = (
    "Many people are asking right now, and the line is full. Nothing that you wrote is lost: please try again in a "
    "minute."
)
TOO_OFTEN = "That was a lot in a short time. Please wait a minute and try again; nothing that you wrote is lost."
TOO_LARGE = "That is more than this server takes at once ({limit:,} bytes)."
STOPPING = "This server is about to stop. What was found so far is kept with your runs."
TOO_MANY_LOGINS = "Too many attempts to log in. Please wait a minute."


@dataclass(frozen=True, slots=True)
class Limits:
    """What one address may do. None: no limit."""

    body_bytes: int = 4_000_000
    """Largest body of a request, uploads included."""
    searches_a_minute: int | None = None
    calls_a_second: int | None = None
    logins_a_minute: int = 20


SHARED = Limits(searches_a_minute=30, calls_a_second=40)
"""For a host that others can reach."""


class Gate:
    """ASGI middleware.

    `waiting` says how long the line of searches is, `room` how long it may be; `refused` hears why somebody was
    turned away, and `left` the id of a call that nobody follows any more.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        waiting: Callable[[], int],
        room: int,
        stopping: Callable[[], bool],
        refused: Callable[[str], None],
        left: Callable[[str], None] = lambda call: None,
    ) -> None:
        self._app = app
        self._limits = limits
        self._waiting = waiting
        self._room = room
        self._stopping = stopping
        self._refused = refused
        self._left = left
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _say(send, *refusal)
            return
        large = _TooLarge()
        limit = self._limits.body_bytes
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.disconnect" and call is not None:
                self._left(call)
            read += len(message.get("body", b""))
            if read > limit:
                raise large
            return message

        call = _call_followed(scope)
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, limited, watched)
        except _TooLarge:
            self._refused("size")
            if not begun:
                await _say(send, 413, TOO_LARGE.format(limit=limit))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        if scope["method"] != "POST":
            return None
        limits, path = self._limits, scope["path"].rstrip("/")
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > limits.body_bytes:
            return self._refuse("size", 413, TOO_LARGE.format(limit=limits.body_bytes))
        who = (scope.get("client") or ("",))[0]
        if path.endswith("/login") and not self._may(RateLimitItemPerMinute(limits.logins_a_minute), "login", who):
            return self._refuse("login", 429, TOO_MANY_LOGINS)
        if limits.calls_a_second and not self._may(RateLimitItemPerSecond(limits.calls_a_second), "call", who):
            return self._refuse("rate", 429, TOO_OFTEN)
        if path.endswith("/queue/join") or "/call/" in path:
            if self._stopping():
                return self._refuse("stopping", 503, STOPPING)
            if self._waiting() >= self._room:
                return self._refuse("full", 503, FULL)
            often = limits.searches_a_minute
            if often and not self._may(RateLimitItemPerMinute(often), "search", who):
                return self._refuse("rate", 429, TOO_OFTEN)
        return None

    def _may(self, often: RateLimitItem, what: str, who: str) -> bool:
        return bool(self._limiter.hit(often, what, who))

    def _refuse(self, why: str, status: int, sentence: str) -> tuple[int, str]:
        self._refused(why)
        return status, sentence


def _call_followed(scope: Scope) -> str | None:
    """The id of the call whose stream is asked for: it ends as soon as nobody follows it."""
    parts = scope["path"].rstrip("/").split("/")
    return parts[-1] if scope["method"] == "GET" and len(parts) >= 3 and parts[-3] == "call" else None


class _TooLarge(Exception):
    """A body that turned out larger than it was announced."""


async def _say(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status in (429, 503):
        headers.append((b"retry-after", b"60"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
