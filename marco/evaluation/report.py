"""One page about one evaluation: self-contained, offline, readable without this program.

Everything on it is folded from the rows; `replay.json` is shown where it is there. Questions and answers are somebody
else's text and are escaped. The page asks no host for anything: the drawing library is in it, once.
"""

from __future__ import annotations

import datetime
import html
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marco.errors import UserMistake
from marco.evaluation import summary as summaries
from marco.evaluation.plan import Combination
from marco.evaluation.records import COMMANDS, REPLAY, RUNS, Record, Row
from marco.evaluation.summary import ALL, Line
from marco.evaluation.tasks import SOLVED, STANDARD

PAPER = (
    ("Qwen2-7B-Instruct", (84.00, 89.60, 96.00), (76.80, 80.80, 92.40)),
    ("Marco-o1-CoT", (85.60, 97.60, 99.20), (71.20, 93.60, 96.40)),
    ("+ MCTS, step", (90.40, 99.20, 99.20), (80.00, 93.60, 96.00)),
    ("+ MCTS, mini-step 64", (88.40, 98.40, 99.60), (80.40, 92.80, 95.20)),
    ("+ MCTS, mini-step 32", (87.60, 98.80, 99.20), (82.40, 93.20, 96.80)),
)
"""arXiv 2411.14405, table 2: MGSM in per cent, (@1, @8, @32) in English and in Chinese; 7B, 250 problems."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00")
"""After Okabe and Ito: told apart by colour-blind readers. Symbols and dashes tell them apart in grey."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "triangle-down")
DASHES = ("solid", "dash", "dot", "dashdot")

FRACTIONS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
"""Of the budget, in the curve of accuracy against tokens."""
CALIBRATION_BINS = 10
PREFERRED = ("weighted", "majority", "consensus", "visits", "best")
"""Which selection stands for a strategy in the drawings, where several were asked for."""
MOST_PAIRS = 400
"""Rows of the folded table of comparisons; the others are in statistics.json."""

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; max-width: 1100px;
  padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; }
