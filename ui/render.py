"""Events to what is shown. Knows no browser and no web framework; every function here is pure.

A `View` is a fold over a search's events, with what people watch besides: texts under way, the pace, the
best answer so far. The functions below turn it into plain data:

    tree_payload                                nodes to draw, at most `limit`
    status, answer, node_details, conversation  *elements* (`el(tag, ...)`), which the page builds with textContent

Model text reaches the page as text, or through `ui.markup`, and never as HTML.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from marco.answer import split_output
from marco.events import (
    TRANSIENT,
    AnswerChosen,
    Event,
    Partial,
    Phase,
    ReflectionJudged,
    RolloutFinished,
    SearchEnded,
    SearchStarted,
    Steered,
    Warned,
    WorkFailed,
    WorkIssued,
)
from marco.reward import token_confidences
from marco.tree import ROOT, Tail, Tree
from ui.markup import Element, el, markdown

Translate = Callable[..., str]
"""Key and values to a text in the person's language: `ui.texts.texts`."""

DRAWN = 300
"""Nodes drawn at once; the rest unfolds on demand."""

LONG_CHAIN = 5
"""Thoughts in a row without a branch, from which on the middle is folded: on the best path."""

SHORT_CHAIN = 3
"""The same elsewhere; there the end is folded as well."""

LABEL_CHARS = 96
GHOST_CHARS = 120


# -- the fold --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Writing:
    """A rollout under way."""

    node: str
    text: str = ""
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Milestone:
    """The best answer at one moment."""

    generated: int
    seconds: float
    choice: AnswerChosen


@dataclass(slots=True)
class View:
    """A search as its watchers know it: change it through `apply` alone."""

    tree: Tree = field(default_factory=Tree)
    started: SearchStarted | None = None
    ended: SearchEnded | None = None
    answer: AnswerChosen | None = None
    phase: str = ""
    phase_message: str = ""
    writing: dict[int, Writing] = field(default_factory=dict)
    judged: dict[int, ReflectionJudged] = field(default_factory=dict)
    """By the rollout that followed the reflection."""
    milestones: list[Milestone] = field(default_factory=list)
    steps: list[Steered] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    """All but the transient ones, earlier parts of a text in several parts included."""
    warnings: list[str] = field(default_factory=list)
    failures: int = 0
    error: str = ""
    """One sentence, where the search could not start or go on."""
    began: float | None = None
    """When the first work was handed out, on the clock of `apply`'s `now`, in seconds."""
    latest: float = 0.0
    budget: dict[str, Any] = field(default_factory=dict)
    """The limits in force: `rollouts`, `tokens`, `seconds`."""
    raised: dict[str, Any] = field(default_factory=dict)
    """Limits that a resumed search goes on with, in place of those in its header."""
    seconds_before: float = 0.0
    tokens_before: int = 0
    """Of a resumed search: what it had taken when it went on."""
    _confidences: dict[tuple[int, int, int], tuple[float | None, ...]] = field(default_factory=dict)
    _seen: tuple[int, dict[str, Seen]] | None = None
    """What `seen` found, and how many events there were: between events nodes don't change."""

    def apply(self, event: Event, now: float = 0.0) -> None:
        """Fold one event in; `now` is a clock in seconds. A second start, a text's next part, begins a new tree."""
        self.latest = now
        if isinstance(event, SearchStarted) and self.started is not None:
            self._turn_over()
        self.tree.apply(event)
        if not isinstance(event, TRANSIENT):
            # Behind the tree: `seen`, asked meanwhile by another thread, must not keep the nodes from before.
            self.events.append(event)
        match event:
            case SearchStarted():
                self.started = event
                self.budget = {**event.options.get("budget", {}), **self.raised}
            case WorkIssued():
                self.ended = None
                self.error = ""
                self.began = now if self.began is None else self.began
                if event.work not in self.tree.rollouts:
                    self.writing[event.work] = Writing(event.node)
            case Partial():
                writing = self.writing.setdefault(event.work, Writing(event.node))
                writing.text += event.text
                writing.tokens = event.tokens
            case RolloutFinished():
                self.writing.pop(event.rollout, None)
            case WorkFailed():
                self.writing.pop(event.work, None)
                self.failures += 1
                self.warnings.append(event.error)
            case ReflectionJudged():
                self.judged[event.rollout] = event
            case AnswerChosen():
                self.answer = event
                self.milestones.append(Milestone(self.tree.generated, self.seconds, event))
            case Steered():
                self.steps.append(event)
                if event.action == "budget":
                    self.budget.update(event.data)
            case Warned():
                self.warnings.append(event.message)
            case Phase():
                self.phase, self.phase_message = event.name, event.message
            case SearchEnded():
                self.ended = event
                self.writing.clear()
            case _:
                pass

    def _turn_over(self) -> None:
        self.tree = Tree()
        self.ended = self.answer = self.began = None
        self.failures = 0
        self.seconds_before, self.tokens_before = 0.0, 0
        self.raised = {}
        self.steps = []
        self.writing.clear()
        self.judged.clear()
        self.milestones.clear()
        self._confidences.clear()

    @property
    def parts_before(self) -> list[Event]:
        """Events of the searches before the present one, of a text in several parts."""
        starts = [place for place, event in enumerate(self.events) if isinstance(event, SearchStarted)]
        return self.events[: starts[-1]] if starts else []

    @property
    def seconds(self) -> float:
        """Since the first work was handed out; those of a resumed search add up."""
        if self.ended is not None:
            return self.ended.seconds
        return self.seconds_before + (0.0 if self.began is None else max(0.0, self.latest - self.began))

    @property
    def generated(self) -> int:
        """Sampled tokens, those of rollouts under way included."""
        return self.tree.generated + sum(writing.tokens for writing in self.writing.values())

    @property
    def pace(self) -> float | None:
        """Generated tokens per second; None while there is nothing to tell."""
        if self.ended is not None:
            tokens, seconds = self.generated, self.seconds
        else:
            tokens, seconds = self.generated - self.tokens_before, self.seconds - self.seconds_before
        return tokens / seconds if tokens > 0 and seconds > 0 else None

    @property
    def finished(self) -> int:
        """Rollouts in the tree, and failures."""
        return len(self.tree.rollouts) + self.failures

    def confidences(self, rollout: int, start: int, end: int) -> tuple[float | None, ...]:
        """c_i of tokens [start, end) of a rollout."""
        key = (rollout, start, end)
        if key not in self._confidences:
            made = self.tree.rollouts[rollout]
            self._confidences[key] = token_confidences(made.logprobs[start:end], made.top[start:end])
        return self._confidences[key]

    @classmethod
    def fold(cls, events: Iterable[Event]) -> View:
        view = cls()
        for event in events:
            view.apply(event)
        return view


