"""The tab where a sentence is translated and the thought behind it is watched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from marco.config import check_question
from marco.errors import MarcoError
from ui.model_loader import ModelLoader
from ui.search_pane import SearchPane, Sent
from ui.session import Activities, Activity, watch
from ui.texts import LABELS, speaker
from ui.waiting import wait_for_model, wait_message

TAB = "translate"

LANGUAGES = (
    "English", "Chinese", "Japanese", "Korean", "Spanish", "French", "German", "Hindi", "Arabic", "Portuguese",
    "Russian", "Italian", "Indonesian", "Vietnamese", "Thai", "Turkish", "Dutch", "Polish", "Swahili", "Bengali",
)  # fmt: skip

EXAMPLES = [
    ["这个鞋拥有踩屎感", "English"],
    ["这件衣服太显瘦了,闭眼入", "English"],
    ["It's raining cats and dogs, so let's call it a day.", "Chinese"],
    ["I'm all ears — spill the tea!", "Spanish"],
]


def build(loader: ModelLoader, activities: Activities, runs: Path | None) -> None:
    """Build the tab where it stands. `runs` is the folder for run files, None for none."""
    with gr.Row(elem_classes="ask"):
        text = gr.Textbox(
            label=LABELS("sentence"),
            placeholder=LABELS("sentence_placeholder"),
            lines=1,
            max_lines=10,
            scale=6,
            elem_id="translate-text",
        )
        with gr.Column(scale=2, min_width=190):
            to = gr.Dropdown(
                list(LANGUAGES), value="English", label=LABELS("to"), allow_custom_value=True, elem_id="translate-to"
            )
        with gr.Column(scale=1, min_width=150, elem_classes="ask-buttons"):
            run = gr.Button(LABELS("translate"), variant="primary", elem_id="translate-run")
            stop = gr.Button(LABELS("stop"), variant="stop", interactive=False, elem_id="translate-stop")
    pane = SearchPane(
        TAB, activities, answer_id="translate-result", thoughts_id="translate-thought", words="translation"
    )
    gr.Examples(EXAMPLES, [text, to], label=LABELS("examples"), elem_id="translate-examples", api_visibility="private")

    def translate(text: str, to: str, request: gr.Request) -> Iterator[dict[Any, Any]]:
        session = str(request.session_hash)
        activity = activities.begin(session, TAB)
        sent = Sent()
        yield {run: gr.update(interactive=False), stop: gr.update(interactive=True), **pane.cleared()}
        for _ in search(activity, text, to, request):
            if activities.get(session, TAB) is not activity:
                return
            message = "" if activity.view.started else wait_message(loader, request)
            if updates := pane.show(activity, request, sent, message=message):
                yield updates
        yield {run: gr.update(interactive=True), stop: gr.update(interactive=False)}

    def search(activity: Activity, text: str, to: str, request: gr.Request) -> Iterator[Any]:
        from marco.translation import translate_stream

        try:
            sentence = check_question(text, field="sentence")
            language = check_question(to, field="target language", limit=60)
        except MarcoError as error:
            activity.view.error = str(error)
            activity.running = False
            yield
            return
        for _ in wait_for_model(loader, activity):
            yield
        engine = loader.engine
        if engine is None or activity.stop.is_set():
            activity.running = False
            yield
            return
        yield from watch(
            activity,
            lambda: translate_stream(engine, sentence, language, stop=activity.stop, runs=runs),
            surprise=speaker(request)("surprise"),
        )

    started: dict[str, Any] = {
        "fn": translate,
        "inputs": [text, to],
        "outputs": [run, stop, *pane.outputs],
        "show_progress": "minimal",
        "show_progress_on": [pane.status],
        "api_visibility": "private",
        "trigger_mode": "multiple",
    }
    run.click(**started)
    text.submit(**started)

    def end(request: gr.Request) -> None:
        activities.stop(str(request.session_hash), TAB)

    stop.click(end, None, None, queue=False, show_progress="hidden", api_visibility="private")
