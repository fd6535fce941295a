"""What a search looks like and how a person takes part in it, whatever was asked.

`SearchPane` builds the components (status, answer, tree, node, charts, thoughts) and turns a `View` into their
updates; the tabs decide what to run, and hand it to `play`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial, wraps
from pathlib import Path
from typing import Any

import gradio as gr

from marco import zerogpu
from marco.engines.base import Engine
from marco.errors import MarcoError
from marco.events import Event, SearchStarted
from marco.runs import run_path
from marco.session import Intervention, Task
from marco.solver import Solver
from ui import charts, render
from ui.markup import Element, el
from ui.model_loader import ModelLoader
from ui.panel import panel, status_panel
from ui.session import Activities, Activity, watch
from ui.texts import LABELS, language_of, speaker, texts, tree_words
from ui.tree_view import tree_view
from ui.waiting import QUIET, mind_queue, wait_for_model, wait_message

log = logging.getLogger("marco.ui")

LOOPBACK = ("127.0.0.1", "::1", "localhost")

THOUGHTS_EVERY = 0.6
"""Seconds between updates of the thoughts: they are the most to draw, and are read, not watched."""

Answer = Callable[[render.View, Callable[..., str]], Element]
Make = Callable[[Activity, Engine], Callable[[], Iterable[Event]]]
"""Prepares a search for an activity; what it returns is run in a thread. May raise `MarcoError`."""

RESUMED_ROLLOUTS = 1
"""Rollouts that an intervention on a finished search is given, on top of what it had."""


_UNFOLD = """() => {
  const open = document.getElementById("%s").classList.toggle("is-open");
  document.getElementById("%s-show").setAttribute("aria-expanded", open);
}"""


class Sent:
    """What the page was last told, so that it is told only what is news."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}
        self.parts: dict[Any, Any] = {}
        """Components and their values. An update repeats them all: Gradio makes a component anew, ten times the work,
        for each that an update leaves out; and a page that is behind takes several updates in one go, where a later
        "no change" undoes an earlier change. What stays the same doesn't travel."""
        self.thoughts_at = 0.0

    def changed(self, name: Any, value: Any) -> bool:
        if name in self._known and self._known[name] == value:
            return False
        self._known[name] = value
        return True


