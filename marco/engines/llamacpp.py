"""llama.cpp's server as a child process that Marco owns: started, watched, and ended with Marco.

    engine = LlamaCppEngine(Path("model.gguf"), slots=8, context=8192)

The child is this module run as a program. It reads its options from its standard input, says on its standard
output at which address of 127.0.0.1 it listens, and ends when its standard input does: whichever way the parent
dies, `kill -9` included, the system closes that pipe. It takes no request without a key that is made up for it,
so no page in a browser and no other user of the machine can talk to it.

Rollouts are the server engine's work. A child that dies fails those under way with one sentence; the next `submit`
starts another.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from marco.engines.base import ChatTokenizer, Chunk, Completion, Deliver, EngineInfo, Request
from marco.engines.chat import load_tokenizer
from marco.engines.models import Progress, cache_folder, file_hash
from marco.engines.server import ServerEngine
from marco.errors import EngineError, MarcoError, ModelUnavailable

START_SECONDS = 300.0
"""Longest wait for a model to be loaded."""
LOG_SECONDS = 7 * 86_400.0
BATCH = 128
"""Positions computed at once while a prompt is read: a cancelled request ends after this many at the latest."""
CELLS_A_SLOT = 3072
"""Cache positions reserved for each slot; all slots share them, so one rollout may have the whole context."""
PROMPT_CACHE_MIB = 1024
"""Most memory for the states of prefixes that no slot holds any more."""
WORKING_BYTES = 400_000_000
"""Memory that a small model needs beside its weights."""


class LlamaCppEngine:
    """A GGUF model run by llama.cpp in a child process."""

    def __init__(
        self,
        path: Path,
        *,
        slots: int = 8,
        context: int = 8192,
        name: str | None = None,
        model_hash: str | None = None,
        note: str = "",
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Start the child and wait until it has loaded the model.

        `slots` rollouts decode together; each may have `context` positions. `threads` is by default the number of
        physical cores that this process may use; `note` goes into `info.details`. Raises `ModelUnavailable` where
        the file can't be loaded.
        """
        if not path.is_file():
            raise ModelUnavailable(f"There is no model file at {path}.")
        _check_memory(path)
        self._path = path
        self._slots = slots
        self._context = context
        self._cells = max(context, slots * min(context, CELLS_A_SLOT))
        self._threads = threads or _cores()
        self._lock = threading.Lock()
        self._closed = False
        self._past: dict[str, float] = {}
        self._child = self._start_child()
        try:
            self._tokenizer: ChatTokenizer = load_tokenizer(path, progress=progress)
            address = self._child.wait(progress)
            self._info = EngineInfo(
                engine="llama.cpp",
                model=name or path.name,
                model_hash=model_hash or file_hash(path, progress),
                device=f"CPU, {self._threads} threads",
                context=min(context, _trained_context(address, self._child.key) or context),
                slots=slots,
                details={"cells": self._cells, **({"note": note} if note else {})},
            )
            self._server = self._connect(self._child, address)
        except BaseException:
            self._child.end()
            raise

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self._tokenizer

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.process.pid

    def submit(self, requests: Sequence[Request], deliver: Deliver) -> None:
        if self._closed:
            raise EngineError("The engine is closed.")
        if self._child.alive:
            self._hand_on(requests, deliver)
        else:
            threading.Thread(target=self._revive, args=(requests, deliver), name="marco-llama-restart").start()

    def usage(self) -> Mapping[str, float]:
        now = self._server.usage()
        return {name: value + self._past.get(name, 0) for name, value in now.items()}

    def close(self) -> None:
        self._closed = True
        with self._lock:
            self._server.close()
            self._child.end()

    def _hand_on(self, requests: Sequence[Request], deliver: Deliver) -> None:
        child = self._child

        def explained(told: Chunk | Completion) -> None:
            if isinstance(told, Completion) and told.finish == "failed" and child.died():
                told = replace(told, error=f"llama.cpp broke down: {child.last_words()}.")
            deliver(told)

        self._server.submit(requests, explained)

    def _revive(self, requests: Sequence[Request], deliver: Deliver) -> None:
        """Start another child in the dead one's place, then do what `submit` was asked to do."""
        try:
            with self._lock:
                if not self._child.alive and not self._closed:
                    self._server.close()
                    self._past = {name: value for name, value in self.usage().items() if name != "rows"}
                    self._child.end()
                    child = self._start_child()
                    self._server = self._connect(child, child.wait(None))
                    self._child = child
                self._hand_on(requests, deliver)
        except MarcoError as error:
            for request in requests:
                deliver(Completion(request.work, (), "", (), (), (), "failed", error=str(error)))

    def _start_child(self) -> _Child:
        return _Child(
            {
                "path": str(self._path.absolute()),
                "slots": self._slots,
                "cells": self._cells,
                "threads": self._threads,
                "batch": BATCH,
                "key": secrets.token_urlsafe(24),
            }
        )

    def _connect(self, child: _Child, address: str) -> ServerEngine:
        return ServerEngine(address, tokenizer=self._tokenizer, info=self._info, cells=self._cells, api_key=child.key)


