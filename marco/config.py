"""The options, as small frozen objects that are checked once, when they are made.

A wrong value raises `InvalidOption`, which names the field, the value and what is allowed; whoever holds
one of these objects need not check again. `PRESETS` holds the two named sets of options: "paper", the
published method with its open points filled in, and "marco", what the measurements favour.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from marco.errors import InvalidOption, InvalidText

STRATEGIES = ("mcts", "self-consistency", "best-of-n", "cot", "direct")
REWARDS = ("mean", "lowest-window", "tail", "top5-certainty", "agreement", "hybrid", "outcome")
SELECTIONS = ("best", "visits", "majority", "weighted", "consensus")
REFLECTIONS = ("off", "low-confidence", "always")
RULES = ("uct", "puct")
ENGINES = ("auto", "llama.cpp", "local", "server")
QUANTIZATIONS = ("auto", "4bit", "8bit", "none")
DTYPES = ("auto", "bfloat16", "float32")
ANSWER_KINDS = ("auto", "number", "choice", "text")

MAX_QUESTION_CHARS = 20_000
"""A question longer than this is refused: no context of the models served here would hold it with room to think."""

_MINI_STEP = re.compile(r"mini-step-([1-9]\d{0,3})")


def _one_of(field: str, value: object, allowed: Iterable[str]) -> None:
    allowed = tuple(allowed)
    if value not in allowed:
        raise InvalidOption(field, value, "one of " + ", ".join(allowed))


def _whole(field: str, value: object, low: int, high: int | None = None) -> None:
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= low
    if not fits or (high is not None and value > high):  # type: ignore[operator]
        span = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise InvalidOption(field, value, f"a whole number {span}")


def _number(field: str, value: object, low: float, high: float = math.inf) -> None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not low <= value <= high:  # type: ignore[operator]
        span = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
        raise InvalidOption(field, value, f"a number {span}")


def check_question(text: object, *, field: str = "question", limit: int = MAX_QUESTION_CHARS) -> str:
    """Return `text` stripped of surrounding blanks, or raise `InvalidText`."""
    if not isinstance(text, str):
        raise InvalidText(field, text, "text")
    if "\x00" in text:
        raise InvalidText(field, text, "text without NUL characters")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidText(field, text, "valid Unicode (it holds half of a surrogate pair)")
    stripped = text.strip()
    if not stripped:
        raise InvalidText(field, text, "some text, not empty")
    if len(stripped) > limit:
        raise InvalidText(field, stripped, f"at most {limit:,} characters long, and it has {len(stripped):,}")
    return stripped


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the model draws its next token."""

    temperature: float = 0.8
    """0 is greedy. Range 0 to 5."""
    top_p: float = 0.95
    """Share of the probability mass that is sampled from. Range 0 (exclusive) to 1."""
    max_tokens: int = 1024
    """Longest rollout, in sampled tokens."""

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0, 5)
        _number("top_p", self.top_p, 0.01, 1)
        _whole("max_tokens", self.max_tokens, 1, 131_072)


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """When to stop. The first limit that is met ends the search; None is no limit."""

    rollouts: int | None = 8
    """Generations in all: reflections and failures included."""
    tokens: int | None = None
    """Sampled positions in all: end tokens, duplicates, failures and reflections included."""
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.rollouts is not None:
            _whole("rollouts", self.rollouts, 1, 100_000)
        if self.tokens is not None:
            _whole("tokens", self.tokens, 1)
        if self.seconds is not None:
            _number("max_seconds", self.seconds, 0.01)
        if self.rollouts is None and self.tokens is None and self.seconds is None:
            raise InvalidOption("rollouts", None, "set where neither tokens nor max_seconds is")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How the tree grows and how an answer is chosen from it."""

    strategy: str = "mcts"
    """`mcts`; `self-consistency` and `best-of-n`, independent rollouts from the question; `cot`, one greedy
    chain; `direct`, one greedy answer without thinking."""
    action: str = "step"
    """`step`, or `mini-step-N` with N tokens a node."""
    reward: str = "mean"
    select: str = "weighted"
    reflection: str = "off"
    reflect_below: float = 0.85
    """Policy `low-confidence` reflects where the rollout's mean token confidence is under this (0 to 1)."""
    max_reflections: int = 1
    """Reflections on one path from the root."""
    branching: int = 3
    """Children a node may have (reflections not counted)."""
    exploration: float = math.sqrt(2)
    """The constant c of the selection rule."""
    rule: str = "uct"
    """`uct`: q + c sqrt(ln N_parent / N). `puct`: q + c P sqrt(N_parent) / (1 + N), with P the node's prior."""
    widening: float = 0.0
    """Progressive widening: a node may have ceil(branching * N ** widening) children; 0 keeps `branching`."""
    fork_uncertain: bool = False
    """Start a new rollout not at the end of the chosen node but before its least confident token."""
    greedy_first: bool = False
    """The first rollout, of each opening too, is drawn at temperature 0: what the model holds most likely is among
    the votes (`mcts`)."""
    depth: int = 64
    """Nodes at this depth are not extended (the root has depth 0)."""
    parallel: int = 4
    """Rollouts under way at once. Part of what decides the tree: item i is chosen when i - parallel are in."""
    stop_when_sure: float | None = None
    """End when the vote is settled with this probability; 1 asks for certainty. None never ends early."""
    seed: int = 0
    answer_kind: str = "auto"
    """What an answer looks like: `number`, `choice`, `text`, or `auto`, read off the question."""

    def __post_init__(self) -> None:
        _one_of("strategy", self.strategy, STRATEGIES)
        if self.action != "step" and not (isinstance(self.action, str) and _MINI_STEP.fullmatch(self.action)):
            raise InvalidOption("action", self.action, "step, or mini-step-N with N from 1 to 9999")
        _one_of("reward", self.reward, REWARDS)
        _one_of("select", self.select, SELECTIONS)
        _one_of("reflection", self.reflection, REFLECTIONS)
        _number("reflect_below", self.reflect_below, 0, 1)
        _whole("max_reflections", self.max_reflections, 0, 100)
        _whole("branching", self.branching, 1, 1000)
        _number("exploration", self.exploration, 0, 1e6)
        _one_of("rule", self.rule, RULES)
        _number("widening", self.widening, 0, 1)
        _whole("depth", self.depth, 1, 1_000_000)
        _whole("parallel", self.parallel, 1, 1024)
        if self.stop_when_sure is not None:
            _number("stop_when_sure", self.stop_when_sure, 0.5, 1)
        _whole("seed", self.seed, 0, 2**63 - 1)
        _one_of("answer_kind", self.answer_kind, ANSWER_KINDS)

    @property
    def mini_step(self) -> int | None:
        """Tokens a node of a mini-step action; None for `step`."""
        match = _MINI_STEP.fullmatch(self.action)
        return int(match.group(1)) if match else None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model does the work, and where."""

    model: str | None = None
    """A name of the catalogue, a path, or a hub id; None picks the default of this machine."""
    engine: str = "auto"
    base_urls: tuple[str, ...] = ()
    """Addresses of OpenAI-compatible servers, for engine `server`."""
    quantize: str = "auto"
    dtype: str = "auto"
    """Precision of what isn't quantized, for engine `local`; auto is what this device computes fastest."""
    adapter: str | None = None
    """Folder of a PEFT adapter, for engine `local`."""
    slots: int = 8
    """Rollouts that the engine decodes together."""
    context: int = 8192
    """Tokens of context to reserve for one rollout (engine `llama.cpp`)."""

    def __post_init__(self) -> None:
        _one_of("engine", self.engine, ENGINES)
        _one_of("quantize", self.quantize, QUANTIZATIONS)
        _one_of("dtype", self.dtype, DTYPES)
        _whole("slots", self.slots, 1, 1024)
        _whole("context", self.context, 256, 1_048_576)
        for url in self.base_urls:
            if not re.match(r"https?://[^\s/]+", url):
                raise InvalidOption("base_url", url, "an http:// or https:// address")
        if self.engine == "server" and not self.base_urls:
            raise InvalidOption("base_url", None, "given with engine server")


