"""The answer in an output, and the key under which two answers count as the same."""

from __future__ import annotations

import functools
import re
import unicodedata

from marco.answer.numerals import (
    ASIDE,
    ENGLISH,
    LABEL,
    LIST_MARK,
    LIST_STARTS,
    MAX_SEARCHED,
    MAX_SENTENCE,
    SPACED,
    Numeral,
    cleaned,
    digits_of,
    is_continental,
    numbers_in,
    written,
)
from marco.answer.output import split_output

_BOX = re.compile(r"\\(?:boxed|fbox)\s?\{")
_HASHES = re.compile(r"####[ \t]{0,4}([^\n]{1,200})")
_CUE = re.compile(
    r"(?:answer|answers|result|solution)\b(?:[ ]{1,3}(?!is\b|are\b"
    r"|was\b)[^\s.:=\n*]{1,20}){0,6}[ *]{0,4}(?:\bis\b|\bare\b|\bwas\b|\bwould be\b|\bwill be\b|:|=)"
    r"|correct (?:option|choice|one|statement|sentence) is\b"
    r"|(?:最终|正确|最后)?答案\s{0,2}\**(?:应该)?(?:是|为|為|：|:|=)|(?:^|\n)\W{0,4}答\s{0,2}\**[:：]|(?:最终"
    r"|最后)?结果\**(?:是|为|：|:)|選|应?选择?\s?(?=[A-J])|选项?(?:是|为|：|:)"
    r"|答え\**\s?(?:は|：|:)|正解は|antwort\b[ *]{0,3}(?:ist|lautet|beträgt|:)|(?:respuesta"
    r"|resposta)\b(?: (?:final|correcta|correta))?[ *]{0,3}(?:es|é|:)"
    r"|réponse\b(?: (?:finale|correcte))?[ *]{0,3}(?:est|:)|risposta\b[ *]{0,3}(?:è|:)|ответ\b[ *]{0,3}(?::|—|–"
    r"|-|это|равен|есть)"
    r"|jibu\b(?: (?:sahihi|la mwisho))?[ *]{0,3}(?:ni|:)|คำตอบ\**\s?(?:สุดท้าย)?(?:ที่ถูกต้อง)?\**\s?(?:คือ|:"
    r"|เท่ากับ)?|উত্তর\**\s?(?:হল|হলো|হচ্ছে|হবে|:)?|(?:సమాధానం|జవాబు)\**\s?:?",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"\n+|(?<=[.!?])[ \t]+|[。！？；।]|(?<=[.!?])(?=[*_\"”])")
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_OPENING = re.compile(
    r"\W{0,4}(?:(?:about|approximately|roughly|exactly|around|only|just|indeed|equal to|also)\s)?-?\W{0,2}$", re.I
)
_EXPRESSION = re.compile(r"(?<!\S)[^\s]{0,40}(?:[π√∞]|\d:\d)[^\s]{0,40}")


def extract(text: str, kind: str) -> str | None:
    """The answer in an output, as shown to a person; None where there is none.

    `kind` as from `kind_of`. A number comes as a canonical numeral ("3", "70000", "0.5"; "3/4" where it was written as
    a fraction or the decimal doesn't end; a percent sign and units are dropped, so "50%" is "50"); a choice as "A",
    "yes", "no", "true", "false" or "it is not possible to tell"; a text as the stripped output.

    Tags are taken off first. Looked for, in this order: a LaTeX box, the mark ####, a phrase such as "the answer is"
    (in several languages), the one number in bold, the last sentence that has a number. Of several numbers in a
    sentence the last counts, save operands, step numbers, times in passing ("in 10 years") and parentheses.
    A text that never left its thought gives an answer only by the first three.
    """
    thought, output = split_output(text)
    if kind == "text":
        return output or None
    marked_only = not output
    source = output or thought
    if not source:
        return None
    if kind == "choice":
        return _extract_choice(source, marked_only)
    number = _number_in(source, marked_only)
    return written(number.value, ratio=number.ratio) if isinstance(number, Numeral) else number


