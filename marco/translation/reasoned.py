"""From what a search found to what a person sees: the translation, how it was read, and what to doubt.

Pure functions. What models write is read tolerantly: a line that isn't in the asked form is read in the forms that
small models fall into, and what can't be read is left out, never an error. `expressions` reads the thought;
`reading` puts all of it together from the events of one or more searches.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from marco.answer import split_output
from marco.errors import SearchError
from marco.events import AnswerChosen, Event, SearchEnded, SearchStarted
from marco.translation.dictionary import Entry, tells_literal_senses
from marco.translation.glossary import Glossary, GlossaryHit
from marco.translation.languages import Language, foreign_letters, language
from marco.translation.literal import word_for_word
from marco.translation.output import clean, untranslated
from marco.translation.prompting import LITERAL, MEANING, SENSES, WORDS, draft_in
from marco.translation.segments import lost, restore
from marco.tree import Tree

DISAGREEMENT = 0.35
"""Candidates whose mean pairwise chrF (0 to 1) is under this disagree."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Expression:
    """Something in the source that can't be taken literally."""

    source: str
    literal: str
    """What it says word for word."""
    meaning: str
    """What it means here."""
    chosen: str
    """The words that the translator set out to use."""
    source_span: Span
    """Start and end in the whole source text, in characters."""
    target_span: Span | None
    """Of the chosen words in the whole translation; None where it puts them otherwise."""
    dictionary: str = ""
    """The dictionary that it is from; "" where the model found it."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another candidate of the search."""

    translation: str
    agreement: float
    """Mean likeness to the other candidates, 0 to 1."""
    rollouts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PartRead:
    """One part of the text: one search."""

    source: str
    translation: str
    draft: str = ""
    """What the translator wrote first."""
    expressions: tuple[Expression, ...] = ()
    """With spans in this part."""
    alternatives: tuple[Alternative, ...] = ()
    agreement: float | None = None
    """Mean pairwise chrF of the candidates, 0 to 1; None for a single one."""
    warnings: tuple[str, ...] = ()
    behind: str = ""
    """Blanks between it and the next part."""


