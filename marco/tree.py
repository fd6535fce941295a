"""The tree of a search: a fold over its events.

Nodes refer to each other by id, never by reference, so trees of any depth copy, pickle and serialise. What a
rollout wrote beyond its first segment stays a *tail* of the node it reached; a segment of a tail becomes
a node only when the search gets there (`NodeAdded`). Every generated token is thus in the tree or in a
tail, once.

Ids say where a node comes from, and so don't depend on the order in which nodes come to be: `root`; `3.1` is
segment 1 of rollout 3 (the first rollout that wrote those tokens there); `3r` a reflection on rollout 3;
`e2` what the second intervention of a person put in; `o1` the first opening, another conversation in which a line
of thought may begin.

    tree = Tree()
    for event in events:
        tree.apply(event)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from marco.errors import SearchError
from marco.events import (
    Event,
    NodeAdded,
    RolloutFinished,
    SearchStarted,
    Steered,
    ValuesChanged,
    WorkCancelled,
    WorkFailed,
    WorkIssued,
)

if TYPE_CHECKING:
    import networkx

ROOT = "root"

Kind = Literal["root", "opening", "thought", "reflection", "answer"]


@dataclass(slots=True)
class Tail:
    """Rollouts that go on from one node with the same tokens: a child in waiting."""

    members: list[tuple[int, int]]
    """(rollout, index of its next segment). All these segments have the same ids; lowest rollout first."""


@dataclass(slots=True)
class Node:
    """A state of reasoning: the tokens from the root to here."""

    id: str
    parent: str | None
    kind: Kind
    depth: int
    """Edges from the root."""
    token_ids: tuple[int, ...]
    """Its own tokens, the parent's not included; of an opening, a whole prompt, which takes the place of the root's."""
    text: str
    """Of its own tokens; of an opening, its name. A character split between two nodes shows in the later one."""
    confidences: tuple[float | None, ...] = ()
    """c_i of each own token (`marco.reward.token_confidence`), 0 to 1; None where unknown or forced."""
    rollout: int | None = None
    """The rollout that wrote it first; None for the root and for forced tokens."""
    start: int = 0
    """Its tokens are `token_ids[start:end]` of that rollout."""
    end: int = 0
    terminal: bool = False
    """A rollout ends here."""
    forced: bool = False
    """Put in by the search or a person, not sampled."""
    origin: int | None = None
    """For a reflection: the rollout that is reflected on."""
    reflections: int = 0
    """Reflections on the path from the root to here, itself included."""
    children: list[str] = field(default_factory=list)
    aside: int = 0
    """How many of its children stand outside the branching: reflections and openings."""
    tails: list[Tail] = field(default_factory=list)
    visits: int = 0
    """N: rollouts through this node."""
    value_sum: float = 0.0
    """W: the sum of their v."""
    pending: int = 0
    """Rollouts under way through this node."""
    issued: int = 0
    """Rollouts under way that start at this very node."""
    pruned: bool = False
    pinned: bool = False

    @property
    def value(self) -> float | None:
        """W / N; None for a node that no finished rollout visited."""
        return self.value_sum / self.visits if self.visits else None

    @property
    def confidence(self) -> float | None:
        """Mean c_i of its own tokens."""
        known = [c for c in self.confidences if c is not None]
        return sum(known) / len(known) if known else None


class Tree:
    """Nodes by id, rollouts by number, work under way; changed by `apply` alone."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.rollouts: dict[int, RolloutFinished] = {}
        """Committed rollouts, in the order of their commit."""
        self.values: dict[int, float] = {}
        """v of each rollout, as last computed."""
        self.leaves: dict[int, str] = {}
        """The deepest node that each rollout has reached so far (its tail, if any, hangs there)."""
        self.work: dict[int, WorkIssued] = {}
        """Work under way."""
        self.begun: set[str] = set()
        """The conversations, the root's and the openings', in which something was asked for."""
        self.generated = 0
        """Sampled positions, failures and cancelled work included."""

    # -- reading ---------------------------------------------------------------------------------------

    @property
    def root(self) -> Node:
        try:
            return self.nodes[ROOT]
        except KeyError:
            raise SearchError("The search has not started: there is no root yet.") from None

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, node: str) -> Node:
        return self.nodes[node]

    def __contains__(self, node: object) -> bool:
        return node in self.nodes

    def path(self, node: str) -> list[Node]:
        """From the root to `node`, both included."""
        found = []
        current: str | None = node
        while current is not None:
            found.append(self.nodes[current])
            current = found[-1].parent
        found.reverse()
        return found

    def opens(self, node: str) -> bool:
        """Whether what is asked for at this node next is the first of a conversation."""
        return self[node].kind in ("root", "opening") and node not in self.begun

    def path_ids(self, node: str) -> tuple[int, ...]:
        """The token ids that the model sees at `node`, the prompt included."""
        path = self.path(node)
        seen = path[1:] if len(path) > 1 and path[1].kind == "opening" else path
        return tuple(token for step in seen for token in step.token_ids)

    def path_text(self, node: str) -> str:
        """What was thought from the question to `node`, the prompt left out."""
        return "".join(step.text for step in self.path(node) if step.kind not in ("root", "opening"))

    def rollout_text(self, rollout: int) -> str:
        """The whole text behind the prompt: the path that the rollout started from, and what it wrote."""
        finished = self.rollouts[rollout]
        return self.path_text(finished.node) + finished.text

    def segment(self, rollout: int, index: int) -> tuple[int, int]:
        """(start, end) of a segment, as token indices of its rollout."""
        segments = self.rollouts[rollout].segments
        return (segments[index - 1][0] if index else 0), segments[index][0]

    def segment_ids(self, rollout: int, index: int) -> tuple[int, ...]:
        start, end = self.segment(rollout, index)
        return self.rollouts[rollout].token_ids[start:end]

    def tail_value(self, tail: Tail) -> float:
        """W of a child in waiting."""
        return sum(self.values[rollout] for rollout, _ in tail.members)

    def best_path(self) -> list[str]:
        """From the root, always the child with the most visits (then the highest value, then the first)."""
        path = [ROOT]
        while True:
            alive = [self.nodes[child] for child in self.nodes[path[-1]].children]
            alive = [child for child in alive if child.visits and not child.pruned]
            if not alive:
                return path
            path.append(max(alive, key=lambda child: (child.visits, child.value or 0.0)).id)

    # -- folding ---------------------------------------------------------------------------------------

    def apply(self, event: Event) -> None:
        """Fold one event in. Events that say nothing about the tree are ignored."""
        match event:
            case SearchStarted():
                self.nodes[ROOT] = Node(
                    id=ROOT, parent=None, kind="root", depth=0, token_ids=event.prompt_ids, text=event.question
                )
            case WorkIssued():
                if event.work not in self.work and event.work not in self.rollouts:
                    self.work[event.work] = event
                    self.nodes[event.node].issued += 1
                    if self.opens(event.node):
                        self.begun.add(event.node)
                    self._add_pending(event.node, 1)
            case RolloutFinished():
                self._settle(event.rollout)
                self._commit(event)
            case WorkFailed():
                self._settle(event.work)
                self.generated += event.generated
            case WorkCancelled():
                self._settle(event.work)
                self.generated += event.generated
            case NodeAdded():
                if event.node not in self.nodes:
                    self._add(event)
            case ValuesChanged():
                self._revalue({int(rollout): value for rollout, value in event.values.items()})
            case Steered():
                self._steer(event)
            case _:
                pass

    def _settle(self, work: int) -> None:
        issued = self.work.pop(work, None)
        if issued is not None:
            self.nodes[issued.node].issued -= 1
            self._add_pending(issued.node, -1)

    def _add_pending(self, node: str, change: int) -> None:
        current: str | None = node
        while current is not None:
            step = self.nodes[current]
            step.pending += change
            current = step.parent

    def _commit(self, event: RolloutFinished) -> None:
        number = event.rollout
        if number in self.rollouts:
            return
        self.rollouts[number] = event
        self.values[number] = event.value
        self.generated += len(event.token_ids)
        node = self.nodes[event.node]
        index = 0
        while index < len(event.segments):
            ids = self.segment_ids(number, index)
            child = self._child_with(node, ids)
            if child is None:
                tail = self._tail_with(node, ids)
                if tail is not None:
                    tail.members.append((number, index))
                    break
                if index:
                    node.tails.append(Tail([(number, index)]))
                    break
                child = self._grow(node, number, index)
            node = child
            index += 1
        # A rollout that repeats another to its last token ends where that one does.
        if index == len(event.segments) and event.segments:
            node.terminal = True
        self.leaves[number] = node.id
        self._back_up(node.id, 1, event.value)

    def _child_with(self, node: Node, ids: tuple[int, ...]) -> Node | None:
        for name in node.children:
            child = self.nodes[name]
            if child.token_ids == ids and not child.forced:
                return child
        return None

    def _tail_with(self, node: Node, ids: tuple[int, ...]) -> Tail | None:
        for tail in node.tails:
            if self.segment_ids(*tail.members[0]) == ids:
                return tail
        return None

    def _grow(self, parent: Node, rollout: int, index: int) -> Node:
        from marco.reward import token_confidences

        finished = self.rollouts[rollout]
        start, end = self.segment(rollout, index)
        first = finished.offsets[start - 1] if start else 0
        last = finished.offsets[end - 1] if end else 0
        if end == len(finished.token_ids):
            last = len(finished.text)
        node = Node(
            id=f"{rollout}.{index}",
            parent=parent.id,
            kind="answer" if finished.segments[index][1] == "answer" else "thought",
            depth=parent.depth + 1,
            token_ids=finished.token_ids[start:end],
            text=finished.text[first:last],
            confidences=token_confidences(finished.logprobs[start:end], finished.top[start:end]),
            rollout=rollout,
            start=start,
            end=end,
            terminal=index == len(finished.segments) - 1,
            reflections=parent.reflections,
        )
        self.nodes[node.id] = node
        parent.children.append(node.id)
        return node

    def _add(self, event: NodeAdded) -> None:
        parent = self.nodes[event.parent]
        if event.rollout is None or event.segment is None:
            kind: Kind = "thought"
            if event.kind in ("reflection", "opening"):
                kind = event.kind  # type: ignore[assignment]
            self.nodes[event.node] = Node(
                id=event.node,
                parent=parent.id,
                kind=kind,
                depth=parent.depth + 1,
                token_ids=event.token_ids,
                text=event.text,
                confidences=(None,) * len(event.token_ids),
                forced=True,
                origin=event.origin,
                reflections=parent.reflections + (kind == "reflection"),
            )
            parent.children.append(event.node)
            parent.aside += kind != "thought"
            return
        tail = self._tail_with(parent, self.segment_ids(event.rollout, event.segment))
        if tail is None:
            raise SearchError(f"Node {event.node} can't be added: rollout {event.rollout} has no tail at {parent.id}.")
        self._materialise(parent, tail)

    def _materialise(self, parent: Node, tail: Tail) -> Node:
        """Turn a tail's next segment into a child; what follows becomes the child's tails."""
        parent.tails.remove(tail)
        node = self._grow(parent, *tail.members[0])
        node.terminal = False
        for rollout, index in tail.members:
            node.visits += 1
            node.value_sum += self.values[rollout]
            self.leaves[rollout] = node.id
            if index + 1 == len(self.rollouts[rollout].segments):
                node.terminal = True
                continue
            next_tail = self._tail_with(node, self.segment_ids(rollout, index + 1))
            if next_tail is None:
                node.tails.append(Tail([(rollout, index + 1)]))
            else:
                next_tail.members.append((rollout, index + 1))
        return node

    def _back_up(self, leaf: str, visits: int, value: float) -> None:
        current: str | None = leaf
        while current is not None:
            step = self.nodes[current]
            step.visits += visits
            step.value_sum += value
            current = step.parent

    def _revalue(self, values: Mapping[int, float]) -> None:
        for rollout, value in values.items():
            change = value - self.values[rollout]
            self.values[rollout] = value
            self._back_up(self.leaves[rollout], 0, change)

    def _steer(self, event: Steered) -> None:
        if event.node is None or event.node not in self.nodes:
            return
        node = self.nodes[event.node]
        if event.action in ("prune", "restore"):
            node.pruned = event.action == "prune"
        elif event.action in ("pin", "unpin"):
            node.pinned = event.action == "pin"

    # -- the whole, for others -------------------------------------------------------------------------

    @classmethod
    def fold(cls, events: Iterable[Event]) -> Tree:
        tree = cls()
        for event in events:
            tree.apply(event)
        return tree

    def walk(self) -> Iterator[Node]:
        """Every node, parents before children, without recursion."""
        stack = [ROOT] if ROOT in self.nodes else []
        while stack:
            node = self.nodes[stack.pop()]
            yield node
            stack.extend(reversed(node.children))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready snapshot: nodes, and the rollouts that they are made of."""
        from marco.events import to_dict

        return {
            "nodes": [dataclasses.asdict(node) for node in self.nodes.values()],
            "rollouts": [to_dict(rollout) for rollout in self.rollouts.values()],
            "values": {str(rollout): value for rollout, value in self.values.items()},
            "leaves": {str(rollout): leaf for rollout, leaf in self.leaves.items()},
            "work": [to_dict(item) for item in self.work.values()],
            "begun": sorted(self.begun),
            "generated": self.generated,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tree:
        """The inverse of `to_dict` (after JSON, too)."""
        from marco.events import from_dict

        tree = cls()
        for item in data["nodes"]:
            values = dict(item)
            values["token_ids"] = tuple(values["token_ids"])
            values["confidences"] = tuple(values["confidences"])
            values["children"] = list(values["children"])
            values["tails"] = [Tail([(int(r), int(i)) for r, i in tail["members"]]) for tail in values["tails"]]
            tree.nodes[values["id"]] = Node(**values)
        for item in data["rollouts"]:
            rollout = from_dict(item)
            assert isinstance(rollout, RolloutFinished)
            tree.rollouts[rollout.rollout] = rollout
        tree.values = {int(rollout): value for rollout, value in data["values"].items()}
        tree.leaves = {int(rollout): leaf for rollout, leaf in data["leaves"].items()}
        for item in data["work"]:
            issued = from_dict(item)
            assert isinstance(issued, WorkIssued)
            tree.work[issued.work] = issued
        tree.begun = set(data["begun"])
        tree.generated = data["generated"]
        return tree

    def to_networkx(self) -> networkx.DiGraph[str]:
        """A directed graph, parent to child, with attributes that every graph format can hold."""
        import networkx

        graph: networkx.DiGraph[str] = networkx.DiGraph()
        for node in self.walk():
            graph.add_node(
                node.id,
                kind=node.kind,
                text=node.text,
                depth=node.depth,
                tokens=len(node.token_ids),
                visits=node.visits,
                value=-1.0 if node.value is None else node.value,
                confidence=-1.0 if node.confidence is None else node.confidence,
                terminal=node.terminal,
            )
            if node.parent is not None:
                graph.add_edge(node.parent, node.id)
        return graph
