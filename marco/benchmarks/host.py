"""The real app over a scripted model, as a process of its own: what `load` asks and what tests kill.

    python -m marco.benchmarks.host PORT RUNS_FOLDER SECONDS_PER_TOKEN [MODEL]

MODEL is a `ModelConfig` as JSON: that model then takes the scripted one's place.

A question that holds "number N" is answered with 2 N + 1, after thoughts that name N. On standard output the process
says in lines of JSON when rollouts begin and end: {"begun": N, "at": ...}, {"ended": N, "finish": ..., "at": ...}, with
the time of the clock that all processes of a machine share (`time.monotonic`).
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from marco.config import ModelConfig
from marco.engines import open_engine
from marco.engines.base import Around, Chunk, Completion, Deliver, Request
from marco.engines.models import Progress
from marco.engines.scripted import ScriptedEngine

SLOTS = 16
START_SECONDS = 120.0
MODEL_SECONDS = 600.0
"""Longest wait where a real model is loaded."""

_NUMBER = re.compile(r"number (\d+)")


def number_in(text: str) -> int | None:
    """The number that a question is about."""
    found = _NUMBER.search(text)
    return int(found.group(1)) if found else None


def right_answer(number: int) -> str:
    return str(2 * number + 1)


def think(prefix: str, seed: int) -> str:
    """Thoughts about the number that the question names, in one of a few orders, and the right answer."""
    number = number_in(prefix) or 0
    said = prefix.rpartition("assistant: ")[2]
    steps = [
        f"The question is about number {number}.\n\n",
        f"Twice number {number} is {2 * number}{'!' * (seed % 3)}.\n\n",
        f"One more makes {right_answer(number)}.\n",
    ]
    opening = "" if said else "<Thought>\n"
    rest = "".join(steps[min(2, said.count(chr(10) * 2)) :])
    return f"{opening}{rest}</Thought>\n<Output>\nThe answer is {right_answer(number)}.\n</Output>"


class TracedEngine(Around):
    """An engine that says on standard output when rollouts begin and end."""

    def submit(self, requests: Sequence[Request], deliver: Deliver) -> None:
        numbers = {request.work: number_in(self.tokenizer.decode(request.prefix)[0]) for request in requests}
        for number in set(numbers.values()):
            _say({"begun": number})

        def traced(told: Chunk | Completion) -> None:
            if isinstance(told, Completion):
                _say({"ended": numbers[told.work], "finish": told.finish})
            deliver(told)

        super().submit(requests, traced)


def _say(told: dict[str, object]) -> None:
    sys.stdout.write(json.dumps({**told, "at": time.monotonic()}) + "\n")
    sys.stdout.flush()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(
    runs: Path,
    *,
    seconds_per_token: float = 0.003,
    port: int | None = None,
    env: Mapping[str, str] | None = None,
    model: ModelConfig | None = None,
) -> tuple[subprocess.Popen[str], str]:
    """Start the process and wait until it is healthy; returns it and its address. Raises `RuntimeError`.

    `env` is added to the environment. Its log is `host.log` in the folder of runs, which must exist.
    """
    import httpx

    port = port or free_port()
    chosen = [json.dumps(asdict(model))] if model else []
    with (runs / "host.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(port), str(runs), str(seconds_per_token), *chosen],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **(env or {})},
            cwd=Path(__file__).parents[2],
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + (MODEL_SECONDS if model else START_SECONDS)
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=2, trust_env=False).json()["status"] == "ready":
                return process, url
        except (httpx.HTTPError, ValueError, KeyError):
            time.sleep(0.2)
    process.kill()
    process.wait()
    raise RuntimeError("The app did not come up.")


def main(arguments: Sequence[str]) -> None:
    from ui.model_loader import ModelLoader
    from ui.serve import Site, serve_site

    port, runs, pace = int(arguments[0]), Path(arguments[1]), float(arguments[2])
    chosen = json.loads(arguments[3]) if len(arguments) > 3 else None

    def opened(progress: Progress) -> TracedEngine:
        if chosen is None:
            return TracedEngine(ScriptedEngine(think, seconds_per_token=pace, slots=SLOTS))
        config = ModelConfig(**{**chosen, "base_urls": tuple(chosen["base_urls"])})
        return TracedEngine(open_engine(config, progress=progress))

    loader = ModelLoader(opened)
    serve_site(loader, Site(port=port, runs=runs))


if __name__ == "__main__":
    main(sys.argv[1:])
