"""Figures for Prometheus at `/metrics`, and whether all is well at `/health`.

Searches are counted from the log that the session writes, tokens from the engine's own totals at the moment of asking:
nothing in a search's way counts anything. Totals only; no question, no name.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ui.model_loader import ModelLoader

WINDOW = 30.0
"""Seconds over which tokens per second are taken, as far as somebody asked so long ago."""


class Metrics(logging.Handler):
    """Listens to searches, and collects the rest when asked."""

    def __init__(self, loader: ModelLoader, waiting: Callable[[], int]) -> None:
        super().__init__(logging.INFO)
        self.registry = CollectorRegistry()
        self._under_way = 0
        self.searches = Counter("marco_searches", "Searches that ended, by what ended them.", ["kind", "stopped_by"],
                                registry=self.registry)  # fmt: skip
        self.running = Gauge("marco_searches_running", "Searches under way.", registry=self.registry)
        self.seconds = Histogram(
            "marco_search_seconds",
            "How long searches took.",
            buckets=(1, 2, 5, 10, 20, 60, 120, 300, 900),
            registry=self.registry,
        )
        self.refused = Counter("marco_refused", "Requests that were turned away, by why.", ["why"],
                               registry=self.registry)  # fmt: skip
        ProcessCollector(registry=self.registry)
        self.registry.register(_Engine(loader, waiting))

    def emit(self, record: logging.LogRecord) -> None:
        event = record.getMessage()
        if event == "search started":
            self._under_way += 1
            self.running.set(self._under_way)
        elif event == "search ended":
            self._under_way -= 1
            self.running.set(self._under_way)
            told = vars(record)
            self.searches.labels(told["kind"], told["stopped_by"]).inc()
            if "seconds" in told:
                self.seconds.observe(told["seconds"])

    def running_now(self) -> int:
        """Searches under way."""
        return self._under_way

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Engine(Collector):
    """What the engine, the line and the processes say when somebody asks."""

    def __init__(self, loader: ModelLoader, waiting: Callable[[], int]) -> None:
        self._loader = loader
        self._waiting = waiting
        self._samples: deque[tuple[float, float]] = deque()

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("marco_queue_length", "Searches that wait for their turn.", self._waiting())
        yield GaugeMetricFamily(
            "marco_memory_bytes", "Resident memory, the model's processes included.", _resident_bytes()
        )
        ready = self._loader.state.phase == "ready"
        yield GaugeMetricFamily("marco_model_ready", "1 once the model is loaded.", int(ready))
        engine = self._loader.engine
        if engine is None:
            return
        usage = engine.usage()
        generated = float(usage.get("generated", 0))
        for name, what in (
            ("generated", "Tokens sampled."),
            ("prefilled", "Positions of prompts computed."),
            ("cached", "Positions of prompts found in a cache."),
        ):
            yield CounterMetricFamily(f"marco_{name}_tokens", what, float(usage.get(name, 0)))
        yield GaugeMetricFamily("marco_rows", "Rollouts decoded at this moment.", float(usage.get("rows", 0)))
        yield GaugeMetricFamily(
            "marco_tokens_per_second", "Tokens sampled a second since somebody asked before.", self._rate(generated)
        )

    def _rate(self, generated: float) -> float:
        now = time.monotonic()
        self._samples.append((now, generated))
        while len(self._samples) > 2 and now - self._samples[1][0] >= WINDOW:
            self._samples.popleft()
        then, before = self._samples[0]
        # A model that was changed begins at zero again.
        return max(0.0, generated - before) / (now - then) if now > then else 0.0


def _resident_bytes() -> int:
    total = 0
    own = psutil.Process(os.getpid())
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total