class SearchPane:
    """The components of a search, `tab` being the first part of their element ids."""

    def __init__(
        self,
        tab: str,
        activities: Activities,
        loader: ModelLoader | None = None,
        *,
        run: gr.Button | None = None,
        stop: gr.Button | None = None,
        answer_id: str | None = None,
        thoughts_id: str | None = None,
        answer: Answer = render.answer,
        task_of: Callable[[SearchStarted], Task] | None = None,
        beside: Callable[[], None] = lambda: None,
        folded: bool = False,
    ) -> None:
        """Without a `loader` the search can be looked at and not taken part in.

        `beside` builds what stands below the answer. `folded`: the tree and the thoughts show on request.
        """
        self.tab = tab
        self.activities = activities
        self.loader = loader
        self.run, self.stop = run, stop
        self._editor: list[Any] = []
        self.more: gr.Button | None = None
        self._answer = answer
        self._task_of = task_of
        buttons = [button.elem_id if button is not None else None for button in (run, stop)]
        self.status = status_panel(f"{tab}-status", [*buttons, f"{tab}-results"])
        with gr.Column(elem_id=f"{tab}-results", elem_classes="results") as self.results:
            with gr.Column(elem_classes="card answer-card"):
                self.answer = panel(elem_id=answer_id or f"{tab}-answer")
            beside()
            with self._below(folded):
                gr.Markdown(LABELS("tree_title"), elem_classes="section-title")
                with gr.Row(elem_classes="workbench", equal_height=False):
                    with gr.Column(scale=5, min_width=320):
                        self.tree = tree_view(elem_id=f"{tab}-tree")
                    with gr.Column(scale=3, min_width=300, elem_classes="card node-card"):
                        self.node = panel(elem_id=f"{tab}-node")
                        if loader is not None:
                            self._build_editor()
                if loader is not None:
                    self._build_more()
                with gr.Accordion(LABELS("charts_title"), open=False, elem_id=f"{tab}-charts") as fold, gr.Row():
                    self.charts = [gr.Plot(show_label=False, elem_id=f"{tab}-chart-{name}") for name in charts.NAMES]
                gr.Markdown(LABELS("thoughts_title"), elem_classes="section-title")
                self.thoughts = panel(elem_id=thoughts_id or f"{tab}-thoughts")
        self.live: list[Any] = [self.status, self.answer, self.tree, self.node, self.thoughts]
        """What a search under way changes."""
        self.outputs: list[Any] = [*self.live, *self.still]
        self.tree.node_select(self._select, None, [self.node, *self._editor[:1], self.charts[0]], **QUIET)
        self.tree.node_unfold(self._unfold, None, [self.tree], **QUIET)
        fold.expand(self._draw_charts, None, self.charts, **QUIET)
        if loader is not None:
            self._wire()

    @property
    def still(self) -> list[Any]:
        """What a new search clears and then leaves alone until it is over."""
        return [*self.charts, *self._editor[:1]]

    def _below(self, folded: bool) -> Any:
        if not folded:
            return nullcontext()
        # No accordion: Gradio draws what is in a closed one later, and hands it a "no change" as its value.
        name = f"{self.tab}-how"
        show = gr.Button(LABELS("how_found"), size="sm", elem_id=f"{name}-show")
        show.click(None, None, None, js=_UNFOLD % (name, name), **QUIET)
        return gr.Column(elem_id=name, elem_classes="folded")

    # -- taking part: components -------------------------------------------------------------------------------

    def _build_editor(self) -> None:
        with gr.Column(visible=False, elem_id=f"{self.tab}-editor") as group:
            text = gr.Textbox(label=LABELS("edit_label"), lines=4, max_lines=14, elem_id=f"{self.tab}-edit")
            with gr.Row():
                self._go = gr.Button(LABELS("edit_go"), variant="primary", size="sm", elem_id=f"{self.tab}-edit-go")
                self._cancel = gr.Button(LABELS("edit_cancel"), size="sm")
        self._editor = [group, text]

    def _build_more(self) -> None:
        with gr.Row(elem_classes="more"):
            self._amount = gr.Slider(1, 32, value=4, step=1, label=LABELS("more_label"), elem_id=f"{self.tab}-amount")
            self.more = gr.Button(LABELS("more"), elem_id=f"{self.tab}-more", min_width=150, scale=0)

    def _wire(self) -> None:
        assert self.stop is not None and self.more is not None
        self.node.act(self._open_editor, None, self._editor, **QUIET)
        self.search_on(self.node.act, self._act, None)
        self.search_on(self._go.click, self._edit, self._editor[1])
        for done in (self._go, self._cancel):
            done.click(lambda: gr.update(visible=False), None, self._editor[0], **QUIET)
        self.search_on(self.more.click, self._give_more, self._amount)

        def end(request: gr.Request) -> None:
            self.activities.stop(str(request.session_hash), self.tab)

        self.stop.click(end, None, None, **QUIET)

    def search_on(
        self,
        listen: Callable[..., Any],
        search: Callable[..., Any],
        inputs: Any,
        *,
        clears: Sequence[Any] | None = None,
        also: Sequence[Any] = (),
    ) -> None:
        """Run `search` on an event, `listen` being its listener: `button.click`.

        It changes what is `live`, and components `also`. One that begins anew `clears` these besides what is `still`.
        The status shows its place in the queue, and that the server would not take it.
        """
        if clears is not None:
            nothing = {**self.cleared_still(), **dict.fromkeys(clears)}
            listen(lambda: nothing, None, list(nothing), **QUIET)

        @wraps(search)
        def told(*given: Any) -> Iterator[Any]:
            # To Gradio, a search that tells nothing has nothing to show, and everything is cleared.
            yield gr.skip()
            yield from search(*given)

        event = listen(
            told,
            inputs,
            [*also, *self.live],
            show_progress="minimal",
            show_progress_on=[self.status],
            api_visibility="private",
            trigger_mode="multiple",
        )
        event.then(self._over, None, self.charts, **QUIET)
        mind_queue(event, self.status)

    # -- running -------------------------------------------------------------------------------------------------

    def play(
        self, request: gr.Request, make: Make, *, earlier: Sequence[Any] = (), runs: Path | None = None
    ) -> Iterator[dict[Any, Any]]:
        """Run a new search on this tab, yielding updates until it is over."""
        before = self._current(request)
        activity = self.activities.begin(str(request.session_hash), self.tab)
        activity.charts_open = before is not None and before.charts_open
        activity.earlier = list(earlier)
        activity.runs = runs
        yield {**self.cleared(), self.status: el("div", class_="status is-idle", data_busy="true")}
        yield from self._run(activity, request, make)

    def go_on(
        self, request: gr.Request, before: Activity, *, more: int = 0, interventions: Sequence[Intervention] = ()
    ) -> Iterator[dict[Any, Any]]:
        """Resume a finished search with more rollouts, or with a person's interventions."""
        run = before.run
        if run is None:
            return
        limits = more_of(before.view, more)
        activity = self.activities.begin(str(request.session_hash), self.tab)
        activity.earlier, activity.runs, activity.run = before.earlier, before.runs, run
        activity.selected, activity.unfolded = before.selected, before.unfolded
        activity.charts_open = before.charts_open
        activity.view.raised = limits
        activity.view.events = before.view.parts_before
        activity.view.seconds_before, activity.view.tokens_before = before.view.seconds, before.view.tree.generated

        def make(activity: Activity, engine: Engine) -> Callable[[], Iterable[Event]]:
            how: dict[str, Any] = {**limits, "interventions": interventions, "task_of": self._task_of}
            if zerogpu.active():
                activity.steerable = False
                options = zerogpu.options_of(run, limits)
                work = partial(zerogpu.resume, run=run, runs=activity.runs, **how)
                return lambda: zerogpu.lent(engine.info.model, work, options, activity.stop)
            solver = Solver(engine, runs=activity.runs)
            activity.steer = solver.steer
            return lambda: solver.resume(run, stop=activity.stop, **how)

        yield from self._run(activity, request, make)

    def _run(self, activity: Activity, request: gr.Request, make: Make) -> Iterator[dict[Any, Any]]:
        sent = Sent()
        message = ""
        for _ in self._advance(activity, request, make):
            if self.activities.get(str(request.session_hash), self.tab) is not activity:
                return
            message = "" if activity.view.started or self.loader is None else wait_message(self.loader, request)
            if updates := self.show(activity, request, sent, message=message):
                yield updates
        yield self.show(activity, request, Sent(), message=message)

    def _advance(self, activity: Activity, request: gr.Request, make: Make) -> Iterator[Any]:
        """Get the model, prepare the search and follow it. One item whenever the page may be told."""
        assert self.loader is not None
        view = activity.view
        for _ in wait_for_model(self.loader, activity):
            yield
        engine = self.loader.engine
        events = None
        if engine is not None and not activity.stop.is_set():
            try:
                events = make(activity, engine)
            except MarcoError as error:
                view.error = str(error)
        if engine is None or events is None:
            activity.running = False
            yield
            return
        activity.unhurried = engine.info.device.lower().startswith("cpu") and _at_the_machine(request)
        search = ""
        with self.loader.using(engine):
            for _ in watch(activity, events, surprise=speaker(request)("surprise")):
                if view.started is not None and view.started.search != search:
                    # A text in several parts is several searches, each with a tree and a file of its own.
                    if search:
                        activity.selected = None
                        activity.unfolded.clear()
                    search = view.started.search
                    activity.run = run_path(activity.runs, search) if activity.runs is not None else None
                yield

    # -- a view to updates -----------------------------------------------------------------------------------

    def show(self, activity: Activity, request: gr.Request, sent: Sent, *, message: str = "") -> dict[Any, Any]:
        """Updates for all that is shown, or none where nothing changed since `sent`."""
        view = activity.view
        t = texts(language_of(request))
        news = False

        def put(name: str, component: Any, draw: Callable[[], Any], instead: Any = None) -> None:
            nonlocal news
            try:
                value = draw()
            except Exception:
                # A part that can't be drawn costs that part: the search goes on.
                log.exception("%s can't be drawn", name)
                value = instead or el("div", el("p", t("not_drawn"), class_="muted"))
            news = sent.changed(component, value) or news
            sent.parts[component] = value

        put("status", self.status, lambda: state_of(activity, render.status(view, t, message=message)))
        if view.started is None:
            return dict(sent.parts) if news else {}
        # What is being written changes the tree and the thoughts; the rest waits for something to happen.
        happened = (len(view.events), bool(view.error))
        if sent.changed("answer at", happened):
            put("answer", self.answer, lambda: self._answer(view, t))
        put("tree", self.tree, lambda: self._payload(activity, request), sent.parts.get(self.tree))
        if sent.changed("node at", (*happened, activity.selected, activity.running, activity.run)):
            put("node", self.node, lambda: self._details(activity, request))
        now = time.monotonic()
        if now - sent.thoughts_at >= THOUGHTS_EVERY or not activity.running:
            sent.thoughts_at = now
            earlier = [el("div", *turn.elements, class_="earlier") for turn in activity.earlier]
            put("thoughts", self.thoughts, lambda: render.conversation(view, t, earlier=earlier))
        return dict(sent.parts) if news else {}

    def cleared(self) -> dict[Any, Any]:
        """Updates for a new search: nothing that showed the one before stays."""
        return dict.fromkeys((self.answer, self.tree, self.node, self.thoughts))

    def cleared_still(self) -> dict[Any, Any]:
        """As `cleared`, for what is `still`."""
        cleared: dict[Any, Any] = dict.fromkeys(self.charts)
        if self._editor:
            cleared[self._editor[0]] = gr.update(visible=False)
        return cleared

    def _payload(self, activity: Activity, request: gr.Request) -> dict[str, Any]:
        return render.tree_payload(
            activity.view,
            unfolded=frozenset(activity.unfolded),
            selected=activity.selected,
            words=tree_words(language_of(request)),
        )

    def _details(self, activity: Activity, request: gr.Request) -> Element:
        able = activity.steerable if activity.running else activity.run is not None
        steering = self.loader is not None and able
        return render.node_details(activity.view, activity.selected, texts(language_of(request)), steering=steering)

    # -- a person at the tree ----------------------------------------------------------------------------------

    def _current(self, request: gr.Request) -> Activity | None:
        return self.activities.get(str(request.session_hash), self.tab)

    def _select(self, event: gr.EventData, request: gr.Request) -> Any:
        activity = self._current(request)
        if activity is None:
            return {}
        before, activity.selected = activity.selected, str(event.node_id)
        activity.fresh = True
        updates: dict[Any, Any] = {self.node: self._details(activity, request)}
        if self._editor and activity.selected != before:
            updates[self._editor[0]] = gr.update(visible=False)
        if activity.charts_open:
            t = texts(language_of(request))
            updates[self.charts[0]] = charts.path_figure(activity.view, activity.selected, t)
        return updates

    def _unfold(self, event: gr.EventData, request: gr.Request) -> Any:
        activity = self._current(request)
        if activity is None:
            return gr.skip()
        activity.unfolded.add(str(event.node_id))
        activity.fresh = True
        return self._payload(activity, request)

    def _draw_charts(self, request: gr.Request) -> Any:
        activity = self._current(request)
        if activity is None:
            return [gr.skip()] * len(self.charts)
        activity.charts_open = True
        if activity.view.started is None:
            return [gr.skip()] * len(self.charts)
        return self._figures(activity, request)

    def _over(self, request: gr.Request) -> Any:
        """The charts of a search that has ended, if somebody looks at them."""
        activity = self._current(request)
        if activity is None or activity.running or not activity.charts_open or activity.view.started is None:
            return [gr.skip()] * len(self.charts)
        return self._figures(activity, request)

    def _figures(self, activity: Activity, request: gr.Request) -> list[Any]:
        try:
            return list(charts.figures(activity.view, activity.selected, texts(language_of(request))))
        except Exception:
            log.exception("the charts can't be drawn")
            return [gr.skip()] * len(self.charts)

    # -- taking part ---------------------------------------------------------------------------------------------

    def _act(self, event: gr.EventData, request: gr.Request) -> Iterator[dict[Any, Any]]:
        activity = self._current(request)
        node = event.node
        if activity is None or node not in activity.view.tree:
            return
        action = str(event.action)
        if action == "edit":
            return  # it opens the editor
        data = {"index": int(event.index), "token": int(event.token)} if action == "fork" else {}
        yield from self._intervene(activity, request, action, str(node), data)

    def _open_editor(self, event: gr.EventData, request: gr.Request) -> list[Any]:
        activity = self._current(request)
        if activity is None or event.action != "edit" or event.node not in activity.view.tree:
            return [gr.skip()] * len(self._editor)
        return [gr.update(visible=True), activity.view.tree[event.node].text]

    def _edit(self, text: str, request: gr.Request) -> Iterator[dict[Any, Any]]:
        activity = self._current(request)
        if activity is None or activity.selected is None:
            return
        yield from self._intervene(activity, request, "edit", activity.selected, {"text": text})

    def _intervene(
        self, activity: Activity, request: gr.Request, action: str, node: str, data: Mapping[str, Any]
    ) -> Iterator[dict[Any, Any]]:
        """Steer a search under way; go on with a finished one from there."""
        if activity.running and not activity.steerable:
            return
        if activity.running:
            try:
                activity.steer(action, node, **data)
                return
            except MarcoError:
                pass  # it ended just now: go on with it
        # What only changes where to search needs no rollout of its own.
        more = 0 if action in ("prune", "restore", "pin", "unpin") else RESUMED_ROLLOUTS
        yield from self.go_on(request, activity, more=more, interventions=[(action, node, data)])

    def _give_more(self, amount: float, request: gr.Request) -> Iterator[dict[Any, Any]]:
        activity = self._current(request)
        if activity is None or activity.view.started is None or (activity.running and not activity.steerable):
            return
        if activity.running:
            try:
                activity.steer("budget", None, **more_of(activity.view, int(amount)))
                return
            except MarcoError:
                pass
        yield from self.go_on(request, activity, more=int(amount))


