"""What is to be measured: combinations, and the fewest generations that serve them all.

A `Combination` is a line of the summary. A `Generation` is what the model has to write for it. Combinations that
differ only in how they choose among finished rollouts share a generation: that is what makes `best-of-n` and
`self-consistency` comparable rollout by rollout, and selections free.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from marco.config import REFLECTIONS, REWARDS, SELECTIONS, Options, SearchConfig, options
from marco.errors import InvalidOption
from marco.evaluation.tasks import Strategy, Task

DEFAULT_BUDGET = 2000
"""Generated tokens a problem."""
DEFAULT_PARALLEL = 1
"""Rollouts of one search at once. Problems fill the engine's slots; a search that has few under way writes little
that its budget can't hold, and chooses each rollout with all others known."""

FIXED = ("strategy", "action", "reward", "select", "reflection", "seed")
"""Fields of `SearchConfig` that are asked for by options of their own."""


IN_A_TREE = ("parallel", "branching", "exploration", "depth", "rule", "widening", "fork_uncertain", "greedy_first")
"""Fields of `SearchConfig` that make no difference to independent rollouts, however many are under way."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything but the combinations."""

    preset: str = "marco"
    budget: int = DEFAULT_BUDGET
    parallel: int = DEFAULT_PARALLEL
    temperature: float | None = None
    max_tokens: int | None = None
    stop_when_sure: float | None = None
    """Part of how rollouts are compared, not of how they are made: see `replay`."""
    further: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Other fields of `SearchConfig` and `SamplingConfig`, such as `branching`."""

    def __post_init__(self) -> None:
        for name in self.further:
            if name in FIXED:
                raise InvalidOption("set", name, f"given as --{name}")
        # Refused here rather than when the model is loaded.
        self.options({})
        SearchConfig(stop_when_sure=self.stop_when_sure)

    def options(self, strategy: Mapping[str, Any], forced: Mapping[str, Any] | None = None) -> Options:
        """The preset, then what the strategy brings, then what was asked for, then what is `forced`."""
        asked: dict[str, Any] = {"temperature": self.temperature, "max_tokens": self.max_tokens, **self.further}
        asked = {name: value for name, value in asked.items() if value is not None}
        usual = {"tokens": self.budget, "parallel": self.parallel}
        return options(self.preset, **{**usual, **strategy, **asked, **(forced or {})})


@dataclass(frozen=True)
class Generation:
    """What the model is to write for one problem and seed: a task, a strategy, and options."""

    strategy: str
    """Key in `Task.strategies`."""
    options: Options
    """With seed 0 and a selection that plays no part."""
    single: bool

    @cached_property
    def key(self) -> str:
        """Equal keys: the same work."""
        data = self.options.to_dict()
        if data["search"]["strategy"] != "mcts":
            for field in IN_A_TREE:
                data["search"].pop(field)
        elif not data["search"]["greedy_first"]:
            data["search"].pop("greedy_first")  # rows from before it was there keep their key
        data["generation"] = self.strategy
        text = json.dumps(data, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def with_seed(self, seed: int) -> Options:
        return dataclasses.replace(self.options, search=dataclasses.replace(self.options.search, seed=seed))


@dataclass(frozen=True)
class Combination:
    """A line of the summary: how rollouts are made and how one is chosen. None: makes no difference here."""

    strategy: str
    generation: str
    """Key of the `Generation`."""
    budget: int
    action: str | None = None
    reward: str | None = None
    select: str | None = None
    reflection: str | None = None
    stop_when_sure: float | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    """Options that differ from the preset "marco" (seed and those above left out)."""

    @property
    def label(self) -> str:
        """For people: what tells it from others."""
        parts = [self.strategy, self.action, self.reward, self.select, self.reflection]
        if self.reflection == "off":
            parts.pop()
        if self.stop_when_sure is not None:
            parts.append(f"sure {self.stop_when_sure:g}")
        parts += [f"{name}={value}" for name, value in self.settings.items()]
        return " · ".join(part for part in parts if part)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Combination:
        return cls(**data)


def expand(
    task: Task,
    settings: Settings,
    *,
    strategies: Sequence[str],
    actions: Sequence[str] = (),
    rewards: Sequence[str] = (),
    selects: Sequence[str] = (),
    reflections: Sequence[str] = (),
) -> tuple[list[Combination], list[Generation]]:
    """Every combination of what is asked for, and the generations that they need, each once.

    What makes no difference to a strategy is not varied for it. Of the selections that are asked for a strategy takes
    those that fit it, or its own where none does. Raises `InvalidOption`.
    """
    _known("strategy", strategies, tuple(task.strategies))
    _known("reward", rewards, REWARDS)
    _known("select", selects, SELECTIONS)
    _known("reflection", reflections, REFLECTIONS)
    preset = settings.options({}).search
    asked = {
        "action": tuple(dict.fromkeys(actions)) or (preset.action,),
        "reflection": tuple(dict.fromkeys(reflections)) or (preset.reflection,),
    }
    combinations: dict[Combination, None] = {}
    generations: dict[str, Generation] = {}
    for name in dict.fromkeys(strategies):
        strategy = task.strategies[name]
        fitting = tuple(select for select in dict.fromkeys(selects) if select in strategy.selects)
        chosen: tuple[str | None, ...] = fitting or (
            (strategy.select or preset.select,) if strategy.selects else (None,)
        )
        asked["reward"] = tuple(dict.fromkeys(rewards)) or (strategy.reward or preset.reward,)
        axes = [asked[axis] if axis in strategy.varies else (None,) for axis in ("action", "reward", "reflection")]
        for action, reward, reflection in itertools.product(*axes):
            generation = _generation(task, settings, name, strategy, action, reward, reflection)
            generations[generation.key] = generation
            for select in chosen:
                combination = Combination(
                    strategy=name,
                    generation=generation.key,
                    budget=settings.budget,
                    action=action,
                    reward=reward,
                    select=select,
                    reflection=reflection,
                    stop_when_sure=None if strategy.single else settings.stop_when_sure,
                    settings=_differences(generation.options, strategy),
                )
                combinations[combination] = None
    return list(combinations), list(generations.values())


def _known(field: str, given: Sequence[str], allowed: Sequence[str]) -> None:
    for value in given:
        if value not in allowed:
            raise InvalidOption(field, value, "one of " + ", ".join(allowed))


def _generation(
    task: Task,
    settings: Settings,
    name: str,
    strategy: Strategy,
    action: str | None,
    reward: str | None,
    reflection: str | None,
) -> Generation:
    # Among independent rollouts a reward steers nothing: it only judges, which replay can do.
    steering = reward if strategy.samples is None else None
    forced = {
        "action": action or "step",
        "reward": steering or "mean",
        "reflection": reflection or "off",
        "select": "majority",
        "answer_kind": task.answer_kind,
    }
    return Generation(strategy.samples or name, settings.options(strategy.search, forced), strategy.single)


def _differences(chosen: Options, strategy: Strategy) -> dict[str, Any]:
    usual = options("marco").to_dict()
    found = {}
    for part in ("search", "sampling"):
        for name, value in chosen.to_dict()[part].items():
            if name in (*FIXED, "answer_kind", *strategy.search) or (strategy.single and name != "max_tokens"):
                continue
            if name == "parallel" and value == DEFAULT_PARALLEL:
                continue
            if value != usual[part][name]:
                found[name] = value
    return found
