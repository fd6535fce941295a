"""What happens in a search, as typed, frozen, JSON-serialisable facts.

A search is a stream of these. The tree on screen, the run file, the answer and a resumed search are folds
over the same stream (`marco.tree.Tree.apply`). `Partial` and `Phase` are for people who watch; they decide
nothing and are not written to run files (`TRANSIENT`).

In JSON an event is an object whose `type` is the class name; tuples are arrays.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from marco.errors import MarcoError

FORMAT_VERSION = 1
"""Of the run file. Raised when an older reader would misread a newer file."""

LOGPROB_FLOOR = -10_000.0
"""Log-probabilities are floored here, so that -inf survives JSON; its exponential is exactly 0."""


class MalformedEvent(MarcoError):
    """An object that is no event of this version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStarted:
    """The header: everything that decides a search."""

    version: int = FORMAT_VERSION
    kind: str = "solve"
    """`solve` or `translate`."""
    question: str
    messages: tuple[Mapping[str, str], ...] = ()
    prompt_ids: tuple[int, ...]
    """The root's token ids: the conversation in the model's chat format."""
    model: str = ""
    model_hash: str = ""
    engine: str = ""
    device: str = ""
    logprobs: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    """ISO 8601, UTC."""
    search: str = ""
    """Identifies the search; the run file is named after it."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What belongs to the kind of search, such as `target_language`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkIssued:
    """A rollout was asked for: node's path is to be continued to its end."""

    work: int
    node: str
    seed: int
    origin: int | None = None
    """For a reflection: the rollout that is reflected on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFinished:
    """A rollout entered the tree. Sequences have one entry a sampled token, the end token included."""

    rollout: int
    """Its work id."""
    node: str
    """The node it continued."""
    token_ids: tuple[int, ...]
    text: str
    offsets: tuple[int, ...]
    """After token i, `text[:offsets[i]]` is complete."""
    logprobs: tuple[float | None, ...]
    """Raw natural log-probabilities; None where unknown."""
    top: tuple[tuple[tuple[int, float], ...], ...]
    """Up to five (token id, log-probability) a position, most probable first."""
    top_texts: Mapping[str, str] = field(default_factory=dict)
    """Text of the token ids in `top` (keys are ids as strings: JSON has no others)."""
    segments: tuple[tuple[int, str], ...]
    """(end, kind): where the rollout is cut into nodes, as token indices, ascending; the last is its length."""
    thought_segments: int | None = None
    """Leading segments that come before the end of the thought; None where there is no place to reflect."""
    finish: str = "stop"
    output: str = ""
    """What is meant for the person: the text without the thought."""
    answer: str | None = None
    """Extracted from the output; None where there is none."""
    key: str | None = None
    """The answer normalised: equal keys are one answer."""
    degenerate: str | None = None
    """Why this rollout may not win (`loop`, `cut off`, `no answer`, `empty`); None for a sound one."""
    statistics: Mapping[str, float | None] = field(default_factory=dict)
    """Every confidence statistic by name (`marco.reward`)."""
    value: float = 0.0
    """v: the steering reward at the time of commit."""
    prefilled: int = 0
    cached: int = 0
    seconds: float = 0.0
    """From hand-out to the last token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFailed:
    """A rollout that could not be written. Spends budget, adds no visit."""

    work: int
    node: str
    error: str
    generated: int = 0
    prefilled: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkCancelled:
    """A rollout that was under way when the search was stopped; a resumed search writes it anew."""

    work: int
    text: str
    generated: int = 0
    prefilled: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAdded:
    """A tail's next segment became a node, or forced tokens were put into the tree."""

    node: str
    parent: str
    kind: str = "thought"
    rollout: int | None = None
    """For a segment of a tail: whose."""
    segment: int | None = None
    token_ids: tuple[int, ...] = ()
    """For forced tokens (a reflection, an edit, a fork); for an opening, its whole prompt."""
    text: str = ""
    """Of these tokens; for an opening, its name."""
    origin: int | None = None
    """For a reflection: the rollout that is reflected on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValuesChanged:
    """New values of earlier rollouts, under a reward that compares rollouts."""

    after: int
    """The rollout whose commit changed them."""
    values: Mapping[str, float]
    """By rollout (as a string: JSON keys are strings)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReflectionJudged:
    """A reflection's rollout finished: did the answer change?"""

    rollout: int
    origin: int
    before: str | None
    after: str | None
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerChosen:
    """The best answer so far, after a commit."""

    after: int
    """The rollout whose commit led to it."""
    rollout: int | None
    answer: str | None
    text: str
    """The whole output of the rollout that gives the answer."""
    confidence: float
    """Margin of the vote, 0 to 1."""
    mean_token_confidence: float | None
    """The paper's figure, of the rollout that gives the answer."""
    votes: tuple[Mapping[str, Any], ...] = ()
    """{answer, weight, rollouts}, heaviest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steered:
    """A person took part."""

    number: int
    """1 for the first intervention."""
    after: int
    """Results that had entered the tree by then."""
    action: str
    """`expand`, `prune`, `restore`, `pin`, `unpin`, `edit`, `fork`, `rethink`, `budget`."""
    node: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something a person should know; the search goes on."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchEnded:
    """The end, or a pause: a resumed search goes on behind it."""

    stopped_by: str
    """`done`, `rollouts`, `tokens`, `seconds`, `user`, `sure` or `error`."""
    seconds: float
    tokens: Mapping[str, int]
    """`generated`, `prefilled`, `cached`, `computed`, `distinct`."""
    rollouts: int
    nodes: int
    answer: str | None = None
    text: str = ""
    message: str = ""
    """What went wrong, where `stopped_by` is `error`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """What a rollout under way has written so far. Transient."""

    work: int
    node: str
    text: str
    """Since the last Partial of this work."""
    tokens: int
    """Sampled so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What Marco is busy with. Transient."""

    name: str
    """`loading`, `queued`, `searching`, `stopping`."""
    message: str = ""


