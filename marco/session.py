"""One search under way: the search, an engine, a run file and a clock, as a generator of events.

The one place with threads and a clock. The engine delivers from its own threads into a queue; the generator
takes from it, tells the search, writes the run file, and yields. `marco.solver.Solver` makes sessions.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from marco import answer as answers
from marco import runs as run_files
from marco.actions import Action, cut
from marco.config import Options, SamplingConfig, check_question
from marco.degenerate import degeneracy
from marco.engines.base import Chunk, Completion, Engine, Request
from marco.errors import InvalidOption, MarcoError, RunFileError, SearchError
from marco.events import (
    LOGPROB_FLOOR,
    AnswerChosen,
    Event,
    NodeAdded,
    Partial,
    ReflectionJudged,
    RolloutFinished,
    SearchEnded,
    SearchStarted,
    Steered,
    ValuesChanged,
    Warned,
    WorkCancelled,
    WorkFailed,
    WorkIssued,
)
from marco.logs import SEARCH
from marco.prompts import Message
from marco.reflection import FORCED_TEXT, Reflection
from marco.reward import Reward, statistics
from marco.search import Prompt, Search, WorkItem

log = logging.getLogger(__name__)

STOP_PATIENCE = 5.0
"""Seconds to wait, after a stop, for the engine to hand in what was under way."""

POLL = 0.1

HEADER_ONLY = frozenset({"answer_kind", "prefill", "openings", "custom", "reward"})
"""Details of a header that are no details of its task."""

Selection = Callable[[Sequence[answers.Candidate]], "int | None"]
Intervention = tuple[str, "str | None", Mapping[str, Any]]
"""(action, node, data), as `Search.steer` takes them."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Another conversation in which the same may be asked: a branch of the tree with a prompt of its own."""

    name: str
    """What people see in its place."""
    messages: tuple[Message, ...]
    tries: int = 1
    """How often it is tried where the question as it stands is tried once."""

    @classmethod
    def recorded(cls, started: SearchStarted) -> tuple[Opening, ...]:
        """Those of a search on record."""
        return tuple(
            cls(str(item["name"]), tuple(item["messages"]), int(item.get("tries", 1)))
            for item in started.details.get("openings", ())
        )


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked, and how an answer is read off what the model wrote."""

    question: str
    messages: tuple[Message, ...]
    kind: str = "solve"
    answer_kind: str = "text"
    prefill: str = ""
    openings: tuple[Opening, ...] = ()
    """Other ways to ask (strategy `mcts`)."""
    details: Mapping[str, Any] = field(default_factory=dict)
    extract: Callable[[str], str | None] | None = None
    """From the output to the answer; None reads it by `answer_kind`."""
    flaw: Callable[[str], str | None] | None = None
    """From the output to why its answer may not win while another without flaw exists, in a word or two; None where it
    is sound."""


def sampling_of(options: Options, *, first: bool, room: int) -> SamplingConfig:
    """How a work item is drawn, the `first` of its conversation or not, with `room` for so many tokens."""
    sampling = options.sampling
    if options.search.greedy_first and options.search.strategy == "mcts" and first:
        sampling = replace(sampling, temperature=0.0)
    return replace(sampling, max_tokens=room) if sampling.max_tokens > room else sampling


class Session:
    """One search under way."""

    def __init__(
        self,
        engine: Engine,
        options: Options,
        task: Task,
        started: SearchStarted,
        *,
        reward: Reward,
        action: Action,
        selection: Selection | None,
        stop: threading.Event,
        writer: run_files.RunWriter | None,
        recorded: Sequence[Event],
        interventions: Sequence[Intervention],
        inbox: queue.SimpleQueue[Intervention],
        on_running: Callable[[bool], None],
    ) -> None:
        self.engine = engine
        self.options = options
        self.task = task
        self.action = action
        self.selection = selection
        self.stop = stop
        self.writer = writer
        self.recorded = recorded
        self.interventions = interventions
        self.inbox = inbox
        self.on_running = on_running
        self.cancel = threading.Event()
        self.delivered: queue.SimpleQueue[Chunk | Completion] = queue.SimpleQueue()
        self.fresh: deque[Event] = deque()
        self.known = {_key(event): event for event in recorded}
        self.under_way: dict[int, tuple[WorkItem, float]] = {}
        self.partial: dict[int, str] = {}
        self.prefilled = 0
        self.cached = 0
        self.failure = ""
        self.begun = time.monotonic()
        self.earlier = max((e.seconds for e in recorded if isinstance(e, SearchEnded)), default=0.0)
        self.forced = engine.tokenizer.encode(FORCED_TEXT)
        self.started = started
        self.reward = reward
        self.save_problem = False
        self.search: Search
        self.outcome: dict[str, Any] = {"stopped_by": "left"}

    def events(self) -> Iterator[Event]:
        self.on_running(True)
        told = {"search": self.started.search, "kind": self.task.kind, "engine": self.started.engine}
        SEARCH.set(self.started.search)
        log.info("search started", extra=told)
        try:
            yield from self._run()
        finally:
            # Also when the consumer walks away: the model stops within a step.
            self.cancel.set()
            self.on_running(False)
            if self.writer is not None:
                self.writer.close()
            log.info("search ended", extra={**told, **self.outcome})
            SEARCH.set("")

    def _run(self) -> Iterator[Event]:
        config = self.options.search
        self.search = Search(
            config,
            self.options.budget,
            self.started,
            reward=self.reward,
            reflection=Reflection.of(config, self.forced),
            openings=[
                Prompt(
                    opening.name,
                    self.engine.tokenizer.chat_ids(opening.messages, prefill=self.task.prefill),
                    opening.tries,
                )
                for opening in self.task.openings
            ],
            emit=self.fresh.append,
            after_commit=self._after_commit,
        )
        if not self.engine.info.logprobs:
            self._warn(
                "This server gives no log-probabilities: confidence is not available, and agreement steers instead."
            )
        waiting = self._replay()
        yield from self._drain()
        for action, node, data in self.interventions:
            yield from self._steer(action, node, data)
        reason = None
        while True:
            # Looked at before the end is believed: a person may give more in answer to the last event.
            while not self.inbox.empty():
                yield from self._steer(*self.inbox.get())
            if self.search.finished:
                # From here on nobody is let in who would not be heard; who came just before still is.
                self.on_running(False)
                if self.inbox.empty():
                    break
                self.on_running(True)
                continue
            if self.stop.is_set():
                reason = "user"
            elif self._out_of_time():
                reason = "seconds"
            if reason is not None:
                self.search.stop(reason)
                break
            waiting += self.search.ask(config.parallel)
            due = self._due(waiting)
            self._submit(waiting[:due])
            waiting = waiting[due:]
            yield from self._drain()
            if not self.search.finished:
                yield from self._take()
        yield from self._finish()

    def _elapsed(self) -> float:
        return self.earlier + time.monotonic() - self.begun

    def _out_of_time(self) -> bool:
        limit = self.search.budget.seconds
        return limit is not None and self._elapsed() >= limit

    # -- what is on record -------------------------------------------------------------------------------

    def _replay(self) -> list[WorkItem]:
        """Run the search on the results on record; returns the items that have none."""
        results: dict[int, RolloutFinished | WorkFailed] = {}
        steered = deque[Steered]()
        for event in self.recorded:
            if isinstance(event, RolloutFinished):
                results[event.rollout] = event
            elif isinstance(event, WorkFailed):
                results[event.work] = event
            elif isinstance(event, Steered):
                steered.append(event)
            if isinstance(event, RolloutFinished | WorkFailed | WorkCancelled):
                self.prefilled += event.prefilled
                self.cached += event.cached
            if isinstance(event, WorkCancelled):
                self.search.tree.generated += event.generated
        waiting: list[WorkItem] = []
        while True:
            while steered and steered[0].after <= self.search.commits:
                event = steered.popleft()
                self.search.steer(event.action, event.node, **event.data)
            waiting += self.search.ask(self.options.search.parallel)
            item = next((item for item in waiting if item.work in results), None)
            if item is None:
                return waiting
            waiting.remove(item)
            result = results[item.work]
            if result.node != item.node:
                path = self.writer.path if self.writer else "the run"
                raise RunFileError(
                    path, 0, f"work item {item.work} went elsewhere when it was made: other options, or another version"
                )
            self.search.tell(item.work, result)

    # -- to the engine and back --------------------------------------------------------------------------

    def _due(self, waiting: Sequence[WorkItem]) -> int:
        """How many of those that wait may go to the engine now: all, but of a search with openings first one alone.
        Its prompt is read and its answer written while the others' long prompts would keep it waiting: on a slow
        processor a person sees something in seconds instead of a minute."""
        if self.started.details.get("openings") and not self.search.commits:
            return 0 if self.under_way else 1
        return len(waiting)

    def _submit(self, items: Sequence[WorkItem]) -> None:
        requests = []
        for item in items:
            prefix = self.search.tree.path_ids(item.node)
            room = self.engine.info.context - len(prefix)
            if room < 1:
                self.search.tell(
                    item.work,
                    WorkFailed(work=item.work, node=item.node, error="The model's context has no room left here."),
                )
                continue
            sampling = sampling_of(self.options, first=item.first, room=room)
            self.under_way[item.work] = (item, time.monotonic())
            requests.append(Request(item.work, prefix, sampling, item.seed, self.cancel, self.started.search))
        if not requests:
            return
        try:
            self.engine.submit(requests, self.delivered.put)
        except MarcoError as error:
            # An engine that takes no more work costs this work, and not what is known so far.
            self.failure = str(error)
            for request in requests:
                item, _ = self.under_way.pop(request.work)
                self.search.tell(item.work, WorkFailed(work=item.work, node=item.node, error=self.failure))

    def _take(self) -> Iterator[Event]:
        try:
            arrival = self.delivered.get(timeout=POLL)
        except queue.Empty:
            return
        item, since = self.under_way.get(arrival.work, (None, 0.0))
        if item is None:
            return
        if isinstance(arrival, Chunk):
            self.partial[item.work] = self.partial.get(item.work, "") + arrival.text
            yield Partial(work=item.work, node=item.node, text=arrival.text, tokens=arrival.tokens)
            return
        del self.under_way[item.work]
        self.partial.pop(item.work, None)
        self.prefilled += arrival.prefilled
        self.cached += arrival.cached
        self.search.tell(item.work, self._result(item, arrival, time.monotonic() - since))
        yield from self._drain()

    def _result(self, item: WorkItem, completion: Completion, seconds: float) -> RolloutFinished | WorkFailed:
        if completion.finish in ("failed", "cancelled") or not completion.token_ids:
            error = completion.error or "The engine broke off."
            if completion.finish == "failed":
                self.failure = error
            return WorkFailed(
                work=item.work,
                node=item.node,
                error=error,
                generated=len(completion.token_ids),
                prefilled=completion.prefilled,
                cached=completion.cached,
            )
        logprobs = tuple(_sane(value) for value in completion.logprobs)
        top = tuple(
            tuple((token, max(LOGPROB_FLOOR, value)) for token, value in tops if not math.isnan(value))
            for tops in completion.top
        )
        completion = replace(completion, logprobs=logprobs, top=top)
        cuts = cut(
            completion,
            self.action,
            may_reflect=self.options.search.reflection != "off",
            fork_uncertain=self.options.search.fork_uncertain,
        )
        whole = self.task.prefill + self.search.tree.path_text(item.node) + completion.text
        _, output = answers.split_output(whole)
        # A thought that is never closed leaves no output; what it calls its answer still counts.
        said = output or whole
        found = self._extract(said)
        key = answers.normalise(found, self.task.answer_kind) if found is not None else None
        return RolloutFinished(
            rollout=item.work,
            node=item.node,
            token_ids=completion.token_ids,
            text=completion.text,
            offsets=completion.offsets,
            logprobs=logprobs,
            top=top,
            top_texts=self._texts(top),
            segments=cuts.segments,
            thought_segments=cuts.thought_segments,
            finish=completion.finish,
            output=output,
            answer=found,
            key=key,
            degenerate=degeneracy(whole, completion.token_ids, completion.finish, found) or self._flaw(said, found),
            statistics=statistics(logprobs, top),
            prefilled=completion.prefilled,
            cached=completion.cached,
            seconds=round(seconds, 3),
        )

    def _flaw(self, output: str, found: str | None) -> str | None:
        return self.task.flaw(output) if self.task.flaw is not None and found is not None else None

    def _extract(self, output: str) -> str | None:
        if self.task.extract is not None:
            return self.task.extract(output)
        return answers.extract(output, self.task.answer_kind)

    def _texts(self, top: Sequence[Sequence[tuple[int, float]]]) -> dict[str, str]:
        ids = sorted({token for tops in top for token, _ in tops})
        return {str(token): self.engine.tokenizer.decode([token])[0] for token in ids}

    # -- answers -----------------------------------------------------------------------------------------

    def _candidates(self) -> list[answers.Candidate]:
        tree = self.search.tree
        return [
            answers.Candidate(
                rollout=number,
                answer=rollout.answer,
                text=rollout.output,
                value=tree.values[number],
                visits=tree.nodes[tree.leaves[number]].visits,
                confidence=rollout.statistics.get("mean"),
                degenerate=rollout.degenerate is not None,
            )
            for number, rollout in tree.rollouts.items()
        ]

    def _after_commit(self, search: Search) -> str | None:
        """Say what the best answer is now; end the search when the vote is settled."""
        self.search = search
        tree = search.tree
        if not tree.rollouts:
            return None
        candidates = self._candidates()
        config = self.options.search
        choice = answers.select(candidates, self.selection or config.select, self.task.answer_kind)
        rollout = tree.rollouts[choice.rollout] if choice.rollout is not None else None
        self.fresh.append(
            AnswerChosen(
                after=next(reversed(tree.rollouts)),
                rollout=choice.rollout,
                answer=choice.answer,
                text=self.task.prefill + tree.rollout_text(rollout.rollout) if rollout else "",
                confidence=choice.confidence,
                mean_token_confidence=rollout.statistics.get("mean") if rollout else None,
                votes=tuple(
                    {"answer": vote.answer, "weight": vote.weight, "rollouts": list(vote.rollouts)}
                    for vote in choice.votes
                ),
            )
        )
        if config.stop_when_sure is not None and search.budget.rollouts is not None:
            remaining = search.budget.rollouts - len(candidates)
            if remaining > 0 and answers.settled(
                candidates,
                remaining,
                config.stop_when_sure,
                self.selection or config.select,
                self.task.answer_kind,
            ):
                return "sure"
        return None

    # -- taking part -------------------------------------------------------------------------------------

    def _steer(self, action: str, node: str | None, data: Mapping[str, Any]) -> Iterator[Event]:
        try:
            values = dict(data)
            if action in ("edit", "fork") and node is not None and node in self.search.tree:
                values.update(self._forced_tokens(action, node, data))
            self.search.steer(action, node, **values)
        except (SearchError, InvalidOption) as error:
            self._warn(str(error))
        yield from self._drain()

    def _forced_tokens(self, action: str, node: str, data: Mapping[str, Any]) -> dict[str, Any]:
        tokenizer = self.engine.tokenizer
        if action == "edit":
            text = (
                check_question(data.get("text"), field="text")
                if not str(data.get("text", "")).strip()
                else data["text"]
            )
            return {"token_ids": list(tokenizer.encode(text)), "text": text}
        own = self.search.tree[node].token_ids
        index = int(data.get("index", -1))
        if not 0 <= index < len(own):
            raise InvalidOption("index", data.get("index"), f"a token of this node, from 0 to {len(own) - 1}")
        ids = [*own[:index], int(data["token"])]
        return {"token_ids": ids, "text": tokenizer.decode(ids)[0]}

    # -- out ---------------------------------------------------------------------------------------------

    def _warn(self, message: str) -> None:
        self.fresh.append(Warned(message=message))

    def _drain(self) -> Iterator[Event]:
        while self.fresh:
            event = self.fresh.popleft()
            if (
                self.writer is not None
                and _key(event) not in self.known
                and not (isinstance(event, SearchStarted) and self.recorded)
            ):
                self.writer.append(event)
                if self.writer.problem and not self.save_problem:
                    self.save_problem = True
                    yield event
                    yield Warned(message=self.writer.problem)
                    continue
            yield event

    def _finish(self) -> Iterator[Event]:
        """Wait for what is under way to stop, and say how it all ended."""
        self.cancel.set()
        cut_off = yield from self._collect_cancelled()
        tree = self.search.tree
        text, answer = "", None
        if not tree.rollouts and cut_off:
            text = self.task.prefill + max(cut_off, key=len)
            answer = self._extract(answers.split_output(text)[1])
        forced = sum(len(node.token_ids) for node in tree.nodes.values() if node.forced)
        stopped_by = self.search.stopped_by or "done"
        message = ""
        if stopped_by == "error" or (not tree.rollouts and self.failure):
            stopped_by, message = "error", self.failure or "Every rollout failed."
        self.outcome = {
            "stopped_by": stopped_by,
            "seconds": round(self._elapsed(), 3),
            "generated": tree.generated,
            "rollouts": len(tree.rollouts),
        }
        self.fresh.append(
            SearchEnded(
                stopped_by=stopped_by,
                seconds=round(self._elapsed(), 3),
                tokens={
                    "generated": tree.generated,
                    "prefilled": self.prefilled,
                    "cached": self.cached,
                    "computed": self.prefilled + tree.generated,
                    "distinct": len(self.started.prompt_ids) + forced + tree.generated,
                },
                rollouts=len(tree.rollouts),
                nodes=len(tree),
                answer=answer,
                text=text,
                message=message,
            )
        )
        yield from self._drain()

    def _collect_cancelled(self) -> Generator[Event, None, list[str]]:
        """Take in what the engine hands back after a stop: its tokens count, its text is a last resort."""
        handed_in: dict[int, Completion] = {}
        deadline = time.monotonic() + STOP_PATIENCE
        while self.under_way and time.monotonic() < deadline:
            try:
                arrival = self.delivered.get(timeout=POLL)
            except queue.Empty:
                continue
            if isinstance(arrival, Completion) and self.under_way.pop(arrival.work, None) is not None:
                handed_in[arrival.work] = arrival
                self.prefilled += arrival.prefilled
                self.cached += arrival.cached
        texts: list[str] = []
        for item, early in self.search.abandoned():
            late = handed_in.get(item.work)
            text = late.text if late else early.text if isinstance(early, RolloutFinished) else ""
            event = WorkCancelled(
                work=item.work,
                text=text,
                generated=len(late.token_ids) if late else _generated(early),
                prefilled=late.prefilled if late else early.prefilled if early else 0,
                cached=late.cached if late else early.cached if early else 0,
            )
            self.search.tree.apply(event)
            texts.append(self.search.tree.path_text(item.node) + text)
            self.fresh.append(event)
        yield from self._drain()
        return texts


def _generated(result: RolloutFinished | WorkFailed | None) -> int:
    if isinstance(result, RolloutFinished):
        return len(result.token_ids)
    return result.generated if result else 0


def _sane(value: float | None) -> float | None:
    if value is None or math.isnan(value):
        return None
    return max(LOGPROB_FLOOR, min(0.0, value))


def _key(event: Event) -> tuple[str, object]:
    """What an event is about: the same in a run and in its continuation."""
    match event:
        case WorkIssued(work=number) | WorkFailed(work=number):
            return type(event).__name__, number
        case RolloutFinished(rollout=number) | ReflectionJudged(rollout=number):
            return type(event).__name__, number
        case ValuesChanged(after=number) | AnswerChosen(after=number) | Steered(number=number):
            return type(event).__name__, number
        case NodeAdded(node=name):
            return "NodeAdded", name
        case _:
            # The others happen when they happen: a continuation has its own.
            return type(event).__name__, id(event)
