"""The tab where strategies answer the same question with the same number of tokens, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gradio as gr

from marco import zerogpu
from marco.config import STRATEGIES, check_question, options
from marco.errors import MarcoError
from marco.events import Event, RolloutFinished
from marco.solver import Solver
from ui import render
from ui.markup import Element, el
from ui.model_loader import ModelLoader
from ui.panel import panel, status_panel
from ui.reason import EXAMPLES, Folder
from ui.render import View
from ui.session import Activities, Activity, watch
from ui.settings import choices
from ui.texts import LABELS, speaker
from ui.waiting import QUIET, mind_queue, wait_for_model, wait_message

TAB = "compare"


@dataclass(slots=True)
class Contest:
    """Strategies and how far each is."""

    strategies: list[str]
    views: dict[str, View] = field(default_factory=dict)


def build(loader: ModelLoader, activities: Activities, folder: Folder, secret: Any) -> gr.CheckboxGroup:
    """Build the tab where it stands; returns the choice of strategies, whose names need translating."""
    with gr.Row(elem_classes="ask"):
        question = gr.Textbox(
            label=LABELS("question"),
            placeholder=LABELS("question_placeholder"),
            lines=1,
            max_lines=10,
            scale=8,
            min_width=300,
            elem_id="compare-question",
        )
        with gr.Column(scale=1, min_width=150, elem_classes="ask-buttons"):
            run = gr.Button(LABELS("run"), variant="primary", elem_id="compare-run")
            stop = gr.Button(LABELS("stop"), variant="stop", interactive=False, elem_id="compare-stop")
    with gr.Row():
        strategies = gr.CheckboxGroup(
            choices("strategy", STRATEGIES),
            value=["cot", "self-consistency", "mcts"],
            label=LABELS("compare_strategies"),
            info=LABELS("compare_info"),
            scale=3,
            elem_id="compare-strategies",
        )
        tokens = gr.Slider(
            100, 20_000, value=2000, step=100, label=LABELS("compare_tokens"), scale=2, elem_id="compare-tokens"
        )
    status = status_panel("compare-status")
    result = panel(elem_id="compare-result")
    gr.Examples(
        [[text] for text in EXAMPLES],
        [question],
        label=LABELS("examples"),
        elem_id="compare-examples",
        api_visibility="private",
    )

    def compare(
        request: gr.Request, secret: str | None, question: str, named: list[str], tokens: float
    ) -> Iterator[dict[Any, Any]]:
        t = speaker(request)
        session = str(request.session_hash)
        activity = activities.begin(session, TAB)
        contest = Contest([name for name in STRATEGIES if name in named])
        yield {run: gr.update(interactive=False), stop: gr.update(interactive=True), result: None}
        for note in contend(activity, contest, question, int(tokens), request, secret):
            if activities.get(session, TAB) is not activity:
                return
            yield {status: note, result: table(contest, int(tokens), t)}
        yield {run: gr.update(interactive=True), stop: gr.update(interactive=False)}

    def contend(
        activity: Activity, contest: Contest, question: str, tokens: int, request: gr.Request, secret: str | None
    ) -> Iterator[Element]:
        """One strategy after the other: side by side they would take each other's time."""
        t = speaker(request)
        if len(contest.strategies) < 2:
            activity.view.error = t("compare_two")
            yield render.status(activity.view, t)
            return
        for _ in wait_for_model(loader, activity):
            yield render.status(activity.view, t, message=wait_message(loader, request))
        engine = loader.engine
        if engine is None:
            yield render.status(activity.view, t)
            return
        runs = folder(request, secret)
        with loader.using(engine):
            for name in contest.strategies:
                if activity.stop.is_set():
                    return
                part = Activity(stop=activity.stop)
                contest.views[name] = part.view
                try:
                    chosen = options("marco", strategy=name, tokens=tokens)
                    solver = Solver(engine, chosen, runs=runs)
                    if zerogpu.active():
                        check_question(question)
                except MarcoError as error:
                    part.view.error = str(error)
                    yield render.status(part.view, t)
                    continue
                events: Callable[[], Iterable[Event]] = partial(solver.stream, question, stop=activity.stop)
                if zerogpu.active():
                    work = partial(zerogpu.solve, options=chosen, question=question, runs=runs)
                    events = partial(zerogpu.lent, engine.info.model, work, chosen, activity.stop)
                for view in watch(part, events, surprise=t("surprise")):
                    yield render.status(view, t)
                if part.view.error:
                    return

    started: dict[str, Any] = {
        "inputs": [secret, question, strategies, tokens],
        "outputs": [run, stop, status, result],
        "show_progress": "minimal",
        "show_progress_on": [status],
        "api_visibility": "private",
    }
    for event in (run.click(compare, **started), question.submit(compare, **started)):
        mind_queue(event, status)

    def end(request: gr.Request) -> None:
        activities.stop(str(request.session_hash), TAB)

    stop.click(end, None, None, **QUIET)
    return strategies


def within(view: View, tokens: int) -> View:
    """The search as it stood when its results had taken at most so many tokens.

    Work under way when the budget runs out is finished, so strategies overshoot by different amounts; a fair
    comparison leaves that out. A single rollout takes what it takes.
    """
    if view.ended is None or len(view.tree.rollouts) <= 1:
        return view
    kept = View()
    for event in view.events:
        if isinstance(event, RolloutFinished) and kept.tree.generated + len(event.token_ids) > tokens:
            break
        kept.apply(event)
    kept.apply(view.ended)
    return kept


def table(contest: Contest, tokens: int, t: Callable[..., str]) -> Element:
    """A column a strategy: answer, vote, tokens, seconds."""
    columns = []
    for name in contest.strategies:
        view = contest.views.get(name)
        view = within(view, tokens) if view is not None else None
        columns.append(
            el(
                "div",
                el("h3", t(f"strategy_{name}")),
                el("p", t("compare_next"), class_="muted") if view is None else _figures(view, t),
                None if view is None else render.answer(view, t),
                class_="card",
                data_key=name,
            )
        )
    return el("div", *columns, class_="columns")


def _figures(view: View, t: Callable[..., str]) -> Element:
    figures = (
        ("vote_rollouts", str(len(view.tree.rollouts))),
        ("figure_tokens", f"{view.generated:,}"),
        ("figure_seconds", render.duration(view.seconds)),
    )
    return el("dl", *(el("div", el("dt", t(key)), el("dd", text)) for key, text in figures), class_="figures")
