"""Serve the page: `python app.py` and `marco app`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

# Gradio reads this when it is imported, and would otherwise ask a host elsewhere at start.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from marco.config import ModelConfig
from marco.engines.base import Engine
from marco.runs import runs_folder
from ui import LAUNCH, build_app
from ui.model_loader import ModelLoader, Opener, Progress

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def opener(config: ModelConfig) -> Opener:
    """Opens what `config` names."""

    def open_model(progress: Progress) -> Engine:
        from marco.engines import open_engine

        return open_engine(config, progress=progress)

    return open_model


def serve(
    config: ModelConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    runs: Path | None = None,
    lab: Path | None = None,
) -> None:
    """Serve the page until interrupted, with the model loading behind it; the model is freed at the end.

    `runs` is the folder for run files, `lab` that of evaluations (None: the usual ones). Visitors of a host that
    others can reach see only their own runs, and can't change the model. Raises `OSError` where the port can't be had.
    """
    loader = ModelLoader(opener(config))
    app = build_app(loader, runs=runs or runs_folder(), shared=host not in LOOPBACK, records=lab, switch=opener)
    # A polite kill ends like Ctrl-C: with the model's processes gone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    loader.start()
    try:
        app.launch(server_name=host, server_port=port, quiet=True, prevent_thread_lock=True, **LAUNCH)
        shown = "localhost" if host in ("0.0.0.0", "::") else host
        sys.stdout.write(f"Marco is at http://{shown}:{port}\n")
        sys.stdout.flush()
        signal.pause() if hasattr(signal, "pause") else app.block_thread()
    except KeyboardInterrupt:
        pass
    finally:
        loader.close()
        app.close(verbose=False)
