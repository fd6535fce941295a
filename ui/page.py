"""One self-contained page about a recorded search: the same tree, inspector and vote as in the app, with no server.

`as_html(run)` embeds the page's own scripts and styles; nothing is fetched from anywhere. Whatever a model wrote
travels as JSON with `<` escaped and reaches the page through textContent, as it does in the app.
"""

from __future__ import annotations

import html
import json
from pathlib import Path

from marco.runs import Run
from ui import render
from ui.texts import texts, tree_words
from ui.tree_view import CSS as TREE_CSS
from ui.tree_view import TEMPLATE as TREE

DRAWN = 1_000
"""Nodes on the page: what was visited most, where there are more."""

_HERE = Path(__file__).parent

_SHELL_CSS = """
:root { color-scheme: light dark; --body-text-color: #1e2430; --font-mono: ui-monospace, Menlo, Consolas, monospace; }
body { margin: 0 auto; max-width: 1320px; padding: 18px 22px 40px; font: 15px/1.5 system-ui, sans-serif;
  color: var(--body-text-color); background: #fbfbfd; }
.dark { --body-text-color: #e5e9f0; } body.dark { background: #0d1017; }
.workbench { display: flex; gap: 14px; align-items: flex-start; flex-wrap: wrap; margin: 14px 0; }
.workbench > :first-child { flex: 5 1 320px; min-width: 0; } .workbench > :last-child { flex: 3 1 300px; }
h1 { font-size: 19px; white-space: pre-wrap; }
"""

_HOST = """
const data = JSON.parse(document.getElementById("data").textContent);
if (matchMedia("(prefers-color-scheme: dark)").matches) document.body.classList.add("dark");
const mount = (run, id, value, on) => {
  const watchers = [], props = { value };
  run(document.getElementById(id), props, (name, event) => on && on(name, event), (_, redraw) => watchers.push(redraw));
  return (next) => { props.value = next; watchers.forEach((redraw) => redraw()); };
};
mount(runPanel, "status", data.status);
mount(runPanel, "answer", data.answer);
mount(runPanel, "thoughts", data.thoughts);
const showNode = mount(runPanel, "node", data.nodes[data.tree.selected]);
const showTree = mount(runTree, "tree", data.tree, (name, event) => {
  if (!(event.node_id in data.nodes)) return;
  data.tree = { ...data.tree, selected: event.node_id };
  showTree(data.tree);
  showNode(data.nodes[event.node_id]);
});
"""


def as_html(run: Run, language: str = "en") -> str:
    """The page, as one string of HTML. `language` is that of its labels, `en` or `zh`."""
    view = render.View.fold(run.events)
    nodes = render.seen(view)
    payload = render.tree_payload(
        view, DRAWN, unfolded=frozenset(nodes), selected=view.tree.root.id, words=tree_words(language)
    )
    t = texts(language)
    data = {
        "tree": payload,
        "status": render.status(view, t),
        "answer": render.answer(view, t),
        "thoughts": render.conversation(view, t),
        "nodes": {item["id"]: render.node_details(view, item["id"], t) for item in payload["nodes"]},
    }
    embedded = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    question = html.escape(run.started.question)
    made = html.escape(f"{run.started.model} · {run.started.created}")
    panel = '<div class="panel"></div>'
    return f"""<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'; img-src data:">
<title>{question[:80]}</title>
<style>{_read("page.css")}{TREE_CSS}{_SHELL_CSS}</style>
</head>
<body>
<h1>{question}</h1>
<p class="muted">{made}</p>
<div id="status">{panel}</div>
<div class="card" id="answer">{panel}</div>
<div class="workbench"><div id="tree">{TREE}</div><div class="card node-card" id="node">{panel}</div></div>
<div id="thoughts">{panel}</div>
<script type="application/json" id="data">{embedded}</script>
<script>
function runPanel(element, props, trigger, watch) {{
{_read("panel.js")}
}}
function runTree(element, props, trigger, watch) {{
{_read("tree_view.js")}
}}
{_HOST}
</script>
</body>
</html>
"""


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