.note { color: #444; max-width: 75ch; }
.tag { border: 1px solid #777; border-radius: 3px; padding: 0 .3em; font-size: .8em; }
details { margin: .3rem 0; } summary { cursor: pointer; }
ol.tree { font-size: .9em; padding-left: 0; list-style: none; }
code { overflow-wrap: anywhere; } nav a { margin-right: 1rem; }
"""

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)


def write_report(folder: Path, out: Path) -> Path:
    """Write the page. Raises `UserMistake` for a folder without an evaluation, or where it can't be written."""
    page = build(Record.read(folder), out.parent)
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserMistake(f"{out} can't be written ({error.strerror or error}).") from None
    return out


@dataclass(frozen=True)
class _Facts:
    """What every section draws on."""

    record: Record
    lines: Sequence[Line]
    statistics: Mapping[str, Any]
    replay: Sequence[Mapping[str, Any]]
    base: Path
    """Folder of the page: links are relative to it."""

    @property
    def main(self) -> list[Line]:
        """One line a generation, strategy and language: that with the preferred selection."""
        best: dict[tuple[Any, ...], Line] = {}
        for line in self.lines:
            c = line.combination
            place = (line.task, line.lang, c.strategy, c.generation, c.stop_when_sure)
            if place not in best or _rank(c) < _rank(best[place].combination):
                best[place] = line
        return list(best.values())

    def colour(self, label: str) -> int:
        labels = list(dict.fromkeys(line.combination.label for line in self.main))
        return labels.index(label) if label in labels else 0


def _rank(combination: Combination) -> int:
    """Lower stands for the strategy: the selection that defines it, else the preferred one."""
    own = STANDARD[combination.strategy].select if combination.strategy in STANDARD else None
    if combination.select == own:
        return -1
    return PREFERRED.index(combination.select) if combination.select in PREFERRED else len(PREFERRED)


def build(record: Record, base: Path) -> str:
    """The page as HTML text."""
    found = summaries.lines(record)
    replay: list[dict[str, Any]] = []
    if (record.folder / REPLAY).exists():
        try:
            replay = json.loads((record.folder / REPLAY).read_text(encoding="utf-8"))
        except ValueError:
            raise UserMistake(f"{record.folder / REPLAY} is damaged: replay again, or delete it.") from None
    facts = _Facts(record, found, summaries.statistics(record), replay, base)
    sections = (
        ("results", "Results, beside the paper's", _results),
        ("tokens", "Accuracy against tokens", _tokens),
        ("granularity", "Granularity", _granularity),
        ("confidence", "Confidence against correctness", _confidence),
        ("reflection", "Reflection", _reflection),
        ("cost", "Cost", _cost),
        ("pairs", "Who beats whom", _pairs),
        ("replay", "Selections and rewards as judges (replay)", _replay),
        ("failures", "Failure signatures", _failures),
        ("problems", "Problem by problem", _problems),
    )
    body = "".join(f'<section id="{name}"><h2>{title}</h2>{draw(facts)}</section>\n' for name, title, draw in sections)
    contents = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    import plotly.offline

    drawing: Any = plotly.offline
    # A script element ends at its closing tag wherever that stands.
    library = drawing.get_plotlyjs().replace("</script", "<\\/script")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>Marco: evaluation</title><style>{STYLE}</style><script>{library}</script></head>\n"
        f"<body><h1>Evaluation</h1>{_head(facts)}<nav>{contents}</nav>\n{body}</body></html>\n"
    )


# -- parts of a page -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Markup:
    """Text that is HTML already."""

    text: str


def _cell(value: object) -> str:
    return value.text if isinstance(value, Markup) else html.escape("" if value is None else str(value))


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]], numbers: int = 0) -> str:
    """A table whose last `numbers` columns are figures. Cells are escaped unless they are `Markup`."""
    first = len(columns) - numbers

    def line(cells: Sequence[object], tag: str) -> str:
        classes = [' class="n"' if place >= first else "" for place in range(len(cells))]
        return "<tr>" + "".join(f"<{tag}{c}>{_cell(v)}</{tag}>" for v, c in zip(cells, classes, strict=True)) + "</tr>"

    head = line(columns, "th")
    body = "".join(line(row, "td") for row in rows)
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>' if body else ""


def _note(text: str) -> str:
    return f'<p class="note">{text}</p>'


def _nothing(what: str) -> str:
    return _note(f"Nothing here: {what}")


def _figure_of(**options: Any) -> Any:
    import plotly.graph_objects

    library: Any = plotly.graph_objects  # it is not typed
    return library.Figure(**options)