# -- nodes, children in waiting included -------------------------------------------------------------------


@dataclass(slots=True)
class Seen:
    """A node as people see it: one of the tree, or a segment of a tail, which has not become one yet."""

    id: str
    parent: str | None
    kind: str
    text: str
    depth: int
    visits: int
    value: float | None
    rollout: int | None
    """Whose tokens `[start, end)` it holds; None for the root and for forced tokens."""
    start: int
    end: int
    waiting: bool
    """Written, but not yet a node of the tree."""
    terminal: bool
    forced: bool
    pruned: bool
    pinned: bool
    rollouts: tuple[int, ...] = ()
    """Through it, for a waiting one."""


def seen(view: View) -> dict[str, Seen]:
    """All nodes by id, parents before children. The result is shared: don't change it."""
    kept = view._seen
    if kept is None or kept[0] != len(view.events):
        kept = view._seen = (len(view.events), _all_nodes(view.tree))
    return kept[1]


def _all_nodes(tree: Tree) -> dict[str, Seen]:
    found: dict[str, Seen] = {}
    for node in tree.walk():
        found[node.id] = Seen(
            id=node.id,
            parent=node.parent,
            kind=node.kind,
            text=node.text,
            depth=node.depth,
            visits=node.visits,
            value=node.value,
            rollout=node.rollout,
            start=node.start,
            end=node.end,
            waiting=False,
            terminal=node.terminal,
            forced=node.forced,
            pruned=node.pruned or (node.parent is not None and found[node.parent].pruned),
            pinned=node.pinned,
        )
        for item in _waiting(tree, node.id, node.depth, node.tails):
            item.pruned = found[node.id].pruned
            found[item.id] = item
    return found


