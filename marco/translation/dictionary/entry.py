"""What a dictionary says of one expression, and how lists of our own are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_ENTRIES = 6
"""Expressions in one text, and words; those that come first."""


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

    @property
    def senses(self) -> tuple[str, ...]:
        return tuple(self.meaning.split("; "))

    @classmethod
    def recorded(cls, details: Mapping[str, Any]) -> Entry:
        """From the header of a search on record."""
        start, end = details["span"]
        names = ("source", "literal", "meaning", "dictionary")
        told = {name: str(details[name]) for name in names}
        return cls(span=(int(start), int(end)), expression=bool(details["expression"]), **told)


def listed(name: str) -> Iterator[list[str]]:
    """The lines of a list beside this module, each by its columns; those that begin with # are remarks."""
    for line in Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield line.split("\t")
