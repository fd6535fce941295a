"""The tab where a text is translated: the translation first, how it was read, and the search behind it on request.

Everything shown is `marco.translation.reading` of the events so far. What a person asks for besides (another register,
the way back, a direct translation) is written by the model in one pass each; `many_lines` is the part of the tab that
makes a table.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from marco import zerogpu
from marco.engines.base import Engine
from marco.errors import MarcoError
from marco.events import Event
from marco.translation import (
    LANGUAGES,
    MODES,
    REGISTERS,
    Expression,
    Translation,
    back_translation,
    defaults,
    in_register,
    language,
    reading,
    task_of,
    translate_stream,
)
from marco.translation import translate as translate_directly
from ui import many_lines, render
from ui.markup import Element, el
from ui.model_loader import ModelLoader
from ui.panel import panel
from ui.reason import Folder
from ui.render import View
from ui.search_pane import SearchPane
from ui.session import Activities, Activity
from ui.settings import choices
from ui.texts import LABELS, speaker
from ui.waiting import QUIET

TAB = "translate"
BESIDE = "translate-beside"

ASKED = (*(f"register_{name}" for name in REGISTERS), "beside_back", "beside_direct")
"""What may be asked for beside a translation, by the key of its text."""

EXAMPLES = [
    ["这个鞋拥有踩屎感", "English"],
    ["这件衣服太显瘦了,闭眼入", "English"],
    ["It's raining cats and dogs, so let's call it a day.", "Chinese"],
    ["I'm all ears — spill the tea!", "Spanish"],
    ["That concert was off the charts, I'm on cloud nine 🎶", "Japanese"],
    ["Don't sweat it, the exam was a piece of cake.", "Hindi"],
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
        with gr.Column(scale=2, min_width=230):
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
    shown: list[gr.HTML] = []
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
        beside=lambda: shown.append(panel(elem_id="translate-beside")),
        folded=True,
    )
    (beside,) = shown
    many_lines.build(loader, activities, folder, secret, [to, mode, source, glossary])
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
            how: dict[str, Any] = {
                "source": (source or "").strip() or None,
                "mode": mode,
                "glossary": many_lines.glossary_of(glossary or ""),
                "runs": runs,
            }
            if zerogpu.active():
                activity.steerable = False
                work = partial(translate_stream, text=text, to=to, **how)
                return lambda: zerogpu.lent(engine.info.model, work, defaults(mode), activity.stop)
            events = translate_stream(engine, text, to, stop=activity.stop, **how)
            return lambda: events

        yield from pane.play(request, make, runs=runs)

    def ask_beside(event: gr.EventData, request: gr.Request) -> Iterator[Element]:
        """Another register, the way back, or a direct translation, for the translation that is shown."""
        key, session = str(event.action), str(request.session_hash)
        activity = activities.get(session, TAB)
        if activity is None or key not in ASKED or not activity.view.events:
            return
        t = speaker(request)
        read = reading(activity.view.events)
        read = replace(read, translation=activity.chosen or read.translation)
        yield beside_card(key, read, None, t)
        own = activities.begin(session, BESIDE)
        engine = loader.engine
        if engine is None:
            yield el("p", t("beside_failed"), class_="warning")
            return
        try:
            with loader.using(engine):
                if zerogpu.active():
                    work = partial(asked_there, key=key, read=read)
                    (said,) = zerogpu.borrow(engine.info.model, work, defaults("quick").to_dict())
                else:
                    said = asked(engine, key, read, own.stop)
        except MarcoError as error:
            yield el("p", str(error), class_="warning")
            return
        if not own.stop.is_set():
            own.chosen = said
            yield beside_card(key, read, said, t)

    def choose(event: gr.EventData, request: gr.Request) -> Any:
        """Put one of the candidates in place of the translation."""
        activity = activities.get(str(request.session_hash), TAB)
        if activity is None or str(event.action) != "choose":
            return gr.skip()
        texts = [text for text, _ in candidates(reading(activity.view.events))]
        number = str(event.of)
        if not number.isdecimal() or int(number) >= len(texts):
            return gr.skip()
        return _put(activity, texts[int(number)], request)

    def use(event: gr.EventData, request: gr.Request) -> Any:
        """Put what was written beside the translation in its place."""
        session = str(request.session_hash)
        activity, own = activities.get(session, TAB), activities.get(session, BESIDE)
        if activity is None or own is None or str(event.action) != "use" or not own.chosen:
            return gr.skip()
        return _put(activity, own.chosen, request)

    def _put(activity: Activity, text: str, request: gr.Request) -> Element:
        activity.chosen = text
        return translation_card(activity.view, speaker(request), text)

    inputs = [secret, text, to, mode, source, glossary]
    pane.search_on(run.click, ask, inputs, clears=[beside])
    pane.search_on(text.submit, ask, inputs, clears=[beside])
    pane.answer.act(ask_beside, None, beside, show_progress="hidden", api_visibility="private")
    pane.answer.act(choose, None, pane.answer, **QUIET)
    beside.act(use, None, pane.answer, **QUIET)
    return mode


def asked(engine: Engine, key: str, read: Translation, stop: threading.Event) -> str:
    """What the model writes for one of `ASKED`. Raises `MarcoError`."""
    if key == "beside_back":
        home = read.source_language or "en"
        return back_translation(engine, read.translation, home, source=read.target_language, stop=stop)
    if key == "beside_direct":
        return translate_directly(
            engine, read.source, read.target_language, source=read.source_language, mode="quick", dictionary=False,
            stop=stop,
        ).translation  # fmt: skip
    return in_register(engine, read, key.removeprefix("register_"), stop=stop)


def asked_there(engine: Engine, *, key: str, read: Translation) -> Iterator[str]:
    """`asked` as work to lend a GPU for: one text."""
    yield asked(engine, key, read, threading.Event())


def candidates(read: Translation) -> list[tuple[str, float | None]]:
    """The translation, and the other ways to say it with how far the candidates agree on each."""
    return [(read.translation, read.agreement), *((item.translation, item.agreement) for item in read.alternatives)]


def translation_card(view: View, t: Callable[..., str], chosen: str = "") -> Element:
    """The translation, how its expressions were read, other ways to say it, and what to doubt.

    `chosen` stands in place of the search's own translation; figures and warnings are about that one, and go with it.
    """
    read = reading(view.events)
    own = not chosen or chosen == read.translation
    if not read.translation:
        over = view.ended is not None or bool(view.error)
        key = "translation_none" if over else "translation_pending"
        return el("div", el("p", t(key), class_="muted"), class_="answer is-empty", aria_live="polite")
    meters = []
    if own and read.agreement is not None:
        meters.append(render.meter(t("agreement"), read.agreement, t("agreement_hint")))
    if own and view.answer is not None and view.answer.mean_token_confidence is not None:
        confidence = view.answer.mean_token_confidence
        meters.append(render.meter(t("token_confidence"), confidence, t("token_confidence_hint")))
    source = language(read.source_language).own if read.source_language else "?"
    pair = t("from_to", source=source, target=language(read.target_language).own)
    title = t("translation_chosen" if not own else "translation" if view.ended else "translation_so_far")
    spans = [(item.target_span, number) for number, item in enumerate(read.expressions, start=1) if item.target_span]
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
            el(
                "p",
                *(linked(read.translation, spans) if own else [chosen]),
                class_="big-answer translation",
                lang=read.target_language,
            ),
            el("button", t("copy"), type="button", class_="quiet", data_act="copy", data_of=".translation"),
            class_="answer-body",
        ),
        *(el("p", warning, class_="warning") for warning in (read.warnings if own else ())),
        el("p", f"{t('draft')}: {read.draft}", class_="muted") if read.draft else None,
        _expressions(read, t),
        _alternatives(read, chosen or read.translation, t, pick=view.ended is not None),
        _asking(t) if view.ended else None,
        class_="answer",
        aria_live="polite",
    )


def linked(text: str, spans: Iterable[tuple[tuple[int, int], int]]) -> Iterator[str | Element]:
    """`text` with its spans marked by their numbers. Of two that overlap the first counts."""
    done = 0
    for (start, end), number in sorted(spans):
        if start < done or end > len(text) or start >= end:
            continue
        if start > done:
            yield text[done:start]
        yield el("mark", text[start:end], data_link=str(number), tabindex="0")
        done = end
    if done < len(text):
        yield text[done:]


def _asking(t: Callable[..., str]) -> Element:
    buttons = [el("button", t(key), type="button", data_act=key) for key in ASKED]
    return el("div", *buttons, class_="steering", role="group", aria_label=t("beside_label"))


def beside_card(key: str, read: Translation, said: str | None, t: Callable[..., str]) -> Element:
    """What was asked for, beside the translation; None while it is being written."""
    target = read.source_language if key == "beside_back" else read.target_language
    first, name = ("original", read.source) if key == "beside_back" else ("beside_reasoned", read.translation)
    columns = [
        el("div", el("h3", t(first)), el("p", name, class_="said"), class_="card"),
        el(
            "div",
            el("h3", t(key)),
            el("p", said if said is not None else t("beside_working") + "…", class_="said asked", lang=target),
            *(_taking(key, t) if said is not None else ()),
            class_="card",
        ),
    ]
    return el("div", *columns, class_="columns beside", aria_live="polite")


def _taking(key: str, t: Callable[..., str]) -> Iterator[Element]:
    yield el("button", t("copy"), type="button", class_="quiet", data_act="copy", data_of=".asked")
    if key != "beside_back":
        yield el("button", t("use_this"), type="button", class_="quiet", data_act="use")


def _expressions(read: Translation, t: Callable[..., str]) -> Element | None:
    if not read.expressions:
        return None
    head = el("tr", *(el("th", t(key), scope="col") for key in ("said", "literally", "meant", "put")))
    rows = [_expression(number, item, t) for number, item in enumerate(read.expressions, start=1)]
    spans = [(item.source_span, number) for number, item in enumerate(read.expressions, start=1)]
    table = el("table", el("thead", head), el("tbody", *rows), class_="votes")
    return el(
        "details",
        el("summary", t("expressions")),
        el("p", *linked(read.source, spans), class_="original", lang=read.source_language),
        el("div", table, class_="scroll"),
        open="open",
        data_key="expressions",
    )


def _expression(number: int, item: Expression, t: Callable[..., str]) -> Element:
    chosen = item.chosen or t("not_put")
    cells = (el("td", text) for text in (item.literal, item.meaning, chosen))
    by = el("small", item.dictionary, class_="muted", title=t("from_dictionary")) if item.dictionary else None
    row = (el("th", item.source, " ", by, scope="row", data_number=str(number)), *cells)
    return el("tr", *row, data_link=str(number))


def _alternatives(read: Translation, shown: str, t: Callable[..., str], *, pick: bool) -> Element | None:
    """All that is not shown; with `pick`, each to be put in its place."""
    items = []
    for number, (text, agreement) in enumerate(candidates(read)):
        if text == shown:
            continue
        share = el("small", f"{100 * agreement:.0f}%", class_="muted") if agreement is not None else None
        told = (
            el(
                "button",
                text,
                type="button",
                class_="link",
                title=t("use_this"),
                data_act="choose",
                data_of=str(number),
            )
            if pick
            else el("span", text)
        )
        items.append(el("li", told, " ", share))
    if not items:
        return None
    return el(
        "details",
        el("summary", t("alternatives", n=len(items))),
        el("ul", *items, class_="alternatives"),
        data_key="alternatives",
    )