def _waiting(tree: Tree, parent: str, depth: int, tails: Sequence[Tail]) -> Iterator[Seen]:
    pending = [(parent, depth + 1, tail.members) for tail in reversed(tails)]
    while pending:
        parent, depth, members = pending.pop()
        rollout, index = members[0]
        made = tree.rollouts[rollout]
        start, end = tree.segment(rollout, index)
        groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        ends = False
        for other, at in members:
            if at + 1 == len(tree.rollouts[other].segments):
                ends = True
            else:
                groups.setdefault(tree.segment_ids(other, at + 1), []).append((other, at + 1))
        name = f"{rollout}.{index}"
        yield Seen(
            id=name,
            parent=parent,
            kind="answer" if made.segments[index][1] == "answer" else "thought",
            text=_slice(made, start, end),
            depth=depth,
            visits=len(members),
            value=sum(tree.values[other] for other, _ in members) / len(members),
            rollout=rollout,
            start=start,
            end=end,
            waiting=True,
            terminal=ends,
            forced=False,
            pruned=False,
            pinned=False,
            rollouts=tuple(other for other, _ in members),
        )
        pending.extend((name, depth + 1, group) for group in reversed(groups.values()))


def _slice(made: RolloutFinished, start: int, end: int) -> str:
    first = made.offsets[start - 1] if start else 0
    last = len(made.text) if end == len(made.token_ids) else made.offsets[end - 1] if end else 0
    return made.text[first:last]


def best_path(view: View, nodes: Mapping[str, Seen]) -> list[str]:
    """From the root to the end of the rollout that gives the answer; without one, where most visits went."""
    rollout = view.answer.rollout if view.answer else None
    if rollout is None or rollout not in view.tree.leaves:
        return view.tree.best_path() if nodes else []
    path = [node.id for node in view.tree.path(view.tree.leaves[rollout])]
    path.extend(item.id for item in nodes.values() if item.waiting and rollout in item.rollouts)
    return path


def line(nodes: Mapping[str, Seen], node: str) -> list[Seen]:
    """From the root to `node`, both included."""
    found = []
    current: str | None = node
    while current is not None:
        found.append(nodes[current])
        current = found[-1].parent
    return found[::-1]


# -- the tree ----------------------------------------------------------------------------------------------

_TAGS = re.compile(r"</?(?:Thought|Output)>|</?[A-Za-z]{0,7}\Z", re.IGNORECASE)
"""The chat format's tags, and the beginning of one at the end of what is being written."""

_EMPHASIS = re.compile(r"\*\*|__|`|^#{1,6} ", re.MULTILINE)


def label(text: str, limit: int = LABEL_CHARS) -> str:
    """One line of at most `limit` characters, without the chat format's tags and marks of emphasis."""
    flat = " ".join(_EMPHASIS.sub("", _TAGS.sub(" ", text)).split())
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip() + "…"


