"""The part of the Translate tab that translates line by line and makes a table to download.

A line that can't be translated has its reason in the table and doesn't keep the others waiting.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from marco import zerogpu
from marco.errors import InvalidOption, InvalidText, MarcoError
from marco.translation import defaults, language, lines_of, reading, row_of, to_csv, translate_stream
from ui import render
from ui.markup import Element, el
from ui.model_loader import ModelLoader
from ui.panel import panel, status_panel
from ui.reason import Folder
from ui.session import Activities, Activity, watch
from ui.texts import LABELS, speaker
from ui.waiting import QUIET, mind_queue, wait_for_model, wait_message

TAB = "translate-lines"

MOST_BYTES = 4_000_000
COLUMNS = ("source", "translation", "expressions", "warnings")
HEADS = ("original", "translation", "expressions", "lines_warnings")

Rows = list[dict[str, str]]


def build(loader: ModelLoader, activities: Activities, folder: Folder, secret: Any, how: list[Any]) -> None:
    """Build it where it stands. `how`: the components of target, mode, source language and glossary."""
    with gr.Accordion(LABELS("lines_title"), open=False, elem_id="translate-many"):
        with gr.Row(elem_classes="ask"):
            lines = gr.Textbox(
                label=LABELS("lines"),
                placeholder=LABELS("lines_placeholder"),
                lines=4,
                max_lines=14,
                scale=8,
                min_width=300,
                elem_id="translate-lines",
            )
            with gr.Column(scale=1, min_width=170, elem_classes="ask-buttons"):
                upload = gr.UploadButton(
                    _label("lines_upload"), file_types=[".txt", ".csv", ".tsv"], elem_id="translate-lines-file"
                )
                run = gr.Button(LABELS("lines_run"), variant="primary", elem_id="translate-lines-run")
                stop = gr.Button(LABELS("stop"), variant="stop", interactive=False, elem_id="translate-lines-stop")
        status = status_panel("translate-lines-status")
        table = panel(elem_id="translate-lines-table")
        download = gr.DownloadButton(_label("lines_download"), visible=False, elem_id="translate-lines-csv")

    def read_file(path: str, request: gr.Request) -> dict[Any, Any]:
        text = text_of(Path(path))
        if text is None:
            return {status: _mistake(speaker(request)("lines_file"))}
        return {lines: text, status: None}

    def translate_each(
        request: gr.Request, secret: str | None, text: str, to: str, mode: str, source: str, glossary: str
    ) -> Iterator[dict[Any, Any]]:
        t = speaker(request)
        try:
            texts = lines_of(text or "")
            target = language(to)
        except MarcoError as mistake:
            yield {status: _mistake(str(mistake))}
            return
        session = str(request.session_hash)
        activity = activities.begin(session, TAB)
        rows: Rows = []
        yield {run: gr.update(interactive=False), stop: gr.update(interactive=True), download: gr.update(visible=False)}
        how = {"source": (source or "").strip() or None, "mode": mode, "glossary": glossary_of(glossary or "")}
        for told in all_lines(activity, texts, rows, target.code, how, request, secret):
            if activities.get(session, TAB) is not activity:
                return
            yield {status: told, table: table_of(rows, len(texts), t)}
        activity.running = False
        yield {
            run: gr.update(interactive=True),
            stop: gr.update(interactive=False),
            table: table_of(rows, len(texts), t),
            download: gr.update(visible=bool(rows), value=_written(rows) if rows else None),
        }

    def all_lines(
        activity: Activity,
        texts: tuple[str, ...],
        rows: Rows,
        to: str,
        how: dict[str, Any],
        request: gr.Request,
        secret: str | None,
    ) -> Iterator[Element]:
        """Translate one line after the other; an item is what the status says."""
        t = speaker(request)
        for _ in wait_for_model(loader, activity):
            yield render.status(activity.view, t, message=wait_message(loader, request))
        engine = loader.engine
        if engine is None:
            yield render.status(activity.view, t)
            return
        runs = folder(request, secret)
        with loader.using(engine):
            for line in texts:
                if activity.stop.is_set():
                    return
                part = Activity(stop=activity.stop)
                try:
                    # Mistakes are raised at the call. Where a GPU is lent, what comes of it is recorded there.
                    own = None if zerogpu.active() else runs
                    events = translate_stream(engine, line, to, stop=activity.stop, runs=own, **how)
                    if zerogpu.active():
                        work = partial(translate_stream, text=line, to=to, runs=runs, **how)
                        events = zerogpu.lent(engine.info.model, work, defaults(how["mode"]), activity.stop)
                except (InvalidText, InvalidOption) as mistake:
                    rows.append({"source": line, "target_language": to, "warnings": str(mistake)})
                    continue
                for view in watch(part, partial(iter, events), surprise=t("surprise")):
                    yield render.status(view, t)
                if part.view.started is not None:
                    rows.append(row_of(reading(part.view.events)))
                if part.view.error:
                    return

    started: dict[str, Any] = {
        "outputs": [run, stop, status, table, download],
        "show_progress": "minimal",
        "show_progress_on": [status],
        "api_visibility": "private",
    }
    mind_queue(run.click(translate_each, [secret, lines, *how], **started), status)
    upload.upload(read_file, upload, [lines, status], **QUIET)

    def end(request: gr.Request) -> None:
        activities.stop(str(request.session_hash), TAB)

    stop.click(end, None, None, **QUIET)


def text_of(path: Path) -> str | None:
    """The lines of an uploaded file: of a table its first column, `source` at its head left out."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    if path.suffix.lower() not in (".csv", ".tsv"):
        return text
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    cells = [" ".join(row[0].split()) for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
    return "\n".join(cells[1:] if cells and cells[0].casefold() in ("source", "text") else cells)


def glossary_of(lines: str) -> dict[str, str] | None:
    """`word = translation`, a line each; other lines are left out."""
    pairs = (line.split("=", 1) for line in lines.splitlines() if "=" in line)
    found = {word.strip(): meaning.strip() for word, meaning in pairs if word.strip() and meaning.strip()}
    return found or None


def table_of(rows: Rows, wanted: int, t: Callable[..., str]) -> Element:
    """What is translated so far."""
    head = el("tr", *(el("th", t(key), scope="col") for key in HEADS))
    body = []
    for number, row in enumerate(rows):
        first, *others = (row.get(name, "") for name in COLUMNS)
        body.append(el("tr", el("th", first, scope="row"), *(el("td", cell) for cell in others), data_key=str(number)))
    table = el("table", el("thead", head), el("tbody", *body), class_="votes lines")
    return el(
        "div",
        el("p", t("lines_done", done=len(rows), all=wanted), class_="muted", aria_live="polite"),
        el("div", table, class_="scroll", tabindex="0", role="region", aria_label=t("lines_title")),
    )


def _label(key: str) -> Any:
    """A text that the browser translates: Gradio takes it wherever a text may stand, and says so only of some."""
    return LABELS(key)


def _mistake(text: str) -> Element:
    return el("div", el("span", class_="dot"), el("span", text), class_="status is-error")


def _written(rows: Rows) -> Path:
    path = Path(tempfile.mkdtemp(prefix="marco-lines-")) / "translations.csv"
    # The mark at its head tells spreadsheets that it is UTF-8.
    path.write_text("\ufeff" + to_csv(rows), encoding="utf-8")
    return path