def _draw(figure: Any, *, y: str, x: str = "", height: int = 420, share: bool = True) -> str:
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 40, "b": 60},
        legend={"orientation": "h", "y": -0.25},
        hovermode="closest",
    )
    figure.update_yaxes(title=y, tickformat=".0%" if share else None)
    if x:
        figure.update_xaxes(title=x)
    drawn: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        include_mathjax=False,
        config={"displaylogo": False, "responsive": True},
    )
    return drawn


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _figure(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _span(low: float, high: float) -> str:
    return f"{low:.1%} to {high:.1%}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


# -- sections --------------------------------------------------------------------------------------------------------


def _head(facts: _Facts) -> str:
    rows = facts.record.rows
    models = sorted(
        {
            (
                row["model"],
                row["model_hash"][:16],
                row["engine"],
                row.get("machine", row["device"]),
                row.get("commit", ""),
            )
            for row in rows
        }
    )
    made = sorted(row["created"] for row in rows)
    counts = ", ".join(
        f"{task} {lang}: {len({row['problem'] for row in rows if (row['task'], row['lang']) == (task, lang)})} problems"
        for task, lang in facts.record.languages
    )
    parts = [
        _table(["model", "hash", "engine", "machine", "commit"], models),
        _note(
            html.escape(
                f"{counts}. {len(rows)} searches, made from {made[0]} to {made[-1]}; "
                f"page written {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC."
                if rows
                else "No rows yet."
            )
        ),
    ]
    commands = facts.record.folder / COMMANDS
    if commands.is_file():
        text = html.escape(commands.read_text(encoding="utf-8", errors="replace"))
        parts.append(f"<details><summary>Commands</summary><pre>{text}</pre></details>")
    return "".join(parts)


def _results(facts: _Facts) -> str:
    from marco.evaluation.metrics import wilson

    rows: list[list[object]] = []
    for line in facts.lines:
        accuracy, low, high = summaries.interval(line)
        _, at = summaries.solved_at(line)
        name: object = line.combination.label
        if line.combination.reward == "outcome":
            name = Markup(f'{html.escape(str(name))} <span class="tag">upper bound: saw the truth</span>')
        rows.append(
            [
                line.task,
                line.lang,
                name,
                line.combination.budget,
                len(line.scores),
                len({o.seed for o in line.outcomes}),
                _percent(accuracy),
                _span(low, high),
                f"{at[max(at, key=int)]:.1%} in {max(at, key=int)}",
                _percent(at.get("8")),
                _percent(at.get("32")),
                f"{summaries.mean([o.tokens for o in line.outcomes]):.0f}",
                _figure(summaries.seconds(line), 1),
            ]
        )
    columns = ["task", "language", "combination", "budget", "problems", "seeds", "accuracy", "95%", "at least once"]
    ours = _table([*columns, "@8", "@32", "tokens", "seconds"], rows, numbers=10)
    published = _table(
        ["the paper (7B)", "En @1", "95%", "En @8", "En @32", "Zh @1", "95%", "Zh @8", "Zh @32"],
        [
            [
                name,
                f"{en[0]:.1f}%",
                _span(*wilson(en[0] * 2.5, 250)),
                *(f"{value:.1f}%" for value in en[1:]),
                f"{zh[0]:.1f}%",
                _span(*wilson(zh[0] * 2.5, 250)),
                *(f"{value:.1f}%" for value in zh[1:]),
            ]
            for name, en, zh in PAPER
        ],
        numbers=8,
    )
    return (
        _note(
            "Accuracy is that of the one answer given, at the same budget of generated tokens. @k: solved at "
            "least once in k rollouts within the budget, which is no accuracy. Tokens and seconds are a problem's "
            "mean; seconds are the search's share of the machine. Seeds repeat problems: intervals are those of "
            "the number of problems."
        )
        + ours
        + _note(
            "Published for MGSM (arXiv 2411.14405): another model, and 250 problems a language; intervals are "
            "ours (Wilson). The paper's @1 is the accuracy of its chosen answer."
        )
        + published
    )


def _tokens(facts: _Facts) -> str:
    drawings = []
    for task, lang in facts.record.languages:
        figure = _figure_of(layout={"title": f"{task}, {lang}"})
        for line in facts.main:
            if (line.task, line.lang) != (task, lang):
                continue
            points = _curve(line)
            number = facts.colour(line.combination.label)
            figure.add_scatter(
                x=[tokens for tokens, *_ in points],
                y=[accuracy for _, accuracy, _, _ in points],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [high - accuracy for _, accuracy, _, high in points],
                    "arrayminus": [accuracy - low for _, accuracy, low, _ in points],
                    "thickness": 1,
                    "width": 3,
                },
                mode="lines+markers",
                name=_plain(line.combination.label),
                line={"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number // len(COLOURS) % len(DASHES)]},
                marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 8},
            )
        figure.update_yaxes(range=[0, 1])
        drawings.append(_draw(figure, x="generated tokens a problem", y="accuracy", height=480))
    return _note(
        "Each point is the same search cut off at a smaller budget (replay of the rollouts that fit it), with "
        "its 95% interval. Click a name to hide it."
    ) + "".join(drawings)


