"""What another evaluation wrote, word for word: a rollout with the same prefix, sampling and seed is not written twice.

Strategies that are compared begin alike: the first rollouts of every tree go from the question, with the seeds of
self-consistency. They are the same request to the same model, so its answer on record serves, and a comparison costs
only where strategies differ. Their tokens count as generated all the same; what can't be told any more is the time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from marco.config import Options, SamplingConfig
from marco.engines.base import Around, Completion, Deliver, Engine, Request
from marco.errors import RunFileError, UserMistake
from marco.evaluation.records import RUNS
from marco.events import RolloutFinished, WorkIssued
from marco.runs import SUFFIX, read_header, read_run
from marco.session import sampling_of
from marco.tree import Tree

Key = tuple[tuple[int, ...], SamplingConfig, int]


class Remembering(Around):
    """Answers from run files where it can, and asks the engine for the rest."""

    def __init__(self, engine: Engine, folders: Iterable[Path]) -> None:
        """`folders` are those of evaluations that were made with `--keep-runs`.

        Raises `UserMistake` for one that holds no runs or none of this model.
        """
        super().__init__(engine)
        self._lock = threading.Lock()
        self._known: dict[Key, Completion] = {}
        # By prompt, and read when the first request from it comes: all at once would fill the memory.
        self._unread: dict[tuple[int, ...], list[Path]] = {}
        self._found: dict[str, int] = {}
        for folder in folders:
            self._index(folder)

    def _index(self, folder: Path) -> None:
        of_this_model = 0
        for path in sorted((folder / RUNS).glob(f"*{SUFFIX}")):
            try:
                started = read_header(path)
            except RunFileError:
                continue  # killed while it was being written
            if started.model_hash != self.info.model_hash or started.engine != self.info.engine:
                continue
            of_this_model += 1
            self._unread.setdefault(started.prompt_ids, []).append(path)
        if not of_this_model:
            raise UserMistake(f"{folder} holds no runs of {self.info.model}: they are kept with --keep-runs.")

    def submit(self, requests: Sequence[Request], deliver: Deliver) -> None:
        left = []
        for request in requests:
            known = self._recall(request)
            if known is None:
                left.append(request)
            else:
                deliver(replace(known, work=request.work))
        if left:
            super().submit(left, deliver)

    def reused(self, search: str) -> int:
        """How many rollouts of a search came from the record."""
        return self._found.get(search, 0)

    def _recall(self, request: Request) -> Completion | None:
        with self._lock:
            for path in self._unread.pop(request.prefix, ()):
                self._read(path)
            known = self._known.get((request.prefix, request.sampling, request.seed))
            if known is not None:
                self._found[request.search] = self._found.get(request.search, 0) + 1
            return known

    def _read(self, path: Path) -> None:
        try:
            run = read_run(path)
        except RunFileError:
            return
        options = Options.from_dict(run.started.options)
        tree = Tree()
        issued: dict[int, tuple[int, bool]] = {}
        for event in run.events:
            if isinstance(event, WorkIssued):
                issued[event.work] = event.seed, tree.opens(event.node)
            elif isinstance(event, RolloutFinished):
                prefix = tree.path_ids(event.node)
                seed, first = issued[event.rollout]
                sampling = sampling_of(options, first=first, room=self.info.context - len(prefix))
                self._known[prefix, sampling, seed] = Completion(
                    work=event.rollout,
                    token_ids=event.token_ids,
                    text=event.text,
                    offsets=event.offsets,
                    logprobs=event.logprobs,
                    top=event.top,
                    finish="stop" if event.finish == "stop" else "length",
                    prefilled=event.prefilled,
                    cached=event.cached,
                )
            tree.apply(event)
