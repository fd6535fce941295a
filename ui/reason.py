"""The tab where a question is asked and its search is watched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from marco.errors import MarcoError
from ui.model_loader import ModelLoader
from ui.search_pane import SearchPane, Sent
from ui.session import Activities, Activity, watch
from ui.settings import Settings, to_options
from ui.texts import LABELS, speaker
from ui.waiting import wait_for_model, wait_message

TAB = "reason"

EXAMPLES = [
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?",
    "How many r's are in strawberry?",
    "Which is larger, 9.11 or 9.9? Explain briefly.",
    "小明有 12 个苹果,给了小红三分之一,又买了 5 个。他现在有几个苹果?",
    "Solve $x^2 - 5x + 6 = 0$ and give the larger root.",
]


def build(loader: ModelLoader, activities: Activities, runs: Path | None) -> Settings:
    """Build the tab where it stands. `runs` is the folder for run files, None for none."""
    with gr.Row(elem_classes="ask"):
        question = gr.Textbox(
            label=LABELS("question"),
            placeholder=LABELS("question_placeholder"),
            lines=1,
            max_lines=10,
            autofocus=True,
            scale=8,
            elem_id="reason-question",
        )
        with gr.Column(scale=1, min_width=150, elem_classes="ask-buttons"):
            run = gr.Button(LABELS("run"), variant="primary", elem_id="reason-run")
            stop = gr.Button(LABELS("stop"), variant="stop", interactive=False, elem_id="reason-stop")
    settings = Settings(TAB)
    pane = SearchPane(TAB, activities, answer_id="reason-answer", thoughts_id="reason-thoughts")
    gr.Examples(
        [[text] for text in EXAMPLES],
        [question],
        label=LABELS("examples"),
        elem_id="reason-examples",
        api_visibility="private",
    )

    def ask(request: gr.Request, question: str, *values: Any) -> Iterator[dict[Any, Any]]:
        session = str(request.session_hash)
        activity = activities.begin(session, TAB)
        sent = Sent()
        yield {run: gr.update(interactive=False), stop: gr.update(interactive=True), **pane.cleared()}
        for _ in search(activity, question, values, request):
            if activities.get(session, TAB) is not activity:
                return
            message = "" if activity.solver else wait_message(loader, request)
            if updates := pane.show(activity, request, sent, message=message):
                yield updates
        yield {run: gr.update(interactive=True), stop: gr.update(interactive=False)}

    def search(activity: Activity, question: str, values: tuple[Any, ...], request: gr.Request) -> Iterator[Any]:
        from marco.solver import Solver

        t = speaker(request)
        try:
            options = to_options(values)
            for _ in wait_for_model(loader, activity):
                yield
            engine = loader.engine
            if engine is None or activity.stop.is_set():
                activity.running = False
                yield
                return
            activity.solver = Solver(engine, options, runs=runs)
        except MarcoError as error:
            activity.view.error = str(error)
            activity.running = False
            yield
            return
        events = activity.solver.stream
        yield from watch(activity, lambda: events(question, stop=activity.stop), surprise=t("surprise"))

    started: dict[str, Any] = {
        "fn": ask,
        "inputs": [question, *settings.components],
        "outputs": [run, stop, *pane.outputs],
        "show_progress": "minimal",
        "show_progress_on": [pane.status],
        "api_visibility": "private",
        "trigger_mode": "multiple",
    }
    run.click(**started)
    question.submit(**started)

    def end(request: gr.Request) -> None:
        activities.stop(str(request.session_hash), TAB)

    stop.click(end, None, None, queue=False, show_progress="hidden", api_visibility="private")
    return settings
