"""The live tree: a component that draws `ui.render.tree_payload` and tells which node was chosen.

Events `node_select` and `node_unfold` carry `node_id`. Its template is static on purpose: whatever stands
between template marks is evaluated, so texts reach the page through the script's textContent alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from ui.packed_html import PackedHTML

_HERE = Path(__file__).parent

CSS = (_HERE / "tree_view.css").read_text(encoding="utf-8")

TEMPLATE = """
<div class="tree is-empty">
  <div class="tree-stage"></div>
  <div class="tree-toolbar">
    <span class="count"></span>
    <span class="scale">
      <span class="name"></span><span class="low"></span><span class="ramp"></span><span class="high"></span>
    </span>
    <button type="button" data-do="zoom_out">−</button>
    <button type="button" data-do="zoom_in">+</button>
    <button type="button" data-do="fit">⤢</button>
  </div>
</div>
"""


def tree_view(value: dict[str, Any] | None = None, **arguments: Any) -> gr.HTML:
    """`value`: the dict of `tree_payload`, or None for an empty stage."""
    return PackedHTML(
        value=value,
        html_template=TEMPLATE,
        js_on_load=(_HERE / "tree_view.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        **arguments,
    )
