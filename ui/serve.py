"""Serve the page: `python app.py` and `marco app`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Gradio reads this when it is imported, and would otherwise ask a host elsewhere at start.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from marco import logs
from marco.config import ModelConfig
from marco.engines.base import Engine
from marco.runs import runs_folder
from ui import build_app, launch_options
from ui.auth import gatekeeper
from ui.gate import SHARED, Gate, Limits
from ui.metrics import Metrics
from ui.model_loader import ModelLoader, Opener, Progress
from ui.session import Activities

if TYPE_CHECKING:
    from gradio import Blocks

log = logging.getLogger("marco.serve")

PATIENCE = 10.0
"""Seconds that searches are given to end, and to be recorded, before the server does."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def opener(config: ModelConfig) -> Opener:
    """Opens what `config` names."""

    def open_model(progress: Progress) -> Engine:
        from marco.engines import open_engine

        return open_engine(config, progress=progress)

    return open_model


@dataclass(frozen=True, slots=True)
class Site:
    """Where and how the page is served."""

    host: str = "127.0.0.1"
    port: int = 7860
    runs: Path | None = None
    """Folder for run files; None: the usual one."""
    lab: Path | None = None
    """Folder of evaluations; None: the usual one."""
    auth: Mapping[str, str] = field(default_factory=dict)
    """Passwords by name; empty lets everybody in who reaches the address."""
    limits: Limits | None = None
    """None: those of a shared host where it is one, else none but the size."""

    @property
    def shared(self) -> bool:
        """Whether others than this machine's user come here: each then sees only their own runs."""
        return self.host not in LOOPBACK or bool(self.auth)


def serve(
    config: ModelConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    runs: Path | None = None,
    lab: Path | None = None,
    auth: Mapping[str, str] | None = None,
) -> None:
    """Serve the page until interrupted, with the model loading behind it; the model is freed at the end.

    `runs` is the folder for run files, `lab` that of evaluations (None: the usual ones); `auth` has passwords by name.
    Visitors of a host that others can reach see only their own runs, and can't change the model. Raises `OSError`
    where the port can't be had.
    """
    serve_site(
        ModelLoader(opener(config)), Site(host=host, port=port, runs=runs, lab=lab, auth=auth or {}), switch=opener
    )


def serve_site(loader: ModelLoader, site: Site, *, switch: Callable[[ModelConfig], Opener] | None = None) -> None:
    """As `serve`, over any `loader`. A signal to end stops all searches first, with their answers so far on record."""
    logs.configure(os.environ.get("MARCO_LOG", "auto"))
    # Gradio asks itself whether it is up; a proxy for the world outside has no answer to that.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), *LOOPBACK)))
    activities = Activities()
    app = build_app(
        loader,
        runs=site.runs or runs_folder(),
        shared=site.shared,
        records=site.lab,
        switch=switch,
        activities=activities,
    )
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    metrics = Metrics(loader, lambda: len(app._queue))
    session_log = logging.getLogger("marco.session")
    session_log.addHandler(metrics)
    loader.start()
    try:
        app.launch(
            server_name=site.host,
            server_port=site.port,
            quiet=True,
            prevent_thread_lock=True,
            # Whatever the environment says: no tunnel to the outside.
            share=False,
            # Gradio would ask itself for the page, by way of a proxy where one is set, and give up after 3 seconds.
            _frontend=False,
            auth=gatekeeper(site.auth) if site.auth else None,
            max_file_size=(site.limits or Limits()).body_bytes,
            **_around(app, loader, site, metrics, ending, activities),
        )
        shown = "localhost" if site.host in ("0.0.0.0", "::") else site.host
        sys.stdout.write(f"Marco is at http://{shown}:{site.port}\n")
        sys.stdout.flush()
        log.info("serving", extra={"host": site.host, "port": site.port, "auth": bool(site.auth)})
        ending.wait()
        activities.stop_all()
        _wait_until(lambda: not metrics.running_now(), PATIENCE)
    finally:
        session_log.removeHandler(metrics)
        loader.close()
        app.close(verbose=False)
        log.info("stopped")


def _around(
    app: Blocks, loader: ModelLoader, site: Site, metrics: Metrics, ending: threading.Event, activities: Activities
) -> dict[str, Any]:
    """How to launch the page: with the gate before it, and what machines ask beside it."""

    def health(_: Request) -> JSONResponse:
        state = loader.state
        told = {
            "status": "stopping" if ending.is_set() else state.phase,
            "model": state.model,
            "waiting": len(app._queue),
            "error": state.error,
        }
        well = state.phase != "failed" and not ending.is_set()
        return JSONResponse(told, status_code=200 if well else 503)

    def figures(_: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    gate = Middleware(
        Gate,  # type: ignore[arg-type]
        limits=site.limits or (SHARED if site.shared else Limits()),
        waiting=lambda: len(app._queue),
        room=app._queue.max_size or sys.maxsize,
        stopping=ending.is_set,
        refused=lambda why: metrics.refused.labels(why).inc(),
        left=activities.forget,
    )
    return launch_options(routes=[Route("/health", health), Route("/metrics", figures)], middleware=[gate])


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
