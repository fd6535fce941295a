"""Slots and cache positions, handed out fairly: for engines whose work runs on an event loop.

Searches take turns. Whoever has the fewest slots under way comes first, among equals whoever has waited longest
since its last turn; within a search, first come, first served. A large demand whose turn it is is waited for, so that
nothing small overtakes it for ever. Not thread-safe: everything happens on one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class _Wish:
    slots: int
    cells: int
    granted: asyncio.Future[None]


class Room:
    """`slots` rollouts at once, with `cells` cache positions between them."""

    def __init__(self, slots: int, cells: int) -> None:
        self.slots = slots
        self.cells = cells
        self.free_slots = slots
        self.free_cells = cells
        self._lines: dict[str, deque[_Wish]] = {}
        self._held: dict[str, int] = {}

    @asynccontextmanager
    async def taken(self, search: str, slots: int, cells: int) -> AsyncIterator[None]:
        """Wait for `slots` and `cells` (at most what there is in all), and hold them while this lasts."""
        wish = _Wish(slots, min(cells, self.cells), asyncio.get_running_loop().create_future())
        self._lines.setdefault(search, deque()).append(wish)
        try:
            self._grant()
            await wish.granted
            yield
        finally:
            if wish.granted.done() and not wish.granted.cancelled():
                self.free_slots += wish.slots
                self.free_cells += wish.cells
                self._held[search] -= wish.slots
                if not self._held[search]:
                    del self._held[search]
            else:
                self._leave(search, wish)
            self._grant()

    def _grant(self) -> None:
        while self._lines:
            # min keeps the first of equals, and a search that was served goes to the end.
            search = min(self._lines, key=lambda name: self._held.get(name, 0))
            wish = self._lines[search][0]
            if wish.slots > self.free_slots or wish.cells > self.free_cells:
                return
            self.free_slots -= wish.slots
            self.free_cells -= wish.cells
            self._held[search] = self._held.get(search, 0) + wish.slots
            self._leave(search, wish)
            wish.granted.set_result(None)

    def _leave(self, search: str, wish: _Wish) -> None:
        line = self._lines.pop(search)
        line.remove(wish)
        if line:
            self._lines[search] = line