def _box(text: str) -> str | None:
    """What stands in the last `\\boxed{...}` that is closed, braces balanced."""
    for match in list(_BOX.finditer(text))[:-20:-1]:
        depth = 1
        for position in range(match.end(), min(len(text), match.end() + 400)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if not depth:
                return text[match.end() : position]
    return None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007
        pass
    return found


def _number_in(source: str, marked_only: bool) -> Numeral | str | None:
    """The number that `source` answers with, or a short expression that is none."""
    box = _box(source)
    text = cleaned(source[-MAX_SEARCHED:])
    if LIST_STARTS.search(text):
        text = LIST_MARK.sub(r"\1", text)
    continental = is_continental(text)
    bare = not ENGLISH.search(text)
    if continental:
        text = SPACED.sub(lambda match: match.group().replace(" ", ""), text)

    def point(sentence: str, *, answers: bool = False) -> Numeral | None:
        return _point(sentence, continental, bare, answers)

    if box is not None:
        inside = cleaned(box)
        return point(inside, answers=True) or _expression(inside)
    hashes = _last(_HASHES, text)
    if hashes and (found := point(hashes[1], answers=True)):
        return found
    cue = _last(_CUE, text)
    if cue:
        for sentence in _SENTENCE_END.split(text[cue.end() :]):
            if found := point(sentence, answers=True):
                return found
    if marked_only:
        return None
    bold = [
        found
        for span in _BOLD.findall(text)
        if len(span.split()) <= 5 and not span.rstrip().endswith(":") and (found := point(span))
    ]
    if len({found.value for found in bold}) == 1:
        return bold[-1]
    sentences = _SENTENCE_END.split(text)
    for sentence in reversed(sentences):
        if found := point(sentence):
            return found
    for sentence in reversed(sentences):
        if labels := numbers_in(sentence[-MAX_SENTENCE:].replace("**", ""), continental, bare):
            return labels[-1]
    return _expression(text)


def _point(sentence: str, continental: bool, bare: bool, answers: bool) -> Numeral | None:
    """The number a sentence is about; `answers`: it follows a cue, so that a number at its beginning is the answer."""
    sentence = sentence[:MAX_SENTENCE] if answers else sentence[-MAX_SENTENCE:]
    for part in [*reversed(_BOLD.findall(sentence)), sentence.replace("**", "")]:
        found = [one for one in numbers_in(part, continental, bare) if one.rank < LABEL or answers]
        if not found:
            continue
        first = found[0]
        if answers and "=" not in part and first.rank != ASIDE and _OPENING.fullmatch(part[: first.start][-40:]):
            return first
        best = min(one.rank for one in found)
        return [one for one in found if one.rank == best][-1]
    return None


def _expression(text: str) -> str | None:
    """The last result that is no rational number, such as 3π or 2:3."""
    found = _last(_EXPRESSION, text.replace("**", ""))
    return found.group().strip(".,;!?。，") if found else None


_YES = r"yes|yeah|yep|oui|ja|sí|да|はい|是的|是(?![否不])|[对對](?![于於])|正确|正確|ndiyo|ใช่|হ্যাঁ|అవును"
_NO = r"nope|no|non|nein|нет|いいえ|不是|不[对對]|不正确|否|[错錯]误?|hapana|ไม่ใช่|না|కాదు"
_UNSURE = (
    r"(?:it(?:'s| is) )?(?:not possible|impossible) to (?:tell|say|know|determine)|(?:can ?not|can't"
    r"|can’t) (?:be determined|tell|be known)"
    r"|无法(?:判断|确定|得知)|不能(?:判断|确定)|不确定"
)
_VERDICT = re.compile(
    rf"(?:(?P<unsure>{_UNSURE})|(?P<no>{_NO})|(?P<yes>{_YES})|(?P<true>true)|(?P<false>false))(?![A-Za-zà-öø-ÿа-я])",
    re.IGNORECASE,
)
_UNSURE_ANYWHERE = re.compile(_UNSURE, re.IGNORECASE)
_ENGLISH_VERDICT = re.compile(
    r"\b(?:(?P<yes>yes)|(?P<no>no)|(?P<true>true)|(?P<false>false)|(?P<unsure>\Z))(?![\w-])", re.IGNORECASE
)
_NAMED = r"(?:(?:option|choice|letter|statement|sentence|选项|选|句子|答案|ข้อ|опция|вариант|option|respuesta)\s{0,2})?"
_LETTER_FIRST = re.compile(rf"\s{{0,4}}{_NAMED}[(（\[\"'“]{{0,2}}([A-J])(?![\w'’-])", re.IGNORECASE)
_LETTER_ALONE = re.compile(r"\W{0,6}([A-Ja-j])\W{0,6}")
_LETTER_OPENS = re.compile(
    rf"[\s(（\[\"'“]{{0,6}}{_NAMED}([A-J])\s?(?:[).:,、．）：\]]|\n|$|[-–—] |是|为|is\b)", re.IGNORECASE
)
_LETTER_MARKED = re.compile(
    r"[(（\[]([A-J])[)）\]]|(?<![A-Za-z])([A-J])[)）]|(?i:\b(?:option|choice|sentence|statement)|选项?"
    r"|句子) ?[\"'“]?([A-J])(?![\w'’])"
)
_LETTER_LAST = re.compile(r"(?<![\w'’])([B-HJ])(?![\w'’])")
_LETTER_A_LAST = re.compile(r"(?:\bis|\bbe|\bchoose|\bpick|[:：是为选])\s{0,2}(A)\W{0,4}$", re.IGNORECASE)


def _verdict(match: re.Match[str]) -> str:
    names = {"yes": "yes", "no": "no", "true": "true", "false": "false", "unsure": "it is not possible to tell"}
    return next(shown for name, shown in names.items() if match[name])


def _option_at(text: str) -> str | None:
    """The option that `text` opens with."""
    text = text.lstrip(" \t\n:：=*`\"'“")
    letter = _LETTER_FIRST.match(text)
    # "a" in lower case is an article, unless it is all there is or stands in brackets.
    if letter and (letter[1].isupper() or re.match(r"\s?[)）\]]|\W*$", text[letter.end() :][:8])):
        following = text[letter.end() : letter.end() + 12]
        if not (letter[1] in "AI" and re.match(r" [a-z]", following)) or re.match(
            r" (?:because|since|as|is|and|for)\b", following
        ):
            return letter[1].upper()
    verdict = _VERDICT.match(text)
    return _verdict(verdict) if verdict else None


def _extract_choice(source: str, marked_only: bool) -> str | None:
    text = cleaned(source[-MAX_SEARCHED:].replace("**", "").replace("__", ""))
    box = _box(source)
    if box is not None:
        inside = cleaned(box)
        return _option_at(inside) or inside.strip() or None
    hashes = _last(_HASHES, text)
    if hashes and _option_at(hashes[1]):
        return _option_at(hashes[1])
    for cue in reversed(list(_CUE.finditer(text))):
        option = _option_at(text[cue.end() : cue.end() + 80])
        if option:
            return option
    if marked_only:
        return None
    alone = _LETTER_ALONE.fullmatch(text)
    if alone:
        return alone[1].upper()
    opening = _LETTER_OPENS.match(text)
    if opening and opening[1].isupper():
        return opening[1]
    verdict = _VERDICT.match(text.lstrip(" \t\n\"'“*-"))
    if verdict:
        return _verdict(verdict)
    marked = _last(_LETTER_MARKED, text)
    if marked:
        return str(marked[1] or marked[2] or marked[3])
    ends_with_a = _LETTER_A_LAST.search(text[-40:])
    if ends_with_a and ends_with_a[1].isupper():
        return "A"
    single = _last(_LETTER_LAST, text)
    if single:
        return single[1]
    unsure = _UNSURE_ANYWHERE.search(text)
    if unsure:
        return "it is not possible to tell"
    said = None
    for match in _ENGLISH_VERDICT.finditer(text):
        said = match if match.group() else said
    if said:
        return _verdict(said)
    short = text.strip()
    return short if short and "\n" not in short and len(short.split()) <= 8 and len(short) <= 60 else None


def _trim(text: str) -> str:
    """Without punctuation, blanks and emphasis marks at both ends."""

    def skipped(character: str) -> bool:
        return character.isspace() or unicodedata.category(character)[0] == "P" or character in "`^~"

    start, end = 0, len(text)
    while start < end and skipped(text[start]):
        start += 1
    while end > start and skipped(text[end - 1]):
        end -= 1
    return text[start:end]


# The same answers come again with every vote of a search, and thousands of times in an evaluation.
@functools.lru_cache(maxsize=16_384)
def normalise(answer: str, kind: str) -> str:
    """The key under which answers count as the same.

    Numbers: the canonical numeral, so "0.50", "1/2" and "½" are "0.5"; a percent sign is dropped, as MGSM's own
    scoring does, so "50%" is "50" and not "0.5". Choices: an upper-case letter, or yes and no with true and
    false joined to them. Texts, and choices in words: compatibility form, case folded, blanks collapsed,
    punctuation at both ends removed (kept where nothing else is left).
    """
    if kind == "number":
        number = _number_in(answer, marked_only=False)
        if isinstance(number, Numeral):
            return written(number.value)
        return "".join("".join(digits_of(answer)).casefold().split())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", answer).casefold())
    folded = " ".join(folded.split())
    trimmed = _trim(folded) or folded
    if kind == "choice":
        if len(trimmed) == 1 and trimmed.isascii() and trimmed.isalpha():
            return trimmed.upper()
        return {"true": "yes", "false": "no"}.get(trimmed, trimmed)
    return trimmed


def same(a: str, b: str, kind: str) -> bool:
    """Whether two answers count as one."""
    return normalise(a, kind) == normalise(b, kind)