Event = (
    SearchStarted
    | WorkIssued
    | RolloutFinished
    | WorkFailed
    | WorkCancelled
    | NodeAdded
    | ValuesChanged
    | ReflectionJudged
    | AnswerChosen
    | Steered
    | Warned
    | SearchEnded
    | Partial
    | Phase
)

TRANSIENT = (Partial, Phase)

TYPES: dict[str, type] = {kind.__name__: kind for kind in typing.get_args(Event)}


def to_dict(event: Event) -> dict[str, Any]:
    """A JSON-ready object. Values are shared with the event, not copied."""
    data: dict[str, Any] = {"type": type(event).__name__}
    for name in _fields(TYPES[type(event).__name__]):
        data[name] = getattr(event, name)
    return data


def from_dict(data: object) -> Event:
    """The inverse of `to_dict` (after JSON, too). Raises `MalformedEvent`."""
    if not isinstance(data, Mapping):
        raise MalformedEvent("an event is a JSON object")
    kind = TYPES.get(str(data.get("type")))
    if kind is None:
        raise MalformedEvent(f"there is no event of type {data.get('type')!r}")
    values: dict[str, Any] = {}
    fields = _fields(kind)
    for name, value in data.items():
        if name == "type":
            continue
        if name not in fields:
            raise MalformedEvent(f"{kind.__name__} has no field {name!r}")
        values[name] = _frozen(value)
        if not _fits(values[name], fields[name]):
            raise MalformedEvent(f"{kind.__name__}.{name} is of the wrong type")
    try:
        return typing.cast(Event, kind(**values))
    except TypeError as error:
        raise MalformedEvent(f"{kind.__name__} lacks a field: {error}") from None


@cache
def _fields(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {item.name: hints[item.name] for item in dataclasses.fields(kind)}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _fits(value: Any, hint: Any) -> bool:
    """Shallow type check: enough to refuse a damaged file before it does harm."""
    if hint is Any:
        return True
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if hint is type(None):
        return value is None
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        arguments = typing.get_args(hint)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if origin is not None:
        return isinstance(value, Mapping)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