def _curve(line: Line) -> list[tuple[float, float, float, float]]:
    """(tokens, accuracy, low, high) at fractions of the budget."""
    if line.combination.select is None:
        return [(summaries.mean([o.tokens for o in line.outcomes]), *summaries.interval(line))]
    found = []
    for fraction in FRACTIONS:
        budget = max(1, round(fraction * line.combination.budget))
        cut = summaries.line_of(line.task, line.lang, line.combination, line.rows, budget=budget)
        found.append((summaries.mean([o.tokens for o in cut.outcomes]), *summaries.interval(cut)))
    return found


def _plain(label: str) -> str:
    """Plotly reads some markup in names."""
    return html.escape(label, quote=False)


def _granularity(facts: _Facts) -> str:
    searches = [line for line in facts.main if line.combination.action is not None]
    if not searches:
        return _nothing("no tree search was measured.")
    figure = _figure_of()
    groups: dict[str, list[Line]] = defaultdict(list)
    for line in searches:
        groups[f"{line.task} {line.lang} · {_without_action(line)}"].append(line)
    for number, (name, found) in enumerate(groups.items()):
        found.sort(key=lambda line: _grain(line.combination.action))
        measured = [summaries.interval(line) for line in found]
        figure.add_scatter(
            x=[line.combination.action for line in found],
            y=[accuracy for accuracy, _, _ in measured],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [high - accuracy for accuracy, _, high in measured],
                "arrayminus": [accuracy - low for accuracy, low, _ in measured],
            },
            mode="markers",
            name=_plain(name),
            marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 10, "color": COLOURS[number % len(COLOURS)]},
        )
    figure.update_layout(scattermode="group")
    figure.update_yaxes(range=[0, 1])
    return _draw(figure, x="action: what one node holds", y="accuracy")


def _without_action(line: Line) -> str:
    import dataclasses

    return dataclasses.replace(line.combination, action=None).label


def _grain(action: str | None) -> int:
    """Coarse first."""
    return -int(action.rsplit("-", 1)[1]) if action and action != "step" else -1_000_000


def _confidence(facts: _Facts) -> str:
    found = facts.statistics["confidence"]
    if not found:
        return _nothing("no rollout has a statistic.")
    table = _table(
        [
            "task",
            "language",
            "rollouts of",
            "statistic",
            "rollouts",
            "AUROC",
            "within a problem",
            "problems",
            "ECE",
            "rank correlation",
        ],
        [
            [
                item["task"],
                item["lang"],
                item["generation"],
                "fewer tokens" if item["statistic"] == "tokens" else item["statistic"],
                item["rollouts"],
                _figure(item["auroc"]),
                _figure(item["auroc_within"]),
                item["problems_within"],
                _figure(item["ece"]),
                _figure(item["spearman"]),
            ]
            for item in found
        ],
        numbers=6,
    )
    aurocs = _figure_of()
    sampled = [item for item in found if item["auroc"] is not None]
    generations = list(dict.fromkeys((item["task"], item["lang"], item["generation"]) for item in sampled))
    for number, place in enumerate(generations):
        mine = [item for item in sampled if (item["task"], item["lang"], item["generation"]) == place]
        aurocs.add_scatter(
            x=["fewer tokens" if item["statistic"] == "tokens" else item["statistic"] for item in mine],
            y=[item["auroc"] for item in mine],
            mode="markers",
            name=_plain(" · ".join(place)),
            marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 9, "color": COLOURS[number % len(COLOURS)]},
        )
    aurocs.add_hline(y=0.5, line_dash="dot", annotation_text="a coin toss")
    margins = _table(
        ["task", "language", "combination", "answers", "AUROC", "ECE", "rank correlation"],
        [
            [
                m["task"],
                m["lang"],
                m["label"],
                m["answers"],
                _figure(m["auroc"]),
                _figure(m["ece"]),
                _figure(m["spearman"]),
            ]
            for m in facts.statistics["margins"]
        ],
        numbers=4,
    )
    return (
        _note(
            "Does a rollout's confidence tell whether it is right? AUROC: chance that a right rollout scores "
            "above a wrong one; within a problem, averaged over problems with both. ECE: gap between confidence "
            "and share right. Agreement and hybrid look at the other rollouts of the same search."
        )
        + _draw(aurocs, y="AUROC", share=False)
        + _draw(_calibration(facts), x="what the statistic says", y="share right")
        + f"<details><summary>All figures</summary>{table}</details>"
        + (f"<details><summary>The margin of the vote as a confidence</summary>{margins}</details>" if margins else "")
    )