Preset = Literal["marco", "paper"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # arXiv 2411.14405; where it is silent, the values that the project documents in README.md.
    "paper": {
        "branching": 3,
        "exploration": math.sqrt(2),
        "rollouts": 8,
        "temperature": 0.8,
        "top_p": 0.95,
        "max_tokens": 1024,
        "depth": 64,
        "reward": "mean",
        "select": "best",
    },
    # What was measured, and what of it is not settled: docs/findings.md, "The preset".
    "marco": {
        "branching": 5,
        "exploration": math.sqrt(2),
        "rollouts": 8,
        "temperature": 0.5,
        "top_p": 0.95,
        "max_tokens": 1024,
        "depth": 64,
        "greedy_first": True,
        "reward": "hybrid",
        "select": "weighted",
    },
}

OF_STRATEGY: Mapping[str, Mapping[str, Any]] = {
    "self-consistency": {"select": "majority"},
    "best-of-n": {"select": "best", "reward": "mean"},
}
"""What a strategy is by its name, whatever the preset."""

SINGLE_CHAIN = ("cot", "direct")
"""Strategies that are one greedy rollout: their temperature is 0 and their budget one rollout."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that decides a search, model aside. Under `cot` and `direct` it is one greedy rollout."""

    search: SearchConfig = SearchConfig()
    sampling: SamplingConfig = SamplingConfig()
    budget: BudgetConfig = BudgetConfig()

    def __post_init__(self) -> None:
        if self.search.strategy in SINGLE_CHAIN:
            object.__setattr__(self, "sampling", dataclasses.replace(self.sampling, temperature=0.0))
            object.__setattr__(self, "budget", dataclasses.replace(self.budget, rollouts=1))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Options:
        """The inverse of `to_dict`; an unknown or wrong field raises `InvalidOption`."""
        parts: dict[str, Any] = {}
        for name, kind in (("search", SearchConfig), ("sampling", SamplingConfig), ("budget", BudgetConfig)):
            given = data.get(name, {})
            if not isinstance(given, Mapping):
                raise InvalidOption(name, given, "an object of options")
            known = {field.name for field in dataclasses.fields(kind)}
            for key in given:
                if key not in known:
                    raise InvalidOption(f"{name}.{key}", given[key], "left out: there is no such option")
            parts[name] = kind(**given)
        return cls(**parts)


