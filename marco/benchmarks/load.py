"""`marco bench load`: many people at once on the real app, some of whom leave.

The app runs in a process of its own over a scripted model, and is asked through its public endpoint. Every session
asks about a number of its own, so that an answer that is another's, or holds another's thoughts, is found out. A
tenth leave in mid-search: how long the engine goes on with their thoughts is taken from its own record. Then the line
is filled until it is full, and it is measured how soon those beyond it are told.

A real model may take the scripted one's place, for a few sessions. What it answers can't be known beforehand: a search
counts as completed when it made all its rollouts and wrote something that names no other session's number.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marco.benchmarks.host import right_answer, start
from marco.config import ModelConfig

if TYPE_CHECKING:
    import httpx

CALL = "/gradio_api/call/solve"
SHARE_CANCELLED = 0.1
ROLLOUTS = 4
HUGE_ROLLOUTS = 60
"""What one session asks for, so that it can be seen whether it starves the others."""
BEYOND = 24
"""Requests sent to a line that is full."""
PATIENCE = 600.0
"""Longest wait for one session, in seconds."""

APART = 137
"""Distance between the numbers of two sessions: none comes near another's by a slip in arithmetic."""

_NAMED = re.compile(r"number (\d+)")
_DIGITS = re.compile(r"\d+")


@dataclass(slots=True)
class _Tally:
    """What came of all sessions."""

    completed: int = 0
    cancelled: int = 0
    errors: int = 0
    cross_talk: int = 0
    refused: int = 0
    others: frozenset[int] | None = None
    """The numbers of all sessions, where a real model answers."""
    left: dict[int, float] = field(default_factory=dict)
    """When a session left, by its number."""
    complaints: list[str] = field(default_factory=list)
    """What the errors said."""
    refusals: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    small_done: list[float] = field(default_factory=list)
    huge_done: float = 0.0


def bench_load(
    sessions: int = 100,
    *,
    seed: int = 0,
    pace: float = 0.003,
    fill: bool = True,
    model: ModelConfig | None = None,
    rollouts: int = ROLLOUTS,
) -> dict[str, Any]:
    """Figures of `sessions` concurrent searches of `rollouts` each; `pace` is the scripted model's seconds a token.

    With a `model`, results are checked for completeness and not for being right; the line is not filled, nobody asks
    for more than the others, and `fair` is None.

    `cancel_p95_seconds` runs from a client's leaving to the end of the last rollout of its search; `refused` and
    `refusal_p95_seconds` are of requests to a full line (with `fill`). `fair` is whether half of the small searches
    were done before the huge one that began with them: it has one seat, like everybody.
    """
    with tempfile.TemporaryDirectory(prefix="marco-load-", ignore_cleanup_errors=True) as folder:
        process, url = start(Path(folder), seconds_per_token=pace, model=model)
        record = _Record(process)
        try:
            tally = asyncio.run(_everybody(url, sessions, seed, fill, rollouts, real=model is not None))
            record.settle(tally.left)
        finally:
            process.kill()
            process.wait()
            record.close()
    stops = [record.ended[number] - when for number, when in tally.left.items() if number in record.ended]
    return {
        "model": model.model if model else "scripted",
        "sessions": sessions,
        "completed": tally.completed,
        "cancelled": tally.cancelled,
        "refused": tally.refused,
        "errors": tally.errors,
        "cross_talk": tally.cross_talk,
        "cancel_p95_seconds": _p95([max(0.0, stop) for stop in stops]),
        "refusal_p95_seconds": _p95(tally.refusals),
        "session_p95_seconds": _p95(tally.waits),
        "complaints": tally.complaints[:10],
        "fair": None
        if model
        else 2 * sum(done < tally.huge_done for done in tally.small_done) >= len(tally.small_done),
    }


