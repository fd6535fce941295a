"""A recorded search for other programs and other eyes: text, JSON, GraphML.

Pure functions over a `Run`. The clickable page is the UI's business (`ui.page`), since it is the UI's tree.
"""

from __future__ import annotations

import io
import json
from typing import Any

from marco.events import to_dict
from marco.runs import Run
from marco.solver import Solution
from marco.tree import Node, Tree

EXCERPT = 72
"""Characters of a node's text in the text format."""


def as_text(run: Run) -> str:
    """The tree, a line a node, with visits N, value v and confidence c; then the answer and the vote."""
    solution = Solution.of(run.events, run.path)
    best = set(solution.tree.best_path())
    lines = [f"{run.started.question}", f"model {run.started.model}, made {run.started.created}", ""]
    for node in solution.tree.walk():
        lines.append("  " * node.depth + _line(node, node.id in best))
    lines.append("")
    for vote in solution.votes:
        lines.append(f"{vote['weight']:7.1%}  {len(vote['rollouts'])} rollouts  {vote['answer']}")
    lines.append(f"answer: {solution.answer}")
    lines.append(f"ended by: {solution.stopped_by}" + (f" ({solution.message})" if solution.message else ""))
    return "\n".join(lines) + "\n"


def _line(node: Node, best: bool) -> str:
    marks = {"root": "o", "opening": ">", "thought": "-", "reflection": "~", "answer": "="}
    text = " ".join(node.text.split())
    if len(text) > EXCERPT:
        text = text[: EXCERPT - 1] + "…"
    figures = f"N {node.visits}"
    if node.value is not None:
        figures += f", v {node.value:.3f}"
    if node.confidence is not None:
        figures += f", c {node.confidence:.3f}"
    return f"{'*' if best else ' '}{marks[node.kind]} {node.id} [{figures}] {text}"


def as_json(run: Run) -> str:
    """One object: `header`, `solution` (as `marco solve --json`), `tree` (`Tree.to_dict`), `events`."""
    solution = Solution.of(run.events, run.path)
    found: dict[str, Any] = {
        "header": to_dict(run.started),
        "solution": solution.to_json(),
        "tree": solution.tree.to_dict(),
        "events": [to_dict(event) for event in run.events],
    }
    return json.dumps(found, ensure_ascii=False)


def as_graphml(run: Run) -> str:
    """GraphML by networkx: a node a thought, with kind, text, visits, value, confidence, tokens, depth."""
    import networkx

    graph = Tree.fold(run.events).to_networkx()
    for _, attributes in graph.nodes(data=True):
        attributes["text"] = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in attributes["text"])
    buffer = io.BytesIO()
    networkx.write_graphml(graph, buffer)
    return buffer.getvalue().decode("utf-8")
