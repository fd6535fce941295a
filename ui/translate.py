"""The tab where a sentence is translated and the thought behind it is watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gradio as gr

from marco.engines.base import Engine
from marco.events import Event
from marco.translation import LANGUAGES, MODES, Translation, language, reading, task_of, translate_stream
from ui import render
from ui.markup import Element, el
from ui.model_loader import ModelLoader
from ui.reason import Folder
from ui.render import View
from ui.search_pane import SearchPane
from ui.session import Activities, Activity
from ui.settings import choices
from ui.texts import LABELS

TAB = "translate"

EXAMPLES = [
    ["这个鞋拥有踩屎感", "English"],
    ["这件衣服太显瘦了,闭眼入", "English"],
    ["It's raining cats and dogs, so let's call it a day.", "Chinese"],
    ["I'm all ears — spill the tea!", "Spanish"],
]


def build(loader: ModelLoader, activities: Activities, folder: Folder, secret: Any) -> gr.Radio:
    """Build the tab where it stands; returns the choice of mode, whose names need translating."""
    with gr.Row(elem_classes="ask"):
        text = gr.Textbox(
            label=LABELS("sentence"),
            placeholder=LABELS("sentence_placeholder"),
            lines=1,
            max_lines=10,
            scale=6,
            min_width=300,
            elem_id="translate-text",
        )
        with gr.Column(scale=2, min_width=190):
            to = gr.Dropdown(
                [(" · ".join(dict.fromkeys((item.name, item.own))), item.name) for item in LANGUAGES],
                value="English",
                label=LABELS("to"),
                allow_custom_value=True,
                elem_id="translate-to",
            )
        with gr.Column(scale=1, min_width=150, elem_classes="ask-buttons"):
            run = gr.Button(LABELS("translate"), variant="primary", elem_id="translate-run")
            stop = gr.Button(LABELS("stop"), variant="stop", interactive=False, elem_id="translate-stop")
    with gr.Accordion(LABELS("settings"), open=False, elem_id="translate-settings", elem_classes="settings"), gr.Row():
        mode = gr.Radio(choices("mode", MODES), value="careful", label=LABELS("mode"), elem_id="translate-mode")
        source = gr.Textbox(label=LABELS("source"), info=LABELS("source_info"), elem_id="translate-from")
        glossary = gr.Textbox(
            label=LABELS("glossary"), info=LABELS("glossary_info"), lines=2, elem_id="translate-glossary"
        )
    pane = SearchPane(
        TAB,
        activities,
        loader,
        run=run,
        stop=stop,
        answer_id="translate-result",
        thoughts_id="translate-thought",
        answer=translation_card,
        task_of=task_of,
    )
    gr.Examples(
        EXAMPLES,
        [text, to],
        label=LABELS("examples"),
        example_labels=[f"{sentence} → {target}" for sentence, target in EXAMPLES],
        elem_id="translate-examples",
        api_visibility="private",
    )

    def ask(
        request: gr.Request, secret: str | None, text: str, to: str, mode: str, source: str, glossary: str
    ) -> Iterator[dict[Any, Any]]:
        runs = folder(request, secret)

        def make(activity: Activity, engine: Engine) -> Callable[[], Iterable[Event]]:
            events = translate_stream(
                engine,
                text,
                to,
                source=(source or "").strip() or None,
                mode=mode,
                glossary=glossary_of(glossary or ""),
                stop=activity.stop,
                runs=runs,
            )
            return lambda: events

        yield from pane.play(request, make, runs=runs)

    inputs = [secret, text, to, mode, source, glossary]
    run.click(ask, inputs, pane.outputs, **pane.streaming())
    text.submit(ask, inputs, pane.outputs, **pane.streaming())
    return mode


def glossary_of(lines: str) -> dict[str, str] | None:
    """`word = translation`, a line each; other lines are left out."""
    pairs = (line.split("=", 1) for line in lines.splitlines() if "=" in line)
    found = {word.strip(): meaning.strip() for word, meaning in pairs if word.strip() and meaning.strip()}
    return found or None


def translation_card(view: View, t: Callable[..., str]) -> Element:
    """The translation, how its expressions were read, other ways to say it, and what to doubt."""
    read = reading(view.events)
    if not read.translation:
        over = view.ended is not None or bool(view.error)
        key = "translation_none" if over else "translation_pending"
        return el("div", el("p", t(key), class_="muted"), class_="answer is-empty", aria_live="polite")
    meters = []
    if read.agreement is not None:
        meters.append(render.meter(t("agreement"), read.agreement, t("agreement_hint")))
    if view.answer is not None and view.answer.mean_token_confidence is not None:
        confidence = view.answer.mean_token_confidence
        meters.append(render.meter(t("token_confidence"), confidence, t("token_confidence_hint")))
    source = language(read.source_language).own if read.source_language else "?"
    pair = t("from_to", source=source, target=language(read.target_language).own)
    title = t("translation" if view.ended else "translation_so_far")
    return el(
        "div",
        el(
            "div",
            el("span", f"{title} · {pair}", class_="eyebrow"),
            el("div", *meters, class_="meters"),
            class_="answer-head",
        ),
        el(
            "div",
            el("p", read.translation, class_="big-answer translation", lang=read.target_language),
            el("button", t("copy"), type="button", class_="quiet", data_act="copy", data_of=".translation"),
            class_="answer-body",
        ),
        _expressions(read, t),
        _alternatives(read, t),
        *(el("p", warning, class_="warning") for warning in read.warnings),
        class_="answer",
        aria_live="polite",
    )


def _expressions(read: Translation, t: Callable[..., str]) -> Element | None:
    if not read.expressions:
        return None
    head = el("tr", *(el("th", t(key), scope="col") for key in ("said", "literally", "meant", "put")))
    rows = []
    for item in read.expressions:
        cells = (el("td", text) for text in (item.literal, item.meaning, item.chosen))
        rows.append(el("tr", el("th", item.source, scope="row"), *cells))
    table = el("table", el("thead", head), el("tbody", *rows), class_="votes")
    return el("details", el("summary", t("expressions")), table, open="open")


def _alternatives(read: Translation, t: Callable[..., str]) -> Element | None:
    if not read.alternatives:
        return None
    items = [
        el("li", el("span", item.translation), " ", el("small", f"{100 * item.agreement:.0f}%", class_="muted"))
        for item in read.alternatives
    ]
    return el("details", el("summary", t("alternatives", n=len(items))), el("ul", *items, class_="alternatives"))