def state_of(activity: Activity, status: Element) -> Element:
    """The status with what buttons and results follow (`status_panel`)."""
    tag, attributes, children = status
    shown = {"data-shown": "true"} if activity.view.started is not None else {}
    return [tag, {**attributes, "data-busy": str(activity.running).lower(), **shown}, children]


def _at_the_machine(request: gr.Request) -> bool:
    """Whether the browser runs where the server does; a proxy there looks like one."""
    client = request.client
    return client is not None and client.host in LOOPBACK


def more_of(view: render.View, rollouts: int) -> dict[str, Any]:
    """The limits in all that leave room for so many rollouts more."""
    limits = {name: view.budget.get(name) for name in ("rollouts", "tokens", "seconds")}
    if not rollouts:
        return limits
    made = max(1, len(view.tree.rollouts))
    # A search that ended early has rollouts left: they are not taken away.
    if limits["rollouts"] is not None:
        limits["rollouts"] = max(limits["rollouts"], view.finished + len(view.writing)) + rollouts
    if limits["tokens"] is not None:
        limits["tokens"] = max(limits["tokens"], view.generated) + rollouts * (view.tree.generated // made + 1)
    if limits["seconds"] is not None:
        limits["seconds"] = max(limits["seconds"], view.seconds) + rollouts * (view.seconds / made + 1)
    return limits
