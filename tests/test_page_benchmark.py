"""`marco bench page`: the same search by itself and with the page open, on an engine that keeps its pace."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from thinking import bolts

from marco.benchmarks import page
from marco.config import ModelConfig
from marco.engines.scripted import ScriptedEngine
from marco.errors import UserMistake


def test_both_ways_are_measured_on_one_engine_which_stays_open():
    engine = ScriptedEngine(bolts, seconds_per_token=0.002)
    # In a thread of its own: the other tests' browser holds this one.
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(page.bench_page, ModelConfig(), rollouts=3, max_tokens=64, engine=engine).result()
    assert found["solve_tokens_per_second"] > 0 and found["page_tokens_per_second"] > 0
    assert found["loss"] == pytest.approx(1 - found["page_tokens_per_second"] / found["solve_tokens_per_second"])
    assert {"model", "engine", "loss", "commit"} <= set(found)
    assert found["model"] == "scripted"
    assert engine.usage()["requests"] >= 9


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