@dataclass(frozen=True, slots=True)
class Translation:
    """A translated text, as a person is shown it."""

    source: str
    translation: str
    source_language: str | None
    """A code; None where it wasn't recognised."""
    target_language: str
    mode: str
    expressions: tuple[Expression, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    """Other candidates, best first; only for a text of one part."""
    warnings: tuple[str, ...] = ()
    glossary: tuple[GlossaryHit, ...] = ()
    agreement: float | None = None
    """Of the part whose candidates agree least."""
    draft: str = ""
    """What the translator wrote first."""
    parts: tuple[PartRead, ...] = field(default=(), repr=False)
    complete: bool = True
    """False while the search goes on, or where it was stopped before the last part."""

    def to_json(self) -> dict[str, Any]:
        """What `marco translate --json` prints beside the fields of a search."""
        found = dataclasses.asdict(self)
        for name in ("source", "translation", "parts"):
            del found[name]
        return found


# --------------------------------------------------------------------------------------------------------------
# The thought
# --------------------------------------------------------------------------------------------------------------

_BULLET = re.compile(r"^[\s>*•\-–]{0,6}(?:\d{1,2}[.)、]\s{0,3})?")
_FIELD = re.compile(
    rf"^\W{{0,3}}(?P<name>{LITERAL}|literal(?:ly)?(?: meaning)?|{MEANING}|meaning(?: here)?|means|"
    rf"{WORDS}|translation|chosen)"
    r"\b\W{0,2}[:：]\s*",
    re.IGNORECASE,
)
_REPEATED = re.compile(rf"^\W{{0,3}}{SENSES}\s*[:：]", re.IGNORECASE)
"""What the dictionary says, said again: neither the literal sense nor the one that was chosen."""
_LOOSE = re.compile(
    r"^[\"“「'‘*]{1,2}(?P<source>[^\"”」'’*\n]{1,80})[\"”」'’*]{1,2}\s*(?:\([^()]{0,80}\)\s*)?"
    r"(?:[:：=→]|->|–|-|means|here means|is slang for|is an idiom (?:for|meaning))\s*(?P<meaning>[^\n]{1,300})",
    re.IGNORECASE,
)
_MAX_FIELD = 300
_MAX_DRAFT = 2_000


def draft_of(thought: str) -> str:
    """What the translator wrote before thinking about expressions; "" where there is none."""
    paragraphs = thought.strip().split("\n\n")
    return next((draft[:_MAX_DRAFT] for text in paragraphs if (draft := draft_in(text)) is not None), "")


def expressions(thought: str, source: str, translation: str) -> tuple[Expression, ...]:
    """The expressions that a thought finds in `source`, in order of place. Those that aren't there are left out."""
    found: list[Expression] = []
    taken: set[Span] = set()
    for line in thought.split("\n"):
        read = _read_line(_BULLET.sub("", line).strip())
        if read is None:
            continue
        term, literal, meaning, chosen = read
        span = _place(term, source, taken)
        if span is None or (literal.casefold() == meaning.casefold() and not chosen):
            continue
        if literal == term:
            literal = ""  # repeated, not taken apart
        taken.add(span)
        target = find_words(chosen, translation) or find_words(meaning, translation)
        found.append(Expression(source[slice(*span)], literal, meaning, chosen, span, target))
    return tuple(sorted(found, key=lambda item: item.source_span))


def _read_line(line: str) -> tuple[str, str, str, str] | None:
    cells = [cell.strip() for cell in re.split(r"[|｜]", line)]
    if len(cells) >= 2:
        values: dict[str, str] = {}
        names = ("literal", "meaning", "chosen")
        for number, cell in enumerate(cells[1:4]):
            label = _FIELD.match(cell)
            name = names[number]
            if label:
                word = label["name"].casefold()
                name = (
                    "literal"
                    if word.startswith((LITERAL, "literal"))
                    else "chosen"
                    if word in (WORDS, "translation", "chosen")
                    else "meaning"
                )
                cell = cell[label.end() :]
            if _REPEATED.match(cell):
                continue
            values[name] = cell.strip(' "“”').strip()[:_MAX_FIELD]
        term = cells[0].strip(" \"“”「」'‘’*:：")
        if not term or not any(values.values()):
            return None
        return term, values.get("literal", ""), values.get("meaning", ""), values.get("chosen", "")
    loose = _LOOSE.match(line)
    if loose:
        return loose["source"].strip(), "", loose["meaning"].strip(' ."“”'), ""
    return None


def _place(term: str, source: str, taken: set[Span]) -> Span | None:
    """Where the term stands in the source, capitals and blanks aside; the first place that isn't taken."""
    pattern = r"\s*".join(re.escape(character) for character in term if not character.isspace())
    for match in re.finditer(pattern, source, re.IGNORECASE):
        if match.span() not in taken and match.start() < match.end():
            return match.span()
    return None


def find_words(words: str, text: str) -> Span | None:
    """Where `words` stand in `text`: as they are, or the stretch that is most of them; None for neither."""
    words = words.strip(' .,!?;:"“”…。！？，')
    if len(words) < 2 and not any(ord(character) > 0x2E80 for character in words):
        return None
    lower, wanted = text.casefold(), words.casefold()
    if len(lower) == len(text):
        at = lower.find(wanted)
        if at >= 0:
            return at, at + len(wanted)
    block = SequenceMatcher(None, lower, wanted, autojunk=False).find_longest_match()
    if block.size < max(2, math.ceil(0.6 * len(wanted))):
        return None
    begin, end = block.a, block.a + block.size
    while begin < end and not text[begin].isalnum():
        begin += 1
    while end > begin and not text[end - 1].isalnum():
        end -= 1
    # Half words are no words.
    while begin > 0 and _joined(text, begin):
        begin -= 1
    while end < len(text) and _joined(text, end):
        end += 1
    return (begin, end) if end - begin >= 2 else None


def _joined(text: str, at: int) -> bool:
    before, behind = text[at - 1], text[at]
    return before.isalnum() and behind.isalnum() and before < "\u0e00" and behind < "\u0e00"


# --------------------------------------------------------------------------------------------------------------
# All of it together
# --------------------------------------------------------------------------------------------------------------


def by_part(events: Iterable[Event]) -> list[list[Event]]:
    """The events of each search. Raises `SearchError` where the first is no header."""
    searches: list[list[Event]] = []
    for event in events:
        if isinstance(event, SearchStarted):
            searches.append([])
        if not searches:
            raise SearchError("These events have no header.")
        searches[-1].append(event)
    return searches


def reading(events: Iterable[Event]) -> Translation:
    """What the events of a translation say so far, all its parts put together.

    Raises `SearchError` for events without a header, or of another kind of search.
    """
    searches = by_part(events)
    if not searches:
        raise SearchError("These events have no header.")
    first = searches[0][0]
    assert isinstance(first, SearchStarted)
    if first.kind != "translate":
        raise SearchError("These events are no translation.")
    read = [_read_part(search) for search in searches]
    details = first.details
    source, translation, found = "", "", []
    for part in read:
        found += [_moved(item, len(source), len(translation)) for item in part.expressions]
        source += part.source + part.behind
        translation += part.translation + part.behind
    if len(read) < int(details.get("parts", 1)):
        source, translation = source.rstrip(), translation.rstrip()
    agreements = [part.agreement for part in read if part.agreement is not None]
    warnings = [
        f"Part {number}: {warning}" if len(read) > 1 else warning
        for number, part in enumerate(read, start=1)
        for warning in part.warnings
    ]
    glossary = Glossary(tuple(dict.fromkeys(pair for search in searches for pair in _pairs(search[0]))))
    return Translation(
        source=source,
        translation=translation,
        source_language=details.get("source_language"),
        target_language=str(details["target_language"]),
        mode=str(details.get("mode", "careful")),
        expressions=tuple(found),
        alternatives=read[0].alternatives if len(read) == 1 else (),
        warnings=tuple(warnings),
        glossary=glossary.report(source, translation),
        agreement=min(agreements) if agreements else None,
        draft=read[0].draft,
        parts=tuple(read),
        complete=len(read) == int(details.get("parts", 1)) and isinstance(searches[-1][-1], SearchEnded),
    )


def _pairs(started: Event) -> tuple[tuple[str, str], ...]:
    assert isinstance(started, SearchStarted)
    return tuple((str(source), str(target)) for source, target in started.details.get("glossary", ()))


def _moved(item: Expression, by_source: int, by_target: int) -> Expression:
    start, end = item.source_span
    target = item.target_span
    return dataclasses.replace(
        item,
        source_span=(start + by_source, end + by_source),
        target_span=(target[0] + by_target, target[1] + by_target) if target else None,
    )


def _read_part(events: Sequence[Event]) -> PartRead:
    started = events[0]
    assert isinstance(started, SearchStarted)
    details = started.details
    target = language(str(details["target_language"]))
    origin = language(str(details["source_language"])) if details.get("source_language") else None
    source = started.question
    chosen: AnswerChosen | None = None
    ended: SearchEnded | None = None
    for event in events:
        match event:
            case AnswerChosen():
                chosen = event
            case SearchEnded():
                ended = event
    text = chosen.text if chosen else ended.text if ended else ""
    thought, output = split_output(text)
    answer = chosen.answer if chosen else None
    translation = answer if answer is not None else restore(source, clean(output, source)) if output.strip() else ""
    found = expressions(thought, source, translation)
    if chosen and not thought:
        # Translated at once: how it can be read is what the candidate thought that came nearest to it.
        thought, found = _nearest_thought(events, source, translation)
    told = details.get("dictionary")
    entries = [Entry.recorded(item) for item in told or ()]
    found = _with_dictionary(found, entries, translation)
    # What a small model takes for the literal sense is often just another way to say the same.
    doubted = entries if told is not None and tells_literal_senses(details.get("source_language")) else found
    by_consensus = started.options.get("search", {}).get("select") == "consensus"
    agreement = _agreement(chosen.votes) if chosen and by_consensus else None
    behind = str(details.get("behind", ""))
    alternatives = _alternatives(chosen) if chosen else ()
    written = clean(output, source)
    glossary = Glossary(_pairs(started))
    warnings = tuple(_warnings(source, written, translation, doubted, agreement, target, origin, glossary))
    return PartRead(
        source,
        translation,
        draft_of(thought),
        found,
        alternatives,
        agreement,
        warnings if ended or chosen else (),
        behind,
    )


def _nearest_thought(events: Sequence[Event], source: str, translation: str) -> tuple[str, tuple[Expression, ...]]:
    """The thought, with its expressions, of the rollout whose output is most like `translation`; "" without any."""
    tree = Tree.fold(events)
    nearest, likeness = "", -1.0
    for number in tree.rollouts:
        thought, output = split_output(tree.rollout_text(number))
        alike = SequenceMatcher(None, output.casefold(), translation.casefold(), autojunk=False).ratio()
        if thought and alike > likeness:
            nearest, likeness = thought, alike
    return nearest, expressions(nearest, source, translation)


def _with_dictionary(found: Sequence[Expression], entries: Iterable[Entry], translation: str) -> tuple[Expression, ...]:
    """The expressions with what dictionaries add: those that the model passed over, and what others say literally."""
    merged = list(found)
    for entry in entries:
        if not entry.expression:
            continue
        start, end = entry.span
        at = next(
            (n for n, item in enumerate(merged) if item.source_span[0] < end and start < item.source_span[1]), None
        )
        if at is None:
            places = (find_words(sense, translation) for sense in entry.meaning.split("; "))
            target = next((place for place in places if place), None)
            words = translation[slice(*target)] if target else ""
            merged.append(
                Expression(entry.source, entry.literal, entry.meaning, words, entry.span, target, entry.dictionary)
            )
        elif merged[at].source == entry.source and entry.literal and not merged[at].literal:
            merged[at] = dataclasses.replace(merged[at], literal=entry.literal)
    return tuple(sorted(merged, key=lambda item: item.source_span))


def _alternatives(chosen: AnswerChosen) -> tuple[Alternative, ...]:
    return tuple(
        Alternative(str(vote["answer"]), float(vote["weight"]), tuple(vote["rollouts"]))
        for vote in chosen.votes
        if vote["answer"] != chosen.answer
    )


def _agreement(votes: Sequence[Any]) -> float | None:
    """Mean pairwise likeness of the candidates: under `consensus` a vote's weight is its likeness to the others."""
    counts = [len(vote["rollouts"]) for vote in votes]
    if sum(counts) < 2:
        return None
    if len(votes) == 1:
        return 1.0
    return min(1.0, sum(float(vote["weight"]) * count for vote, count in zip(votes, counts, strict=True)) / sum(counts))


def _warnings(
    source: str,
    written: str,
    translation: str,
    doubted: Sequence[Expression] | Sequence[Entry],
    agreement: float | None,
    target: Language,
    origin: Language | None,
    glossary: Glossary,
) -> Iterable[str]:
    if not translation:
        yield "There is no translation yet."
        return
    if untranslated(source, translation, target, origin):
        left = foreign_letters(translation, target, origin)
        yield f"Some of it was not translated: {left[:40]}" if left else "It was not translated."
    elif left := foreign_letters(written, target, origin):
        yield f"The model left {left[:40]} as it was: a dictionary's word stands there, or how it is pronounced."
    for item in doubted:
        meant = (item.meaning, item.chosen) if isinstance(item, Expression) else (item.meaning,)
        if word_for_word(translation, item.literal, *meant):
            yield f"{item.source} may have been taken word for word ({item.literal})."
    if agreement is not None and agreement < DISAGREEMENT:
        yield "The candidates disagree: this text can be read in several ways, or is hard for this model."
    missing = lost(source, translation)
    if missing:
        yield "The translation may lack " + ", ".join(missing[:6]) + "."
    for hit in glossary.report(source, translation):
        if not hit.honoured:
            yield f"The glossary's {hit.target} for {hit.source} was not used."
