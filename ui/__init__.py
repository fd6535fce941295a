"""The page. `build_app` puts it together; `ui.render` is where events become what is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import gradio as gr
from starlette.middleware import Middleware
from starlette.routing import Route

from marco.config import STRATEGIES, ModelConfig
from marco.translation import MODES
from ui import api, compare, lab, library, reason, translate
from ui.first_script import FirstScript
from ui.markup import Element, el
from ui.model_loader import ModelLoader, Opener
from ui.panel import panel
from ui.session import Activities
from ui.settings import choices
from ui.texts import LABELS, language_of, speaker
from ui.tree_view import CSS as TREE_CSS
from ui.visitors import folder_of, new_secret
from ui.waiting import QUIET, progress_text

__all__ = ["build_app", "launch_options"]

_HERE = Path(__file__).parent
_SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "sans-serif"]
_SYSTEM_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def _theme() -> gr.themes.Base:
    """Calm, and with the visitor's own fonts: none is fetched."""
    theme = gr.themes.Soft(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        font=_SYSTEM_FONTS,
        font_mono=_SYSTEM_MONO,
        radius_size=gr.themes.sizes.radius_lg,
    )
    return theme.set(
        body_background_fill="#fbfbfd",
        body_background_fill_dark="#0d1017",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1a1f2b",
        body_text_color_subdued="#565e70",
        body_text_color_subdued_dark="#a6aebf",
        block_info_text_color="#565e70",
        block_info_text_color_dark="#a6aebf",
        input_placeholder_color="#6b7280",
        input_placeholder_color_dark="#949cae",
        color_accent="#4338ca",
        checkbox_label_background_fill_selected="#4338ca",
        checkbox_label_background_fill_selected_dark="#4338ca",
        checkbox_label_text_color_selected="#ffffff",
        checkbox_label_shadow="none",
        block_shadow="none",
        block_border_width="1px",
        block_border_color="#e2e5ec",
        block_border_color_dark="#2c3342",
        block_label_background_fill="transparent",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_padding="0",
        block_title_text_weight="600",
        block_title_text_color="#334155",
        block_title_text_color_dark="#cbd5e1",
        block_label_text_color="#334155",
        block_label_text_color_dark="#cbd5e1",
        input_shadow="none",
        input_shadow_focus="none",
        input_background_fill="#ffffff",
        input_background_fill_dark="#12161f",
        input_border_width="1px",
        input_border_color="#d5d9e2",
        input_border_color_dark="#363e4f",
        button_primary_shadow="none",
        button_secondary_shadow="none",
        button_cancel_shadow="none",
        button_primary_background_fill="#4338ca",
        button_primary_background_fill_hover="#3730a3",
        button_primary_background_fill_dark="#4f46e5",
        button_primary_background_fill_hover_dark="#4338ca",
        button_primary_text_color="#ffffff",
    )


SEATS = 8
"""Searches of one kind at a time."""
ROOM = 128
"""People who may wait for a seat."""


def launch_options(*, routes: Sequence[Route] = (), middleware: Sequence[Middleware] = ()) -> dict[str, Any]:
    """Arguments for the page's `launch`: Gradio takes looks and texts there, and what stands around the page."""
    return {
        "theme": _theme(),
        "css": (_HERE / "page.css").read_text(encoding="utf-8") + TREE_CSS,
        "i18n": LABELS,
        "run_history": False,
        "footer_links": ["api", "settings"],
        "show_error": True,
        "app_kwargs": {"routes": list(routes), "middleware": [*middleware, Middleware(FirstScript)]},
    }


def model_status(loader: ModelLoader, request: gr.Request | None) -> Element:
    """The chip in the page's head: which model, or how far it is."""
    t = speaker(request)
    state = loader.state
    if state.phase == "failed":
        return el(
            "div", el("span", class_="dot"), el("span", t("model_failed", error=state.error)), class_="model is-failed"
        )
    if state.phase == "ready":
        return el(
            "div",
            el("span", class_="dot", aria_hidden="true"),
            el("span", state.model, class_="name"),
            el("span", " · ".join(part for part in (state.engine, state.device) if part)),
            class_="model is-ready",
        )
    share = state.share
    return el(
        "div",
        el("span", class_="dot", aria_hidden="true"),
        el("span", t("model_loading"), class_="name"),
        el("span", progress_text(loader)),
        el("progress", max="1", value=f"{share:.3f}", aria_label=t("model_loading")) if share is not None else None,
        class_="model is-loading",
    )


