"""A browser for the page's tests, and the page itself behind a scripted model.

Fixtures: `browser_context` (one browser for the session), `page` (a fresh context a test; any page error, console
error or request to another host fails the test), `serve` (a factory of running apps).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from get_browser import find_browser

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]

LOCAL = ("127.0.0.1", "localhost", "")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import expect, sync_playwright

    # Machines that run tests are often busy with something else.
    expect.set_options(timeout=30_000)
    found = find_browser()
    assert found, "no browser: run `python tests/get_browser.py`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium) -> Iterator[Callable[..., Any]]:
    """`open_page(url, **context options)`; at the end nothing may have gone wrong on any page opened.

    `expected="..."`: what a console error of this page may say.
    """
    yield from _pages(chromium)


@pytest.fixture(scope="module")
def open_page_once(chromium) -> Iterator[Callable[..., Any]]:
    """As `open_page`, for fixtures of a module."""
    yield from _pages(chromium)


def _pages(chromium: Any) -> Iterator[Callable[..., Any]]:
    contexts = []
    complaints: list[str] = []

    def open_(url: str, *, expected: str | None = None, **options: Any) -> Any:
        def listen(message: Any) -> None:
            if message.type == "error" and (expected is None or expected not in message.text):
                complaints.append(f"console: {message.text}")

        options.setdefault("viewport", {"width": 1360, "height": 900})
        context = chromium.new_context(**options)
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(f"page error: {error}"))
        page.on("console", listen)
        page.on("request", lambda request: _check_host(request.url, complaints))
        page.goto(url)
        # The settings of the address are in place by then.
        page.wait_for_selector("#masthead [data-opened]")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not complaints, "\n".join(complaints)


def _check_host(url: str, complaints: list[str]) -> None:
    parts = urlsplit(url)
    if parts.scheme in ("http", "https", "ws", "wss") and (parts.hostname or "") not in LOCAL:
        complaints.append(f"a request to another host: {url}")


@dataclass
class Served:
    """An app that runs."""

    url: str
    engine: Any
    loader: Any
    runs: Path


class Apps:
    """Starts apps on free ports and closes them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._closing: list[Callable[[], None]] = []

    def start(
        self,
        engine: Any,
        *,
        loading: threading.Event | None = None,
        failure: Exception | None = None,
        **arguments: Any,
    ) -> Served:
        """Serve a page whose model is `engine`: there once `loading` is set, or never, for a `failure`.

        Other arguments are for `build_app`.
        """
        from starlette.middleware import Middleware

        from ui import build_app, launch_options
        from ui.gate import Gate, Limits
        from ui.model_loader import ModelLoader, Progress

        def opener(progress: Progress) -> Any:
            progress(1, 4, "fetching the model")
            if loading is not None:
                loading.wait(60)
            if failure is not None:
                raise failure
            return engine

        runs = self._folder / f"runs{len(self._closing)}"
        loader = ModelLoader(opener)
        app = build_app(loader, runs=runs, **arguments)
        loader.start()
        gate = Middleware(
            Gate,  # type: ignore[arg-type]
            limits=Limits(),
            waiting=lambda: len(app._queue),
            room=app._queue.max_size,
            stopping=lambda: False,
            refused=lambda why: None,
        )
        _, url, _ = app.launch(
            server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options(middleware=[gate])
        )
        self._closing.append(lambda: (loader.close(), app.close(verbose=False)))
        return Served(url, engine, loader, runs)

    def close(self) -> None:
        for close in self._closing:
            close()


@pytest.fixture(scope="session")
def apps(tmp_path_factory) -> Iterator[Apps]:
    started = Apps(tmp_path_factory.mktemp("apps"))
    yield started
    started.close()


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait for something outside the page to become true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")
