"""What a translation may not lose: the order of paragraphs, and what is in no language (emoji, links, numbers, ...).

Pure functions of text. `parts` takes a long text apart so that it can be put together again with its breaks;
`kept` lists what must survive, `restore` puts back what a model dropped, `lost` names what is still missing.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

PART_CHARS = 700
"""A part longer than this is split at line breaks, then at sentence ends."""

CONTEXT_CHARS = 400
"""How much of what came before a part is shown with it."""

_BREAK = re.compile(r"\s*\n[ \t\r]*\n\s*")
_LINE = re.compile(r"[ \t\r]*\n[ \t\r]*")
_SENTENCE = re.compile(r"(?<=[。！？!?])(?![。！？!?])[ \t]*|(?<=\.)[ \t]+")

_EMOJI_BASE = (
    "[\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff\u2600-\u27bf\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55"
    "\u231a\u231b\u23e9-\u23f3\u23f8-\u23fa\u203c\u2049]"
)
_EMOJI = re.compile(
    "[\U0001f1e6-\U0001f1ff]{2}"
    "|[0-9#*]\ufe0f?\u20e3"
    f"|{_EMOJI_BASE}[\ufe0f\U0001f3fb-\U0001f3ff]?(?:\u200d{_EMOJI_BASE}[\ufe0f\U0001f3fb-\U0001f3ff]?)*"
)
_LINK = re.compile(r"(?:https?://|www\.)[^\s<>，。！？；、（）“”]+", re.IGNORECASE)
_NAME = re.compile(r"(?<![\w.])@[\w.-]*\w")
_TAG = re.compile(r"(?<![\w&])#[A-Za-z_]\w*", re.ASCII)
_NUMBER = re.compile(r"(?<![A-Za-z\d.,])\d[\d.,]*(?<![.,])")
_SMALL = 12
"""Numbers up to this are often written as words."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a text that is translated by itself."""

    text: str
    behind: str
    """Blanks between it and the next part; "" behind the last."""


def parts(text: str, limit: int = PART_CHARS) -> tuple[Part, ...]:
    """Paragraphs of `text`, those longer than `limit` characters split further. Joined they give `text.strip()`."""
    found: list[Part] = []
    for paragraph, behind in _split(text.strip(), _BREAK):
        if len(paragraph) <= limit:
            found.append(Part(paragraph, behind))
            continue
        pieces: list[tuple[str, str]] = []
        for line, line_behind in _split(paragraph, _LINE):
            split = _split(line, _SENTENCE) if len(line) > limit else [(line, "")]
            pieces += [*split[:-1], (split[-1][0], line_behind)]
        packed = _packed(pieces, limit)
        found += [Part(*piece) for piece in packed[:-1]] + [Part(packed[-1][0], behind)]
    return tuple(found)


def _split(text: str, at: re.Pattern[str]) -> list[tuple[str, str]]:
    pieces, start = [], 0
    for match in at.finditer(text):
        if start < match.start() and match.end() < len(text):
            pieces.append((text[start : match.start()], match.group()))
            start = match.end()
    return [*pieces, (text[start:], "")]


def _packed(pieces: list[tuple[str, str]], limit: int) -> list[tuple[str, str]]:
    """Neighbours joined as far as they fit the limit; what can't be split otherwise is cut at it."""
    packed: list[tuple[str, str]] = []
    for text, behind in pieces:
        while len(text) > limit:
            packed.append((text[:limit], ""))
            text = text[limit:]
        if packed and len(packed[-1][0]) + len(packed[-1][1]) + len(text) <= limit:
            before, between = packed.pop()
            text = before + between + text
        packed.append((text, behind))
    return packed


def kept(text: str) -> tuple[str, ...]:
    """Links, @names, hashtags in Latin letters and emoji, in order of place. What a link holds is not listed again."""
    found: list[tuple[int, str]] = []
    taken: list[range] = []
    for pattern in (_LINK, _NAME, _TAG, _EMOJI):
        for match in pattern.finditer(text):
            if not any(match.start() in place for place in taken):
                taken.append(range(match.start(), match.end()))
                found.append((match.start(), match.group()))
    return tuple(item for _, item in sorted(found))


def restore(source: str, translation: str) -> str:
    """`translation` with what it dropped of `kept(source)` and without emoji that the source doesn't have.

    A dropped item goes to the end of its line (to the start where it opened the line), or to the end of the text
    where the lines don't match. Items that stand together in the source stay together.
    """
    wanted = Counter(_plain(item) for item in kept(source))
    translation = _without_invented(translation, wanted)
    missing = wanted - Counter(_plain(item) for item in kept(translation))
    if not missing:
        return translation
    source_lines, lines = source.split("\n"), translation.split("\n")
    matching = len(source_lines) == len(lines)
    for number, line in enumerate(source_lines):
        place = number if matching else len(lines) - 1
        front, end = "", ""
        for item in kept(line):
            if missing[_plain(item)] <= 0:
                continue
            missing[_plain(item)] -= 1
            if matching and line.lstrip().startswith(item):
                front += item
            else:
                glued = _EMOJI.fullmatch(item) and end and _EMOJI.search(end[-2:])
                end += item if glued or not end else f" {item}"
        lines[place] = (
            " ".join(piece for piece in (front, lines[place].strip(), end) if piece) if front or end else lines[place]
        )
    return "\n".join(lines)


def _plain(item: str) -> str:
    # Models drop or add the variation selector of an emoji: it is the same emoji.
    return item.replace("\ufe0f", "").casefold()


def _without_invented(translation: str, wanted: Counter[str]) -> str:
    left = Counter(wanted)

    def keep(match: re.Match[str]) -> str:
        item = _plain(match.group())
        if left[item] <= 0:
            return " "
        left[item] -= 1
        return match.group()

    # Line by line: a line that held nothing else is still a line.
    return "\n".join(
        re.sub(r"[ \t]{2,}", " ", cleaned).strip() if (cleaned := _EMOJI.sub(keep, line)) != line else line
        for line in translation.split("\n")
    )


def lost(source: str, translation: str) -> tuple[str, ...]:
    """What the source has and the translation lacks, in words for a person: numbers, items of `kept`, line breaks."""
    missing = Counter(_plain(item) for item in kept(source)) - Counter(_plain(item) for item in kept(translation))
    problems = list(missing.elements())
    figures = re.sub(r"(?<=\d)[,.](?=\d{3}(?!\d))", "", translation)
    for number in _numbers(source):
        small = number.isdigit() and int(number) <= _SMALL
        if not small and number not in figures and number not in translation:
            problems.append(number)
    breaks = source.count("\n") - translation.count("\n")
    if breaks:
        problems.append("the line breaks")
    return tuple(problems)


def _numbers(text: str) -> list[str]:
    """Numbers that are written in figures in any language; 3万 or 5k are counted otherwise elsewhere."""
    without = _TAG.sub(" ", _NAME.sub(" ", _LINK.sub(" ", text)))
    found = []
    for match in _NUMBER.finditer(without):
        following = without[match.end() : match.end() + 1]
        if following and (following in "万亿千百億萬wWkK" or (following.isascii() and following.isalpha())):
            continue
        found.append(re.sub(r",(?=\d{3}(?!\d))", "", match.group()))
    return found
