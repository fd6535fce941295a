"""`marco bench page`: what watching costs. The same search by itself, and with the page open in a real browser.

Both run in this process on one engine, in turns, so that the machine, the model and what it has cached are the same;
the browser runs beside them on the same machine, as a person's does. Speeds are sampled tokens a second of the search
itself, from its first work to its end.

Then a large tree grows on the page over a scripted model, and the page's own clock says how long each update of the
tree keeps it from drawing the next frame.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from marco.benchmarks.speed import QUESTION
from marco.config import ModelConfig
from marco.engines.base import Engine
from marco.engines.scripted import ScriptedEngine
from marco.errors import EngineError, UserMistake
from marco.evaluation.metrics import bootstrap
from marco.events import SearchEnded
from marco.solver import Solver

if TYPE_CHECKING:
    from playwright.sync_api import Page

Progress = Callable[[int, int, str], None]

WARM_UP_TOKENS = 16
PATIENCE = 3_600_000
"""Milliseconds that a search on the page may take."""

LOOK_EVERY = 0.25
"""Seconds between two looks at the run file."""
LAST_LINE_BYTES = 4096
"""More than the event that ends a search takes."""

NODES_A_ROLLOUT = 3
MOST_ROLLOUTS = 64
"""As many as the page's settings let a search begin with."""
MORE_ROLLOUTS = 32
"""As many as *give it more* adds at once."""

FRAMES = """() => {
  // An update changes the tree between two frames and is laid out and painted before the next: both pauses are its own.
  const pauses = window.marcoPauses = [];
  let changed = false, open = false, last = performance.now();
  // The page slows whatever asks for frame after frame (frames.js).
  const ask = window.requestAnimationFrame.unslowed ?? window.requestAnimationFrame;
  new MutationObserver(() => (changed = true)).observe(document.querySelector("#reason-tree .tree-stage"),
    { subtree: true, childList: true, attributes: true });
  ask(function frame() {
    const now = performance.now(), pause = now - last;
    if (open) pauses.push(Math.max(pauses.pop(), pause));
    if (changed) pauses.push(pause);
    open = changed;
    changed = false;
    last = now;
    ask(frame);
  });
}"""


