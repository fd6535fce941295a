"""How often a search is drawn anew: seldom enough that a model on the same processor is not kept waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

import pytest

from marco.events import Event, Phase
from ui import session
from ui.session import REDRAW, SHARE, SLOWEST, UNHURRIED, Activity, watch

STEP = 0.002
"""Seconds by which the clock moves on whenever it is looked at."""


class Search:
    """Something happens all the time; each redraw takes `cost` seconds of a clock that nothing else moves."""

    def __init__(self, cost: float) -> None:
        self.cost = cost
        self.now = 0.0
        self.over = threading.Event()
        self.activity = Activity(running=True)

    def events(self) -> Iterator[Event]:
        while not self.over.is_set():
            yield Phase(name="searching")
            time.sleep(0.001)

    def clock(self) -> float:
        self.now += STEP
        return self.now

    def redraws(self, count: int) -> Iterator[float]:
        """When each began."""
        views = watch(self.activity, self.events, surprise="?", clock=self.clock)
        for _ in range(count):
            next(views)
            yield self.now
            self.now += self.cost
        self.over.set()
        list(views)


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "POLL", 0.001)


def gaps(times: Iterator[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


def test_what_costs_nothing_is_drawn_a_few_times_a_second() -> None:
    found = gaps(Search(0.0).redraws(8))
    assert min(found) >= REDRAW and median(found) < 2 * REDRAW


def test_what_costs_more_is_drawn_less_often_so_that_it_takes_its_share_and_no_more() -> None:
    cost = 0.006
    found = gaps(Search(cost).redraws(6))
    assert 2 * REDRAW < cost / SHARE <= min(found) and median(found) < SLOWEST


def test_what_costs_very_much_is_still_drawn_about_once_a_second() -> None:
    found = gaps(Search(0.5).redraws(6))
    assert min(found) >= SLOWEST and median(found) < 2 * SLOWEST


@pytest.mark.parametrize("cost", [0.0, 0.006, 0.5])
def test_who_watches_on_the_processor_that_thinks_sees_it_every_other_second(cost: float) -> None:
    search = Search(cost)
    search.activity.unhurried = True
    found = gaps(search.redraws(6))
    assert min(found) >= UNHURRIED and median(found) < 2 * UNHURRIED


@pytest.mark.parametrize("unhurried", [False, True])
def test_stop_and_what_a_person_did_show_at_once_however_much_it_costs(unhurried: bool) -> None:
    search = Search(0.1)
    search.activity.unhurried = unhurried
    times = search.redraws(4)
    next(times)
    search.activity.fresh = True
    begun = search.now
    assert next(times) - begun < SLOWEST / 2
    search.activity.stop.set()
    begun = search.now
    assert next(times) - begun < SLOWEST / 2
    assert search.activity.view.phase == "stopping"
    list(times)