def _calibration(facts: _Facts) -> Any:
    figure = _figure_of()
    budgets = {c.generation: c.budget for c in facts.record.combinations}
    for number, judge in enumerate(("mean", "lowest-window", "tail", "top5-certainty", "agreement")):
        boxes: list[list[tuple[float, bool]]] = [[] for _ in range(CALIBRATION_BINS)]
        for row in facts.record.rows:
            for said, right in zip(*summaries.judged(row, judge, budgets.get(row["generation"])), strict=True):
                boxes[min(CALIBRATION_BINS - 1, int(said * CALIBRATION_BINS))].append((said, right))
        filled = [box for box in boxes if box]
        figure.add_scatter(
            x=[summaries.mean([said for said, _ in box]) for box in filled],
            y=[summaries.mean([float(right) for _, right in box]) for box in filled],
            text=[f"{len(box)} rollouts" for box in filled],
            mode="lines+markers",
            name=judge,
            line={"color": COLOURS[number]},
            marker={"symbol": SYMBOLS[number], "size": 8},
        )
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="calibrated", line={"color": "#999", "dash": "dot"})
    figure.update_xaxes(range=[0, 1])
    figure.update_yaxes(range=[0, 1])
    return figure


def _reflection(facts: _Facts) -> str:
    found = facts.statistics["reflection"]
    if not found:
        return _nothing("no search reflected.")
    figure = _figure_of()
    names = [f"{item['task']} {item['lang']} · {item['generation']}" for item in found]
    for number, (what, title) in enumerate(
        (("repaired", "first failures repaired"), ("spoiled", "first successes spoiled"))
    ):
        shares = [item[f"{what}_share"] or 0.0 for item in found]
        figure.add_bar(
            x=[_plain(name) for name in names],
            y=shares,
            name=title,
            marker={"color": COLOURS[number], "pattern": {"shape": ("", "/")[number]}},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [max(0.0, item[f"{what}_high"] - share) for item, share in zip(found, shares, strict=True)],
                "arrayminus": [
                    max(0.0, share - item[f"{what}_low"]) for item, share in zip(found, shares, strict=True)
                ],
            },
        )
    table = _table(
        [
            "task",
            "language",
            "search",
            "reflections",
            "answer changed",
            "failures",
            "repaired",
            "successes",
            "spoiled",
            "net",
        ],
        [
            [
                item["task"],
                item["lang"],
                item["generation"],
                item["reflections"],
                item["changed"],
                item["failures"],
                f"{item['repaired']} ({_percent(item['repaired_share'])})",
                item["successes"],
                f"{item['spoiled']} ({_percent(item['spoiled_share'])})",
                f"{item['repaired'] - item['spoiled']:+d}",
            ]
            for item in found
        ],
        numbers=7,
    )
    return (
        _note(
            "Of the rollouts that were reflected on: how many wrong answers came out right, and how many right "
            "ones wrong. The paper claims about half of the hard failures."
        )
        + _draw(figure, y="share", x="")
        + table
    )


