"""What many tests share: the small real model, and an engine on it. The browser is in `browser.py`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["browser"]

# What passed passes again; HYPOTHESIS_PROFILE=explore looks for cases that nobody has seen.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture
def marco_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call `marco ARGUMENTS` in this process; returns (exit code, stdout, stderr)."""
    from marco import cli

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            cli.main([*map(str, arguments)])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


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
