"""Each system's own search, unchanged, on the same question, prompt and model.

Every function answers one question: `(model, question, setup) -> Found`. The peers leave the writing to their caller;
here it is `PlainModel`. A node is a mini-step for all that have nodes of text. Where a peer leaves the choice of the
answer to its caller it gets Marco's vote; else its own choice counts. Answers are read by Marco's extractor for all.
"""

from __future__ import annotations

import importlib.util
import random
import sys
import types
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from plain import PlainModel

from marco import Solver, answer, options
from marco.engines.local import LocalEngine
from marco.events import AnswerChosen, RolloutFinished, SearchEnded

KIND = "number"


@dataclass(frozen=True)
class Setup:
    rollouts: int
    max_tokens: int
    step: int
    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True)
class Found:
    """The answer, complete lines of thought written, and (generated tokens, answer) as it stood after each."""

    answer: str | None
    rollouts: int
    history: list[tuple[int, str | None]]
    prefilled: int
    generated: int
    distinct: int


def marco(engine: LocalEngine, question: str, setup: Setup, strategy: str = "mcts") -> Found:
    """Marco's own search through its local engine; `cot` and `self-consistency` are the baselines."""
    chosen = options(
        "marco",
        strategy=strategy,
        rollouts=1 if strategy == "cot" else setup.rollouts,
        action=f"mini-step-{setup.step}",
        parallel=setup.rollouts,
        max_tokens=setup.max_tokens,
        temperature=setup.temperature,
        top_p=setup.top_p,
        reflection="off",
        seed=setup.seed,
    )
    engine.forget()
    history: list[tuple[int, str | None]] = []
    generated = 0
    tokens: dict[str, int] = {}
    rollouts = 0
    for event in Solver(engine, chosen).stream(question):
        if isinstance(event, RolloutFinished):
            generated += len(event.token_ids)
        elif isinstance(event, AnswerChosen):
            history.append((generated, event.answer))
        elif isinstance(event, SearchEnded):
            tokens, rollouts = dict(event.tokens), event.rollouts
    final = history[-1][1] if history else None
    return Found(final, rollouts, history, tokens["prefilled"], tokens["generated"], tokens["distinct"])


class _Line:
    """A line of thought as far as it is written."""

    def __init__(self, ids: tuple[int, ...], ended: bool, confidence: float) -> None:
        self.ids = ids
        self.ended = ended
        self.confidence = confidence


class _Question:
    """The prompt that Marco would send, and what becomes of the lines that a peer writes under it."""

    def __init__(self, model: PlainModel, engine: LocalEngine, question: str, setup: Setup) -> None:
        task = Solver(engine, options("marco", strategy="mcts")).task(question)
        self.prompt = engine.tokenizer.chat_ids(task.messages, prefill=task.prefill)
        self.model = model
        self.setup = setup
        self.candidates: list[answer.Candidate] = []
        self.history: list[tuple[int, str | None]] = []
        random.seed(setup.seed)
        np.random.seed(setup.seed)
        torch.manual_seed(setup.seed)

    def finished(self, ids: tuple[int, ...], confidence: float) -> None:
        """Take in a complete line of thought."""
        text = self.model.tokenizer.decode(ids)[0]
        self.candidates.append(
            answer.Candidate(
                rollout=len(self.candidates) + 1,
                answer=read(text),
                text=text,
                value=confidence,
                visits=1,
                confidence=confidence,
                degenerate=False,
            )
        )
        self.history.append((self.model.counts.generated, self.vote()))

    def vote(self) -> str | None:
        return answer.select(self.candidates, "weighted", KIND).answer if self.candidates else None

    def found(self, chosen: str | None) -> Found:
        counts = self.model.counts
        return Found(chosen, len(self.candidates), self.history, counts.prefilled, counts.generated, counts.distinct)


def read(text: str) -> str | None:
    output = answer.split_output(text)[1]
    found = answer.extract(output or text, KIND)
    return answer.normalise(found, KIND) if found is not None else None


def treequest(model: PlainModel, engine: LocalEngine, question: str, setup: Setup) -> Found:
    """TreeQuest's `StandardMCTS` at its defaults: a call writes a line to its end, its first mini-step is the node."""
    from treequest import StandardMCTS

    asked = _Question(model, engine, question, setup)

    def generate(parent: _Line | None) -> tuple[_Line, float]:
        line = parent or _Line((), False, 0.0)
        if line.ended:
            return line, line.confidence
        room = setup.max_tokens - len(line.ids)
        (piece,) = model.write((*asked.prompt, *line.ids), room)
        asked.finished((*line.ids, *piece.ids), piece.confidence)
        cut = piece.ids[: setup.step]
        ids = (*line.ids, *cut)
        ended = (piece.ended and len(cut) == len(piece.ids)) or len(ids) >= setup.max_tokens
        return _Line(ids, ended, piece.confidence), piece.confidence

    search = StandardMCTS()
    tree = search.init_tree()
    for _ in range(10 * setup.rollouts):  # a finished line that is selected again writes nothing
        if len(asked.candidates) >= setup.rollouts:
            break
        tree = search.step(tree, {"step": generate}, inplace=True)
    return asked.found(asked.vote())


