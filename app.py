"""The app: open the page at once, and the model behind it.

    python app.py --model qwen2.5-coder-1.5b --host 127.0.0.1 --port 7860

Without options it serves the default model of this machine, so that it also runs as a Space of its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from marco.config import ENGINES, ModelConfig
from marco.engines.base import Engine
from marco.errors import UserMistake
from marco.runs import runs_folder
from ui import LAUNCH, build_app
from ui.model_loader import ModelLoader, Progress


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="app.py", description="Marco's page: ask, and watch a model think.")
    parser.add_argument("--model", help="a name of the catalogue (see `marco models`), a path, or a hub id")
    parser.add_argument("--engine", choices=ENGINES, default="auto")
    parser.add_argument("--base-url", action="append", default=[], help="a server's address, for --engine server")
    parser.add_argument("--host", default="0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT") or 7860))
    return parser.parse_args(arguments)


def opener(config: ModelConfig) -> ModelLoader:
    """A loader that opens what `config` names."""

    def open_model(progress: Progress) -> Engine:
        from marco.engines import open_engine

        return open_engine(config, progress=progress)

    return ModelLoader(open_model)


def serve(loader: ModelLoader, *, host: str, port: int, runs: Path | None) -> None:
    """Serve the page until interrupted; the model is freed at the end."""
    # A polite kill ends like Ctrl-C: with the model's processes gone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app = build_app(loader, runs=runs)
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


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse(arguments)
    try:
        config = ModelConfig(model=given.model, engine=given.engine, base_urls=tuple(given.base_url))
    except UserMistake as mistake:
        sys.stderr.write(f"{mistake}\n")
        return 2
    try:
        serve(opener(config), host=given.host, port=given.port, runs=runs_folder())
    except OSError as problem:
        sys.stderr.write(f"The page can't be served at {given.host}:{given.port}: {problem}.\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