def _cost(facts: _Facts) -> str:
    figure = _figure_of()
    rows: list[list[object]] = []
    for line in facts.main:
        seconds = summaries.seconds(line)
        accuracy, _, _ = summaries.interval(line)
        number = facts.colour(line.combination.label)
        name = f"{line.lang} · {line.combination.label}"
        figure.add_scatter(
            x=[seconds],
            y=[accuracy],
            mode="markers",
            name=_plain(name),
            marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 11, "color": COLOURS[number % len(COLOURS)]},
        )
        rows.append(
            [
                line.task,
                line.lang,
                line.combination.label,
                f"{summaries.mean([o.rollouts for o in line.outcomes]):.1f}",
                f"{summaries.mean([o.tokens for o in line.outcomes]):.0f}",
                f"{summaries.mean([o.prefilled for o in line.outcomes]):.0f}",
                _figure(seconds, 1),
                f"{max(row['peak_memory_bytes'] for row in line.rows) / 2**20:,.0f} MiB",
                _percent(summaries.degenerate_share(line)),
                _percent(accuracy),
            ]
        )
    figure.update_yaxes(range=[0, 1])
    columns = [
        "task",
        "language",
        "combination",
        "rollouts",
        "tokens",
        "prefilled",
        "seconds",
        "peak memory",
        "degenerate",
    ]
    return (
        _draw(figure, x="seconds a problem (share of the machine)", y="accuracy")
        + _table([*columns, "accuracy"], rows, numbers=7)
        + _note("Memory is the most that the process and its children had held by then, the model included.")
    )


def _pairs(facts: _Facts) -> str:
    pairs = sorted(facts.statistics["pairs"], key=lambda pair: (pair["lang"] != ALL, pair["mcnemar_p"]))
    if not pairs:
        return _nothing("there is one combination only.")
    shown = {line.combination.label for line in facts.main}
    main = [pair for pair in pairs if {pair["first"], pair["second"]} <= shown]
    others = [pair for pair in pairs if pair not in main][:MOST_PAIRS]
    left = len(pairs) - len(main) - len(others)
    closed = (
        f"<details><summary>{len(others)} comparisons between the other selections"
        f"{f', and {left} more in statistics.json' if left else ''}</summary>{_pair_table(others)}</details>"
        if others
        else ""
    )
    return (
        _note(
            "Paired, on the same problems and the same budget (one greedy chain spends less, and stands for "
            "every seed). McNemar counts every problem and seed; where there are several seeds, trust the flip "
            "test, which takes a problem as one. With many comparisons some small p come by chance."
        )
        + _pair_table(main)
        + closed
    )


def _pair_table(pairs: Sequence[Mapping[str, Any]]) -> str:
    columns = ["task", "language", "first", "second", "problems", "difference", "95%", "only first", "only second"]
    return _table(
        [*columns, "McNemar p", "flip p"],
        [
            [
                pair["task"],
                "all languages" if pair["lang"] == ALL else pair["lang"],
                pair["first"],
                pair["second"],
                pair["problems"],
                f"{pair['difference']:+.1%}",
                f"{pair['low']:+.1%} to {pair['high']:+.1%}",
                pair["only_first"],
                pair["only_second"],
                _p(pair["mcnemar_p"]),
                _p(pair["sign_flip_p"]),
            ]
            for pair in pairs
        ],
        numbers=7,
    )


def _replay(facts: _Facts) -> str:
    note = _note(
        "<b>Replay</b>: recorded rollouts, judged anew; nothing was generated. What a reward would have "
        "<b>steered to</b> needs a fresh search: those are the lines of the first table that name a reward."
    )
    if not facts.replay:
        return note + _nothing("<code>marco evaluate --replay DIR</code> writes it.")
    table = _table(
        [
            "task",
            "language",
            "rollouts of",
            "steered by",
            "selection",
            "judged by",
            "accuracy",
            "95%",
            "at least once",
            "tokens",
        ],
        [
            [
                item["task"],
                item["lang"],
                item["generation"],
                item["steered_by"] or "nothing",
                item["select"],
                (item["reward"] or "") + (" (upper bound)" if item["upper_bound"] else ""),
                _percent(item["accuracy"]),
                _span(item["low"], item["high"]),
                _percent(item["at_least_once"]),
                f"{item['tokens_per_problem']:.0f}",
            ]
            for item in facts.replay
        ],
        numbers=4,
    )
    return note + table