def build_app(
    loader: ModelLoader,
    *,
    runs: Path | None = None,
    shared: bool = False,
    records: Path | None = None,
    switch: Callable[[ModelConfig], Opener] | None = None,
    activities: Activities | None = None,
    seats: int = SEATS,
    room: int = ROOM,
) -> gr.Blocks:
    """The whole page over one model.

    `runs` is the folder for run files (None for none); on a `shared` server each visitor sees only their own, and
    nobody changes the model. `records` is the folder of evaluations (None: the usual one). `switch` opens the model
    that a person names on the page. `activities` are for whoever wants to end all searches from outside. `seats`
    searches of one kind run at a time; `room` people may wait.
    """
    activities = activities or Activities()

    def folder(request: gr.Request, secret: str | None) -> Path | None:
        return folder_of(runs, request, secret, shared=shared)

    with gr.Blocks(title="Marco", analytics_enabled=False, fill_width=True) as app:
        secret = gr.BrowserState("", storage_key="marco-visitor")
        with gr.Row(elem_classes="masthead"):
            masthead = panel(_masthead(None), elem_id="masthead")
            model = panel(elem_id="model-status")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(LABELS("tab_reason"), id="reason"):
                settings, asking = reason.build(loader, activities, folder, secret)
                pulse = gr.Timer(0.5)
                if switch is not None and not shared:
                    _build_switch(loader, switch, pulse)
            with gr.Tab(LABELS("tab_translate"), id="translate"):
                mode = translate.build(loader, activities, folder, secret)
            with gr.Tab(LABELS("tab_compare"), id="compare"):
                strategies = compare.build(loader, activities, folder, secret)
            with gr.Tab(LABELS("tab_runs"), id="runs") as past:
                library.build(activities, folder, secret, asking, tabs, past)
            with gr.Tab(LABELS("tab_lab"), id="lab") as evaluations:
                lab.build(lab.lab_folder(records), evaluations, activities)

        def opened(request: gr.Request, secret: str) -> list[Any]:
            language = language_of(request)
            return [
                secret or new_secret(),
                _masthead(request, opened=True),
                model_status(loader, request),
                gr.update(choices=choices("mode", MODES, language)),
                gr.update(choices=choices("strategy", STRATEGIES, language)),
                *settings.opened(language, request.query_params),
            ]

        def beat(request: gr.Request) -> tuple[Element, Any]:
            settled = loader.state.phase != "loading"
            return model_status(loader, request), gr.update(active=False) if settled else gr.skip()

        def left(request: gr.Request) -> None:
            activities.forget(str(request.session_hash))

        api.build(loader, activities, folder)
        app.load(opened, secret, [secret, masthead, model, mode, strategies, *settings.components], **QUIET)
        pulse.tick(beat, None, [model, pulse], **QUIET)
        app.unload(left)
    app.queue(api_open=False, max_size=room, default_concurrency_limit=seats)
    return cast(gr.Blocks, app)


def _build_switch(loader: ModelLoader, switch: Callable[[ModelConfig], Opener], pulse: gr.Timer) -> None:
    """Another model, chosen on the page. The one at work stays until the new one is there."""
    from marco.engines.models import catalogue

    with gr.Accordion(LABELS("model_title"), open=False, elem_id="model-settings"), gr.Row():
        name = gr.Dropdown(
            [card.name for card in catalogue()],
            value=None,
            label=LABELS("model_label"),
            info=LABELS("model_switch_info"),
            allow_custom_value=True,
            elem_id="model-name",
            scale=4,
        )
        use = gr.Button(LABELS("model_switch"), elem_id="model-use", scale=1, min_width=160)

    def change(name: str | None) -> Any:
        if name and name.strip():
            loader.switch(switch(ModelConfig(model=name.strip())))
        return gr.update(active=True)

    use.click(change, name, pulse, **QUIET)


def _masthead(request: gr.Request | None, *, opened: bool = False) -> Element:
    """`opened` marks a page that knows its visitor and has the settings of its address."""
    tagline = el("span", speaker(request)("tagline"))
    return el("div", el("strong", "Marco"), tagline, class_="wordmark", data_opened="1" if opened else None)
