"""A recorded search as one self-contained page: the live tree of the app, without the app.

The page loads nothing. Its data is JSON in a script element, `<` escaped, and reaches the document through
textContent, as in the app.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from marco.runs import Run
from ui import render
from ui.markup import packed
from ui.texts import texts, tree_words

_HERE = Path(__file__).parent
_MOST = 10_000
"""Nodes: all of a run that anybody would look at."""

_TEMPLATE = """<!doctype html>
<html lang="{language}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{css}
body {{ margin: 0 auto; max-width: 1320px; padding: 20px; background: var(--marco-page); color: var(--body-text-color);
  font: 15px/1.55 system-ui, sans-serif; }}
main {{ display: grid; gap: 16px; }}
.workbench {{ display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 3fr); gap: 14px; }}
@media (max-width: 800px) {{ .workbench {{ grid-template-columns: minmax(0, 1fr); }} }}
</style></head>
<body><main>
<h1 class="wordmark"><strong>Marco</strong><span>{model}</span></h1>
<div id="status"><div class="panel"></div></div>
<div id="answer" class="card answer-card"><div class="panel"></div></div>
<div class="workbench">
<div id="tree">{tree}</div>
<div id="node" class="card node-card"><div class="panel"></div></div>
</div>
<div id="thoughts"><div class="panel"></div></div>
</main>
<script type="application/json" id="data">{data}</script>
<script>
const data = JSON.parse(document.getElementById("data").textContent);
if (matchMedia("(prefers-color-scheme: dark)").matches) document.documentElement.classList.add("dark");
function panel(element, props, trigger, watch) {{ {panel_js} }}
function tree(element, props, trigger, watch) {{ {tree_js} }}
const mounted = {{}};
function mount(id, script, value, trigger = () => {{}}) {{
  const props = {{ value }}, watchers = [];
  script(document.getElementById(id), props, trigger, (_, callback) => watchers.push(callback));
  mounted[id] = (fresh) => {{ props.value = fresh; watchers.forEach((callback) => callback()); }};
}}
for (const id of ["status", "answer", "node", "thoughts"]) mount(id, panel, data[id]);
mount("tree", tree, data.tree, (name, event) => {{
  if (name === "node_select") mounted.node(data.nodes[event.node_id] || data.node);
}});
</script>
</body></html>
"""


def as_html(run: Run, *, language: str = "en") -> str:
    """The page of a run. Everything of it is in the text that is returned."""
    from ui.tree_view import TEMPLATE

    t = texts(language)
    view = render.View.fold(run.events)
    nodes = render.seen(view)
    data: dict[str, Any] = {
        "status": render.status(view, t),
        "answer": render.answer(view, t),
        "tree": render.tree_payload(view, _MOST, unfolded=frozenset(nodes), words=tree_words(language)),
        "node": render.node_details(view, None, t),
        "nodes": {name: render.node_details(view, name, t) for name in nodes},
        "thoughts": render.conversation(view, t),
    }
    started = run.started
    return _TEMPLATE.format(
        language=language,
        title=html.escape(render.label(started.question)),
        model=html.escape(" · ".join(part for part in (started.model, started.engine, started.created) if part)),
        css="".join((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "tree_view.css")),
        tree=TEMPLATE,
        data=packed(data),
        panel_js=(_HERE / "panel.js").read_text(encoding="utf-8"),
        tree_js=(_HERE / "tree_view.js").read_text(encoding="utf-8"),
    )
