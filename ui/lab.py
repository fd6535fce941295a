"""The tab of evaluations: the records of one folder, each with its table and its report.

The page names a record by what the list shows; a name that is not on the list opens nothing, so no path from a page
leads out of the folder. A report is somebody's file on the way to a browser: it is drawn inside of a frame that may
run its own drawings and nothing else. Its links to run files open the run on the page, to be looked at.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from marco.errors import MarcoError, UserMistake
from marco.evaluation.records import MANIFEST, ROWS, RUNS, SUMMARY
from marco.runs import Run, read_run, run_path
from ui.markup import Element, el
from ui.packed_html import PackedHTML
from ui.panel import panel
from ui.search_pane import SearchPane, Sent
from ui.session import Activities
from ui.texts import speaker
from ui.waiting import QUIET

TAB = "lab-run"

DEPTH = 3
"""Levels of folders below the lab that are looked into."""
SHOWN = 200

_FRAME = (Path(__file__).parent / "report_frame.js").read_text(encoding="utf-8")


def lab_folder(given: Path | None = None) -> Path:
    """Where evaluations are kept: `given`, else MARCO_LAB, else `benchmarks` here, else the user's data folder."""
    named = given or os.environ.get("MARCO_LAB")
    if named:
        return Path(named)
    here = Path("benchmarks")
    if here.is_dir():
        return here
    import platformdirs

    return Path(platformdirs.user_data_dir("marco")) / "lab"


@dataclass(frozen=True, slots=True)
class Found:
    """A folder with an evaluation."""

    name: str
    """Its path below the lab, with slashes; `.` for the lab itself."""
    folder: Path
    rows: int
    changed: float
    """Seconds since the epoch: when the last row was written."""
    settled: bool
    """Its summary is younger than its rows: nobody writes to it now."""


def records_in(lab: Path) -> list[Found]:
    """The evaluations below `lab`, youngest first. Links that lead out of it are left out."""
    root = lab.resolve()
    found = []
    for level in range(DEPTH + 1):
        for path in root.glob("/".join(["*"] * level + [ROWS])):
            # Traces and other benchmarks keep rows, too, and are no evaluations.
            if not path.resolve().is_relative_to(root) or not path.with_name(MANIFEST).is_file():
                continue
            try:
                changed = path.stat().st_mtime
                rows = path.read_bytes().count(b"\n")
            except OSError:
                continue
            summary = path.with_name(SUMMARY)
            settled = summary.is_file() and summary.stat().st_mtime >= changed
            name = path.parent.relative_to(root).as_posix()
            found.append(Found(name, path.parent, rows, changed, settled))
    return sorted(found, key=lambda item: -item.changed)


_TO_THE_RUN = "() => document.getElementById('lab-run-status').scrollIntoView({ block: 'start' })"


def build(lab: Path, tab: gr.Tab, activities: Activities) -> None:
    """Build the tab where it stands."""
    listing = panel(elem_id="lab-list")
    note = panel(elem_id="lab-status", elem_classes="status-box")
    with gr.Column(visible=False, elem_id="lab-open") as opened:
        table = panel(elem_id="lab-table")
        pane = SearchPane(TAB, activities)
        report = _frame()
    name_opened = gr.State("")

    def rows(request: gr.Request) -> Element:
        return record_table(records_in(lab), speaker(request))

    def open_(event: gr.EventData, request: gr.Request) -> Iterator[dict[Any, Any]]:
        t = speaker(request)
        if str(event.action) != "open":
            return
        name = str(event.of)
        chosen = next((item for item in records_in(lab) if item.name == name), None)
        if chosen is None:
            yield {note: _told("error", t("lab_gone", name=name))}
            return
        yield {note: _told("waiting", t("lab_reading", name=name))}
        try:
            summary, page = _read(chosen)
        except UserMistake as mistake:
            yield {note: _told("error", str(mistake)), opened: gr.update(visible=False)}
            return
        yield {
            note: None,
            name_opened: name,
            pane.status: None,
            opened: gr.update(visible=True),
            table: summary_table(chosen, summary, t),
            report: {"title": t("lab_report", name=name), "page": page},
            listing: rows(request),
        }

    def open_run(event: gr.EventData, request: gr.Request, name: str) -> dict[Any, Any]:
        """Show a run of the record that is open, `event.of` being its name."""
        chosen = next((item for item in records_in(lab) if item.name == name), None)
        wanted = str(event.of)
        try:
            run = run_of(chosen, wanted) if chosen is not None else None
        except MarcoError as mistake:
            return {pane.status: _told("error", str(mistake))}
        if run is None:
            return {pane.status: _told("error", speaker(request)("lab_gone", name=wanted))}
        activity = activities.begin(str(request.session_hash), TAB)
        activity.running = False
        for happened in run.events:
            activity.view.apply(happened)
        return {**pane.cleared_still(), **pane.cleared(), **pane.show(activity, request, Sent())}

    tab.select(rows, None, listing, **QUIET)
    record = [note, name_opened, pane.status, opened, table, report, listing]
    listing.act(open_, None, record, show_progress="hidden", api_visibility="private")
    shown = report.act(open_run, name_opened, pane.outputs, **QUIET)
    shown.then(None, None, None, js=_TO_THE_RUN, **QUIET)