def bench_page(
    config: ModelConfig,
    progress: Progress | None = None,
    *,
    rollouts: int = 8,
    action: str = "step",
    max_tokens: int = 256,
    seed: int = 0,
    repeats: int = 1,
    nodes: int = 1000,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Measure one model, `repeats` times each way, medians count; and a tree of `nodes` nodes, as `draw_tree` does.

    `engine` takes the place of what `config` names, and stays open. `loss` is the share of the speed that the page
    costs (0.05 is five per cent; below 0 the page happened to be faster): the geometric mean over pairs of searches
    one after the other, since a shared host may double its speed within minutes; `loss_low` and `loss_high` hold its
    95% interval (bootstrap over pairs; None for a single one). `browser_share` is the processor time of the
    browser meanwhile and `app_share` that of the app beyond the search alone, in cores (0.05 is a twentieth of one).
    `taken` is what watching takes of all the machine's processor time: the least that a model loses which uses all,
    and a figure that a host which is faster now and slower then changes little. The last two are None where the model
    computes in this very process.
    Raises `UserMistake` without Playwright or a browser, `EngineError` where a search fails.
    """
    from ui.settings import NAMES, of_preset, to_options

    report = progress or (lambda _done, _total, _what: None)
    usual = of_preset("marco")
    chosen = {"rollouts": rollouts, "action": action, "max_tokens": max_tokens, "seed": seed}
    options = to_options([{**usual, **chosen}[name] for name in NAMES])
    warm = to_options([{**usual, **chosen, "max_tokens": WARM_UP_TOKENS}[name] for name in NAMES])
    executable = browser_path()
    opened = engine or _open(config, progress)
    try:
        steps = 2 * repeats + 2
        report(0, steps, "Warming up")
        _speed(list(Solver(opened, warm).stream(QUESTION)))
        alone: list[float] = []
        watched: list[float] = []
        by_itself_took: list[tuple[float, float]] = []
        on_the_page_took: list[tuple[float, float]] = []
        with tempfile.TemporaryDirectory() as folder, page_open(opened, executable, Path(folder), chosen) as page:

            def by_itself() -> None:
                report(len(alone) + len(watched) + 1, steps, "The search by itself")
                with _processor_shares(by_itself_took):
                    # With a run file, as `marco solve` keeps one.
                    alone.append(_speed(list(Solver(opened, options, runs=Path(folder) / "alone").stream(QUESTION))))

            def on_the_page() -> None:
                report(len(alone) + len(watched) + 1, steps, "The search on the page")
                with _processor_shares(on_the_page_took):
                    watched.append(_watched(page, Path(folder) / "page"))

            for turn in range(repeats):
                # A machine that gets slower all the while must not count against the one that comes second.
                for measured in (by_itself, on_the_page) if turn % 2 == 0 else (on_the_page, by_itself):
                    measured()
        report(steps - 1, steps, "A large tree on the page")
        drawing = draw_tree(executable, nodes)
        report(steps, steps, "Done")
        solve, seen = statistics.median(alone), statistics.median(watched)
        ratios = [math.log(one / other) for one, other in zip(watched, alone, strict=True)]
        low, high = bootstrap(ratios)
        browser, app = (statistics.median(shares) for shares in zip(*on_the_page_took, strict=True))
        idle_browser, session = (statistics.median(shares) for shares in zip(*by_itself_took, strict=True))
        # Only where the model computes in a process of its own is what Marco itself takes told from what it takes.
        apart = opened.info.engine in ("llama.cpp", "server")
        taken = (browser - idle_browser + app - session) / (os.cpu_count() or 1)
        return {
            "model": opened.info.model,
            "engine": opened.info.engine,
            "device": opened.info.device,
            "rollouts": rollouts,
            "action": action,
            "max_tokens": max_tokens,
            "repeats": repeats,
            "solve_tokens_per_second": solve,
            "page_tokens_per_second": seen,
            "loss": 1 - math.exp(statistics.fmean(ratios)),
            "loss_low": 1 - math.exp(high) if repeats > 1 else None,
            "loss_high": 1 - math.exp(low) if repeats > 1 else None,
            "browser_share": browser,
            "app_share": app - session if apart else None,
            "taken": taken if apart else None,
            **drawing,
        }
    finally:
        if engine is None:
            opened.close()


def draw_tree(executable: str, nodes: int = 1000) -> dict[str, Any]:
    """A scripted tree of at least `nodes` nodes that grows on the page: how many are drawn, and what an update takes.

    `update_ms_*`: the longest pause between two frames around an update, in milliseconds of the page's clock. A page
    that has nothing to do draws a frame every 17.
    """
    rollouts = math.ceil(nodes / NODES_A_ROLLOUT)
    begun = min(rollouts, MOST_ROLLOUTS)
    engine = ScriptedEngine(_branch, seconds_per_token=0.001)
    settings = {"rollouts": begun, "branching": 8}
    try:
        with tempfile.TemporaryDirectory() as folder, page_open(engine, executable, Path(folder), settings) as page:
            page.locator("#reason-question textarea").fill(QUESTION)
            page.locator("#reason-run").click()
            page.wait_for_selector("#reason-tree [role=treeitem]")
            page.evaluate(FRAMES)
            while begun < rollouts:
                more = min(MORE_ROLLOUTS, rollouts - begun)
                page.locator("#reason-amount input[type=number]").fill(str(more))
                page.locator("#reason-amount input[type=number]").press("Tab")
                page.locator("#reason-more").click()
                begun += more
                page.wait_for_selector(f"#reason-status:has-text('of {begun}')")
            page.wait_for_selector("#reason-run:not([disabled])", timeout=PATIENCE)
            drawn = page.locator("#reason-tree [role=treeitem]").count()
            # "300 of 1000 nodes", or nothing where all are drawn.
            total = re.search(r"of (\d+)", page.locator("#reason-tree .count").inner_text())
            pauses = sorted(page.evaluate("marcoPauses"))
    finally:
        engine.close()
    return {
        "nodes": int(total.group(1)) if total else drawn,
        "drawn": drawn,
        "updates": len(pauses),
        "update_ms_median": round(statistics.median(pauses), 1),
        "update_ms_p95": round(pauses[int(0.95 * len(pauses))], 1),
    }


def _branch(prefix: str, seed: int) -> str:
    """Two thoughts and an answer, `NODES_A_ROLLOUT` nodes that no other rollout writes."""
    opening = "" if prefix.rpartition("assistant: ")[2] else "<Thought>\n"
    return f"{opening}Idea {seed}.\n\nAnd so on.\n</Thought>\n<Output>\n{seed % 3}\n</Output>"


def browser_path() -> str:
    """The browser that the tests use. Raises `UserMistake` where there is none."""
    if importlib.util.find_spec("playwright") is None:
        raise UserMistake("`marco bench page` drives a browser with Playwright, which is not installed here.")
    finder = Path(__file__).resolve().parents[2] / "tests" / "get_browser.py"
    spec = importlib.util.spec_from_file_location("get_browser", finder) if finder.exists() else None
    if spec is None or spec.loader is None:
        raise UserMistake("`marco bench page` runs in a checkout of Marco, beside its tests.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.find_browser()
    if not found:
        raise UserMistake("There is no browser to measure with: `python tests/get_browser.py` gets one.")
    return str(found)


@contextmanager
def page_open(engine: Engine, executable: str, folder: Path, settings: dict[str, Any]) -> Iterator[Page]:
    """The app over `engine` with its page open in a browser, and these settings in its address."""
    from playwright.sync_api import sync_playwright

    from ui import build_app, launch_options
    from ui.model_loader import ModelLoader

    loader = ModelLoader(lambda progress: engine)
    app = build_app(loader, runs=folder / "page")
    loader.start()
    _, url, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options())
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1360, "height": 900})
            page.goto(f"{url}?{urlencode(settings)}")
            page.wait_for_selector("#masthead [data-opened]")
            page.wait_for_selector("#model-status .is-ready", timeout=PATIENCE)
            yield page
            browser.close()
    finally:
        # The engine is somebody else's: the loader must not close it.
        app.close(verbose=False)


def _watched(page: Page, runs: Path) -> float:
    from marco.runs import read_run

    before = set(runs.glob("*.jsonl"))
    page.locator("#reason-question textarea").fill(QUESTION)
    page.locator("#reason-run").click()
    # Not by asking the page: Playwright's waiting has it draw sixty frames a second, which no person does.
    deadline = time.monotonic() + PATIENCE / 1000
    while not (written := set(runs.glob("*.jsonl")) - before) or not _ended(*written):
        if time.monotonic() > deadline:
            raise EngineError("The search on the page did not end.")
        time.sleep(LOOK_EVERY)
    page.wait_for_selector("#reason-run:not([disabled])", timeout=PATIENCE)
    return _speed(list(read_run(*written).events))


def _ended(run: Path) -> bool:
    """Whether the last line on file is the end of the search."""
    with run.open("rb") as file:
        file.seek(max(0, run.stat().st_size - LAST_LINE_BYTES))
        return b'"type":"SearchEnded"' in file.read()


@contextmanager
def _processor_shares(found: list[tuple[float, float]]) -> Iterator[None]:
    """Adds what the browser, and what this process by itself, took while the block ran, in cores."""
    begun, before = time.monotonic(), (_browser_seconds(), time.process_time())
    yield
    elapsed = time.monotonic() - begun
    found.append(((_browser_seconds() - before[0]) / elapsed, (time.process_time() - before[1]) / elapsed))


def _browser_seconds() -> float:
    """Processor time that the browsers of this process have taken so far, in seconds."""
    import psutil

    seconds = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if "chrom" in process.name().lower() or "headless" in process.name().lower():
                used = process.cpu_times()
                seconds += used.user + used.system
        except psutil.Error:
            continue  # it ended just now
    return seconds


def _speed(events: list[Any]) -> float:
    ended = events[-1] if events else None
    if not isinstance(ended, SearchEnded) or ended.stopped_by == "error" or not ended.tokens["generated"]:
        raise EngineError(f"The search failed: {ended.message if isinstance(ended, SearchEnded) else 'it did not end'}")
    return float(ended.tokens["generated"] / ended.seconds)


def _open(config: ModelConfig, progress: Progress | None) -> Engine:
    from marco.engines import open_engine

    return open_engine(config, progress=progress)
