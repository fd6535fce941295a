"""The page. `build_app` puts it together; `ui.render` is where events become what is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import gradio as gr

from ui import reason, translate
from ui.markup import Element, el
from ui.model_loader import ModelLoader
from ui.panel import panel
from ui.session import Activities
from ui.texts import LABELS, language_of, speaker
from ui.tree_view import CSS as TREE_CSS
from ui.waiting import progress_text

__all__ = ["LAUNCH", "build_app"]

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


LAUNCH: dict[str, Any] = {
    "theme": _theme(),
    "css": (_HERE / "page.css").read_text(encoding="utf-8") + TREE_CSS,
    "i18n": LABELS,
    "run_history": False,
    "footer_links": ["api", "settings"],
    "show_error": True,
}
"""Arguments for `launch`: Gradio takes looks and texts there."""


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


def build_app(loader: ModelLoader, *, runs: Path | None = None) -> gr.Blocks:
    """The whole page over one model. `runs` is the folder for run files, None for none."""
    activities = Activities()
    with gr.Blocks(title="Marco", analytics_enabled=False, fill_width=True) as app:
        with gr.Row(elem_classes="masthead"):
            masthead = panel(_masthead(None), elem_id="masthead")
            model = panel(elem_id="model-status")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab(LABELS("tab_reason"), id="reason"):
                settings = reason.build(loader, activities, runs)
            with gr.Tab(LABELS("tab_translate"), id="translate"):
                translate.build(loader, activities, runs)
        pulse = gr.Timer(0.5)

        def opened(request: gr.Request) -> list[Any]:
            language = language_of(request)
            return [_masthead(request), model_status(loader, request), *settings.translated(language)]

        def beat(request: gr.Request) -> tuple[Element, Any]:
            settled = loader.state.phase != "loading"
            return model_status(loader, request), gr.update(active=False) if settled else gr.skip()

        def left(request: gr.Request) -> None:
            activities.forget(str(request.session_hash))

        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        app.load(opened, None, [masthead, model, *settings.components], **quiet)
        pulse.tick(beat, None, [model, pulse], **quiet)
        app.unload(left)
    app.queue(api_open=False, max_size=128, default_concurrency_limit=8)
    return cast(gr.Blocks, app)


def _masthead(request: gr.Request | None) -> Element:
    return el("div", el("strong", "Marco"), el("span", speaker(request)("tagline")), class_="wordmark")
