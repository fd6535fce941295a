"""English expressions: idioms, slang, abbreviations, from a list of our own (`slang_en.tsv`).

In the list a verb that inflects carries an asterisk (`spill* the tea`); `one's` stands for any possessive and
`somebody` for any one word or pronoun.
"""

from __future__ import annotations

import re
from functools import cache

from marco.translation.dictionary.entry import Entry, listed

_POSSESSIVE = r"(?:my|your|his|her|its|our|their|one[’']s|[\w-]{1,30}[’']s)"
_PERSON = r"[\w’'-]{1,30}"
_TENSES = ("VBD", "VBN", "VBG", "VBZ", "VB")


def entries(text: str) -> list[Entry]:
    """The expressions of `text` that the list holds, in order of place; of two that overlap the longer."""
    taken: list[Entry] = []
    found = [
        Entry(match.group(), "", meaning, match.span(), "Marco")
        for pattern, meaning in _expressions()
        if (match := pattern.search(text))
    ]
    for entry in sorted(found, key=lambda entry: (entry.span[0] - entry.span[1], entry.span)):
        start, end = entry.span
        if all(end <= other.span[0] or other.span[1] <= start for other in taken):
            taken.append(entry)
    return sorted(taken, key=lambda entry: entry.span)


@cache
def _expressions() -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((_pattern(expression), meaning) for expression, meaning in listed("slang_en.tsv"))


def _pattern(expression: str) -> re.Pattern[str]:
    words = r"[\s,]+".join(_word(word) for word in expression.split())
    return re.compile(rf"(?<![\w’']){words}(?![\w’'])", re.IGNORECASE)


def _word(word: str) -> str:
    match word:
        case "one's":
            return _POSSESSIVE
        case "somebody":
            return _PERSON
    if word.endswith("*"):
        return "(?:" + "|".join(map(re.escape, _forms(word[:-1]))) + ")"
    return re.escape(word).replace("'", "[’']")


def _forms(verb: str) -> list[str]:
    from lemminflect import getAllInflections, getInflection  # type: ignore[import-untyped]

    known = [form for forms in getAllInflections(verb, upos="VERB").values() for form in forms]
    # Those of a verb that is in no list, and the regular ones beside others: slayed, slew.
    regular = [form for tense in _TENSES for form in getInflection(verb, tense, inflect_oov=True)]
    by_rule = [verb, f"{verb}s", f"{verb.removesuffix('e')}ed", f"{verb.removesuffix('e')}ing"]
    return sorted({*known, *regular, *by_rule}, key=lambda form: (-len(form), form))