def _failures(facts: _Facts) -> str:
    parts = []
    agreement = _table(
        ["task", "language", "combination", "seeds agree", "accuracy by seed"],
        [
            [
                item["task"],
                item["lang"],
                item["label"],
                _percent(item["agreement"]),
                ", ".join(_percent(value) for value in item["accuracy_by_seed"].values()),
            ]
            for item in facts.statistics["agreement"]
        ],
    )
    parts.append("<h3>Seeds that disagree</h3>" + (agreement or _nothing("there is one seed only.")))
    rows = []
    for line in facts.main:
        split = [name for name, found in line.by_problem().items() if 0 < sum(o.solved for o in found) < len(found)]
        if split:
            rows.append([line.task, line.lang, line.combination.label, _links(line.task, line.lang, split)])
    parts.append(_table(["task", "language", "combination", "problems that some seeds solve and others don't"], rows))
    parts.append("<h3>Chinese below English</h3>" + _below(facts, "zh", "en"))
    parts.append("<h3>Granularities that disagree</h3>" + _disagreeing(facts))
    return "".join(parts)


def _below(facts: _Facts, lower: str, upper: str) -> str:
    rows = []
    for line in facts.main:
        if line.lang != lower or line.task != "mgsm":
            continue
        # The same number is the same problem in every language of MGSM.
        twin = next(
            (o for o in facts.main if o.lang == upper and o.task == line.task and o.combination == line.combination),
            None,
        )
        if twin is None:
            continue
        mine, theirs = line.scores, twin.scores
        common = [name for name in mine if name in theirs]
        lost = [name for name in common if mine[name] < SOLVED <= theirs[name]]
        won = [name for name in common if theirs[name] < SOLVED <= mine[name]]
        rows.append([line.combination.label, len(common), _links("mgsm", lower, lost), len(won)])
    columns = ["combination", "problems in both", f"solved in {upper}, not in {lower}", "the other way round"]
    return _table(columns, rows) or _nothing(f"there are no problems in both {upper} and {lower}.")


def _disagreeing(facts: _Facts) -> str:
    groups: dict[tuple[str, str, str], list[Line]] = defaultdict(list)
    for line in facts.main:
        if line.combination.action is not None:
            groups[line.task, line.lang, _without_action(line)].append(line)
    rows = []
    for (task, lang, name), found in groups.items():
        if len(found) < 2:
            continue
        scores = [line.scores for line in found]
        common = set.intersection(*(set(s) for s in scores))
        split = [p for p in scores[0] if p in common and len({s[p] >= SOLVED for s in scores}) > 1]
        actions = ", ".join(str(line.combination.action) for line in found)
        rows.append([task, lang, name, actions, len(common), _links(task, lang, split)])
    columns = ["task", "language", "search", "actions", "problems in all", "solved by some, not by others"]
    return _table(columns, rows) or _nothing("fewer than two granularities were measured.")


def _links(task: str, lang: str, problems: Sequence[str]) -> Markup:
    links = " ".join(f'<a href="#{_anchor(task, lang, name)}">{html.escape(name)}</a>' for name in problems)
    return Markup(f"{len(problems)}: {links}" if problems else "0")


def _anchor(task: str, lang: str, problem: str) -> str:
    return html.escape("-".join(("p", task, lang, problem)).replace(" ", "_"), quote=True)