def tree_payload(
    view: View,
    limit: int = DRAWN,
    *,
    unfolded: Collection[str] = (),
    selected: str | None = None,
    words: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What the tree view draws.

    {search, texts, running, selected, total, low, high, nodes}; a node is {id, parent, kind, label, visits,
    value, best, ...}. Kinds are those of the tree, `fold` for a folded middle of a long chain, and `ghost`
    for a rollout under way. `hidden` counts nodes below that are left out. The best path and the
    subtrees that a person unfolded come first, then what was visited most.
    """
    nodes = seen(view)
    best = best_path(view, nodes)
    values = [node.value for node in nodes.values() if node.value is not None]
    payload: dict[str, Any] = {
        "search": view.started.search if view.started else "",
        "texts": dict(words or {}),
        "running": view.started is not None and view.ended is None and not view.error,
        "selected": selected,
        "total": len(nodes),
        "low": min(values, default=0.0),
        "high": max(values, default=0.0),
        "nodes": [],
    }
    if not nodes:
        return payload
    on_best = set(best)
    children: dict[str, list[str]] = {}
    for node in nodes.values():
        if node.parent is not None:
            children.setdefault(node.parent, []).append(node.id)
    ghosts: dict[str, list[int]] = {}
    for work, writing in view.writing.items():
        ghosts.setdefault(writing.node, []).append(work)
    keep = {name for name in (selected, *ghosts) if name in nodes}
    folds = _folds(nodes, children, on_best, keep, unfolded)
    drawn = _within(nodes, children, folds, on_best, keep, unfolded, max(1, limit - len(view.writing)))

    for name in (name for name in nodes if name in drawn):
        node = nodes[name]
        if name in folds:
            payload["nodes"].append(_fold_node(nodes, folds[name], name in on_best))
            continue
        hidden = sum(1 for child in children.get(name, ()) if child not in drawn)
        item = {
            "id": name,
            "parent": _shown_parent(node.parent, drawn, nodes),
            "kind": node.kind,
            "label": label(node.text),
            "visits": node.visits,
            "value": None if node.value is None else round(node.value, 3),
            "best": name in on_best,
            "waiting": node.waiting,
            "terminal": node.terminal,
            "pruned": node.pruned,
            "pinned": node.pinned,
        }
        if hidden:
            item["hidden"] = _below(children, name) - sum(1 for child in _descendants(children, name) if child in drawn)
        payload["nodes"].append(item)
    for name, works in ghosts.items():
        parent = _shown_parent(name, drawn, nodes)
        for work in works:
            writing = view.writing[work]
            text = " ".join(_TAGS.sub(" ", writing.text[-2 * GHOST_CHARS :]).split())
            payload["nodes"].append(
                {
                    "id": f"w{work}",
                    "parent": parent,
                    "kind": "ghost",
                    "label": text[-GHOST_CHARS:],
                    "tokens": writing.tokens,
                }
            )
    return payload


def _folds(
    nodes: Mapping[str, Seen],
    children: Mapping[str, list[str]],
    best: Collection[str],
    keep: Collection[str],
    unfolded: Collection[str],
) -> dict[str, list[str]]:
    """First folded node to all that are folded with it: the middles of long chains."""
    folds: dict[str, list[str]] = {}
    taken: set[str] = set()
    for name, node in nodes.items():
        if name in taken or node.kind != "thought":
            continue
        chain = [name]
        while True:
            below = children.get(chain[-1], [])
            if len(below) != 1 or nodes[below[0]].kind != "thought":
                break
            chain.append(below[0])
        taken.update(chain)
        middle = chain[1:-1] if name in best else chain[1:]
        if len(chain) < (LONG_CHAIN if name in best else SHORT_CHAIN) or middle[0] in unfolded:
            continue
        if any(member in keep for member in middle):
            continue
        folds[middle[0]] = middle
    return folds


def _within(
    nodes: Mapping[str, Seen],
    children: Mapping[str, list[str]],
    folds: Mapping[str, list[str]],
    best: Collection[str],
    keep: Collection[str],
    unfolded: Collection[str],
    limit: int,
) -> set[str]:
    """The nodes to draw: grown from the root, the most wanted first."""
    wanted = set(best)
    for name in keep:
        wanted.update(item.id for item in line(nodes, name))
    for name in unfolded:
        if name in nodes:
            wanted.update(item.id for item in line(nodes, name))
            wanted.update(children.get(name, ()))
    drawn: set[str] = set()
    order = 0
    heap: list[tuple[int, int, int, str]] = [(0, 0, order, ROOT)]
    while heap and len(drawn) < limit:
        name = heapq.heappop(heap)[3]
        drawn.add(name)
        last = folds[name][-1] if name in folds else name
        for child in children.get(last, ()):
            order += 1
            heapq.heappush(heap, (0 if child in wanted else 1, -nodes[child].visits, order, child))
    return drawn


def _fold_node(nodes: Mapping[str, Seen], members: Sequence[str], best: bool) -> dict[str, Any]:
    first = nodes[members[0]]
    value = first.value
    return {
        "id": first.id,
        "parent": first.parent,
        "kind": "fold",
        "label": label(nodes[members[0]].text),
        "count": len(members),
        "visits": first.visits,
        "value": None if value is None else round(value, 3),
        "best": best,
        "waiting": first.waiting,
        "pruned": first.pruned,
    }


def _shown_parent(name: str | None, drawn: Collection[str], nodes: Mapping[str, Seen]) -> str | None:
    """The closest drawn node at or above `name`."""
    while name is not None and name not in drawn:
        name = nodes[name].parent
    return name


def _descendants(children: Mapping[str, list[str]], name: str) -> Iterator[str]:
    pending = list(children.get(name, ()))
    while pending:
        current = pending.pop()
        yield current
        pending.extend(children.get(current, ()))


def _below(children: Mapping[str, list[str]], name: str) -> int:
    return sum(1 for _ in _descendants(children, name))


# -- status ------------------------------------------------------------------------------------------------


def status(view: View, t: Translate, *, message: str = "") -> Element:
    """The status line: what goes on, how far it is, how fast, and how long it takes."""
    if view.error or message:
        kind = "error" if view.error else "waiting"
        return el("div", el("span", class_="dot"), el("span", view.error or message), class_=f"status is-{kind}")
    if view.started is None:
        return el("div", class_="status is-idle")
    ended = view.ended
    rollouts = view.budget.get("rollouts")
    facts = [t("rollouts_of", done=view.finished, all=rollouts) if rollouts else t("rollouts_done", done=view.finished)]
    parts = view.started.details.get("parts", 1)
    if parts > 1:
        facts.insert(0, t("part_of", n=view.started.details.get("part", 1), all=parts))
    facts.append(t("tokens_made", n=f"{view.generated:,}"))
    if view.pace is not None:
        facts.append(t("pace", n=f"{view.pace:.0f}" if view.pace >= 10 else f"{view.pace:.1f}"))
    facts.append(duration(view.seconds))
    if ended is None:
        left = time_left(view)
        if left is not None:
            facts.append(t("time_left", t=duration(left)))
        name = view.phase if view.phase in ("loading", "queued", "stopping") else "searching"
        head = t(f"phase_{name}")
    else:
        name = "error" if ended.stopped_by == "error" else "done"
        head = ended.message if ended.stopped_by == "error" and ended.message else t(f"ended_{ended.stopped_by}")
    share = _share(view)
    return el(
        "div",
        el(
            "div",
            el("span", class_="dot", aria_hidden="true"),
            el("strong", head),
            *(el("span", fact, class_="fact") for fact in facts),
            class_="status-line",
        ),
        el("progress", max="1", value=f"{share:.3f}", aria_label=t("progress")) if ended is None else None,
        *(el("p", warning, class_="warning") for warning in dict.fromkeys(view.warnings[-3:])),
        class_=f"status is-{name}",
    )


def time_left(view: View) -> float | None:
    """Seconds until the first limit is met, at the pace so far; None where nobody can tell."""
    guesses = []
    if view.seconds > 0:
        rollouts, tokens = view.budget.get("rollouts"), view.budget.get("tokens")
        if rollouts and view.finished:
            average = view.tree.generated / view.finished
            wanted = max(0.0, average * rollouts - view.generated)
            guesses.append(wanted / view.pace if view.pace else 0.0)
        if tokens and view.pace:
            guesses.append(max(0, tokens - view.generated) / view.pace)
    if view.budget.get("seconds"):
        guesses.append(max(0.0, view.budget["seconds"] - view.seconds))
    return min(guesses, default=None)


def _share(view: View) -> float:
    """How much of the budget is used, 0 to 1; a rollout under way counts by its length so far."""
    shares = [0.0]
    rollouts, tokens, seconds = (view.budget.get(name) for name in ("rollouts", "tokens", "seconds"))
    if rollouts:
        average = view.tree.generated / view.finished if view.finished else 300.0
        under_way = sum(min(0.9, writing.tokens / max(1.0, average)) for writing in view.writing.values())
        shares.append((view.finished + under_way) / rollouts)
    if tokens:
        shares.append(view.generated / tokens)
    if seconds:
        shares.append(view.seconds / seconds)
    return min(1.0, max(shares))


def duration(seconds: float) -> str:
    """`8 s`, `1:05`, `1:02:03`."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# -- the answer --------------------------------------------------------------------------------------------


def answer(view: View, t: Translate) -> Element:
    """The answer's card: the answer, how sure Marco is of it, the whole output, the vote."""
    choice = view.answer
    text = output_text(view)
    if choice is None or not (choice.answer or text):
        over = view.ended is not None or bool(view.error)
        return el(
            "div",
            el("p", t("answer_none" if over else "answer_pending"), class_="muted"),
            markdown(text) if text else None,
            class_="answer is-empty",
            aria_live="polite",
        )
    meters = [meter(t("margin"), choice.confidence, t("margin_hint"))]
    if choice.mean_token_confidence is not None:
        meters.append(meter(t("token_confidence"), choice.mean_token_confidence, t("token_confidence_hint")))
    short = choice.answer if choice.answer and len(choice.answer) <= 60 else None
    shown = markdown(f"${short}$" if short and "\\" in short and "$" not in short else short or "")
    repeats = short is not None and short.strip() == text
    return el(
        "div",
        el(
            "div",
            el(
                "div",
                el("span", t("answer_final" if view.ended else "answer_so_far"), class_="eyebrow"),
                el("div", shown, class_="big-answer") if short else None,
            ),
            el("div", *meters, class_="meters"),
            class_="answer-head",
        ),
        None
        if repeats
        else el(
            "div",
            el("div", markdown(text), class_="answer-text", tabindex="0"),
            el("button", t("copy"), type="button", class_="quiet", data_act="copy", data_of=".answer-text"),
            class_="answer-body",
        ),
        votes(view, t),
        class_="answer",
        aria_live="polite",
    )


def output_text(view: View) -> str:
    """The chosen output, or what little there is when the search ended before one was finished."""
    text = view.answer.text if view.answer is not None else view.ended.text if view.ended is not None else ""
    thought, output = split_output(text)
    return output or ("" if view.answer is not None else thought)


def meter(name: str, share: float, hint: str) -> Element:
    """A named bar with its figure."""
    percent = f"{100 * share:.0f}%"
    bar = el(
        "span", el("span", style={"--share": f"{min(1.0, max(0.0, share)):.3f}"}), class_="bar", aria_hidden="true"
    )
    return el(
        "div",
        el("span", name, class_="meter-name"),
        bar,
        el("span", percent, class_="figure"),
        class_="meter",
        title=hint,
    )


def votes(view: View, t: Translate) -> Element:
    """Who voted for what."""
    choice = view.answer
    if choice is None or not choice.votes:
        return el("div")
    total = sum(float(vote["weight"]) for vote in choice.votes) or 1.0
    rows = []
    for vote in choice.votes[:12]:
        share = float(vote["weight"]) / total
        count = vote["rollouts"]
        count = len(count) if isinstance(count, list | tuple) else count
        won = vote["answer"] == choice.answer
        rows.append(
            el(
                "tr",
                el("th", label(str(vote["answer"]), 80), scope="row"),
                el("td", str(count)),
                el("td", f"{float(vote['weight']):.2f}"),
                el("td", meter("", share, "")),
                class_="won" if won else None,
            )
        )
    head = el(
        "tr", *(el("th", t(key), scope="col") for key in ("vote_answer", "vote_rollouts", "vote_weight", "vote_share"))
    )
    more = len(choice.votes) - 12
    return el(
        "details",
        el("summary", t("votes_title")),
        el("table", el("thead", head), el("tbody", *rows), class_="votes"),
        el("p", t("votes_more", n=more), class_="muted") if more > 0 else None,
        open="open",
    )


# -- one node ----------------------------------------------------------------------------------------------


def node_details(view: View, node: str | None, t: Translate, *, steering: bool = False) -> Element:
    """The inspector: a node's text with its tokens shaded, its figures, the line of thought that leads there."""
    nodes = seen(view)
    if node is None or node not in nodes:
        return el("div", el("p", t("node_none"), class_="muted"), class_="node is-empty")
    item = nodes[node]
    confidences = view.confidences(item.rollout, item.start, item.end) if item.rollout is not None else ()
    known = [c for c in confidences if c is not None]
    figures = [
        ("visits", str(item.visits)),
        ("value", "–" if item.value is None else f"{item.value:.3f}"),
        ("confidence", f"{sum(known) / len(known):.3f}" if known else "–"),
        ("tokens", str(item.end - item.start if item.rollout is not None else len(view.tree[node].token_ids))),
    ]
    state = [t(f"kind_{item.kind}")]
    state += [t(word) for word in ("waiting", "pruned", "pinned", "forced") if getattr(item, word)]
    best = node in best_path(view, nodes)
    return el(
        "div",
        el(
            "div",
            el("span", " · ".join(state), class_="eyebrow"),
            el("span", t("on_best_path"), class_="badge") if best else None,
            class_="node-head",
        ),
        el("dl", *(el("div", el("dt", t(f"figure_{key}")), el("dd", text)) for key, text in figures), class_="figures"),
        _node_text(view, item, confidences, t, steering and not item.waiting),
        _steering(item, t) if steering and not item.waiting else None,
        el("button", t("copy"), type="button", class_="quiet", data_act="copy", data_of=".node-text"),
        el(
            "details",
            el("summary", t("path_title")),
            el(
                "div",
                *(el("p", _TAGS.sub("", step.text).strip(), class_=f"step {step.kind}") for step in line(nodes, node)),
                class_="steps",
            ),
        ),
        class_="node",
        data_node=node,
    )


def _node_text(view: View, item: Seen, confidences: Sequence[float | None], t: Translate, fork: bool) -> Element:
    if item.rollout is None:
        return el("div", item.text, class_="node-text", tabindex="0")
    made = view.tree.rollouts[item.rollout]
    tokens = []
    for at in range(item.start, item.end):
        first = made.offsets[at - 1] if at else 0
        last = len(made.text) if at + 1 == len(made.token_ids) else made.offsets[at]
        probability = alternatives(made, at)
        confidence = confidences[at - item.start]
        tokens.append([made.text[first:last], None if confidence is None else round(confidence, 3), probability])
    return el(
        "div",
        class_="node-text tokens",
        tokens=tokens,
        aria_label=t("tokens_label"),
        data_confidence=t("confidence_word"),
        data_fork="1" if fork else None,
        data_fork_hint=t("fork_hint"),
    )


def alternatives(made: RolloutFinished, at: int) -> list[list[Any]]:
    """[text, probability, token id, whether it was chosen] of the top five at one position."""
    from math import exp

    return [
        [made.top_texts.get(str(token), ""), round(exp(logprob), 4), token, token == made.token_ids[at]]
        for token, logprob in made.top[at]
    ]


def _steering(item: Seen, t: Translate) -> Element:
    actions = []
    if not item.terminal and not item.pruned:
        actions.append("expand")
    if item.parent is not None:
        actions.append("restore" if item.pruned else "prune")
    if not item.pruned:
        actions.append("unpin" if item.pinned else "pin")
        if item.parent is not None:
            actions += ["edit"] if item.kind not in ("reflection", "opening") else []
            actions += ["rethink"] if not item.terminal and item.kind == "thought" else []
    buttons = [
        el("button", t(f"steer_{name}"), type="button", title=t(f"steer_{name}_hint"), data_act=name)
        for name in actions
    ]
    return el("div", *buttons, class_="steering", role="group", aria_label=t("steering_label"))


# -- thoughts ----------------------------------------------------------------------------------------------


def thought_of(text: str) -> str:
    """The thinking of a rollout: what stands before the output; all of it where nothing is marked."""
    return split_output(text)[0] or text.strip()


def conversation(view: View, t: Translate, *, earlier: Sequence[Element] = ()) -> Element:
    """The question, each thought and each reflection (folded when done), the answer; earlier turns before."""
    turns: list[Element] = list(earlier)
    if view.started is not None:
        turns.append(el("div", markdown(view.started.question), class_="turn question"))
    for number in sorted({*view.tree.rollouts, *view.writing}):
        turns.append(_thought(view, number, t))
    if view.ended is not None and (text := output_text(view)):
        turns.append(el("div", markdown(text), class_="turn reply"))
    return el("div", *turns, class_="conversation")


def _thought(view: View, number: int, t: Translate) -> Element:
    made = view.tree.rollouts.get(number)
    node = made.node if made else view.writing[number].node
    reflecting = view.tree.nodes[node].kind == "reflection"
    if made is None:
        title = t("writing_reflection" if reflecting else "writing", n=number)
        words = _TAGS.sub("", thought_of(view.writing[number].text))
        body = el("div", words or "…", class_="prose plain")
    else:
        title = _title(view, made, reflecting, t)
        body = markdown(_TAGS.sub("", thought_of(made.text)))
    return el(
        "details",
        el("summary", el("span", class_="dot", aria_hidden="true"), el("span", title)),
        el("p", el("em", view.tree.nodes[node].text.strip()), class_="sentence") if reflecting else None,
        body,
        class_=f"thought {'is-done' if made else 'is-writing'}{' is-reflection' if reflecting else ''}",
        open=None if made else "open",
        data_key=f"{number}{'' if made else '+'}",
    )


def _title(view: View, made: RolloutFinished, reflecting: bool, t: Translate) -> str:
    number = made.rollout
    parts = [t("reflected" if reflecting else "thought", n=number)]
    judged = view.judged.get(number)
    if judged is not None:
        key = "reflection_changed" if judged.changed else "reflection_same"
        parts.append(t(key, before=label(judged.before or "–", 24), after=label(judged.after or "–", 24)))
    elif made.answer:
        parts.append(f"→ {label(made.answer, 32)}")
    parts.append(t("value_short", v=f"{view.tree.values[number]:.2f}"))
    parts.append(t("tokens_made", n=len(made.token_ids)))
    parts.append(duration(made.seconds))
    if made.degenerate:
        parts.append(t(f"degenerate_{made.degenerate.replace(' ', '_')}"))
    return " · ".join(parts)