def options(preset: str = "marco", **given: Any) -> Options:
    """The options of a preset, then what the strategy means, then `given`; a given None keeps the value before.

    Accepts every field of the three configs by its own name, and `max_seconds` for `BudgetConfig.seconds`.
    Raises `InvalidOption` for an unknown preset, an unknown name or a wrong value.
    """
    _one_of("preset", preset, PRESETS)
    values: dict[str, Any] = {**PRESETS[preset], **OF_STRATEGY.get(str(given.get("strategy")), {})}
    if given.get("tokens") is not None and given.get("rollouts") is None:
        values["rollouts"] = None  # a token budget alone is meant to be the only limit
    values.update({name: value for name, value in given.items() if value is not None})
    if "max_seconds" in values:
        values["seconds"] = values.pop("max_seconds")
    parts: dict[str, dict[str, Any]] = {"search": {}, "sampling": {}, "budget": {}}
    owners = {
        field.name: part
        for part, kind in (("search", SearchConfig), ("sampling", SamplingConfig), ("budget", BudgetConfig))
        for field in dataclasses.fields(kind)
    }
    for name, value in values.items():
        if name not in owners:
            raise InvalidOption(name, value, "left out: there is no such option")
        parts[owners[name]][name] = value
    return Options.from_dict(parts)
