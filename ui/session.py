"""A search behind the page: a worker thread fills a queue, a generator drains it and says when to redraw.

    activity = activities.begin(session, "reason")
    for view in watch(activity, solver.stream(...)):
        yield what to show

One `Activity` a browser session and tab; a new one stops the one before. Stopping is cooperative: the
event is set (by the Stop button, by a closed tab), and the search ends in its own time.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marco.errors import MarcoError
from marco.events import Event, Partial
from ui.render import View

log = logging.getLogger("marco.ui")

POLL = 0.1
"""Seconds between looks into the queue."""

REDRAW = 0.22
"""Seconds between redraws: fewer than five a second."""
WORDS = 0.6
"""Seconds between redraws that show but more words of what is being written."""
SHARE = 0.01
"""Of the time, what redrawing may take here: a model on the same processor waits for it, and for the browser, which has
about four times as much to do."""
SLOWEST = 1.2
"""Seconds that a redraw is put off at most for its share's sake."""

UNHURRIED = 2.0
"""Seconds between redraws where the model thinks on the processor that the browser draws on: the browser's part of an
update takes ten times what the server's does, and all of the model's threads wait for the one that it stops."""

BEAT = 1.0
"""Seconds after which the clock on the page moves on, whatever the model does."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A question of the conversation so far, and its answer."""

    question: str
    answer: str
    elements: tuple[Any, ...]
    """How the page shows it."""


@dataclass(slots=True)
class Activity:
    """What one tab of one browser session is at."""

    stop: threading.Event = field(default_factory=threading.Event)
    view: View = field(default_factory=View)
    steer: Callable[..., None] = lambda *_, **__: None
    """`Solver.steer` of the search under way."""
    steerable: bool = True
    """Whether it can be steered while it runs: not where its GPU is lent, elsewhere."""
    run: Path | None = None
    """Its run file, once there is one."""
    runs: Path | None = None
    """The folder for it."""
    earlier: list[Turn] = field(default_factory=list)
    """What was said before, oldest first."""
    charts_open: bool = False
    selected: str | None = None
    unfolded: set[str] = field(default_factory=set)
    chosen: str = ""
    """What a person put in place of the search's own result."""
    running: bool = False
    fresh: bool = False
    """Something besides an event calls for a redraw."""
    unhurried: bool = False
    """Whoever watches it does so on the processor that the model thinks on."""


class Activities:
    """The activities of all browser sessions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[tuple[str, str], Activity] = {}

    def begin(self, session: str, tab: str) -> Activity:
        """A new activity; the one before it on this tab is stopped."""
        activity = Activity(running=True)
        with self._lock:
            before = self._of.get((session, tab))
            self._of[session, tab] = activity
        if before is not None:
            before.stop.set()
        return activity

    def get(self, session: str, tab: str) -> Activity | None:
        with self._lock:
            return self._of.get((session, tab))

    def stop(self, session: str, tab: str) -> None:
        activity = self.get(session, tab)
        if activity is not None:
            activity.stop.set()

    def forget(self, session: str) -> None:
        """The browser tab was closed."""
        with self._lock:
            gone = [key for key in self._of if key[0] == session]
            activities = [self._of.pop(key) for key in gone]
        for activity in activities:
            activity.stop.set()

    def end(self, session: str, tab: str) -> None:
        """What this tab was at is over, and nobody will look at it again."""
        with self._lock:
            activity = self._of.pop((session, tab), None)
        if activity is not None:
            activity.stop.set()

    def stop_all(self) -> None:
        with self._lock:
            activities = list(self._of.values())
        for activity in activities:
            activity.stop.set()


def watch(
    activity: Activity,
    events: Callable[[], Iterable[Event]],
    *,
    surprise: str,
    clock: Callable[[], float] = time.monotonic,
    redraw: float = REDRAW,
) -> Iterator[View]:
    """Run `events` in a thread and yield the view whenever it is worth a redraw; the last one is final.

    What `events` raises becomes `view.error`, one sentence; `surprise` stands for what Marco did not foresee.
    Closing the generator stops the search and returns at once: it may be closed on an event loop.
    """
    arrivals: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    view = activity.view

    def work() -> None:
        try:
            for event in events():
                arrivals.put(event)
        except MarcoError as error:
            view.error = str(error)
        except Exception:
            log.exception("a search failed")
            view.error = surprise
        finally:
            arrivals.put(None)

    threading.Thread(target=work, name="marco-search", daemon=True).start()
    changed = words = over = False
    drawn = pause = 0.0
    try:
        while not over:
            try:
                arrival = arrivals.get(timeout=POLL)
                while True:
                    if arrival is None:
                        over = True
                        break
                    try:
                        view.apply(arrival, clock())
                    except Exception:
                        log.exception("an event that can't be shown: %s", type(arrival).__name__)
                        view.error = surprise
                        activity.stop.set()
                    words = words or isinstance(arrival, Partial)
                    changed = changed or not isinstance(arrival, Partial)
                    arrival = arrivals.get_nowait()
            except queue.Empty:
                pass
            if activity.stop.is_set() and view.phase != "stopping" and view.ended is None:
                view.phase = "stopping"
                drawn, pause, changed = 0.0, 0.0, True
            now = clock()
            view.latest = now if view.ended is None else view.latest
            quiet = now - drawn >= BEAT and view.started is not None
            due = changed or activity.fresh or quiet or (words and now - drawn >= WORDS)
            if not over and due and now - drawn >= max(redraw, 0.0 if activity.fresh else pause):
                drawn, changed, words, activity.fresh = now, False, False, False
                yield view
                # Who takes the next item has drawn and sent this one.
                pause = UNHURRIED if activity.unhurried else min(SLOWEST, (clock() - now) / SHARE)
        activity.running = False
        yield view
    finally:
        activity.running = False
        if not over:
            activity.stop.set()
