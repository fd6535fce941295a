"""Which rows are fit to learn from: rules with names, each off or on, each with its reason in words.

`Rules` holds the settings. `sift` applies them in the order of `ORDER` and says of every row whether it is kept
(repaired, if that was asked for) or which rule dropped it and why: nothing vanishes. A row is dropped by the first rule
that it breaks. Rules know texts alone; what mixes and splits is `marco.training.data`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from marco.answer import extract, kind_of, normalise, same, split_output
from marco.answer.numerals import numbers_in
from marco.degenerate import degeneracy
from marco.errors import InvalidOption
from marco.training.sources import Row, Unreadable, excerpt_of
from marco.translation.languages import Language, language, recognise, script_words

ORDER = (
    "unreadable",
    "format",
    "damaged",
    "length",
    "repetition",
    "language",
    "duplicate",
    "near-duplicate",
    "agreement",
)
FORMATS = ("strict", "repair", "off")
AGREEMENTS = ("reference", "rows", "thought")

SHINGLE = 5
"""Words (of Chinese and Japanese: characters) in a stretch that two near-duplicates share."""
PERMUTATIONS = 64
"""Of the MinHash that finds candidates; what it finds is then compared exactly."""
SURE_LETTERS = 80
"""Letters from which languages in one alphabet are told apart: shorter sentences are often taken for another's."""

