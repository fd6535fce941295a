"""A question in, a stream of events out: search, engine, prompts, answers and run file put together.

    solver = Solver(engine, options("marco", rollouts=8))
    for event in solver.stream("How many ...?"):
        ...
    solution = solver.solve("How many ...?")

What happens while a search is under way is `marco.session`.
"""

from __future__ import annotations

import datetime
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marco import answer as answers
from marco import runs as run_files
from marco.actions import Action, action_for
from marco.config import (
    BudgetConfig,
    ModelConfig,
    Options,
    SamplingConfig,
    SearchConfig,
    check_question,
)
from marco.engines.base import Engine
from marco.errors import InvalidOption, InvalidText, RunFileError, SearchError
from marco.events import (
    TRANSIENT,
    AnswerChosen,
    Event,
    SearchEnded,
    SearchStarted,
    Steered,
    Warned,
)
from marco.prompts import Message, solve_messages
from marco.reward import BY_NAME, Checker, CustomReward, Reward, of_each, outcome
from marco.session import HEADER_ONLY, Intervention, Opening, Selection, Session, Task
from marco.tree import Tree

ROOM_TO_THINK = 64
"""Positions that must be left behind the prompt."""


@dataclass(frozen=True, slots=True)
class Solution:
    """How a search came out."""

    answer: str | None
    text: str
    """Everything that the chosen rollout wrote, thought and tags included."""
    confidence: float
    """Margin of the vote, 0 to 1."""
    mean_token_confidence: float | None
    """The paper's v of the chosen rollout, 0 to 1; None without log-probabilities."""
    stopped_by: str
    seconds: float
    tokens: Mapping[str, int]
    rollouts: int
    nodes: int
    votes: tuple[Mapping[str, Any], ...]
    tree: Tree
    started: SearchStarted
    run: Path | None
    warnings: tuple[str, ...] = ()
    message: str = ""
    """What went wrong, where `stopped_by` is `error`."""

    @property
    def output(self) -> str:
        """What is meant for the person: the text without the thought."""
        return answers.split_output(self.text)[1]

    @classmethod
    def of(cls, events: Iterable[Event], run: Path | None = None) -> Solution:
        """Fold a stream of events. Raises `SearchError` for one without a header."""
        tree = Tree()
        started: SearchStarted | None = None
        chosen: AnswerChosen | None = None
        ended: SearchEnded | None = None
        warnings: list[str] = []
        for event in events:
            tree.apply(event)
            match event:
                case SearchStarted():
                    started = event
                case AnswerChosen():
                    chosen = event
                case Warned():
                    warnings.append(event.message)
                case SearchEnded():
                    ended = event
        if started is None:
            raise SearchError("These events have no header.")
        fallback = (ended.answer, ended.text) if ended else (None, "")
        return cls(
            answer=chosen.answer if chosen else fallback[0],
            text=chosen.text if chosen else fallback[1],
            confidence=chosen.confidence if chosen else 0.0,
            mean_token_confidence=chosen.mean_token_confidence if chosen else None,
            stopped_by=ended.stopped_by if ended else "user",
            seconds=ended.seconds if ended else 0.0,
            tokens=ended.tokens if ended else {},
            rollouts=len(tree.rollouts),
            nodes=len(tree),
            votes=chosen.votes if chosen else (),
            tree=tree,
            started=started,
            run=run,
            warnings=tuple(warnings),
            message=ended.message if ended else "",
        )

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        search = self.started.options["search"]
        details = self.started.details
        found: dict[str, Any] = {
            "answer": self.answer,
            "text": self.text,
            "model": self.started.model,
            "engine": self.started.engine,
            "strategy": search["strategy"],
            "action": search["action"],
            "reward": details.get("reward", search["reward"]),
            "reflection": search["reflection"],
            "select": details.get("select", search["select"]),
            "seed": search["seed"],
            "confidence": self.confidence,
            "mean_token_confidence": self.mean_token_confidence,
            "rollouts": self.rollouts,
            "nodes": self.nodes,
            "tokens": dict(self.tokens),
            "seconds": round(self.seconds, 3),
            "stopped_by": self.stopped_by,
            "votes": [dict(vote) for vote in self.votes],
            "run": str(self.run) if self.run else None,
        }
        if self.started.kind == "translate":
            found["source_language"] = details.get("source_language")
            found["target_language"] = details.get("target_language")
        return found


