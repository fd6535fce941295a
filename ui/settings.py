"""The settings of a search, in the words of those who use them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from marco.config import PRESETS, REFLECTIONS, SELECTIONS, STRATEGIES, Options, options
from marco.errors import MarcoError
from ui.texts import LABELS, texts
from ui.waiting import QUIET

ACTIONS = ("step", "mini-step-64", "mini-step-32")

NAMES = (
    "preset", "strategy", "rollouts", "action", "reflection", "select",
    "branching", "temperature", "top_p", "max_tokens", "max_seconds", "tokens", "seed",
)  # fmt: skip
"""In the order of `Settings.components`, the first ones of which they are; all but the preset are options."""

RANGES: dict[str, tuple[float, float, float]] = {
    "rollouts": (1, 64, 1),
    "branching": (1, 8, 1),
    "temperature": (0, 2, 0.05),
    "top_p": (0.05, 1, 0.01),
    "max_tokens": (16, 8192, 16),
    "max_seconds": (0, 3600, 5),
    "tokens": (0, 100_000, 100),
}
"""Least, most and step of the sliders."""

_UNLIMITED = ("max_seconds", "tokens")
"""Zero stands for no limit."""


def choices(group: str, values: Sequence[str], language: str = "en") -> list[tuple[str, str]]:
    t = texts(language)
    return [(t(f"{group}_{value}"), value) for value in values]


GROUPS: dict[str, Sequence[str]] = {
    "preset": tuple(PRESETS),
    "strategy": STRATEGIES,
    "action": ACTIONS,
    "reflection": REFLECTIONS,
    "select": SELECTIONS,
}
"""The settings that are chosen from a few values, whose names need translating."""


def of_preset(preset: str) -> dict[str, Any]:
    """The value of every setting under a preset."""
    chosen = options(preset)
    values: dict[str, Any] = {"preset": preset}
    for name in NAMES[1:]:
        source = {"max_seconds": "seconds"}.get(name, name)
        part = next(p for p in (chosen.search, chosen.sampling, chosen.budget) if hasattr(p, source))
        values[name] = getattr(part, source)
    for name in _UNLIMITED:
        values[name] = values[name] or 0
    return values


def to_options(values: Sequence[Any]) -> Options:
    """What the components hold, as options. Raises `InvalidOption`."""
    given = dict(zip(NAMES, values, strict=True))
    preset = given.pop("preset")
    for name in _UNLIMITED:
        given[name] = given[name] or None
    for name in ("rollouts", "branching", "max_tokens", "tokens", "seed"):
        if isinstance(given[name], float) and given[name].is_integer():
            given[name] = int(given[name])
    return options(preset, **given)


class Settings:
    """The components, built where it is made; `components` are the inputs of whoever runs a search."""

    def __init__(self, tab: str) -> None:
        start = of_preset("marco")

        def pick(name: str, kind: type[gr.Radio] | type[gr.Dropdown], info: bool = True) -> Any:
            return kind(
                choices(name, GROUPS[name]),
                value=start[name],
                label=LABELS(name),
                info=LABELS(f"{name}_info") if info else None,
                elem_id=f"{tab}-{name}",
            )

        def slide(name: str, info: str | None = None) -> gr.Slider:
            low, high, step = RANGES[name]
            return gr.Slider(
                low,
                high,
                step=step,
                value=start[name],
                label=LABELS({"tokens": "tokens_limit"}.get(name, name)),
                info=LABELS(info) if info else None,
                elem_id=f"{tab}-{name.replace('_', '-')}",
            )

        with gr.Accordion(LABELS("settings"), open=False, elem_id=f"{tab}-settings", elem_classes="settings"):
            with gr.Row():
                preset = pick("preset", gr.Radio)
                rollouts = slide("rollouts", "rollouts_info")
            with gr.Row():
                strategy = pick("strategy", gr.Dropdown)
                select = pick("select", gr.Dropdown, info=False)
            with gr.Row():
                action = pick("action", gr.Radio)
                reflection = pick("reflection", gr.Radio)
            with gr.Accordion(LABELS("finer"), open=False):
                with gr.Row():
                    branching = slide("branching")
                    temperature = slide("temperature")
                    top_p = slide("top_p")
                with gr.Row():
                    max_tokens = slide("max_tokens")
                    seconds = slide("max_seconds", "no_limit")
                with gr.Row():
                    language = gr.Textbox(
                        label=LABELS("language"), info=LABELS("language_info"), elem_id=f"{tab}-language"
                    )
                    system = gr.Textbox(label=LABELS("system"), info=LABELS("system_info"), elem_id=f"{tab}-system")
                with gr.Row():
                    tokens = slide("tokens", "no_limit")
                    seed = gr.Number(start["seed"], label=LABELS("seed"), precision=0, minimum=0, elem_id=f"{tab}-seed")
        self.components: list[Any] = [
            preset, strategy, rollouts, action, reflection, select,
            branching, temperature, top_p, max_tokens, seconds, tokens, seed,
        ]  # fmt: skip
        self.components += [language, system]
        preset.input(
            lambda name: [of_preset(name)[field] for field in NAMES[1:]],
            preset,
            self.components[1 : len(NAMES)],
            **QUIET,
        )
        self.remember()

    def remember(self) -> None:
        """Keep what differs from the usual in the page's address, so that a link carries the settings."""
        usual = of_preset("marco")
        script = f"""(...values) => {{
            const names = {json.dumps(NAMES)}, usual = {json.dumps(usual)}, address = new URL(location.href);
            names.forEach((name, i) => {{
                if (values[i] === null || values[i] === usual[name]) address.searchParams.delete(name);
                else address.searchParams.set(name, values[i]);
            }});
            history.replaceState(history.state, "", address);
        }}"""
        for component in self.components[: len(NAMES)]:
            component.change(None, self.components[: len(NAMES)], None, js=script, **QUIET)

    def recalled(self, address: Mapping[str, str]) -> dict[str, Any]:
        """The settings that an address carries; what makes no sense is left out."""
        values = of_preset("marco")
        found: dict[str, Any] = {}
        for name in NAMES:
            if name not in address:
                continue
            text = address[name]
            try:
                value: Any = text if isinstance(values[name], str) else float(text)
                trial = {**values, **found, name: value}
                to_options([trial[each] for each in NAMES])
            except (ValueError, MarcoError):
                continue
            low, high, _ = RANGES.get(name, (value, value, 0))
            if low <= value <= high and value in GROUPS.get(name, (value,)):
                found[name] = value
        return found

    def opened(self, language: str, address: Mapping[str, str]) -> list[Any]:
        """Updates of `components` for a page that opens: names in a language, values from the address."""
        values = self.recalled(address)
        updates = []
        for name in NAMES:
            update: dict[str, Any] = {"value": values[name]} if name in values else {}
            if name in GROUPS:
                update["choices"] = choices(name, GROUPS[name], language)
            updates.append(gr.update(**update) if update else gr.skip())
        return updates + [gr.skip()] * (len(self.components) - len(NAMES))