_STRICT = re.compile(r"\s*<Thought>(?P<thought>.*?)</Thought>\s*<Output>(?P<output>.*?)</Output>\s*", re.DOTALL)
_ANY_TAG = re.compile(r"<\s{0,3}/?\s{0,3}(?:thought|output)s?\s{0,3}>", re.IGNORECASE)
_NOT_PROSE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]{1,200}`|\$\$.*?\$\$|\$[^$\n]{1,300}\$|\\\[.*?\\\]", re.DOTALL)
_WORD = re.compile(r"[㐀-鿿぀-ヿ]|\w+")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is asked of a row. Raises `InvalidOption` for a wrong value."""

    format: str = "strict"
    """`strict`: a thought and an output, in their tags, and nothing else. `repair`: what can be read as that is
    rewritten so. `off`: anything."""
    plain: bool = False
    """Let rows pass that have no tag at all: plain instructions."""
    damaged: bool = True
    """Drop texts with U+FFFD (the trace of a broken character), NUL or half a surrogate pair."""
    min_thought: int = 20
    """Characters."""
    max_chars: int = 32_000
    """Characters of the response."""
    max_tokens: int | None = None
    """Tokens of the response, where a tokenizer is given."""
    repetition: bool = True
    """Drop responses that end in a loop (see `marco.degenerate`)."""
    languages: tuple[str, ...] = ()
    """Codes of languages that the instruction may be in; empty: any."""
    thought_language: str = "any"
    """`any`, `same` (as the instruction) or a code. The released data thinks in English about Chinese questions."""
    output_language: str = "same"
    duplicates: bool = True
    """Drop a row whose instruction and response were there before, but for case and blanks."""
    near_duplicates: float | None = 0.85
    """Drop a row that shares this share (Jaccard) of its word stretches with one before; None lets them pass."""
    agreement: tuple[str, ...] = AGREEMENTS
    """`reference`: the answer is the one that the row says is right. `rows`: where several rows ask the same
    question, the answer is that of most of them. `thought`: a number that is answered was thought of."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InvalidOption("format", self.format, "one of " + ", ".join(FORMATS))
        for name in ("min_thought", "max_chars"):
            if getattr(self, name) < 0:
                raise InvalidOption(name, getattr(self, name), "a whole number of at least 0")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidOption("max_tokens", self.max_tokens, "a whole number of at least 1")
        if self.near_duplicates is not None and not 0.5 <= self.near_duplicates <= 1:
            raise InvalidOption("near_duplicates", self.near_duplicates, "a number from 0.5 to 1")
        for item in self.agreement:
            if item not in AGREEMENTS:
                raise InvalidOption("agreement", item, "one of " + ", ".join(AGREEMENTS))
        for code in (*self.languages, self.thought_language, self.output_language):
            if code not in ("any", "same"):
                language(code)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is not kept. `rule` is a name in `ORDER`, or "mix"."""

    source: str
    place: str
    rule: str
    why: str
    excerpt: str = ""


CountTokens = Callable[[str], int]


def sift(
    rows: Iterable[Row | Unreadable], rules: Rules, count_tokens: CountTokens | None = None
) -> Iterator[Row | Dropped]:
    """Each row as it is kept, or dropped with rule and reason; as many as came in, in another order.

    Those that only a comparison with all others can judge come at the end.
    """
    seen: dict[str, str] = {}
    near = _Near(rules.near_duplicates) if rules.near_duplicates is not None else None
    left: list[Row] = []
    for item in rows:
        if isinstance(item, Unreadable):
            yield Dropped(item.source, item.place, "unreadable", item.why, item.excerpt)
            continue
        row = repaired(item) if rules.format == "repair" else item
        for rule, check in ROW_RULES.items():
            why = check(row, rules) if rule != "length" else too_long_or_short(row, rules, count_tokens)
            if why:
                yield _dropped(row, rule, why)
                break
        else:
            key = same_text(row.instruction) + "\0" + same_text(row.response)
            if rules.duplicates and key in seen:
                yield _dropped(row, "duplicate", f"the same stands in {seen[key]}")
                continue
            like = near.like(row) if near else None
            if like is not None:
                yield _dropped(row, "near-duplicate", like)
                continue
            seen.setdefault(key, row.place)
            left.append(row)
    yield from _agreeing(left, rules)


def repaired(row: Row) -> Row:
    """The row with its response in the strict form, where it can be read as thought and output."""
    if well_formed(row.response):
        return row
    thought, output = split_output(row.response)
    return row.with_response(written(thought, output)) if thought and output else row


def written(thought: str, output: str) -> str:
    """The strict form, as the released data has it."""
    return f"<Thought>\n{thought}\n</Thought>\n<Output>\n{output}\n</Output>"


def well_formed(response: str) -> bool:
    """Whether a text is one thought and one output, each in its tags and neither empty, and nothing else."""
    return misformed(response) is None


def misformed(response: str) -> str | None:
    match = _STRICT.fullmatch(response)
    if match is None or _ANY_TAG.search(match["thought"]) or _ANY_TAG.search(match["output"]):
        if not _ANY_TAG.search(response):
            return "it has no <Thought> and <Output>"
        missing = [tag for tag in ("<Thought>", "</Thought>", "<Output>", "</Output>") if tag not in response]
        if missing:
            return f"{missing[0]} is missing"
        return "its tags are not one thought followed by one output"
    if not match["thought"].strip():
        return "its thought is empty"
    return None if match["output"].strip() else "its output is empty"


# What one row says about itself


def wrong_format(row: Row, rules: Rules) -> str | None:
    if rules.format == "off" or (rules.plain and not _ANY_TAG.search(row.response)):
        return None
    return misformed(row.response)


def damaged(row: Row, rules: Rules) -> str | None:
    if not rules.damaged:
        return None
    for turn in row.messages:
        text = turn["content"]
        if "�" in text:
            return f"it holds {text.count(chr(0xFFFD))} broken characters (U+FFFD)"
        if "\x00" in text:
            return "it holds a NUL character"
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            return "it holds half of a surrogate pair"
    return None


def too_long_or_short(row: Row, rules: Rules, count_tokens: CountTokens | None = None) -> str | None:
    if len(row.response) > rules.max_chars:
        return f"its response has {len(row.response):,} characters, more than {rules.max_chars:,}"
    if rules.max_tokens is not None and count_tokens is not None:
        count = count_tokens(row.response)
        if count > rules.max_tokens:
            return f"its response has {count:,} tokens, more than {rules.max_tokens:,}"
    if _ANY_TAG.search(row.response) and len(row.thought) < rules.min_thought:
        return f"its thought has {len(row.thought)} characters, fewer than {rules.min_thought}"
    return None


def repetitive(row: Row, rules: Rules) -> str | None:
    if rules.repetition:
        for name, text in (("thought", row.thought), ("output", row.output)):
            if text and degeneracy(text, (), "stop", "") == "loop":
                return f"its {name} ends in a loop"
    return None


def wrong_language(row: Row, rules: Rules) -> str | None:
    asked = main_language(row.instruction)
    if rules.languages and asked is not None:
        allowed = [language(code).code for code in rules.languages]
        if asked.code not in allowed:
            return f"its instruction is in {asked.name}, not in {' or '.join(allowed)}"
    for name, wanted, text in (
        ("thought", rules.thought_language, row.thought),
        ("output", rules.output_language, row.output),
    ):
        if wanted == "any" or not text:
            continue
        target = asked if wanted == "same" else language(wanted)
        found = main_language(text)
        if target is not None and found is not None and found.code != target.code and _certain(text, found, target):
            return f"its {name} looks like {found.name}, and {target.name} is wanted"
    return None


def main_language(text: str) -> Language | None:
    """The language of a text's prose (code and formulas aside); None where that is not certain."""
    prose = _NOT_PROSE.sub(" ", text)[:4000]
    found, sure = recognise(prose)
    return found if sure else None


def _certain(text: str, found: Language, target: Language) -> bool:
    """Another script says enough in a word; in the same one only a longer text does."""
    words = script_words(_NOT_PROSE.sub(" ", text)[:4000])
    if not set(found.scripts) & set(target.scripts):
        # A word or two may be a name, a unit, or the word that was asked for.
        return sum(words.values()) >= 3
    return sum(sign.isalpha() for sign in _NOT_PROSE.sub(" ", text)) >= SURE_LETTERS


ROW_RULES: dict[str, Callable[[Row, Rules], str | None]] = {
    "format": wrong_format,
    "damaged": damaged,
    "length": too_long_or_short,
    "repetition": repetitive,
    "language": wrong_language,
}


# What rows say about each other


class _Near:
    """Finds a row that was there before, nearly word for word."""

    def __init__(self, threshold: float) -> None:
        from marco.training import require

        require("datasketch")
        from datasketch import MinHashLSH

        self._threshold = threshold
        # Looser than what is asked for: candidates are compared exactly, and none should be missed.
        self._index: Any = MinHashLSH(threshold=max(0.5, threshold - 0.15), num_perm=PERMUTATIONS)
        self._rows: list[Row] = []

    def like(self, row: Row) -> str | None:
        """Why the row is a near-duplicate; None where it is not, and it is remembered."""
        from datasketch import MinHash

        stretches = _stretches(row)
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([stretch.encode("utf-8", "surrogatepass") for stretch in stretches])
        for number in sorted(self._index.query(sketch)):
            other = _stretches(self._rows[number])
            shared = len(stretches & other) / max(1, len(stretches | other))
            # The same question in other numbers is another question: only its figures tell.
            if shared >= self._threshold and _figures(row) == _figures(self._rows[number]):
                return f"{shared:.0%} of it stands in {self._rows[number].place}"
        self._index.insert(len(self._rows), sketch)
        self._rows.append(row)
        return None


def _stretches(row: Row) -> set[str]:
    words = _WORD.findall(f"{row.instruction}\n{row.response}".casefold())
    return {" ".join(words[start : start + SHINGLE]) for start in range(max(1, len(words) - SHINGLE + 1))}


def _figures(row: Row) -> list[str]:
    return re.findall(r"\d+", row.instruction)


def _agreeing(rows: Sequence[Row], rules: Rules) -> Iterator[Row | Dropped]:
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if (found := _answer_key(row)) is not None:
            by_question[same_text(row.instruction)][found] += 1
    for row in rows:
        why = disagrees(row, rules) or (
            _outvoted(row, by_question[same_text(row.instruction)]) if "rows" in rules.agreement else None
        )
        yield _dropped(row, "agreement", why) if why else row


def disagrees(row: Row, rules: Rules) -> str | None:
    """Where a row's answer is not its reference's, or was never thought of."""
    kind = kind_of(row.instruction)
    if "reference" in rules.agreement and row.reference is not None:
        kind = "number" if re.fullmatch(r"[+-]?\d[\d,]*(?:\.\d+)?", row.reference.strip()) else kind
        answer = extract(row.response, kind)
        if answer is None or not same(answer, row.reference, kind):
            return f"it answers {_shown(answer)}, and {_shown(row.reference)} is right"
    if "thought" in rules.agreement and kind == "number" and row.thought and row.output:
        answer = extract(row.response, "number")
        if answer is not None and not _thought_of(answer, row.thought):
            return f"it answers {_shown(answer)}, which its thought doesn't hold"
    return None


def _thought_of(answer: str, thought: str) -> bool:
    try:
        value = Fraction(normalise(answer, "number"))
    except ValueError:
        return True
    met = False
    for line in re.split(r"(?<=[.。!?！？])\s+|\n", thought):
        for numeral in numbers_in(line, False, False):
            met = True
            # A rounded answer to a thought with more digits is no other answer.
            if abs(numeral.value - value) <= abs(value) / 100:
                return True
    return not met


def _outvoted(row: Row, votes: Counter[str]) -> str | None:
    own = _answer_key(row)
    if own is None or len(votes) < 2:
        return None
    best = max(votes.values())
    if votes[own] == best and list(votes.values()).count(best) == 1:
        return None
    return f"it answers {_shown(own)}; rows with this question say " + ", ".join(
        f"{_shown(key)} ({count} times)" for key, count in votes.most_common(3)
    )


def _answer_key(row: Row) -> str | None:
    kind = kind_of(row.instruction)
    if kind == "text":
        return None
    answer = extract(row.response, kind)
    return None if answer is None else normalise(answer, kind)


def _dropped(row: Row, rule: str, why: str) -> Dropped:
    return Dropped(row.source, row.place, rule, why, excerpt_of(row.instruction))


def same_text(text: str) -> str:
    """A key under which texts count as the same: case, blanks and widths of characters aside."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _shown(answer: str | None) -> str:
    return "nothing" if answer is None else repr(answer if len(answer) <= 40 else answer[:39] + "…")
