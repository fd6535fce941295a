"""A component that shows an element of `ui.markup` (tags, classes, texts) without ever parsing HTML.

Event `act` tells that one of its buttons (`data-act`) was pressed: `action`, `node`, and what else it carries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from ui.markup import Element, packed

_SCRIPT = (Path(__file__).parent / "panel.js").read_text(encoding="utf-8")


def panel(value: Element | None = None, **arguments: Any) -> gr.HTML:
    """`value`: an element, or None for nothing."""
    made = gr.HTML(
        value=packed(value),
        html_template='<div class="panel"></div>',
        js_on_load=_SCRIPT,
        apply_default_css=False,
        **arguments,
    )
    setattr(made, "postprocess", packed)  # noqa: B010
    return made
