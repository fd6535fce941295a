"""Opens a model behind the open page.

    loader = ModelLoader(open_model)     # open_model(progress) -> Engine, called in a thread
    loader.start()
    loader.state                         # loading, ready or failed, with what a person should know

`switch` opens another one; the old engine stays at work until the new one is ready, and stays if that fails.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from marco.engines.base import Engine
from marco.errors import MarcoError

log = logging.getLogger("marco.ui")

Progress = Callable[[int, int, str], None]
"""(done, total, message); total 0 where nobody knows it."""

Opener = Callable[[Progress], Engine]


@dataclass(frozen=True, slots=True)
class ModelState:
    """How far the model is."""

    phase: str = "loading"
    """`loading`, `ready`, `failed`."""
    done: int = 0
    total: int = 0
    message: str = ""
    model: str = ""
    engine: str = ""
    device: str = ""
    error: str = ""

    @property
    def share(self) -> float | None:
        return min(1.0, self.done / self.total) if self.total > 0 else None


class ModelLoader:
    """Holds the engine, once there is one. Thread-safe."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._state = ModelState()
        self._settled = threading.Event()
        self._closed = False
        self._generation = 0
        self._users: dict[int, int] = {}
        self._retired: dict[int, Engine] = {}

    @property
    def state(self) -> ModelState:
        return self._state

    @property
    def engine(self) -> Engine | None:
        return self._engine

    def start(self) -> None:
        """Begin to load, and return at once."""
        self.switch(self._opener)

    def switch(self, opener: Opener) -> None:
        """Open another model behind the one at work."""
        with self._lock:
            if self._closed:
                return
            self._generation += 1
            generation = self._generation
            self._state = ModelState()
            self._settled.clear()
        threading.Thread(target=self._open, args=(opener, generation), name="marco-model", daemon=True).start()

    def wait(self, seconds: float) -> Engine | None:
        """The engine, waiting for it up to `seconds`; None while there is none."""
        if self._engine is None:
            self._settled.wait(seconds)
        return self._engine

    @contextmanager
    def using(self, engine: Engine) -> Iterator[None]:
        """While this lasts `engine` stays open, whatever model is switched to."""
        key = id(engine)
        with self._lock:
            self._users[key] = self._users.get(key, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._users[key] -= 1
                last = not self._users[key]
                if last:
                    del self._users[key]
                retired = self._retired.pop(key, None) if last else None
            if retired is not None:
                retired.close()

    def close(self) -> None:
        """Free the model. A model that is still being opened is closed as soon as it is there."""
        with self._lock:
            self._closed = True
            engines = [self._engine, *self._retired.values()]
            self._engine = None
            self._retired.clear()
        for engine in engines:
            if engine is not None:
                engine.close()

    def _open(self, opener: Opener, generation: int) -> None:
        def progress(done: int, total: int, message: str) -> None:
            if generation == self._generation:
                self._state = replace(self._state, done=done, total=total, message=message)

        try:
            engine = opener(progress)
        except MarcoError as error:
            self._fail(str(error), generation)
        except Exception as error:
            log.exception("the model could not be opened")
            self._fail(f"it could not be opened ({type(error).__name__}: {error})", generation)
        else:
            self._install(engine, generation)

    def _install(self, engine: Engine, generation: int) -> None:
        with self._lock:
            stale = self._closed or generation != self._generation
            old = None if stale else self._engine
            if old is not None and self._users.get(id(old)):
                # Searches under way end on the model that they began with.
                self._retired[id(old)] = old
                old = None
            if not stale:
                self._engine = engine
                info = engine.info
                note = str(info.details.get("note") or "")
                self._state = ModelState(
                    "ready", message=note, model=info.model, engine=info.engine, device=info.device
                )
                self._settled.set()
        if stale:
            engine.close()
        elif old is not None:
            old.close()

    def _fail(self, error: str, generation: int) -> None:
        with self._lock:
            if generation == self._generation:
                self._state = ModelState("failed", error=error)
                self._settled.set()
