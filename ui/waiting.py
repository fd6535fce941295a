"""What every tab needs to wait for the model, and to answer at once where nothing is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ui.markup import Element, el
from ui.model_loader import ModelLoader
from ui.session import Activity
from ui.texts import speaker

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Arguments of an event that is answered at once, beside the queue."""


def mind_queue(search: Any, status: gr.HTML) -> None:
    """Say beside the question that the server would not take the event `search`; the question stays in its box.

    Who waits for their turn can leave the queue: what `status` shows of it has a button for that.
    """

    def refused(request: gr.Request) -> Element:
        said = el("span", speaker(request)("refused"))
        # A search that broke off in the middle can't say itself that it is over.
        return el("div", el("span", class_="dot"), said, class_="status is-error", data_busy="false")

    search.failure(refused, None, status, **QUIET)
    status.act(None, None, None, cancels=[search], **QUIET)


def wait_for_model(loader: ModelLoader, activity: Activity) -> Iterator[None]:
    """Return when the model is there, when it failed to come (`view.error`), or when Stop was pressed."""
    while loader.wait(0.25) is None:
        if loader.state.phase == "failed":
            activity.view.error = loader.state.error
            return
        if activity.stop.is_set():
            return
        yield


def wait_message(loader: ModelLoader, request: gr.Request) -> str:
    """Why nothing happens yet; empty once the model is there."""
    state = loader.state
    if state.phase != "loading" or loader.engine is not None:
        return ""
    return speaker(request)("model_wait", message=progress_text(loader))


def progress_text(loader: ModelLoader) -> str:
    """What the loader is busy with, and how far it is."""
    state = loader.state
    percent = "" if state.share is None else f"{100 * state.share:.0f}%"
    return " ".join(part for part in (state.message, percent) if part) or "…"
