"""A glossary of one's own: which words must become which, and whether they did."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from marco.errors import InvalidOption

MAX_PAIRS = 10_000
MAX_TERM_CHARS = 200
_HEADERS = {("source", "target"), ("from", "to"), ("term", "translation")}


@dataclass(frozen=True, slots=True)
class GlossaryHit:
    """A term of the glossary that occurs in the source."""

    source: str
    target: str
    source_span: tuple[int, int]
    target_span: tuple[int, int] | None
    """Where the translation has it; None where it doesn't: the glossary was not followed here."""

    @property
    def honoured(self) -> bool:
        return self.target_span is not None


@dataclass(frozen=True, slots=True)
class Glossary:
    """Pairs of a source term and the words that must stand for it."""

    pairs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, given: Glossary | Mapping[str, str] | Path | str | None) -> Glossary:
        """From a mapping, or from the path of a file. None is the empty one."""
        if isinstance(given, Glossary):
            return given
        if given is None:
            return cls()
        if isinstance(given, Mapping):
            return cls(
                tuple(_pair([source, target], f"entry {n}") for n, (source, target) in enumerate(given.items(), 1))
            )
        return cls.load(Path(given))

    @classmethod
    def load(cls, path: Path) -> Glossary:
        """Read a CSV or TSV file, UTF-8: source, target; a first line that says so is skipped, as are empty
        lines and those that begin with #. Raises `InvalidOption` naming the line."""
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise InvalidOption("glossary", str(path), f"a file that can be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise InvalidOption("glossary", str(path), "a text file in UTF-8") from None
        delimiter = "\t" if path.suffix.lower() == ".tsv" or "\t" in text.partition("\n")[0] else ","
        pairs: dict[str, str] = {}
        try:
            reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
            for row in reader:
                cells = [cell.strip() for cell in row]
                if not any(cells) or cells[0].startswith("#"):
                    continue
                if not pairs and tuple(cell.casefold() for cell in cells[:2]) in _HEADERS:
                    continue
                source, target = _pair(cells, f"line {reader.line_num} of {path}")
                pairs[source] = target
        except csv.Error as error:
            raise InvalidOption("glossary", str(path), f"a table of source and target ({error})") from None
        if not pairs:
            raise InvalidOption("glossary", str(path), "a file with at least one line of source and target")
        if len(pairs) > MAX_PAIRS:
            raise InvalidOption("glossary", str(path), f"a file of at most {MAX_PAIRS:,} lines")
        return cls(tuple(pairs.items()))

    def within(self, text: str) -> Glossary:
        """The pairs that occur in `text`. Of two that overlap the longer counts."""
        return Glossary(tuple(dict.fromkeys((hit.source, hit.target) for hit in self.report(text, ""))))

    def report(self, text: str, translation: str) -> tuple[GlossaryHit, ...]:
        """Where each term occurs in `text`, and where its counterpart stands in `translation`."""
        hits: list[GlossaryHit] = []
        taken: list[tuple[int, int]] = []
        for source, target in sorted(self.pairs, key=lambda pair: -len(pair[0])):
            places = [match.span() for match in _term(target).finditer(translation)]
            for match in _term(source).finditer(text):
                if any(match.start() < end and start < match.end() for start, end in taken):
                    continue
                taken.append(match.span())
                # The first counterpart serves further mentions too: a pronoun may stand for those.
                place = places.pop(0) if len(places) > 1 else places[0] if places else None
                hits.append(GlossaryHit(source, target, match.span(), place))
        return tuple(sorted(hits, key=lambda hit: hit.source_span))


def _pair(cells: list[str], where: str) -> tuple[str, str]:
    cells = [str(cell).strip() for cell in cells]
    if len(cells) < 2 or not cells[0] or not cells[1]:
        raise InvalidOption("glossary", ", ".join(cells), f"a source and a target (in {where})")
    if max(len(cells[0]), len(cells[1])) > MAX_TERM_CHARS:
        raise InvalidOption("glossary", cells[0], f"a term of at most {MAX_TERM_CHARS} characters (in {where})")
    return cells[0], cells[1]


def _term(term: str) -> re.Pattern[str]:
    """A term as a whole word, where its script has such; capitals and kinds of blanks don't matter."""
    words = r"\s+".join(re.escape(word) for word in term.split())
    before = r"(?<![^\W\d_])" if _alphabetic(term[0]) else ""
    behind = r"(?:e?s)?(?![^\W\d_])" if _alphabetic(term[-1]) else ""
    return re.compile(before + words + behind, re.IGNORECASE)


def _alphabetic(character: str) -> bool:
    return character.isalpha() and character < "\u0e00"
