"""The tab of past searches: find, open, replay, resume, compare, export, delete."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from marco.errors import MarcoError
from marco.runs import Run, RunSummary, list_runs, read_run, run_path
from ui import render
from ui.markup import Element, el
from ui.panel import panel
from ui.reason import Folder
from ui.search_pane import SearchPane, Sent
from ui.session import Activities
from ui.texts import LABELS, speaker
from ui.waiting import QUIET

TAB = "runs"

SHOWN = 200
"""Rows of the list."""

FORMATS = ("json", "graphml", "html")

Titles = list[tuple[str, str]]
"""What a run is called on the page, and its name."""


def build(activities: Activities, folder: Folder, secret: Any, asking: SearchPane, tabs: gr.Tabs, tab: gr.Tab) -> None:
    """Build the tab where it stands. A run is resumed on `asking`, the pane of the tab where questions are asked."""
    with gr.Row(elem_classes="ask"):
        word = gr.Textbox(
            label=LABELS("runs_find"), placeholder=LABELS("runs_find_placeholder"), scale=3, elem_id="runs-find"
        )
        since = gr.Textbox(label=LABELS("runs_since"), placeholder="2026-01-31", scale=1, elem_id="runs-since")
        model = gr.Textbox(label=LABELS("runs_model"), scale=1, elem_id="runs-model")
    listing = panel(elem_id="runs-list")
    chosen = gr.State(None)
    titles = gr.State([])
    with gr.Column(visible=False, elem_id="runs-open") as opened:
        with gr.Row(elem_classes="more"):
            slider = gr.Slider(1, 2, value=2, step=1, label=LABELS("runs_replay"), elem_id="runs-slider", scale=4)
            continue_ = gr.Button(LABELS("runs_resume"), elem_id="runs-resume", scale=0, min_width=110)
            delete = gr.Button(LABELS("runs_delete"), variant="stop", elem_id="runs-delete", scale=0, min_width=110)
            sure = gr.Button(
                LABELS("runs_delete_sure"), variant="stop", visible=False, elem_id="runs-delete-sure", scale=0
            )
        with gr.Row(elem_classes="exports"):
            exports = [
                gr.DownloadButton(f"⬇ {form.upper()}", size="sm", elem_id=f"runs-export-{form}") for form in FORMATS
            ]
            other = gr.Dropdown([], label=LABELS("runs_other"), elem_id="runs-other", interactive=True)
        beside = panel(elem_id="runs-beside")
        pane = SearchPane(TAB, activities)

    found_in = [secret, word, since, model]

    def rows(request: gr.Request, secret: str | None, word: str, since: str, model: str) -> tuple[Element, Titles]:
        found = list(_found(folder(request, secret)))
        return run_table(found, word, since, model, speaker(request)), [(_title(item), item.name) for item in found]

    def open_(event: gr.EventData, request: gr.Request, secret: str | None, titles: Titles) -> dict[Any, Any]:
        if str(event.action) != "open":
            return {}
        name = str(event.of)
        runs = folder(request, secret)
        try:
            run = _read(runs, name)
        except MarcoError as error:
            return {pane.status: el("div", el("span", str(error)), class_="status is-error")}
        activity = activities.begin(str(request.session_hash), TAB)
        activity.runs, activity.run, activity.running = runs, run.path, False
        for happened in run.events:
            activity.view.apply(happened)
        steps = len(run.events)
        others = [(title, item) for title, item in titles if item != name]
        return {
            chosen: name,
            opened: gr.update(visible=True),
            slider: gr.update(minimum=1, maximum=max(2, steps), value=steps),
            sure: gr.update(visible=False),
            other: gr.update(choices=others, value=None),
            beside: None,
            continue_: gr.update(visible=run.started.kind == "solve"),
            **{button: gr.update(value=None, interactive=False) for button in exports},
            **pane.cleared_still(),
            **pane.cleared(),
            **pane.show(activity, request, Sent()),
        }

    def replay(at: float, request: gr.Request, secret: str | None, name: str | None) -> dict[Any, Any]:
        """The search as it was after so many events."""
        before = activities.get(str(request.session_hash), TAB)
        if name is None or before is None:
            return {}
        run = _read(folder(request, secret), name)
        activity = activities.begin(str(request.session_hash), TAB)
        activity.runs, activity.run, activity.running = before.runs, run.path, False
        activity.selected, activity.unfolded = before.selected, before.unfolded
        for happened in run.events[: int(at)]:
            activity.view.apply(happened)
        return pane.show(activity, request, Sent())

    def export(request: gr.Request, secret: str | None, name: str | None) -> list[Any]:
        if name is None:
            return [gr.skip()] * len(FORMATS)
        return [gr.update(value=path, interactive=True) for path in _exported(_read(folder(request, secret), name))]

    def compare(other: str | None, request: gr.Request, secret: str | None, name: str | None) -> Element | None:
        if not other or name is None:
            return None
        runs = folder(request, secret)
        t = speaker(request)
        cards = [run_card(_read(runs, each), t) for each in (name, other)]
        return el("div", *cards, class_="columns")

    def remove(request: gr.Request, secret: str | None, name: str | None, *filters: str) -> dict[Any, Any]:
        runs = folder(request, secret)
        if name is not None and runs is not None:
            run_path(runs, name).unlink(missing_ok=True)
        left, names = rows(request, secret, *filters)
        return {chosen: None, opened: gr.update(visible=False), listing: left, titles: names}

    def go_on(request: gr.Request) -> Iterator[Any]:
        activity = activities.get(str(request.session_hash), TAB)
        if activity is not None:
            yield {tabs: gr.update(selected="reason")}
            yield from asking.go_on(request, activity, more=RESUMED)

    everything = [chosen, opened, slider, sure, other, beside, continue_, *exports, *pane.outputs]
    listing.act(open_, [secret, titles], everything, **QUIET).then(export, [secret, chosen], exports, **QUIET)
    slider.input(replay, [slider, secret, chosen], pane.outputs, trigger_mode="always_last", **QUIET)
    other.input(compare, [other, secret, chosen], beside, **QUIET)
    delete.click(lambda: gr.update(visible=True), None, sure, **QUIET)
    sure.click(remove, [secret, chosen, word, since, model], [chosen, opened, listing, titles], **QUIET)
    for field in (word, since, model):
        field.change(rows, found_in, [listing, titles], trigger_mode="always_last", **QUIET)
    tab.select(rows, found_in, [listing, titles], **QUIET)
    asking.search_on(continue_.click, go_on, None, also=[tabs])


RESUMED = 4
"""Rollouts that a resumed run is given on top."""


def _found(runs: Path | None) -> Iterator[RunSummary]:
    if runs is not None:
        yield from list_runs(runs)


def _read(runs: Path | None, name: str) -> Run:
    return read_run(run_path(runs if runs is not None else Path(), name))


def _title(item: RunSummary) -> str:
    return f"{item.created[:16].replace('T', ' ')} · {render.label(item.question, 60)}"


@functools.cache
def _exports() -> tempfile.TemporaryDirectory[str]:
    """Where exports lie until they are fetched; gone when this process ends."""
    return tempfile.TemporaryDirectory(prefix="marco-export-")


def _exported(run: Run) -> list[Path]:
    """The run in each of `FORMATS`, as files to download."""
    from marco.export import as_graphml, as_json
    from ui.page import as_html

    target = Path(_exports().name) / run.path.stem
    target.mkdir(exist_ok=True)
    written = []
    for form, write in zip(FORMATS, (as_json, as_graphml, as_html), strict=True):
        path = target / f"{run.path.stem}.{form}"
        path.write_text(write(run), encoding="utf-8")
        written.append(path)
    return written


def run_table(runs: list[RunSummary], word: str, since: str, model: str, t: Callable[..., str]) -> Element:
    """Runs whose question or answer has the word, that are as young as `since` (a date or its beginning)."""
    wanted = word.casefold().strip()
    kept = [
        run
        for run in runs
        if wanted in f"{run.question}\n{run.answer or ''}".casefold()
        and run.created >= since.strip()
        and model.casefold().strip() in run.model.casefold()
    ]
    if not runs:
        return el("p", t("runs_none"), class_="muted")
    columns = ("runs_question", "runs_answer", "runs_model", "runs_rollouts", "runs_ended", "runs_created")
    head = el("tr", *(el("th", t(key), scope="col") for key in columns))
    rows = []
    for run in kept[:SHOWN]:
        title = render.label(run.question, 90) or "–"
        button = el("button", title, type="button", class_="link", data_act="open", data_of=run.name)
        ended = t(f"ended_{run.stopped_by}") if run.stopped_by else "–"
        cells = (render.label(run.answer or "–", 60), run.model, str(run.rollouts), ended, _when(run.created))
        rows.append(el("tr", el("th", button, scope="row"), *(el("td", cell) for cell in cells), data_key=run.name))
    return el(
        "div",
        el("p", t("runs_count", n=len(kept), all=len(runs)), class_="muted"),
        el("div", el("table", el("thead", head), el("tbody", *rows), class_="votes runs"), class_="scroll"),
    )


def _when(created: str) -> str:
    return created[:16].replace("T", " ")


def run_card(run: Run, t: Callable[..., str]) -> Element:
    """One run beside another."""
    view = render.View.fold(run.events)
    search = run.started.options.get("search", {})
    return el(
        "div",
        el(
            "span",
            f"{t('strategy_' + search.get('strategy', 'mcts'))} · {_when(run.started.created)}",
            class_="eyebrow",
        ),
        render.status(view, t),
        render.answer(view, t),
        class_="card",
        data_key=run.path.stem,
    )
