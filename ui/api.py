"""The page's two endpoints for programs: `/solve` and `/translate`, streamed and queued like a person's.

Each yields objects while it works, `{"done": false, "answer", "confidence", "rollouts", "tokens", "seconds"}`, and as
the last one what `marco solve --json` prints, with `"done": true`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import gradio as gr
from gradio.events import api as make_endpoint

from marco import zerogpu
from marco.config import check_question, options
from marco.engines.base import Engine
from marco.errors import MarcoError
from marco.events import Event
from marco.solver import Solution, Solver
from marco.translation import defaults, language, translate_stream, whole
from ui.model_loader import ModelLoader
from ui.reason import Folder
from ui.session import Activities, Activity, watch
from ui.texts import speaker
from ui.waiting import wait_for_model


def build(loader: ModelLoader, activities: Activities, folder: Folder) -> None:
    """Put the endpoints into the app under construction."""

    def answers(
        request: gr.Request,
        tab: str,
        make: Callable[[Engine, Activity], Callable[[], Iterable[Event]]],
        conclude: Callable[[list[Event]], dict[str, Any]],
    ) -> Iterator[dict[str, Any]]:
        # A tab of its own: the calls of one client don't stop each other.
        session, tab = str(request.session_hash), f"{tab}-{secrets.token_hex(8)}"
        activity = activities.begin(session, tab)
        try:
            yield from follow(request, activity, make, conclude)
        finally:
            activities.end(session, tab)

    def follow(
        request: gr.Request,
        activity: Activity,
        make: Callable[[Engine, Activity], Callable[[], Iterable[Event]]],
        conclude: Callable[[list[Event]], dict[str, Any]],
    ) -> Iterator[dict[str, Any]]:
        for _ in wait_for_model(loader, activity):
            yield {"done": False, "message": loader.state.message}
        engine = loader.engine
        if engine is None:
            raise gr.Error(activity.view.error, print_exception=False)
        try:
            events = make(engine, activity)
        except MarcoError as error:
            raise gr.Error(str(error), print_exception=False) from None
        with loader.using(engine):
            for view in watch(activity, events, surprise=speaker(request)("surprise")):
                if view.error:
                    raise gr.Error(view.error, print_exception=False)
                choice = view.answer
                yield {
                    "done": False,
                    "answer": choice.answer if choice else None,
                    "confidence": choice.confidence if choice else None,
                    "rollouts": len(view.tree.rollouts),
                    "tokens": view.generated,
                    "seconds": round(view.seconds, 3),
                }
        yield {"done": True, **conclude(activity.view.events)}

    def solve(
        request: gr.Request,
        question: str,
        preset: str = "marco",
        strategy: str | None = None,
        action: str | None = None,
        rollouts: int | None = None,
        reflection: str | None = None,
        select: str | None = None,
        tokens: int | None = None,
        max_seconds: float | None = None,
        seed: int = 0,
    ) -> Iterator[dict[str, Any]]:
        """Search for an answer. What is left out is as in the preset (`marco` or `paper`)."""
        runs = folder(request, None)
        given = {
            "strategy": strategy,
            "action": action,
            "rollouts": rollouts,
            "reflection": reflection,
            "select": select,
            "tokens": tokens,
            "max_seconds": max_seconds,
            "seed": seed,
        }

        def make(engine: Engine, activity: Activity) -> Callable[[], Iterable[Event]]:
            chosen = options(preset, **given)
            if zerogpu.active():
                check_question(question)
                work = partial(zerogpu.solve, options=chosen, question=question, runs=runs)
                return lambda: zerogpu.lent(engine.info.model, work, chosen, activity.stop)
            solver = Solver(engine, chosen, runs=runs)
            return partial(solver.stream, question, stop=activity.stop)

        yield from answers(request, "api-solve", make, lambda events: Solution.of(events).to_json())

    def translate(
        request: gr.Request, text: str, to: str, source: str | None = None, mode: str = "careful"
    ) -> Iterator[dict[str, Any]]:
        """Translate `text` into the language `to` (a name or a code)."""
        runs = folder(request, None)

        def make(engine: Engine, activity: Activity) -> Callable[[], Iterable[Event]]:
            language(to)
            how: dict[str, Any] = {"source": source, "mode": mode, "runs": runs}
            if zerogpu.active():
                work = partial(translate_stream, text=text, to=to, **how)
                return lambda: zerogpu.lent(engine.info.model, work, defaults(mode), activity.stop)
            events = translate_stream(engine, text, to, stop=activity.stop, **how)
            return lambda: events

        yield from answers(request, "api-translate", make, lambda events: whole(events).to_json())

    make_endpoint(solve, api_name="solve")
    make_endpoint(translate, api_name="translate")
