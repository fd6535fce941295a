"""Monte Carlo tree search over lines of thought: select, expand, backpropagate.

Knows no engine, no prompt and no clock. Whoever drives it asks for work and tells results:

    search = Search(config, budget, started, reward=reward, emit=events.append)
    while items := search.ask(4):
        for item in items:
            search.tell(item.work, ...)       # in any order; a RolloutFinished or a WorkFailed

Work item i is chosen at a fixed point: when i - `parallel` results are in. Results enter the tree in the order
of their work ids; early ones wait. The tree is thus a function of the options, the seed and what the model
writes, whatever the order in which results arrive, and a search is resumed by running it again on the
results that are on record.

Source of the method: arXiv 2411.14405, section 3; UCT is Kocsis and Szepesvari 2006, PUCT as in AlphaGo Zero,
progressive widening Coulom 2007. The open points are settled in DESIGN order: see `Search.ask` and `_select`.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from marco.config import BudgetConfig, SearchConfig
from marco.errors import SearchError, UnknownWork
from marco.events import (
    Event,
    NodeAdded,
    ReflectionJudged,
    RolloutFinished,
    SearchStarted,
    Steered,
    ValuesChanged,
    WorkFailed,
    WorkIssued,
)
from marco.reflection import Reflection
from marco.reward import Reward
from marco.tree import ROOT, Node, Tail, Tree

FAILURES_IN_A_ROW = 8
"""After so many failures and no success between them the search gives up."""


INTERVENTIONS = ("expand", "prune", "restore", "pin", "unpin", "edit", "fork", "rethink", "budget")
"""What a person may do to a tree (`Search.steer`)."""


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One rollout to be written: continue `node`'s path to the end token."""

    work: int
    """1 for the first."""
    node: str
    seed: int
    """Derived from the run's seed and the work id. Range 0 to 2**31 - 1."""
    origin: int | None = None
    first: bool = False
    """Whether it is the first of its conversation: of the root's, or of an opening's."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Another conversation that a search may begin in."""

    name: str
    token_ids: tuple[int, ...]
    tries: int = 1
    """How often it is tried in each of the first turns."""


def derive_seed(seed: int, work: int) -> int:
    """The seed of a work item: a function of the run's seed and the id alone, so that order can't matter.

    Items in a row have seeds in a row, as servers give them to the siblings of one call: whether siblings went out
    together or one by one, each is drawn from its own seed.
    """
    digest = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + work) % 2**31


def uct(q: float, visits: int, log_parent_visits: float, c: float) -> float:
    """q + c sqrt(ln N_parent / N). q in 0..1; `visits` > 0; both counts include pending visits."""
    return q + c * math.sqrt(log_parent_visits / visits)


def puct(q: float, visits: int, parent_visits: int, c: float, prior: float) -> float:
    """q + c P sqrt(N_parent) / (1 + N), P the share of the siblings' mean confidence that is this child's."""
    return q + c * prior * math.sqrt(parent_visits) / (1 + visits)