class _Child:
    """One process that runs `_serve`, with its log in Marco's cache."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.key = str(options["key"])
        self._model = Path(options["path"])
        logs = cache_folder() / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        for old in logs.glob("llama-*.log"):  # left by processes that were killed
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > LOG_SECONDS:
                    old.unlink()
        self._log = logs / f"llama-{os.getpid()}-{secrets.token_hex(3)}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=Path(__file__).parents[2],
                start_new_session=True,  # Ctrl-C in a terminal is the parent's to handle
            )
        self._address: list[str] = []
        self._heard = threading.Event()
        threading.Thread(target=self._listen, name="marco-llama-start", daemon=True).start()
        with contextlib.suppress(OSError):
            self._stdin.write(json.dumps(options).encode() + b"\n")
            self._stdin.flush()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def died(self) -> bool:
        """Whether the process is gone, or about to be: its connections break a moment before it ends."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=0.5)
        return not self.alive

    def wait(self, progress: Progress | None) -> str:
        """The address, once the model is loaded."""
        began = time.monotonic()
        while not self._heard.wait(0.25):
            if progress:
                progress(0, 0, f"Loading {self._model.name}")
            if time.monotonic() - began > START_SECONDS:
                self.end()
                raise ModelUnavailable(f"{self._model} was not loaded within {START_SECONDS:.0f} seconds.")
        if not self._address:
            self.process.wait()
            raise ModelUnavailable(f"llama.cpp could not load {self._model}: {self.last_words()}.")
        return self._address[0]

    def end(self) -> None:
        """Close its input, which ends it; where it does not listen, kill it."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(OSError):
            self._log.unlink()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError, KeyError, TypeError):
            self._address.append(json.loads(self.process.stdout.readline())["address"])
        self._heard.set()
        # Read on, so that a child that prints more never stands still.
        while self.process.stdout.read(65536):
            pass

    def last_words(self) -> str:
        """How the process ended, and the end of its log."""
        try:
            lines = [line.strip() for line in self._log.read_text("utf-8", "replace").splitlines() if line.strip()]
        except OSError:
            lines = []
        # llama.cpp marks its errors with a lone E; Python's own tracebacks end with the error.
        errors = [line for line in lines if " E " in line] or lines[-1:]
        said = " / ".join(errors[-3:])[-500:]
        return f"its process ended with code {self.process.poll()}" + (f" and said: {said}" if said else "")


def _check_memory(path: Path) -> None:
    free = _available_bytes()
    needed = path.stat().st_size + WORKING_BYTES
    if free is not None and free < needed:
        raise ModelUnavailable(
            f"{path.name} needs about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free; close other "
            "programs or choose a smaller model."
        )


def _available_bytes() -> int | None:
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


def _trained_context(address: str, key: str) -> int:
    """Positions that the model was trained on, as the server has it; 0 where it doesn't say."""
    import httpx

    try:
        headers = {"Authorization": f"Bearer {key}"}
        told = httpx.get(f"{address}/v1/models", headers=headers, timeout=30, trust_env=False).json()
        return int(told["data"][0]["meta"]["n_ctx_train"])
    except (httpx.HTTPError, KeyError, IndexError, TypeError, ValueError):
        return 0


def _cores() -> int:
    """Physical cores that this process may use: a second thread on a core only gets in the first one's way."""
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:
        usable = os.cpu_count() or 1
    with contextlib.suppress(ImportError):
        import psutil

        usable = min(usable, psutil.cpu_count(logical=False) or usable)
    return usable


# The child


def _serve() -> None:
    options = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = options["path"]
    params.n_parallel = options["slots"]
    params.n_ctx = options["cells"]
    params.kv_unified = True
    params.n_batch = params.n_ubatch = options["batch"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options["threads"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.api_keys = [options["key"]]
    params.cors_origins = ""
    params.ui = False
    params.verbosity = 2  # errors and warnings: one line a request would fill the disk in time
    server = xllamacpp.Server(params)
    sys.stdout.write(json.dumps({"address": server.listening_address}) + "\n")
    sys.stdout.flush()
    threading.Event().wait()


def _end_with_parent() -> None:
    while sys.stdin.read(1):
        pass
    os._exit(0)


if __name__ == "__main__":
    _serve()
