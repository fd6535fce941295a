"""`marco bench page`: the same search by itself and with the page open, on an engine that keeps its pace."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from thinking import bolts

from marco.benchmarks import page
from marco.config import ModelConfig
from marco.engines.scripted import ScriptedEngine
from marco.errors import UserMistake

NODES = 330
"""More than are drawn at once, and more thoughts than a search begins with."""


@pytest.fixture(scope="module")
def engine() -> Iterator[ScriptedEngine]:
    made = ScriptedEngine(bolts, seconds_per_token=0.002)
    yield made
    made.close()


@pytest.fixture(scope="module")
def found(engine: ScriptedEngine) -> dict[str, Any]:
    # In a thread of its own: the other tests' browser holds this one.
    with ThreadPoolExecutor(1) as thread:
        measuring = thread.submit(
            page.bench_page, ModelConfig(), rollouts=3, max_tokens=64, repeats=2, nodes=NODES, engine=engine
        )
        return measuring.result()


def test_both_ways_are_measured_on_one_engine_which_stays_open(found, engine):
    assert found["solve_tokens_per_second"] > 0 and found["page_tokens_per_second"] > 0
    assert found["loss_low"] <= found["loss"] <= found["loss_high"] < 1
    assert {"model", "engine", "loss", "loss_low", "loss_high"} <= set(found)
    assert 0 < found["browser_share"] < 16
    # A scripted model writes in this process: what the app takes beside it can't be told.
    assert found["app_share"] is None and found["taken"] is None
    assert found["model"] == "scripted"
    assert engine.usage()["requests"] >= 9


def test_of_a_large_tree_that_grows_on_the_page_300_nodes_are_drawn_and_each_update_is_timed(found):
    assert found["nodes"] >= NODES
    assert 100 < found["drawn"] <= 300
    assert found["updates"] >= 2
    assert 0 < found["update_ms_median"] <= found["update_ms_p95"]


def test_without_a_browser_the_way_to_get_one_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("MARCO_CHROMIUM", raising=False)
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", "/nowhere")
    with pytest.raises(UserMistake, match=r"get_browser\.py"):
        page.browser_path()


def test_without_playwright_it_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserMistake, match="Playwright"):
        page.browser_path()
