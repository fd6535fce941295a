"""A component that shows an element of `ui.markup` (tags, classes, texts) without ever parsing HTML.

Event `act` tells that one of its buttons (`data-act`) was pressed: `action`, `node`, and what else it carries.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ui.markup import Element
from ui.packed_html import PackedHTML
from ui.texts import LANGUAGES, texts

_HERE = Path(__file__).parent
_SCRIPT = (_HERE / "panel.js").read_text(encoding="utf-8")
_PLACE = (_HERE / "queue_place.js").read_text(encoding="utf-8")
_STATE = (_HERE / "search_state.js").read_text(encoding="utf-8")


def panel(value: Element | None = None, *, script: str = _SCRIPT, **arguments: Any) -> gr.HTML:
    """`value`: an element, or None for nothing."""
    return PackedHTML(
        value=value,
        html_template='<div class="panel"></div>',
        js_on_load=script,
        apply_default_css=False,
        **arguments,
    )


def status_panel(elem_id: str, follows: Sequence[str | None] = ()) -> gr.HTML:
    """The line that says how a search goes, and a person's place in the queue before it has begun.

    `follows`: element ids of the buttons that begin and end the search (or None), and of its results. The buttons
    take `data_busy` of the status, the results `data_shown`. Event `act` with action `leave` tells that a person
    wants out of the queue.
    """
    words = {
        language: {"sentence": texts(language)("queue_place"), "leave": texts(language)("queue_leave")}
        for language in LANGUAGES
    }
    script = f"{_SCRIPT}\nconst WORDS = {json.dumps(words)};\n{_PLACE}"
    if follows:
        script += f"\nconst FOLLOWS = {json.dumps(list(follows))};\n{_STATE}"
    return panel(script=script, elem_id=elem_id, elem_classes="status-box")