def _problems(facts: _Facts) -> str:
    by_problem: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in facts.record.rows:
        by_problem[row["task"], row["lang"], row["problem"]].append(row)
    said: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for line in facts.main:
        for name, found in line.by_problem().items():
            for o in found:
                mark = "right" if o.solved else "wrong"
                seed = f", seed {o.seed}" if len(found) > 1 else ""
                said[line.task, line.lang, name].append(
                    f"<tr><td>{html.escape(line.combination.label + seed)}</td>"
                    f"<td>{html.escape(_short(o.answer))}</td><td>{mark}</td></tr>"
                )
    names = summaries.generation_labels(facts.record)
    order = sorted(
        by_problem, key=lambda place: (place[0], place[1], int(place[2]) if place[2].isdigit() else 0, place[2])
    )
    parts = []
    for place in order:
        rows = by_problem[place]
        wrong = sum("<td>wrong</td>" in item for item in said[place])
        answers = "".join(said[place])
        trees = "".join(_tree(facts, row, names.get(row["generation"]) or str(row["strategy"])) for row in rows)
        reference = f"<p>Right answer: {html.escape(_short(rows[0]['reference']))}</p>" if rows[0]["reference"] else ""
        parts.append(
            f'<details id="{_anchor(*place)}"><summary>{html.escape(" ".join(place))}: '
            f"{len(said[place]) - wrong} of {len(said[place])} right</summary>"
            f"<blockquote>{html.escape(rows[0]['question'])}</blockquote>{reference}"
            f'<div class="scroll"><table><tbody>{answers}</tbody></table></div>{trees}</details>'
        )
    script = (
        "<script>addEventListener('hashchange',open_);addEventListener('load',open_);"
        "function open_(){const d=document.getElementById(decodeURIComponent(location.hash.slice(1)));"
        "if(d&&d.tagName==='DETAILS'){d.open=true;d.scrollIntoView();}}</script>"
    )
    return "".join(parts) + script


def _tree(facts: _Facts, row: Row, name: str) -> str:
    """The rollouts of a search, each under the one whose path it continues."""
    children: dict[int | None, list[Mapping[str, Any]]] = defaultdict(list)
    numbers = {item["rollout"] for item in row["rollouts"]}
    for item in row["rollouts"]:
        parent = item["origin"] if item["origin"] is not None else item["parent"]
        children[parent if parent in numbers else None].append(item)
    lines = []
    stack = [(item, 0) for item in reversed(children[None])]
    while stack:
        item, depth = stack.pop()
        confidence = item["statistics"].get("mean")
        facts_of = [
            f"rollout {item['rollout']}",
            "reflection" if item["origin"] is not None else f"from {item['node']}",
            f"answer {_short(item['answer'])}",
            "right" if item["score"] >= SOLVED else "wrong",
            f"confidence {confidence:.3f}" if confidence is not None else "",
            f"v {item['value']:.3f}",
            f"{item['tokens']} tokens",
            item["degenerate"] or "",
        ]
        text = html.escape(" · ".join(part for part in facts_of if part))
        lines.append(f'<li style="padding-left:{min(depth, 12) * 1.5}em">{text}</li>')
        stack += [(child, depth + 1) for child in reversed(children[item["rollout"]])]
    link = ""
    if row["run"]:
        path = facts.record.folder / RUNS / f"{row['run']}.jsonl"
        if path.is_file():
            address = html.escape(_relative(path, facts.base), quote=True)
            named = html.escape(row["run"], quote=True)
            link = f' <a href="{address}" data-run="{named}">run file (open it in the app)</a>'
    return (
        f"<details><summary>{html.escape(name)}, seed {row['seed']}: {len(row['rollouts'])} rollouts, "
        f'{row["tokens"]} tokens</summary>{link}<ol class="tree">{"".join(lines)}</ol></details>'
    )


def _relative(path: Path, base: Path) -> str:
    import os.path
    from urllib.parse import quote

    return quote(os.path.relpath(path, base).replace(os.sep, "/"))


def _short(text: str | None) -> str:
    if text is None:
        return "none"
    return text if len(text) <= 200 else text[:197] + "..."