class _Record:
    """What the engine says about rollouts: the last end of each number's, and how many are under way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._out = process.stdout
        self.ended: dict[int, float] = {}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def settle(self, numbers: dict[int, float]) -> None:
        """Wait until nothing more is heard of searches that were left."""
        deadline = time.monotonic() + 30
        before: list[float | None] = []
        while time.monotonic() < deadline:
            now = [self.ended.get(number) for number in numbers]
            if now == before:
                return
            before = now
            time.sleep(1.0)

    def close(self) -> None:
        self._thread.join(timeout=10)
        self._out.close()

    def _listen(self) -> None:
        for line in self._out:
            if line.startswith("{"):
                told = json.loads(line)
                if told.get("ended") is not None:
                    self.ended[int(told["ended"])] = float(told["at"])


async def _everybody(url: str, sessions: int, seed: int, fill: bool, rollouts: int, *, real: bool) -> _Tally:
    import httpx

    numbers = [1000 + place * (APART if real else 1) for place in range(sessions)]
    tally = _Tally(others=frozenset(numbers) if real else None)
    draw = random.Random(seed)
    leavers = set(draw.sample(range(1, sessions), round(SHARE_CANCELLED * sessions))) if sessions > 1 else set()
    # A connection that is kept may be closed by the server at the moment when it is used again.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False, limits=limits) as client:
        began = time.monotonic()
        await asyncio.gather(
            *(
                _session(client, tally, began, number, rollouts, huge=place == 0 and not real, leaves=place in leavers)
                for place, number in enumerate(numbers)
            )
        )
        if fill and not real:
            await _fill(client, tally)
    return tally


async def _session(
    client: httpx.AsyncClient,
    tally: _Tally,
    began: float,
    number: int,
    rollouts: int,
    *,
    huge: bool,
    leaves: bool,
) -> None:
    """One person: asks, reads along, and either gets the answer or leaves in the middle."""
    import httpx

    try:
        answer = await client.post(CALL, json=_body(number, HUGE_ROLLOUTS if huge else rollouts))
        answer.raise_for_status()
        async for kind, told in _events(client, answer.json()["event_id"]):
            if kind == "error":
                tally.errors += 1
                tally.complaints.append(f"{number}: {told}")
                return
            if leaves and told and told.get("rollouts", 0) >= 1 and not told["done"]:
                tally.cancelled += 1
                tally.left[number] = time.monotonic()
                return
            if told and told["done"]:
                if tally.others is None:
                    _check(tally, number, told)
                else:
                    _check_whole(tally, number, told, rollouts)
                now = time.monotonic() - began
                tally.waits.append(now)
                if huge:
                    tally.huge_done = now
                else:
                    tally.small_done.append(now)
                return
        tally.errors += 1
        tally.complaints.append(f"{number}: the stream ended early")
    except (httpx.HTTPError, ValueError, KeyError) as error:
        tally.errors += 1
        tally.complaints.append(f"{number}: {type(error).__name__}: {error}")


def _check(tally: _Tally, number: int, told: dict[str, Any]) -> None:
    named = {int(found) for found in _NAMED.findall(told["text"])}
    others = [vote["answer"] for vote in told["votes"] if vote["answer"] != right_answer(number)]
    if named - {number} or others or told["answer"] != right_answer(number):
        tally.cross_talk += 1
    else:
        tally.completed += 1


def _check_whole(tally: _Tally, number: int, told: dict[str, Any], rollouts: int) -> None:
    """A real model's answer: is it this session's, and all of it?"""
    assert tally.others is not None
    if {int(found) for found in _DIGITS.findall(told["text"])} & (tally.others - {number}):
        tally.cross_talk += 1
    elif told["rollouts"] < rollouts or told["stopped_by"] != "rollouts" or not told["text"].strip():
        tally.errors += 1
        tally.complaints.append(f"{number}: {told['rollouts']} of {rollouts} rollouts, {told['stopped_by']}")
    else:
        tally.completed += 1


async def _fill(client: httpx.AsyncClient, tally: _Tally) -> None:
    """Fill the line, then knock again and again; leave when all is measured."""
    ids = []
    while True:
        answer = await client.post(CALL, json=_body(9, HUGE_ROLLOUTS * 10))
        if answer.status_code != 200:
            break
        ids.append(answer.json()["event_id"])
    for _ in range(BEYOND):
        before = time.monotonic()
        answer = await client.post(CALL, json=_body(9, 1))
        took = time.monotonic() - before
        if answer.status_code == 503 and "Nothing that you wrote is lost" in answer.json()["detail"]:
            tally.refused += 1
            tally.refusals.append(took)
        else:
            tally.errors += 1


async def _events(client: httpx.AsyncClient, event: str) -> AsyncIterator[tuple[str, dict[str, Any] | None]]:
    kind = ""
    async with client.stream("GET", f"{CALL}/{event}") as stream:
        async for line in stream.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                told = json.loads(value)
                yield kind, told[0] if isinstance(told, list) and told else None


def _body(number: int, rollouts: int) -> dict[str, Any]:
    question = f"What is twice number {number}, plus 1?"
    return {"data": [question, "marco", None, None, rollouts, None, None, None, None, 0]}


def _p95(values: Sequence[float]) -> float | None:
    return round(sorted(values)[min(len(values) - 1, int(0.95 * len(values)))], 4) if values else None
