"""What dictionaries say of the expressions in a text: set phrases, idioms, slang.

A small model that has never met 抛砖引玉 can only take it word for word, and no search finds a reading that nobody
wrote. `entries_in` looks a text up, `spelled_out` puts into English letters what a translation left as it was.

- `chinese`: CC-CEDICT and two lists of our own, `idioms_zh.tsv` and `slang_zh.tsv`,
- `english`: `slang_en.tsv`, our own.

A dictionary is read when the first text in its language comes, in a second or two, and kept. Other languages have none
yet: a module with `entries(text, ...)` is what one takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from marco.translation.dictionary.entry import MAX_ENTRIES, Entry
from marco.translation.languages import Language

__all__ = ["Entry", "MAX_ENTRIES", "entries_in", "familiar_to", "spelled_out", "tells_literal_senses"]


def entries_in(
    text: str, language: str | None, familiar: Callable[[str], bool] = lambda word: True
) -> tuple[Entry, ...]:
    """What there is to say of the expressions of `text`, and of its ordinary words that aren't `familiar`, in order of
    place; at most `MAX_ENTRIES` of either. `language` is the text's own, as a code.
    """
    found = _looked_up(text, language, familiar)
    expressions = [entry for entry in found if entry.expression][:MAX_ENTRIES]
    words = [entry for entry in found if not entry.expression][:MAX_ENTRIES]
    return tuple(sorted([*expressions, *words], key=lambda entry: entry.span))


def _looked_up(text: str, language: str | None, familiar: Callable[[str], bool]) -> Sequence[Entry]:
    match (language or "").partition("-")[0]:
        case "zh":
            from marco.translation.dictionary import chinese

            return chinese.entries(text, familiar)
        case "en":
            from marco.translation.dictionary import english

            return english.entries(text)
    return ()


def tells_literal_senses(language: str | None) -> bool:
    """Whether there is a dictionary for texts in `language` that says what expressions say word for word."""
    return (language or "").partition("-")[0] == "zh"


def familiar_to(encode: Callable[[str], Sequence[int]]) -> Callable[[str], bool]:
    """Whether a model knows a word, guessed from its tokenizer: what is written often has a token of its own, and a
    word that takes as many tokens as characters was seldom seen whole. All is familiar to a tokenizer without words."""
    if len(encode("我们")) > 1:
        return lambda word: True
    return lambda word: len(encode(word)) < len(word)


def spelled_out(translation: str, source: Language | None, target: Language) -> str:
    """`translation` with what was left in Chinese characters put into words a reader of `target` can read: a
    dictionary's, where the target is English and they are short, else how they are pronounced. Of other pairs of
    scripts nothing is known: the same text.
    """
    if source is None or source.code.partition("-")[0] != "zh" or target.scripts != ("LATIN",):
        return translation
    from marco.translation.dictionary import chinese

    return chinese.spelled_out(translation, senses=target.code == "en")
