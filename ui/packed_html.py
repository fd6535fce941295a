"""A `gr.HTML` whose values travel as JSON text, `ui.markup.packed`, whoever sends them and however often."""

from __future__ import annotations

from abc import ABCMeta
from typing import Any

import gradio as gr

from ui.markup import packed


def _postprocess(_self: gr.HTML, value: Any) -> str | None:
    return packed(value)


# It has to be a class: for each session, at the first update that says nothing of a component, Gradio makes another
# instance of it from its arguments. It is made past Gradio's metaclass, which writes a stub file beside the source of
# each component; its name is the component's in the browser.
PackedHTML = ABCMeta.__new__(type(gr.HTML), "HTML", (gr.HTML,), {"__module__": __name__, "postprocess": _postprocess})
