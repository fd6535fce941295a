"""The app: the page opens at once, and the model behind it.

    python app.py --model qwen2.5-coder-1.5b --host 127.0.0.1 --port 7860

Without options it serves the default model of this machine, so that it also runs as a Space of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from marco.config import ENGINES, ModelConfig
from marco.errors import UserMistake


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="app.py", description="Marco's page: ask, and watch a model think.")
    parser.add_argument("--model", help="a name of the catalogue (see `marco models`), a path, or a hub id")
    parser.add_argument("--engine", choices=ENGINES, default="auto")
    parser.add_argument("--base-url", action="append", default=[], help="a server's address, for --engine server")
    parser.add_argument("--adapter", help="folder of a fine-tuned adapter, for --engine local")
    parser.add_argument("--host", default="0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT") or 7860))
    parser.add_argument("--lab", type=Path, help="folder of evaluations for the Lab tab (default: benchmarks)")
    parser.add_argument("--auth", type=Path, help="file with name:password lines; or the variable MARCO_AUTH")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse(arguments)
    try:
        config = ModelConfig(
            model=given.model, engine=given.engine, base_urls=tuple(given.base_url), adapter=given.adapter
        )
    except UserMistake as mistake:
        sys.stderr.write(f"{mistake}\n")
        return 2
    from ui.auth import credentials
    from ui.serve import serve

    try:
        auth = credentials(given.auth)
    except UserMistake as mistake:
        sys.stderr.write(f"{mistake}\n")
        return 2
    try:
        serve(config, host=given.host, port=given.port, lab=given.lab, auth=auth)
    except OSError as problem:
        sys.stderr.write(f"The page can't be served at {given.host}:{given.port}: {problem}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