class Search:
    """One search. `tree` is the fold of the events that were emitted; nothing else is state worth keeping."""

    def __init__(
        self,
        config: SearchConfig,
        budget: BudgetConfig,
        started: SearchStarted,
        *,
        reward: Reward,
        reflection: Reflection | None = None,
        openings: Sequence[Prompt] = (),
        emit: Callable[[Event], None] = lambda event: None,
        after_commit: Callable[[Search], str | None] = lambda search: None,
    ) -> None:
        """`openings` are other prompts: each is a child of the root that stands outside its branching. First all of
        them and the root are tried in turns, in `branching` turns. A search without a tree has none.
        `after_commit` is called when a result is in; what it returns, if anything, ends the search with
        that reason (`sure`)."""
        self.config = config
        self.budget = budget
        self.reward = reward
        self.reflection = reflection
        self.tree = Tree()
        self.stopped_by: str | None = None
        self.commits = 0
        """Results in the tree, failures included."""
        self._sink = emit
        self._after_commit = after_commit
        self._issued = 0
        self._ready: deque[WorkItem] = deque()
        self._outstanding: dict[int, WorkItem] = {}
        self._early: dict[int, RolloutFinished | WorkFailed] = {}
        self._urgent: deque[tuple[str, int | None]] = deque()
        self._full: set[str] = set()
        self._lowest = math.inf
        self._highest = -math.inf
        self._failures = 0
        self._interventions = 0
        # Independent rollouts are a tree that never grows beyond the root's children.
        self._flat = config.strategy != "mcts"
        self._emit(started)
        if openings and not self._flat:
            turn = []
            for number, opening in enumerate(openings, start=1):
                self._add_forced(f"o{number}", self.tree.root, "opening", opening.token_ids, opening.name)
                turn += [f"o{number}"] * opening.tries
            self._urgent.extend([(name, None) for name in (*turn, ROOT)] * config.branching)
        self._fill()

    # -- ask and tell ------------------------------------------------------------------------------------

    def ask(self, k: int) -> list[WorkItem]:
        """At most `k` items to work on, and never more than there is room for. Empty when none is ready."""
        return [self._ready.popleft() for _ in range(min(k, len(self._ready)))]

    def tell(self, work: int, result: RolloutFinished | WorkFailed) -> None:
        """Commit a result, or keep it until its turn comes. A second result for the same item is ignored.

        Raises `UnknownWork` for an item that was never handed out.
        """
        if work <= 0 or work > self._issued:
            raise UnknownWork(work)
        if self.stopped_by is not None or work not in self._outstanding or work in self._early:
            return
        if any(item.work == work for item in self._ready):
            raise UnknownWork(work)
        self._early[work] = result
        while self.stopped_by is None and self._outstanding:
            turn = next(iter(self._outstanding))
            if turn not in self._early:
                break
            del self._outstanding[turn]
            self._commit(turn, self._early.pop(turn))

    @property
    def outstanding(self) -> int:
        """Items chosen and not yet in the tree."""
        return len(self._outstanding)

    @property
    def finished(self) -> bool:
        """No work is left or under way, or the search was stopped. `stopped_by` says why."""
        return self.stopped_by is not None

    def stop(self, reason: str) -> None:
        """End now: no more work is handed out and no result is taken. The first reason stays."""
        if self.stopped_by is None:
            self.stopped_by = reason
            self._ready.clear()

    def abandoned(self) -> list[tuple[WorkItem, RolloutFinished | WorkFailed | None]]:
        """After a stop: the items that never entered the tree, with the result of those that came early."""
        return [(item, self._early.get(item.work)) for item in self._outstanding.values()]

    # -- results -----------------------------------------------------------------------------------------

    def _commit(self, work: int, result: RolloutFinished | WorkFailed) -> None:
        self.commits += 1
        if isinstance(result, WorkFailed):
            self._emit(result)
            self._refresh(result.node)
            self._failures += 1
            if self._failures >= FAILURES_IN_A_ROW:
                self.stop("error")
        else:
            self._failures = 0
            self._emit(replace(result, value=0.0 if self.reward.relative else self.reward.one(result)))
            if self.reward.relative:
                self._revalue(work)
            self._note_range(self.tree.values[work])
            self._refresh(self.tree.leaves[work])
            self._refresh(result.node)
            self._judge(work)
            self._reflect(work)
        reason = self._after_commit(self)
        if reason is not None:
            self.stop(reason)
        self._fill()

    def _revalue(self, work: int) -> None:
        """Relative rewards: every rollout's value may have moved."""
        values = self.tree.values
        fresh = self.reward.all(list(self.tree.rollouts.values()))
        changed = {str(r): v for r, v in zip(self.tree.rollouts, fresh, strict=True) if v != values[r]}
        if changed:
            self._emit(ValuesChanged(after=work, values=changed))
        self._lowest, self._highest = min(values.values()), max(values.values())

    def _note_range(self, value: float) -> None:
        self._lowest, self._highest = min(self._lowest, value), max(self._highest, value)

    def _judge(self, work: int) -> None:
        rollout = self.tree.rollouts[work]
        origin = self.tree.nodes[rollout.node].origin
        if origin is None or origin not in self.tree.rollouts:
            return
        before = self.tree.rollouts[origin]
        changed = before.key != rollout.key
        self._emit(
            ReflectionJudged(rollout=work, origin=origin, before=before.answer, after=rollout.answer, changed=changed)
        )

    def _reflect(self, work: int) -> None:
        """Put the sentence at the end of the thought; its continuation is the next work item."""
        rollout = self.tree.rollouts[work]
        if self.reflection is None or rollout.thought_segments is None:
            return
        if not rollout.thought_segments and self.tree.nodes[rollout.node].kind in ("root", "opening"):
            return  # an answer without a thought: there is nothing to rethink
        if not self.reflection.wanted(rollout, self.tree.nodes[rollout.node].reflections):
            return
        node = self.reach(work, rollout.thought_segments)
        if any(self.tree.nodes[child].kind == "reflection" for child in node.children):
            return
        name = f"{work}r"
        self._add_forced(name, node, "reflection", self.reflection.token_ids, self.reflection.text, origin=work)
        self._urgent.append((name, work))

    def reach(self, rollout: int, segments: int) -> Node:
        """The node behind the first `segments` segments of a rollout, made from its tail where need be."""
        wanted = self.tree.nodes[self.tree.rollouts[rollout].node].depth + segments
        node = self.tree.nodes[self.tree.leaves[rollout]]
        while node.depth < wanted:
            tail = next(t for t in node.tails if any(member == rollout for member, _ in t.members))
            node = self._materialise(node, tail)
        while node.depth > wanted:
            assert node.parent is not None
            node = self.tree.nodes[node.parent]
        return node

    def _add_forced(
        self, name: str, parent: Node, kind: str, ids: tuple[int, ...], text: str, origin: int | None = None
    ) -> None:
        self._emit(NodeAdded(node=name, parent=parent.id, kind=kind, token_ids=ids, text=text, origin=origin))
        self._refresh(name)
        self._refresh(parent.id)

    def _materialise(self, parent: Node, tail: Tail) -> Node:
        rollout, index = tail.members[0]
        name = f"{rollout}.{index}"
        kind = self.tree.rollouts[rollout].segments[index][1]
        self._emit(NodeAdded(node=name, parent=parent.id, kind=kind, rollout=rollout, segment=index))
        self._refresh(name)
        return self.tree.nodes[name]

    # -- choosing work -----------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Choose work until `parallel` items are under way, the budget is spent, or there is no room."""
        spent = self._spent()
        while self.stopped_by is None and spent is None and len(self._outstanding) < self.config.parallel:
            if self._urgent:
                node, origin = self._urgent.popleft()
                if self.tree.nodes[node].pruned:
                    continue
            else:
                selected = self._select()
                if selected is None:
                    break
                node, origin = selected.id, None
            self._issued += 1
            first = self.tree.opens(node)
            item = WorkItem(self._issued, node, derive_seed(self.config.seed, self._issued), origin, first)
            self._outstanding[item.work] = item
            self._ready.append(item)
            self._emit(WorkIssued(work=item.work, node=node, seed=item.seed, origin=origin))
            self._refresh(node)
            spent = self._spent()
        if not self._outstanding:
            self.stop(spent or "done")

    def _spent(self) -> str | None:
        if self.budget.rollouts is not None and self._issued >= self.budget.rollouts:
            return "rollouts"
        if self.budget.tokens is not None and self.tree.generated >= self.budget.tokens:
            return "tokens"
        return None

    def _select(self) -> Node | None:
        """From the root, or from what a person pinned, down to the first open node."""
        node = self._start()
        if node is None:
            return None
        while not self._is_open(node):
            chosen = self._best_child(node)
            if chosen is None:
                return None
            node = self._materialise(node, chosen) if isinstance(chosen, Tail) else chosen
        return node

    def _start(self) -> Node | None:
        pinned = [node for node in self.tree.nodes.values() if node.pinned] if self._interventions else []
        starts = [node for node in pinned if node.id not in self._full] or [self.tree.root]
        node = min(starts, key=lambda node: (node.visits + node.pending, node.depth))
        return None if node.id in self._full else node

    def _best_child(self, node: Node) -> Node | Tail | None:
        """The child, or child in waiting, with the highest score and room below it; the first among equals."""
        nodes, full = self.tree.nodes, self._full
        score = self._score(node)
        best: Node | Tail | None = None
        best_score = -math.inf
        for name in node.children:
            if name in full:
                continue
            child = nodes[name]
            if not child.visits + child.pending:
                return child
            found = score(name, child.value_sum, child.visits, child.pending)
            if found > best_score:
                best, best_score = child, found
        for tail in node.tails:
            if self._tail_has_room(tail, node.depth + 1):
                found = score(_tail_name(tail), self.tree.tail_value(tail), len(tail.members), 0)
                if found > best_score:
                    best, best_score = tail, found
        return best

    def _score(self, parent: Node) -> Callable[[str, float, int, int], float]:
        """The selection rule below `parent`: (name, W, N, pending) of a child to its score.

        q is W/N after min-max normalisation over the v of all finished rollouts, 0.5 where all are equal; a
        pending visit counts as one of q = 0.
        """
        c = self.config.exploration
        low = self._lowest
        spread = self._highest - low
        parent_visits = max(1, parent.visits + parent.pending)
        log_parent = math.log(parent_visits)
        priors = self._priors(parent) if self.config.rule == "puct" else None

        # One function, and no call in it that it can do without: it runs for every child on every path.
        def score(name: str, value_sum: float, visits: int, pending: int) -> float:
            count = visits + pending
            q = (value_sum - visits * low) / spread / count if spread > 0 else 0.5 * visits / count
            if priors is None:
                return uct(q, count, log_parent, c)
            return puct(q, count, parent_visits, c, priors[name])

        return score

    def _priors(self, node: Node) -> dict[str, float]:
        from marco.reward import mean, token_confidences

        raw: dict[str, float] = {}
        for name in node.children:
            raw[name] = self.tree.nodes[name].confidence or 0.5
        for tail in node.tails:
            rollout, index = tail.members[0]
            start, end = self.tree.segment(rollout, index)
            finished = self.tree.rollouts[rollout]
            known = mean(token_confidences(finished.logprobs[start:end], finished.top[start:end]))
            raw[_tail_name(tail)] = known or 0.5
        total = sum(raw.values()) or 1.0
        return {name: value / total for name, value in raw.items()}

    # -- room --------------------------------------------------------------------------------------------

    def _limit(self, visits: int) -> float:
        if self._flat:
            return math.inf
        if self.config.widening:
            return float(math.ceil(self.config.branching * max(1, visits) ** self.config.widening))
        return self.config.branching

    def _is_open(self, node: Node) -> bool:
        """Whether a rollout may start here: fewer than `branching` children, those under way included."""
        if node.pruned or node.terminal or node.depth >= self.config.depth:
            return False
        if self._flat:
            return node.id == ROOT
        children = len(node.children) - node.aside + len(node.tails) + node.issued
        return children < self._limit(node.visits)

    def _has_room(self, node: Node) -> bool:
        if node.pruned:
            return False
        if self._is_open(node):
            return True
        if self._flat:
            return False
        for name in node.children:
            if name not in self._full:
                return True
        return any(self._tail_has_room(tail, node.depth + 1) for tail in node.tails)

    def _tail_has_room(self, tail: Tail, depth: int) -> bool:
        """Whether a rollout may start at the child in waiting, or below it. `depth` is that child's."""
        pending = [(tail.members, depth)]
        while pending:
            members, level = pending.pop()
            if level >= self.config.depth:
                continue
            groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
            ends_here = False
            for rollout, index in members:
                if index + 1 == len(self.tree.rollouts[rollout].segments):
                    ends_here = True
                else:
                    ids = self.tree.segment_ids(rollout, index + 1)
                    groups.setdefault(ids, []).append((rollout, index + 1))
            if not ends_here and len(groups) < self._limit(len(members)):
                return True
            pending.extend((group, level + 1) for group in groups.values())
        return False

    def _refresh(self, node: str) -> None:
        """Bring `_full` up to date, from `node` upwards for as long as something changes.

        Whether a node has room depends on its own counts and on whether its children have; only under
        widening do the visits above matter too.
        """
        current: str | None = node
        while current is not None:
            step = self.tree.nodes[current]
            had_room = current not in self._full
            has_room = self._has_room(step)
            if has_room and not had_room:
                self._full.discard(current)
            elif had_room and not has_room:
                self._full.add(current)
            elif not self.config.widening:
                return
            current = step.parent

    def _emit(self, event: Event) -> None:
        self.tree.apply(event)
        self._sink(event)

    # -- taking part -------------------------------------------------------------------------------------

    def steer(self, action: str, node: str | None = None, **data: Any) -> None:
        """A person's intervention, recorded as an event.

        `expand` starts a rollout at the node next; `prune`/`restore` closes or reopens a subtree; `pin`/`unpin`
        makes the search start there; `edit` puts a sibling with `token_ids` and `text` beside the node and goes
        on from it; `fork` does the same with the node's first `index` tokens and another token;
        `rethink` reflects at the node; `budget` replaces `rollouts`, `tokens`, `seconds`.
        Raises `SearchError` for an unknown node or action.
        """
        if action != "budget" and (node is None or node not in self.tree):
            raise SearchError(f"There is no node {node!r} in this tree.")
        self._check_intervention(action, node)
        self._interventions += 1
        number = self._interventions
        self._emit(Steered(number=number, after=self.commits, action=action, node=node, data=data))
        if action == "budget":
            self.budget = BudgetConfig(
                rollouts=data.get("rollouts"), tokens=data.get("tokens"), seconds=data.get("seconds")
            )
        else:
            assert node is not None
            self._steer_node(action, self.tree.nodes[node], f"e{number}", data)
        if self.stopped_by in ("done", "rollouts", "tokens", "sure"):
            self.stopped_by = None
        self._fill()

    def _steer_node(self, action: str, node: Node, name: str, data: dict[str, Any]) -> None:
        match action:
            case "expand":
                self._urgent.append((node.id, None))
            case "prune" | "restore" | "pin" | "unpin":
                self._refresh(node.id)
            case "edit" | "fork":
                assert node.parent is not None
                ids = tuple(data["token_ids"])
                self._add_forced(name, self.tree.nodes[node.parent], "thought", ids, str(data["text"]))
                self._urgent.append((name, None))
            case "rethink":
                assert self.reflection is not None
                ids, text = self.reflection.token_ids, self.reflection.text
                self._add_forced(name, node, "reflection", ids, text, origin=data.get("origin"))
                self._urgent.append((name, data.get("origin")))

    def _check_intervention(self, action: str, node: str | None) -> None:
        if action not in INTERVENTIONS:
            raise SearchError(f"There is no intervention {action!r}: there are {', '.join(INTERVENTIONS)}.")
        if node is None:
            return
        if action in ("expand", "rethink") and self.tree[node].terminal:
            raise SearchError("This line of thought has ended: choose a node before its end.")
        if action in ("edit", "fork") and self.tree[node].kind in ("root", "opening"):
            raise SearchError("The question itself can't be edited here: ask it anew.")
        if action == "rethink" and self.reflection is None:
            raise SearchError("This search has no sentence to reflect with.")


def _tail_name(tail: Tail) -> str:
    rollout, index = tail.members[0]
    return f"{rollout}.{index}"
