"""`marco bench tree`: what the search itself costs, without any model.

Grows a tree of 10,000 nodes at depth up to 20, then times one selection and one commit (expansion and
backpropagation) at a time. No engine: what is written is made up.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from typing import Any

from marco.config import BudgetConfig, SearchConfig
from marco.engines.base import TopTokens
from marco.events import RolloutFinished, SearchStarted
from marco.reward import BY_NAME
from marco.search import Search, WorkItem

SEGMENTS = 4


def bench_tree(nodes: int = 10_000, depth: int = 20, rounds: int = 2_000, seed: int = 0) -> dict[str, Any]:
    """Processor time, in microseconds, of select + backpropagate on a tree of `nodes` nodes: median and p95."""
    draw = random.Random(seed)
    search = Search(
        SearchConfig(branching=2, exploration=0.4, depth=depth, parallel=1, seed=seed),
        BudgetConfig(rollouts=100_000),
        SearchStarted(question="?", prompt_ids=tuple(range(32))),
        reward=BY_NAME["mean"],
    )
    while len(search.tree) < nodes and not search.finished:
        _answer(search, _next(search), draw)
    times: list[float] = []
    for _ in range(rounds):
        if search.finished:
            break
        item = _next(search)
        result = _rollout(item, draw)
        began = time.thread_time()
        # One commit backs the value up, and chooses the next item from the tree as it then is.
        search.tell(item.work, result)
        times.append((time.thread_time() - began) * 1e6)
    return {
        "nodes": len(search.tree),
        "depth": max(node.depth for node in search.tree.nodes.values()),
        "rollouts": len(search.tree.rollouts),
        "select_and_backpropagate_us_median": round(statistics.median(times), 1),
        "select_and_backpropagate_us_p95": round(sorted(times)[int(0.95 * len(times))], 1),
    }


def _next(search: Search) -> WorkItem:
    (item,) = search.ask(1)
    return item


def _answer(search: Search, item: WorkItem, draw: random.Random) -> None:
    search.tell(item.work, _rollout(item, draw))


def _rollout(item: WorkItem, draw: random.Random) -> RolloutFinished:
    c = draw.uniform(0.3, 0.99)
    rest = math.log((1 - c) / 4)
    tops: TopTokens = ((0, math.log(c)), (1, rest), (2, rest), (3, rest), (4, rest))
    ids = tuple(draw.randrange(100_000) for _ in range(SEGMENTS))
    return RolloutFinished(
        rollout=item.work,
        node=item.node,
        token_ids=ids,
        text="abcd",
        offsets=(1, 2, 3, 4),
        logprobs=(math.log(c),) * SEGMENTS,
        top=(tops,) * SEGMENTS,
        segments=((1, "thought"), (2, "thought"), (3, "thought"), (4, "answer")),
        answer="1",
        key="1",
        statistics={"mean": c},
    )
