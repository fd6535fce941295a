"""Charts of a search: confidence along a line of thought, over the rollouts, and of the best answer over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ui import render
from ui.render import Translate, View

if TYPE_CHECKING:
    from plotly.graph_objs._figure import Figure

NAMES = ("path", "rollouts", "answer")

BLUE, ORANGE, GREY = "#4f6bed", "#d97706", "#7a8396"
"""Told apart by people who see no red or green, and drawn with different marks besides."""


def figures(view: View, selected: str | None, t: Translate) -> list[Figure]:
    """One figure for each of `NAMES`."""
    return [path_figure(view, selected, t), rollouts_figure(view, t), answer_figure(view, t)]


def path_figure(view: View, selected: str | None, t: Translate) -> Figure:
    """Confidence of each token from the question to the chosen node, else along the best path."""
    nodes = render.seen(view)
    best = render.best_path(view, nodes)
    target = selected if selected in nodes else best[-1] if best else None
    values: list[float | None] = []
    steps: list[int] = []
    for node in render.line(nodes, target) if target else []:
        if node.rollout is not None:
            steps.append(len(values))
            values.extend(view.confidences(node.rollout, node.start, node.end))
    figure = _figure(t("chart_path"), t("chart_tokens"), t("figure_confidence"))
    figure.add_scatter(y=values, mode="lines", line={"color": BLUE, "width": 1}, opacity=0.45, name=t("tokens"))
    figure.add_scatter(y=_smooth(values), mode="lines", line={"color": ORANGE, "width": 2.5}, name=t("chart_window"))
    for start in steps[1:]:
        figure.add_vline(x=start, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_yaxes(range=[0, 1.03])
    return figure


def rollouts_figure(view: View, t: Translate) -> Figure:
    """The value of each rollout, by its answer."""
    figure = _figure(t("chart_rollouts"), t("chart_rollout"), t("figure_value"))
    chosen = view.answer.answer if view.answer else None
    for same, color, symbol in ((True, BLUE, "circle"), (False, ORANGE, "x")):
        points = [n for n, made in view.tree.rollouts.items() if (made.answer == chosen) is same]
        figure.add_scatter(
            x=points,
            y=[view.tree.values[number] for number in points],
            text=[render.label(view.tree.rollouts[number].answer or "–", 40) for number in points],
            mode="markers",
            marker={"color": color, "symbol": symbol, "size": 9},
            name=t("chart_agrees" if same else "chart_differs"),
        )
    return figure


def answer_figure(view: View, t: Translate) -> Figure:
    """How sure Marco was of its best answer, by the tokens that were spent."""
    figure = _figure(t("chart_answer"), t("chart_spent"), t("margin"))
    spent = [milestone.generated for milestone in view.milestones]
    named = [render.label(milestone.choice.answer or "–", 40) for milestone in view.milestones]
    confidence = [milestone.choice.confidence for milestone in view.milestones]
    tokens = [milestone.choice.mean_token_confidence for milestone in view.milestones]
    figure.add_scatter(
        x=spent, y=confidence, text=named, mode="lines+markers", line={"color": BLUE, "shape": "hv"}, name=t("margin")
    )
    figure.add_scatter(
        x=spent,
        y=tokens,
        text=named,
        mode="lines+markers",
        line={"color": ORANGE, "shape": "hv", "dash": "dot"},
        marker={"symbol": "x"},
        name=t("token_confidence"),
    )
    figure.update_yaxes(range=[-0.03, 1.03])
    return figure


def _smooth(values: list[float | None], window: int = 16) -> list[float | None]:
    """Mean over the last `window` known values at each place."""
    smoothed: list[float | None] = []
    for end in range(1, len(values) + 1):
        known = [value for value in values[max(0, end - window) : end] if value is not None]
        smoothed.append(sum(known) / len(known) if known else None)
    return smoothed


def _figure(title: str, x: str, y: str) -> Figure:
    from plotly.graph_objs._figure import Figure

    axis: dict[str, Any] = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}
    return Figure(  # type: ignore[no-untyped-call]
        layout={
            "title": {"text": title, "font": {"size": 14}},
            "xaxis": {"title": {"text": x}, **axis},
            "yaxis": {"title": {"text": y}, **axis},
            "height": 320,
            "margin": {"l": 50, "r": 12, "t": 44, "b": 44},
            "legend": {"orientation": "h", "y": -0.25},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": GREY, "family": "system-ui, sans-serif", "size": 12},
        }
    )
