"""The tab where a question is asked and its search is watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from marco import zerogpu
from marco.config import check_question
from marco.engines.base import Engine
from marco.events import Event
from marco.solver import Solver
from ui import render
from ui.markup import el, markdown
from ui.model_loader import ModelLoader
from ui.search_pane import SearchPane
from ui.session import Activities, Activity, Turn
from ui.settings import Settings, to_options
from ui.texts import LABELS, speaker

TAB = "reason"

EXAMPLES = [
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?",
    "How many r's are in strawberry?",
    "Which is larger, 9.11 or 9.9? Explain briefly.",
    "小明有 12 个苹果,给了小红三分之一,又买了 5 个。他现在有几个苹果?",
    "Solve $x^2 - 5x + 6 = 0$ and give the larger root.",
]

Folder = Callable[[gr.Request, "str | None"], "Path | None"]
"""The folder for a visitor's runs, by request and the secret that their browser keeps."""


def build(loader: ModelLoader, activities: Activities, folder: Folder, secret: Any) -> tuple[Settings, SearchPane]:
    """Build the tab where it stands."""
    with gr.Row(elem_classes="ask"):
        question = gr.Textbox(
            label=LABELS("question"),
            placeholder=LABELS("question_placeholder"),
            lines=1,
            max_lines=10,
            autofocus=True,
            scale=8,
            min_width=300,
            elem_id="reason-question",
        )
        with gr.Column(scale=1, min_width=150, elem_classes="ask-buttons"):
            run = gr.Button(LABELS("run"), variant="primary", elem_id="reason-run")
            stop = gr.Button(LABELS("stop"), variant="stop", interactive=False, elem_id="reason-stop")
    settings = Settings(TAB)
    pane = SearchPane(TAB, activities, loader, run=run, stop=stop)
    with pane.results, gr.Row(elem_classes="ask"):
        follow_up = gr.Textbox(
            label=LABELS("follow_up"),
            placeholder=LABELS("follow_up_placeholder"),
            lines=1,
            max_lines=10,
            elem_id="reason-follow-up",
        )
    gr.Examples(
        [[text] for text in EXAMPLES],
        [question],
        label=LABELS("examples"),
        elem_id="reason-examples",
        api_visibility="private",
    )

    def play(
        request: gr.Request, secret: str | None, question: str, values: tuple[Any, ...], earlier: list[Turn]
    ) -> Iterator[dict[Any, Any]]:
        runs = folder(request, secret)
        *chosen, language, system = values

        def make(activity: Activity, engine: Engine) -> Callable[[], Iterable[Event]]:
            options = to_options(chosen)
            how: dict[str, Any] = {"runs": runs, "language": language or None, "system": system or None}
            history = [
                {"role": role, "content": content}
                for turn in earlier
                for role, content in (("user", turn.question), ("assistant", turn.answer))
            ]
            if zerogpu.active():
                check_question(question)
                activity.steerable = False
                work = partial(zerogpu.solve, options=options, question=question, history=history, **how)
                return lambda: zerogpu.lent(engine.info.model, work, options, activity.stop)
            solver = Solver(engine, options, **how)
            activity.steer = solver.steer
            return lambda: solver.stream(question, stop=activity.stop, history=history)

        return pane.play(request, make, earlier=earlier, runs=runs)

    def ask(request: gr.Request, secret: str | None, question: str, *values: Any) -> Iterator[dict[Any, Any]]:
        yield from play(request, secret, question, values, [])

    def follow(request: gr.Request, secret: str | None, question: str, *values: Any) -> Iterator[dict[Any, Any]]:
        yield {follow_up: ""}
        before = activities.get(str(request.session_hash), TAB)
        earlier = [*before.earlier, turn_of(before, speaker(request))] if before and before.view.started else []
        yield from play(request, secret, question, values, earlier)

    inputs = [secret, question, *settings.components]
    pane.search_on(run.click, ask, inputs, clears=())
    pane.search_on(question.submit, ask, inputs, clears=())
    follow_inputs = [secret, follow_up, *settings.components]
    pane.search_on(follow_up.submit, follow, follow_inputs, clears=(), also=[follow_up])
    return settings, pane


def turn_of(activity: Activity, t: Callable[..., str]) -> Turn:
    """A finished search as a turn of the conversation: its thoughts fold into one line."""
    view = activity.view
    assert view.started is not None
    thoughts = [turn for turn in render.conversation(view, t)[2] if turn[0] == "details"]
    answer = render.output_text(view)
    elements = (
        el("div", markdown(view.started.question), class_="turn question"),
        el("details", el("summary", t("earlier_thoughts", n=len(thoughts))), *thoughts, class_="thoughts"),
        el("div", markdown(answer), class_="turn reply"),
    )
    return Turn(view.started.question, answer, elements)