def llm_reasoners(model: PlainModel, engine: LocalEngine, question: str, setup: Setup) -> Found:
    """llm-reasoners' `MCTS` at its defaults, three actions a state: an iteration writes mini-steps down to an end."""
    from reasoners import Reasoner, SearchConfig, WorldModel
    from reasoners.algorithm import MCTS

    asked = _Question(model, engine, question, setup)

    class World(WorldModel):  # type: ignore[misc]
        def init_state(self) -> _Line:
            return _Line((), False, 0.0)

        def step(self, state: _Line, action: tuple[Any, ...]) -> tuple[_Line, dict[str, Any]]:
            ids, ended, confidence = action
            line = _Line((*state.ids, *ids), ended or len(state.ids) + len(ids) >= setup.max_tokens, confidence)
            if line.ended:
                asked.finished(line.ids, confidence)
            return line, {}

        def is_terminal(self, state: _Line) -> bool:
            return state.ended

    class Config(SearchConfig):  # type: ignore[misc]
        def get_actions(self, state: _Line) -> list[tuple[Any, ...]]:
            room = min(setup.step, setup.max_tokens - len(state.ids))
            pieces = model.write((*asked.prompt, *state.ids), room, n=3)
            return [(piece.ids, piece.ended, piece.confidence) for piece in pieces]

        def fast_reward(self, _state: _Line, action: tuple[Any, ...]) -> tuple[float, dict[str, Any]]:
            return action[2], {"confidence": action[2]}

        def reward(
            self, _state: _Line, _action: tuple[Any, ...], confidence: float, **_: Any
        ) -> tuple[float, dict[str, Any]]:
            return confidence, {}

    depth = -(-setup.max_tokens // setup.step) + 1
    result = Reasoner(World(), Config(), MCTS(n_iters=setup.rollouts, depth_limit=depth))(question)
    best = result.terminal_state
    chosen = read(model.tokenizer.decode(best.ids)[0]) if best is not None else None
    return asked.found(chosen)


def optillm(model: PlainModel, engine: LocalEngine, question: str, setup: Setup) -> Found:
    """optillm's `chat_with_mcts` at its defaults; as many simulations as give at least that many lines of thought.

    Its replies to the question are the lines: three for the expansion and three a simulation.
    """
    chat_with_mcts = _optillm_search()
    asked = _Question(model, engine, question, setup)
    task = Solver(engine, options("marco", strategy="mcts")).task(question)
    system = next((message["content"] for message in task.messages if message["role"] == "system"), "")
    user = task.messages[-1]["content"]

    def create(*, messages: list[dict[str, str]], max_tokens: int, n: int, temperature: float, **_: Any) -> Any:
        prompt = engine.tokenizer.chat_ids(messages)
        pieces = model.write(prompt, min(max_tokens, setup.max_tokens), n=n, temperature=temperature)
        first = [message for message in messages if message["role"] != "system"]
        if len(first) == 1 and first[0]["content"] == user:
            for piece in pieces:
                asked.finished(piece.ids, piece.confidence)
        choices = [
            types.SimpleNamespace(
                message=types.SimpleNamespace(content=engine.tokenizer.decode(piece.ids)[0]),
                finish_reason="stop" if piece.ended else "length",
            )
            for piece in pieces
        ]
        usage = types.SimpleNamespace(completion_tokens=sum(len(piece.ids) for piece in pieces))
        return types.SimpleNamespace(choices=choices, usage=usage)

    client = types.SimpleNamespace(chat=types.SimpleNamespace(completions=types.SimpleNamespace(create=create)))
    simulations = max(1, setup.rollouts // 3)
    text, _ = chat_with_mcts(system, user, client, "model", num_simulations=simulations)
    return asked.found(read(text))


def _optillm_search() -> Any:
    """The search module alone: the package itself starts by importing the clients of a dozen services."""
    if "optillm" not in sys.modules:
        spec = importlib.util.find_spec("optillm")
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError("optillm")
        package = types.ModuleType("optillm")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["optillm"] = package
    from optillm.mcts import chat_with_mcts

    return chat_with_mcts
