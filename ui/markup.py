"""Model text to elements: Markdown and LaTeX, without HTML at any point.

Nothing here can load anything: images become their alternative text, links their text and address, tags are
text. Mathematics between dollars or TeX brackets becomes MathML, which browsers draw by themselves; what
is no valid LaTeX stays as it was written.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.tree import SyntaxTreeNode

Element = list[Any]
"""[tag, attributes, children]; a child is a string or an element."""


def el(tag: str, *children: str | Element | None, **attributes: Any) -> Element:
    """An element. `class_` stands for class and `data_x` for data-x; an attribute that is None is left out."""
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    return [tag, named, [child for child in children if child is not None]]


def packed(value: Any) -> str | None:
    """JSON that may stand anywhere in a page: no `<` in it could open a tag. None stays None.

    Components are sent their values so: as nested lists they would travel as Gradio's own differences, and those of
    6.31 go wrong where a list within a list gets shorter.
    """
    if value is None:
        return None
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


MARK = "\ue000"
"""A character of the private use area: stands around the number of a formula while Markdown is parsed."""

_CODE_OR_MATH = re.compile(
    r"""
      (?P<code> ```.*?(?:```|\Z) | `[^`\n]+` )
    | \$\$ (?P<block> [^$]+ ) \$\$
    | \\\[ (?P<bracket> .+? ) \\\]
    | \\\( (?P<inline> .+? ) \\\)
    | (?<![\\$\w]) \$ (?=\S) (?P<dollar> [^$\n]*? [^\s$\\] | [^\s$\\] ) \$ (?![\d$])   # "$5 and $6" are prices
    """,
    re.DOTALL | re.VERBOSE,
)

_MATHML_TAGS = frozenset(
    (
        "math", "mi", "mn", "mo", "mtext", "ms", "mspace", "mrow", "mfrac", "msqrt", "mroot", "mstyle", "merror",
        "mpadded", "mphantom", "msub", "msup", "msubsup", "munder", "mover", "munderover", "mmultiscripts",
        "mprescripts", "mtable", "mtr", "mtd", "menclose",
    )
)  # fmt: skip
_MATHML_ATTRIBUTES = frozenset(
    (
        "display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "fence", "form", "separator", "lspace",
        "rspace", "minsize", "maxsize", "symmetric", "largeop", "movablelimits", "accent", "accentunder",
        "linethickness", "width", "height", "depth", "voffset", "notation", "columnspan", "rowspan",
    )
)  # fmt: skip

_BLOCKS = {
    "paragraph": "p",
    "bullet_list": "ul",
    "ordered_list": "ol",
    "list_item": "li",
    "blockquote": "blockquote",
    "table": "table",
    "thead": "thead",
    "tbody": "tbody",
    "tr": "tr",
    "th": "th",
    "td": "td",
    "strong": "strong",
    "em": "em",
    "s": "s",
}


@lru_cache(maxsize=512)
def markdown(text: str) -> Element:
    """`text` as an element of class `prose`. The result is shared: don't change it."""
    formulas: list[tuple[str, bool]] = []

    def keep(match: re.Match[str]) -> str:
        if match["code"]:
            return match.group()
        block = match["block"] or match["bracket"]
        formulas.append((block or match["inline"] or match["dollar"], block is not None))
        return f"{MARK}{len(formulas) - 1}{MARK}"

    marked = _CODE_OR_MATH.sub(keep, text.replace(MARK, ""))
    try:
        from markdown_it.tree import SyntaxTreeNode

        root = SyntaxTreeNode(_parser().parse(marked))
        children = [child for node in root.children for child in _convert(node, formulas)]
    except RecursionError:
        return el("div", text, class_="prose plain")
    return el("div", *children, class_="prose")


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])


def _convert(node: SyntaxTreeNode, formulas: list[tuple[str, bool]]) -> Iterator[str | Element]:
    kind = node.type
    if kind == "text":
        yield from _with_formulas(node.content, formulas)
    elif kind in ("softbreak", "hardbreak"):
        yield el("br")
    elif kind == "hr":
        yield el("hr")
    elif kind == "code_inline":
        yield el("code", node.content)
    elif kind in ("fence", "code_block"):
        yield el("pre", el("code", node.content), tabindex="0")
    elif kind == "image":
        yield f"[{node.content or 'image'}]"
    elif kind == "link":
        yield from _inside(node, formulas)
        address = str(node.attrs.get("href", ""))
        if address and address != _text_of(node):
            yield f" ({address})"
    elif kind == "heading":
        yield el("p", el("strong", *_inside(node, formulas)))
    elif kind in _BLOCKS:
        start = node.attrs.get("start") if kind == "ordered_list" else None
        yield el(_BLOCKS[kind], *_inside(node, formulas), start=str(start) if start is not None else None)
    else:
        yield from _inside(node, formulas) if node.children else _with_formulas(node.content, formulas)


def _inside(node: SyntaxTreeNode, formulas: list[tuple[str, bool]]) -> list[str | Element]:
    return [part for child in node.children for part in _convert(child, formulas)]


def _text_of(node: SyntaxTreeNode) -> str:
    return "".join(child.content for child in node.children)


def _with_formulas(text: str, formulas: list[tuple[str, bool]]) -> Iterator[str | Element]:
    for position, part in enumerate(text.split(MARK)):
        if position % 2 and part.isdigit():
            yield formula(*formulas[int(part)])
        elif part:
            yield part


def formula(latex: str, block: bool) -> Element:
    """LaTeX as MathML; as it was written where it is not valid."""
    from math_core import LatexError, LatexToMathML

    try:
        source = LatexToMathML(fancy_error=False).convert_with_local_state(latex.strip(), displaystyle=block)
        root = ElementTree.fromstring(source)
        return el("span", _mathml(root), class_="formula block" if block else "formula")
    except (LatexError, ElementTree.ParseError, RecursionError, ValueError):
        return el("code", latex.strip())


def _mathml(node: ElementTree.Element) -> Element:
    tag = node.tag if node.tag in _MATHML_TAGS else "mrow"
    attributes = {name: value for name, value in node.attrib.items() if name in _MATHML_ATTRIBUTES}
    align = re.search(r"text-align: (left|right)", node.attrib.get("style", ""))
    if align:
        attributes["class"] = align.group(1)
    children: list[str | Element] = [node.text] if node.text else []
    children.extend(_mathml(child) for child in node)
    return [tag, attributes, children]
