"""What a running search looks like, whatever was asked: status, answer, tree, node, thoughts.

`SearchPane` builds the components and turns a `View` into their updates; the tabs decide what to run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from ui import render
from ui.markup import Element
from ui.panel import panel
from ui.session import Activities, Activity
from ui.texts import LABELS, language_of, texts, tree_words
from ui.tree_view import tree_view

THOUGHTS_EVERY = 0.6
"""Seconds between updates of the thoughts: they are the most to draw, and are read, not watched."""


class Sent:
    """What the page was last told, so that only changes travel."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self.thoughts_at = 0.0

    def changed(self, name: str, value: Any) -> bool:
        if self._values.get(name) == value:
            return False
        self._values[name] = value
        return True


class SearchPane:
    """The components of a search, `tab` being the first part of their element ids."""

    def __init__(
        self, tab: str, activities: Activities, *, answer_id: str, thoughts_id: str, words: str = "answer"
    ) -> None:
        self.tab = tab
        self.activities = activities
        self.words = words
        self.status = panel(elem_id=f"{tab}-status", elem_classes="status-box")
        with gr.Column(visible=False, elem_id=f"{tab}-results", elem_classes="results") as self.results:
            with gr.Column(elem_classes="card answer-card"):
                self.answer = panel(elem_id=answer_id)
            gr.Markdown(LABELS("tree_title"), elem_classes="section-title")
            with gr.Row(elem_classes="workbench", equal_height=False):
                with gr.Column(scale=5, min_width=320):
                    self.tree = tree_view(elem_id=f"{tab}-tree")
                with gr.Column(scale=3, min_width=300, elem_classes="card node-card"):
                    self.node = panel(elem_id=f"{tab}-node")
            gr.Markdown(LABELS("thoughts_title"), elem_classes="section-title")
            self.thoughts = panel(elem_id=thoughts_id)
        self.outputs: list[Any] = [self.status, self.results, self.answer, self.tree, self.node, self.thoughts]
        self.tree.node_select(self._select, None, [self.node], **_QUIET)
        self.tree.node_unfold(self._unfold, None, [self.tree], **_QUIET)

    # -- a view to updates -----------------------------------------------------------------------------------

    def show(
        self,
        activity: Activity,
        request: gr.Request,
        sent: Sent,
        *,
        message: str = "",
        earlier: Sequence[Element] = (),
    ) -> dict[Any, Any]:
        """Updates for what changed since `sent`."""
        view = activity.view
        t = self._words(request)
        updates: dict[Any, Any] = {}

        def put(name: str, component: Any, value: Any) -> None:
            if sent.changed(name, value):
                updates[component] = value

        put("status", self.status, render.status(view, t, message=message))
        if view.started is None:
            return updates
        if sent.changed("visible", True):
            updates[self.results] = gr.update(visible=True)
        put("answer", self.answer, render.answer(view, t))
        put("tree", self.tree, self._payload(activity, request))
        put("node", self.node, self._details(activity, request))
        now = time.monotonic()
        if now - sent.thoughts_at >= THOUGHTS_EVERY or not activity.running:
            sent.thoughts_at = now
            put("thoughts", self.thoughts, render.conversation(view, t, earlier=earlier))
        return updates

    def cleared(self) -> dict[Any, Any]:
        """Updates for a new search: nothing of the one before stays."""
        return {self.answer: None, self.tree: None, self.node: None, self.thoughts: None}

    def _words(self, request: gr.Request | None) -> Callable[..., str]:
        t = texts(language_of(request))
        if self.words == "answer":
            return t
        swaps = {
            "answer_so_far": "translation_so_far",
            "answer_final": "translation",
            "answer_pending": "translation_pending",
            "answer_none": "translation_none",
        }
        return lambda key, **values: t(swaps.get(key, key), **values)

    def _payload(self, activity: Activity, request: gr.Request) -> dict[str, Any]:
        return render.tree_payload(
            activity.view,
            unfolded=frozenset(activity.unfolded),
            selected=activity.selected,
            words=tree_words(language_of(request)),
        )

    def _details(self, activity: Activity, request: gr.Request) -> Element:
        return render.node_details(activity.view, activity.selected, self._words(request))

    # -- a person at the tree ----------------------------------------------------------------------------------

    def _select(self, event: gr.EventData, request: gr.Request) -> Any:
        activity = self.activities.get(str(request.session_hash), self.tab)
        if activity is None:
            return gr.skip()
        activity.selected = str(event.node_id)
        return self._details(activity, request)

    def _unfold(self, event: gr.EventData, request: gr.Request) -> Any:
        activity = self.activities.get(str(request.session_hash), self.tab)
        if activity is None:
            return gr.skip()
        activity.unfolded.add(str(event.node_id))
        activity.fresh = True
        return self._payload(activity, request)


_QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