def _frame() -> gr.HTML:
    return PackedHTML(
        html_template='<div class="report"></div>',
        js_on_load=_FRAME,
        apply_default_css=False,
        elem_id="lab-report",
    )


def _read(chosen: Found) -> tuple[list[dict[str, Any]], str]:
    """The summary and the report of a record as far as it is written. Raises `UserMistake`."""
    from marco.evaluation.records import Record
    from marco.evaluation.report import build as report_of
    from marco.evaluation.summary import summarise

    record = Record.read(chosen.folder)
    return summarise(record), report_of(record, chosen.folder)


def run_of(chosen: Found, name: str) -> Run | None:
    """A run that a record has kept; None for any other, also where a link leads out of its folder.

    Raises `MarcoError` for a name that is none, and for a damaged file.
    """
    path = run_path(chosen.folder / RUNS, name)
    inside = path.is_file() and path.resolve().is_relative_to(chosen.folder.resolve())
    return read_run(path) if inside else None


def _told(kind: str, text: str) -> Element:
    return el("div", el("span", class_="dot"), el("span", text), class_=f"status is-{kind}")


def record_table(found: list[Found], t: Callable[..., str]) -> Element:
    """The list: a row a record, whose name opens it."""
    if not found:
        return el("p", t("lab_none"), class_="muted")
    head = el("tr", *(el("th", t(key), scope="col") for key in ("lab_record", "lab_rows", "lab_state", "lab_changed")))
    rows = []
    for item in found[:SHOWN]:
        button = el("button", item.name, type="button", class_="link", data_act="open", data_of=item.name)
        when = datetime.datetime.fromtimestamp(item.changed).strftime("%Y-%m-%d %H:%M")
        cells = (f"{item.rows:,}", t("lab_settled" if item.settled else "lab_written"), when)
        rows.append(el("tr", el("th", button, scope="row"), *(el("td", cell) for cell in cells), data_key=item.name))
    table = el("table", el("thead", head), el("tbody", *rows), class_="votes runs")
    return el("div", table, class_="scroll", tabindex="0", role="region", aria_label=t("tab_lab"))


COLUMNS = ("lab_task", "lab_combination", "lab_problems", "lab_accuracy", "lab_interval", "lab_tokens", "lab_seconds")


def summary_table(chosen: Found, summary: list[dict[str, Any]], t: Callable[..., str]) -> Element:
    """A row a combination and language: accuracy with its interval, and what it took."""
    head = el("tr", *(el("th", t(key), scope="col") for key in COLUMNS))
    rows = []
    for item in summary:
        name = item.get("label") or item["strategy"]
        cells = (
            str(item["problems"]),
            f"{item['accuracy']:.1%}",
            f"{item['low']:.1%} – {item['high']:.1%}",
            f"{item['tokens_per_problem']:.0f}",
            "" if item["seconds_per_problem"] is None else f"{item['seconds_per_problem']:.1f}",
        )
        task = el("td", f"{item['task']} {item['lang']}")
        rows.append(el("tr", task, el("th", name, scope="row"), *(el("td", cell) for cell in cells)))
    body = el("table", el("thead", head), el("tbody", *rows), class_="votes runs")
    return el(
        "div",
        el("h3", chosen.name),
        None if chosen.settled else el("p", t("lab_so_far", n=chosen.rows), class_="muted"),
        el("div", body, class_="scroll", tabindex="0", role="region", aria_label=t("lab_summary"))
        if rows
        else el("p", t("lab_empty"), class_="muted"),
        class_="card",
        data_key=chosen.name,
    )