class Solver:
    """Searches with one engine under one set of options. One search at a time; make one solver a search."""

    def __init__(
        self,
        engine: Engine | ModelConfig | str | None = None,
        options: Options | None = None,
        *,
        search: SearchConfig | None = None,
        sampling: SamplingConfig | None = None,
        budget: BudgetConfig | None = None,
        reward: Reward | CustomReward | None = None,
        action: Action | None = None,
        selection: Selection | None = None,
        checker: Checker | None = None,
        system: str | None = None,
        language: str | None = None,
        runs: Path | None = None,
    ) -> None:
        """`engine` may be an open engine, or what `open_engine` is to open (a model's name is enough).

        `search`, `sampling` and `budget` replace those parts of `options`. `reward` (a rollout to a number),
        `action` (a completion to token indices), `selection` (candidates to the chosen rollout) and `checker`
        (an answer to right or wrong, for reward `outcome`) are functions of your own. `runs` is the folder for
        run files; None keeps none.
        """
        given = options or Options()
        self.options = Options(
            search=search or given.search, sampling=sampling or given.sampling, budget=budget or given.budget
        )
        if self.options.search.reward == "outcome" and checker is None and reward is None:
            raise InvalidOption("reward", "outcome", "one that needs no checker, or come with a checker")
        self._engine = _opened(engine)
        self._reward = reward if reward is None or isinstance(reward, Reward) else of_each("custom", reward)
        self._action = action
        self._selection = selection
        self._checker = checker
        self._system = system
        self._language = language
        self._runs = runs
        self._interventions: queue.SimpleQueue[Intervention] = queue.SimpleQueue()
        self._running = False
        self.run: Path | None = None
        """The run file of the last search."""

    @property
    def engine(self) -> Engine:
        return self._engine

    # -- asking ------------------------------------------------------------------------------------------

    def task(self, question: str, history: Sequence[Message] = ()) -> Task:
        """The question as the model will see it. Raises `InvalidText`."""
        question = check_question(question)
        search = self.options.search
        kind = search.answer_kind if search.answer_kind != "auto" else answers.kind_of(question)
        messages = solve_messages(
            question,
            model=self._engine.info.model,
            strategy=search.strategy,
            answer_kind=kind,
            language=self._language,
            system=self._system,
            history=history,
        )
        return Task(question, messages, answer_kind=kind)

    def stream(
        self, question: str, *, stop: threading.Event | None = None, history: Sequence[Message] = ()
    ) -> Iterator[Event]:
        """Search, yielding events as they happen; the first is `SearchStarted`, the last `SearchEnded`.

        Raises `UserMistake` before the first event, and nothing after it: what goes wrong later ends the search
        with its best answer so far. Closing the generator, or setting `stop`, stops the model within a step.
        """
        return self.stream_task(self.task(question, history), stop=stop)

    def solve(self, question: str, *, stop: threading.Event | None = None, history: Sequence[Message] = ()) -> Solution:
        """Search to the end."""
        events = [event for event in self.stream(question, stop=stop, history=history) if not _transient(event)]
        return Solution.of(events, self.run)

    def stream_task(self, task: Task, *, stop: threading.Event | None = None) -> Iterator[Event]:
        """As `stream`, for a task of your own."""
        started = self._header(task)
        writer = None
        self.run = None
        if self._runs is not None:
            self.run = run_files.run_path(self._runs, started.search)
            writer = run_files.RunWriter(self.run)
        return self._search(task, started, stop or threading.Event(), writer, recorded=())

    def resume(
        self,
        run: Path,
        *,
        rollouts: int | None = None,
        tokens: int | None = None,
        seconds: float | None = None,
        interventions: Sequence[Intervention] = (),
        task_of: Callable[[SearchStarted], Task] | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Event]:
        """Go on with a run: what is on record is yielded first, then what is new.

        `rollouts`, `tokens` and `seconds` are the limits in all (None keeps the run's own); `interventions` are
        applied before new work starts. The options of the run hold, not this solver's.
        Raises `RunFileError` for a damaged file, another model, or functions of one's own that are missing.
        """
        recorded = run_files.read_run(run)
        started = recorded.started
        if started.model_hash and self._engine.info.model_hash not in ("", started.model_hash):
            model = self._engine.info.model
            raise RunFileError(run, 1, f"it was made with the model {started.model}, and this is {model}")
        missing = [name for name in started.details.get("custom", ()) if getattr(self, f"_{name}") is None]
        if missing:
            raise RunFileError(run, 1, f"it was made with a {' and a '.join(missing)} of one's own: pass it again")
        self.options = Options.from_dict(started.options)
        budget = self.options.budget
        budget = BudgetConfig(
            rollouts=rollouts or budget.rollouts, tokens=tokens or budget.tokens, seconds=seconds or budget.seconds
        )
        self.options = replace(self.options, budget=budget)
        given = {"rollouts": rollouts, "tokens": tokens, "seconds": seconds}
        changed = [event.data for event in recorded.events if isinstance(event, Steered) and event.action == "budget"]
        if changed and any(given.values()):
            # What was changed during the search is done again with it: the limits of now come after that.
            limits = {name: limit or changed[-1].get(name) for name, limit in given.items()}
            interventions = [("budget", None, limits), *interventions]
        task = (task_of or _task_of)(started)
        self.run = run
        writer = run_files.RunWriter(run, resume=True)
        return self._search(
            task, started, stop or threading.Event(), writer, recorded=recorded.events, interventions=interventions
        )

    def steer(self, action: str, node: str | None = None, **data: Any) -> None:
        """Take part in the search that is under way (`Search.steer` says how). Thread-safe.

        `edit` takes `text`, `fork` takes `index` and `token`: their tokens are worked out here.
        Raises `SearchError` where no search is under way.
        """
        if not self._running:
            raise SearchError("No search is under way: resume it to go on.")
        self._interventions.put((action, node, data))

    # -- the search --------------------------------------------------------------------------------------

    def _header(self, task: Task) -> SearchStarted:
        info = self._engine.info
        prompt = self._engine.tokenizer.chat_ids(task.messages, prefill=task.prefill)
        room = info.context - len(prompt)
        if room < ROOM_TO_THINK:
            raise InvalidText(
                "question",
                task.question,
                f"short enough to leave room to think: it takes {len(prompt):,} of the model's {info.context:,} tokens",
            )
        details = dict(task.details)
        details["answer_kind"] = task.answer_kind
        details["prefill"] = task.prefill
        if task.openings and self.options.search.strategy == "mcts":
            details["openings"] = [
                {
                    "name": opening.name,
                    "messages": [dict(message) for message in opening.messages],
                    "tries": opening.tries,
                }
                for opening in task.openings
            ]
        custom = [
            name for name in ("reward", "action", "selection", "checker") if getattr(self, f"_{name}") is not None
        ]
        if custom:
            details["custom"] = custom
        reward = self._steering_reward()
        if reward.name != self.options.search.reward:
            details["reward"] = reward.name
        return SearchStarted(
            kind=task.kind,
            question=task.question,
            messages=tuple(dict(message) for message in task.messages),
            prompt_ids=prompt,
            model=info.model,
            model_hash=info.model_hash,
            engine=info.engine,
            device=info.device,
            logprobs=info.logprobs,
            options=self.options.to_dict(),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            search=run_files.new_name(),
            details=details,
        )

    def _steering_reward(self) -> Reward:
        if self._reward is not None:
            return self._reward
        name = self.options.search.reward
        if name == "outcome":
            assert self._checker is not None
            return outcome(self._checker)
        if not self._engine.info.logprobs:
            return BY_NAME["agreement"]
        return BY_NAME[name]

    def _search(
        self,
        task: Task,
        started: SearchStarted,
        stop: threading.Event,
        writer: run_files.RunWriter | None,
        recorded: Sequence[Event],
        interventions: Sequence[Intervention] = (),
    ) -> Iterator[Event]:
        return Session(
            self._engine,
            self.options,
            task,
            started,
            reward=self._steering_reward(),
            action=self._action or action_for(self.options.search),
            selection=self._selection,
            stop=stop,
            writer=writer,
            recorded=recorded,
            interventions=interventions,
            inbox=self._interventions,
            on_running=self._set_running,
        ).events()

    def _set_running(self, running: bool) -> None:
        self._running = running


def _opened(engine: Engine | ModelConfig | str | None) -> Engine:
    if engine is None or isinstance(engine, str | ModelConfig):
        from marco.engines import open_engine

        config = engine if isinstance(engine, ModelConfig) else ModelConfig(model=engine)
        return open_engine(config)
    return engine


def _task_of(started: SearchStarted) -> Task:
    """The task of a recorded `solve`."""
    return Task(
        started.question,
        tuple(started.messages),
        kind=started.kind,
        answer_kind=str(started.details.get("answer_kind", "text")),
        prefill=str(started.details.get("prefill", "")),
        openings=Opening.recorded(started),
        details={name: value for name, value in started.details.items() if name not in HEADER_ONLY},
    )


def _transient(event: Event) -> bool:
    return isinstance(event, TRANSIENT)
