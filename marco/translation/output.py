"""The translation out of what a model wrote: labels, quotes, code fences and remarks taken off, and whether it is one.

Pure functions of untrusted text. Every pattern is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from marco.answer import likeness, normalise
from marco.translation.dictionary import Entry
from marco.translation.glossary import Glossary
from marco.translation.languages import LANGUAGES, Language, foreign_letters, prose, script_words
from marco.translation.literal import word_for_word
from marco.translation.prompting import is_phrase, is_reading

_LABEL_WORDS = (
    r"here(?:'s| is)[^:：\n]{0,60}"
    r"|(?:the |my |final |english |chinese |natural |colloquial |direct ){0,4}(?:translation|translated text)"
    r"(?: (?:in|into|to) [\w ]{1,30}| is| would be| of [^:：\n]{1,60})*"
    r"|output|answer|翻译(?:结果|如下)?|译文|翻訳|訳文|traducción|traduction|übersetzung|अनुवाद"
)
_LABEL = re.compile(
    rf"^\W{{0,3}}(?:sure[,!.:]?\s{{0,3}})?"
    rf"(?:(?:{_LABEL_WORDS})\W{{0,3}}[:：]|(?:in )?(?:{'|'.join(item.name for item in LANGUAGES)})[:：](?=\s))[*_\s]*",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"\n\s*(?:\W{0,3}(?:notes?|explanations?|remark|literal(?:ly)?|alternatively|breakdown|context"
    r"|说明|注释|解释|注|备注|注意|nota|hinweis)\W{0,2}[:：]"
    r"|[(（](?:note|literal|this|here|注|说明)\b).*",
    re.IGNORECASE | re.DOTALL,
)
_NOTE = re.compile(r"\s*[(（](?:note|literally|translator'?s note|注)\s?[:：][^()（）]*[)）]\s*$", re.IGNORECASE)
_FENCE = re.compile(r"^```\w*\n(.*?)\n?```$", re.DOTALL)
_TAGS = re.compile(r"</?(?:thought|output)s?>|<\|[a-z_]{1,20}\|>", re.IGNORECASE)
_QUOTES = (('"', '"'), ("“", "”"), ("'", "'"), ("「", "」"), ("『", "』"), ("«", "»"), ("‘", "’"), ("**", "**"))
_COLON = re.compile(r"^[^:：\n]{1,20}[:：]")
_PARAGRAPHS = re.compile(r"\n[ \t]*\n")
_OPENING_QUOTES = tuple(opening for opening, _ in _QUOTES)
_REFUSAL = re.compile(
    r"^\W{0,3}(?:i['’]?m sorry|sorry,? (?:but )?i\b|i (?:can['’]?t|cannot|am unable to) (?:translate|help|assist)"
    r"|as an ai\b|抱歉，?我|对不起，?我(?:无法|不能))",
    re.IGNORECASE,
)

FLAWS = ("refused", "untranslated", "a list of senses", "word for word", "glossary ignored", "lines lost")
"""What `flaw` may say."""

LITERAL_LIKENESS = 0.35
"""Phrases at most that like their literal sense are not taken for it."""


def clean(output: str, source: str) -> str:
    """The translation in an output, without what models put around it."""
    text = _TAGS.sub("", output).strip()
    lines = text.split("\n")
    if any(is_reading(line) for line in lines):
        # The tags were left out: the translation is what follows the last line of the thought.
        last = max(number for number, line in enumerate(lines) if is_reading(line))
        text = "\n".join(lines[last + 1 :]).strip()
    if text.count("\n") > source.count("\n"):
        text = _REMARK.sub("", f"\n{text}").strip()
    labelled = _COLON.match(source)
    for _ in range(3):
        before = text
        fenced = _FENCE.match(text)
        text = fenced.group(1).strip() if fenced else text
        if not labelled:
            text = _LABEL.sub("", text, count=1).strip()
        text = _NOTE.sub("", text)
        text = _unquoted(text, source)
        if text == before:
            break
    if not _PARAGRAPHS.search(source.strip()):
        # What follows the first paragraph is talk, or a second version.
        text = _PARAGRAPHS.split(text, maxsplit=1)[0]
    return text


def _unquoted(text: str, source: str) -> str:
    for opening, closing in _QUOTES:
        wrapped = len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing)
        inner = text[len(opening) : -len(closing)]
        if wrapped and opening not in inner and closing not in inner and not source.strip().startswith(_OPENING_QUOTES):
            return inner.strip()
    return text


def untranslated(source: str, translation: str, target: Language, origin: Language | None) -> bool:
    """Whether some of the source's script was left, or nothing was translated at all."""
    if foreign_letters(translation, target, origin):
        return True
    words = script_words(prose(translation))
    if not words:
        return bool(script_words(prose(source)))
    if not any(script in target.scripts for script in words):
        return True
    same = normalise(source, "text") == normalise(translation, "text")
    return same and sum(script_words(prose(source)).values()) > 3


def flaw(
    translation: str,
    source: str,
    target: Language,
    origin: Language | None,
    glossary: Glossary,
    entries: Sequence[Entry] = (),
) -> str | None:
    """Why a translation isn't fit to be chosen, one of `FLAWS`: a refusal, partly untranslated, lost line breaks,
    an expression of the dictionary's `entries` taken word for word, a dictionary's entry in place of words to say, or
    without a term of the glossary that it had to use. None where nothing is wrong."""
    if _REFUSAL.match(translation) and not _REFUSAL.match(source):
        return "refused"
    own = translation
    for _, wanted in glossary.pairs:
        own = own.replace(wanted, " ")
    if untranslated(source, own if own.strip() else translation, target, origin):
        return "untranslated"
    if is_phrase(source) and ";" in translation:
        return "a list of senses"
    if any(_taken_literally(translation, source, entry) for entry in entries):
        return "word for word"
    if not all(hit.honoured for hit in glossary.report(source, translation)):
        return "glossary ignored"
    if translation.strip().count("\n") < source.strip().count("\n"):
        return "lines lost"
    return None


def _taken_literally(translation: str, source: str, entry: Entry) -> bool:
    if not entry.literal:
        return False
    if word_for_word(translation, entry.literal, entry.meaning):
        return True
    if entry.source != source.strip(" .。!！"):
        return False
    # A phrase by itself is as good as its likeness to what a dictionary says that it means.
    literally = likeness(translation.casefold(), entry.literal.casefold())
    return literally > LITERAL_LIKENESS and all(
        literally > likeness(translation.casefold(), sense.casefold()) for sense in entry.senses
    )
