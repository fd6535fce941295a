"""What many tests share: the small real model, and an engine on it. The browser is in `browser.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["browser"]


@pytest.fixture(scope="session")
def small_model() -> Path:
    """The 0.5B model's file, fetched on the first run on a machine."""
    from marco.engines.models import fetch, find

    return fetch(find("qwen2.5-coder-0.5b"), None)


@pytest.fixture(scope="session")
def small_engine(small_model: Path) -> Iterator[object]:
    """A real llama.cpp child process with the 0.5B model."""
    from marco.engines.llamacpp import LlamaCppEngine

    engine = LlamaCppEngine(small_model, slots=4, context=4096, name="qwen2.5-coder-0.5b")
    yield engine
    engine.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A journey in a browser is tried once more: on busy cores a page may miss its turn. Reruns are counted."""
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.flaky(reruns=1))
