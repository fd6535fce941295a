"""Numbers in text, in figures and in words, and how likely each is to be the point of its sentence."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

_WIDE = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {
    0x3000: " ", 0x2212: "-", 0xFE63: "-", 0x066B: ".", 0x066C: ",", 0x2044: "/", 0x2011: "-",
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
           "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}  # fmt: skip

_LATEX = (
    (re.compile(r"\\[dtc]?frac\s?\{\s?([^{}\\]{1,40}?)\s?\}\s?\{\s?([^{}\\]{1,40}?)\s?\}"), r" \1/\2 "),
    (re.compile(r"\\[dt]?frac\s?(\d)\s?(\d)"), r" \1/\2 "),
    (re.compile(r"\\(?:text|textbf|mathbf|mathrm|mbox|bf|rm)\s?\{([^{}]{0,200})\}"), r" \1 "),
    (re.compile(r"\\sqrt\s?(?:\{[^{}]{0,80}\}|\d)"), "√"),
    (re.compile(r"\\pi(?![a-z])"), "π"),
    (re.compile(r"\\infty(?![a-z])"), "∞"),
    (re.compile(r"\\(?:times|cdot)(?![a-z])"), "×"),
    (re.compile(r"\\div(?![a-z])"), "÷"),
    (re.compile(r"\\approx(?![a-z])"), "≈"),
    (re.compile(r"\\(?:left|right)(?![a-z])|\\[()\[\]]"), " "),
    (re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!,?)(?=\d{3})"), ","),
    (re.compile(r"\\[,;:! ]"), " "),
    (re.compile(r"\\([$%#&])"), r"\1"),
)
_CURRENCY = "$€£¥￥₹₽₩฿৳₦₫¢"
_NEGATIVE_MONEY = re.compile(rf"-[ ]?[{_CURRENCY}][ ]?(?=[\d.])|[{_CURRENCY}][ ]?-(?=[\d.])")
_MONEY = re.compile(rf"[{_CURRENCY}]")
_MONEY_CODE = re.compile(
    r"(?<![A-Za-z])(?:USD|EUR|GBP|CNY|RMB|JPY|INR|RUB|KSh|Ksh|KES|TSh|Tsh|TZS|BDT|THB|Rs|Tk|Sh|Rp|NT|HK|US"
    r"|R)\.?[ ]?(?=\d)"
)
_TIGHT_SPACE = re.compile(r"(?<=\d)[\u00a0\u202f\u2009](?=\d{3}(?!\d))")
SPACED = re.compile(r"(?<![\d.,])(?<!\d )(\d{1,3})((?: \d{3}){1,5})(?!\d| \d)")

_DIGITS = re.compile(
    r"(?<![A-Za-z^])(?<![A-Za-z]_)(?<!\^\{)(?<!\d[.:/])"
    r"(?:(?P<whole>\d{1,6})[ ](?P<part>\d{1,6}/\d{1,6})(?![\d/])"
    r"|(?P<number>\d{1,3}(?:,\d{2,3}){0,8},\d{3}(?!\d)(?:\.\d+)?"
    r"|\d{1,3}(?:\.\d{3}){1,8},\d+"
    r"|\d{1,3}(?:\.\d{3}){2,8}(?!\d)"
    r"|\d{1,3}(?:['’]\d{3}){1,8}(?!\d)(?:\.\d+)?"
    r"|(?<![(\[{])\d{1,15},(?:\d{1,2}|\d{4,9})(?!\d|,\d)"
    r"|\d+(?:\.\d+)?|\.\d+)"
    r"(?:/(?P<below>\d{1,12}(?:\.\d{1,6})?)(?![\d/])"
    r"|[ ]?[×*x][ ]?10\^\{?(?P<ten>-?\d{1,2})\}?"
    r"|[eE](?P<exponent>[+-]?\d{1,2})(?![\w.])"
    r"|\^\{?(?P<power>\d{1,2})\}?)?)"
)
_SCALES = (
    (re.compile(r"[ -]?(?:hundred|hundert)(?![a-z])", re.I), 100),
    (re.compile(r"[ -]?(?:thousand|tausend|mil|mille|тыс(?:яч[аи]?|\.)?|elfu|พัน|হাজার|వేల)(?![a-zа-я])", re.I), 1_000),
    (re.compile(r"[kK](?![A-Za-z])"), 1_000),
    (re.compile(r"[ -]?(?:lakhs?|লাখ|లక్షల?|แสน)(?![a-z])", re.I), 100_000),
    (re.compile(r"[ -]?(?:crores?|কোটি|కోట్ల?)(?![a-z])", re.I), 10_000_000),
    (re.compile(r"[ -]?(?:millions?|millionen|mio|millones|millón|миллион\w{0,2}|млн|ล้าน)(?![a-zа-я])", re.I), 10**6),
    (re.compile(r"[ -]?(?:billions?|milliarden?|milliards?|миллиард(?:а|ов)?|млрд)(?![a-zа-я])", re.I), 10**9),
    (re.compile(r"[ ]?หมื่น"), 10_000),
    (re.compile(r"[ -]?dozen(?![a-z])", re.I), 12),
)  # fmt: skip
_AND_A_HALF = re.compile(r"\s(?:and\s(?:a|one)\s|y\s(?=medi)|et\s(?=demi))(?:half|medi[oa]|demie?)\b", re.I)

_UNITS = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen"
    "|seventeen|eighteen|nineteen"
)
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_NUMBER_WORD = f"(?:{_UNITS}|{_TENS}|hundred|thousand|million|billion)(?![a-z])"
_WORDS = re.compile(
    rf"(?<![A-Za-z0-9-])(?P<minus>(?:minus|negative) )?"
    rf"(?:(?P<numerator>a|one|two|three|four|five"
    rf"|seven)[ -](?P<below>half|halves|thirds?|quarters?|fourths?|fifths?|sixths?|eighths?|tenths?)(?![a-z])"
    rf"|(?P<words>(?:a (?=hundred|thousand|million|billion|dozen))?(?:{_NUMBER_WORD}"
    rf"|dozen(?![a-z]))(?:[ -]{{1,2}}(?:and )?(?:{_NUMBER_WORD}|dozen(?![a-z])"
    rf"|point(?= (?:{_UNITS})))){{0,24}}))",
    re.IGNORECASE,
)
_BELOW = {"hal": 2, "thi": 3, "qua": 4, "fou": 4, "fif": 5, "six": 6, "eig": 8, "ten": 10}
_PRONOUN_BEFORE = re.compile(
    r"(?:the|this|that|each|every|which|no|any|another|last|first|only|next|good|right|correct|some) $", re.I
)
_PRONOUN_AFTER = re.compile(r" (?:of|another|who|that|by|can|could|must|might|should|way|thing)\b", re.I)

_HAN_DIGITS = "零〇一二两兩三四五六七八九壹贰貳叁參肆伍陆陸柒捌玖"
_HAN_UNITS = "十拾百佰千仟万萬亿億廿"
_HAN = re.compile(
    rf"(?P<minus>[负負])?(?:百分之(?P<percent>[{_HAN_DIGITS}{_HAN_UNITS}点點\d.]{{1,24}})"
    rf"|(?P<below>[{_HAN_DIGITS}{_HAN_UNITS}\d]{{1,16}})分之(?P<above>[{_HAN_DIGITS}{_HAN_UNITS}\d]{{1,16}})"
    rf"|(?P<mixed>\d[\d,]{{0,18}}(?:\.\d{{1,9}})?[ ]?[百千万萬亿億](?![克米瓦卡焦赫帕])"
    rf"[\d{_HAN_UNITS}{_HAN_DIGITS}]{{0,16}})"
    rf"|(?P<words>[{_HAN_DIGITS}{_HAN_UNITS}][{_HAN_DIGITS}{_HAN_UNITS}]{{0,31}}(?:[点點][{_HAN_DIGITS}]{{1,16}})?))"
    r"(?P<half>[个個]半)?"
)
_HAN_IDIOM = re.compile(
    r"一(?:共|起|样|樣|些|下|直|定|般|旦|切|致|种|種|边|邊|方|步|点|點|律|时|時|半|同|并|齐|番|度|向|再|系列)"
    r"|十(?:分|足|字)|三角|四(?:周|处|边形|川)|万一|两者|百姓|千万(?!\d)|万物"
)
_HAN_INSIDE = re.compile(r"(?:[统唯单每某另同第进逐之周任哪这那统万])$")

_CONTINENTAL = re.compile(
    r"\b(?:der|die|das|und|ist|insgesamt|sind|hat|haben|kostet|beträgt|antwort|lautet|gesamt"
    r"|el|los|las|del|que|en|es|por|tiene|total de|cuesta|respuesta"
    r"|le|les|des|est|et|il|elle|sont|coûte|réponse|résultat"
    r"|он|она|они|это|итого|всего|ответ|будет|составляет|рублей|долларов|стоит|у|в|на)\b",
    re.IGNORECASE,
)
ENGLISH = re.compile(
    r"\b(?:the|is|are|of|and|to|has|have|makes|for|with|was|will|she|he|they|it|answer)\b", re.IGNORECASE
)


MAX_SEARCHED = 20_000
"""Characters at the end of an output in which its answer is looked for."""
MAX_SENTENCE = 2_000
_MAX_DIGITS = 40
"""A longer run of digits is no answer to a question, and exact arithmetic on it is not free."""


@functools.cache
def _decimal_digit(character: str) -> str:
    digit = unicodedata.decimal(character, None)
    return character if digit is None else str(digit)


def digits_of(text: str) -> Iterator[str]:
    """The characters of `text`, with full-width forms and the decimal digits of all scripts in ASCII."""
    if text.isascii():
        yield text
        return
    for character in text.translate(_WIDE):
        yield character if character.isascii() or not character.isdecimal() else _decimal_digit(character)


def cleaned(text: str) -> str:
    """`text` as the number patterns want it: ASCII digits, LaTeX and currency signs taken out."""
    text = "".join(digits_of(text))
    if not text.isascii():
        text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda run: "^" + run.group().translate(_SUPERSCRIPTS), text)
        text = re.sub("[" + "".join(_VULGAR) + "]", lambda one: " " + _VULGAR[one.group()], text)
        text = _TIGHT_SPACE.sub("", text)
    if "\\" in text or "{,}" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    text = _NEGATIVE_MONEY.sub("-", text)
    text = _MONEY.sub(" ", text)
    return _MONEY_CODE.sub(" ", text)


def is_continental(text: str) -> bool:
    """Whether `text` is in a language that writes 1.234,5 for what English writes 1,234.5."""
    ending = text[-4000:]
    return len(_CONTINENTAL.findall(ending)) > len(ENGLISH.findall(ending))


def _parse(number: str, continental: bool, bare: bool) -> Fraction | None:
    """The value of an unsigned numeral with its separators."""
    if len(number) > _MAX_DIGITS:
        return None
    number = number.replace("'", "").replace("’", "")
    comma, dot = number.rfind(","), number.rfind(".")
    if comma >= 0 and dot >= 0:
        number = number.replace("." if comma > dot else ",", "").replace(",", ".")
    elif comma >= 0:
        grouped = len(number) - comma == 4 and not number.startswith("0")
        number = number.replace(",", "") if grouped else number.replace(",", ".")
    elif number.count(".") > 1:
        number = number.replace(".", "")
    elif 1 <= dot <= 3 and len(number) - dot == 4 and not number.startswith("0"):
        # 70.000 without a word of English near it: nobody writes three zeros behind a decimal point.
        grouped = continental or (bare and number.endswith(".000"))
        number = number.replace(".", "") if grouped else number
    return Fraction(number if not number.startswith(".") else "0" + number)


def written(value: Fraction, *, ratio: bool = False) -> str:
    """Canonical numeral: an integer, a decimal where it ends, else (or with `ratio`) a reduced fraction."""
    if value.denominator == 1 or ratio:
        return str(value)
    rest, places = value.denominator, 0
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest //= prime
            count += 1
        places = max(places, count)
    if rest != 1 or places > 15:
        return f"{value.numerator}/{value.denominator}"
    scaled = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return ("-" if value < 0 else "") + f"{scaled[:-places]}.{scaled[-places:]}"


# How likely a number in a sentence is to be its point; the lowest rank wins, then the last one.
_CLEAN, ASIDE, _WORDED, _TIMED, _WORDED_ASIDE, LABEL = range(6)

_LABEL_BEFORE = re.compile(
    r"(?:^|[^a-z])(?:step|part|question|problem|day|week|figure|case|option|item|line|round|no\.?|paso|étape"
    r"|schritt|шаг|hatua|ステップ|步骤|第)\s{0,2}#?$|[#№]$",
    re.I,
)
_ORDINAL_AFTER = re.compile(r"(?:st|nd|rd|th|º|ª|er|ème|-й|-я)(?![a-zа-я])|\.? ?(?:步|题|題|番目)", re.I)
LIST_STARTS = re.compile(r"^[ \t>*#-]{0,8}1[.)、]\s", re.MULTILINE)
LIST_MARK = re.compile(r"^([ \t>*#-]{0,8})\d{1,2}[.)、](?=[ \t])", re.MULTILINE)
_DETERMINER_BEFORE = re.compile(
    r"(?:^|[^a-z])(?:at|across|the|all|these|those|her|his|their|its|both|out of|@|other)\s{1,2}$", re.I
)
_TIME_BEFORE = re.compile(
    r"(?:^|[^\w])(?:in|after|over|within|every|per|each|for|during|next|last|first|past|another|nach|pro|für"
    r"|über|après|en|par|pendant|dans|después de|durante"
    r"|cada|por|tras|через|за|после|каждые|baada ya|kila|ndani ya|在|每|过|経|หลังจาก|ใน|ทุก)\s{0,2}(?:the "
    r"|these |all |las |les |los |siku |saa |miaka |wiki )?$",
    re.I,
)
_TIME_AFTER = re.compile(
    r"[ -]{0,2}(?:seconds?|minutes?|mins?|hours?|days?|weeks?|months?|years?|sekunden|minuten|stunden?|tagen?"
    r"|wochen?|monaten?|jahren?"
    r"|secondes?|minutos?|horas?|días?|semanas?|meses|años?|heures?|jours?|semaines?|mois|ans|années|секунд"
    r"|минут|час|дн|день|недел|месяц|лет|год"
    r"|วัน|ชั่วโมง|นาที|ปี|สัปดาห์|เดือน)",
    re.I,
)
_TIME_HAN_AFTER = re.compile(
    r" ?(?:天|年|周|个月|小时|分钟|秒|日|週間|時間|分|か月|ヶ月)(?:后|後|内|里|中|之后|以后|间|間|来)"
)
_OPERATOR_AFTER = re.compile(r"\s?(?:%\s?)?(?:[+×÷·*]|[-–/x](?=\s{0,2}\d)|\s[-–]\s)\s{0,2}[\d(-]")
_OPERATOR_BEFORE = re.compile(r"[\d)%a-z]\s?(?:[+×÷·*]|\s[-–/x]\s|(?<=\d)[-/])\s{0,2}$")
_REASON = re.compile(
    r"\b(?:because|since|given that|to (?:ensure|make sure|reach)|so that|by (?:selling|adding|multiplying"
    r"|dividing|subtracting|taking))\b|因为|因為|なぜなら|weil|porque|parce que|потому что",
    re.I,
)
_PARENTHESES = re.compile(r"[(（][^()（）\n]{0,200}[)）]")
_NOT_RATIONAL_AFTER = re.compile(r"\s?[π√]|:\d")
_MINUS_WORD = re.compile(r"(?:minus|negative) $|[负負] ?$", re.I)


@dataclass(frozen=True, slots=True)
class Numeral:
    """A number as it stands in a sentence."""

    start: int
    end: int
    value: Fraction
    rank: int = _CLEAN
    ratio: bool = False
    """Written as a fraction."""


def _sign(sentence: str, start: int) -> int:
    """-1 where the numeral at `start` has a minus of its own, not one between two terms."""
    before = sentence[max(0, start - 10) : start]
    if not before.endswith("-"):
        return -1 if _MINUS_WORD.search(before) else 1
    term = before[:-1].rstrip()
    is_between = term and (term[-1].isdigit() or term[-1] in ")%" or (term[-1].isalnum() and before[-2] == term[-1]))
    return 1 if is_between else -1


def _in_digits(sentence: str, continental: bool, bare: bool) -> Iterator[Numeral]:
    for match in _DIGITS.finditer(sentence):
        start, end = match.span()
        value = _value(match, continental, bare)
        tail = sentence[end : end + 16]
        if value is None or _NOT_RATIONAL_AFTER.match(tail):
            continue
        if _AND_A_HALF.match(tail):
            value += Fraction(1, 2)
        for pattern, factor in _SCALES:
            scale = pattern.match(tail)
            if scale:
                value *= factor
                end += scale.end()
                break
        yield Numeral(start, end, value * _sign(sentence, start), ratio=match["below"] is not None)


def _value(match: re.Match[str], continental: bool, bare: bool) -> Fraction | None:
    if match["whole"]:
        above, _, below = match["part"].partition("/")
        return int(match["whole"]) + Fraction(int(above), int(below)) if int(below) else None
    value = _parse(match["number"], continental, bare)
    if value is None:
        return None
    if match["below"]:
        divisor = Fraction(match["below"])
        return value / divisor if divisor else None
    if match["power"]:
        return value ** int(match["power"]) if value <= 1000 else None
    exponent = match["ten"] or match["exponent"]
    return value * Fraction(10) ** int(exponent) if exponent else value


def _english(words: str) -> Fraction | None:
    from word2number import w2n

    parse: Callable[[str], float] = w2n.word_to_num
    words = " ".join(re.findall(r"[a-z]+", words.casefold()))
    factor = 1
    if words.endswith("dozen"):
        words, factor = words.removesuffix("dozen").strip(), 12
        if words in ("", "a"):
            return Fraction(12)
    try:
        return Fraction(str(parse(words))) * factor
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def _chinese(words: str) -> Fraction | None:
    import cn2an

    words = words.replace(",", "").replace(" ", "").rstrip("点點")
    if not words or words[0] in "百佰千仟万萬亿億":
        return None
    try:
        return Fraction(str(cn2an.cn2an(words, "smart")))
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def _in_english(sentence: str) -> Iterator[Numeral]:
    for match in _WORDS.finditer(sentence):
        start, end = match.span()
        value = _english(match["numerator"] or match["words"]) if match["numerator"] not in ("a", "A") else Fraction(1)
        if value is None:
            continue
        if match["below"]:
            value /= _BELOW[match["below"][:3].lower()]
        tail = sentence[end : end + 16]
        if _AND_A_HALF.match(tail):
            value += Fraction(1, 2)
        before = sentence[max(0, start - 12) : start]
        pronoun = (match["words"] or "").lower() == "one" and (
            _PRONOUN_BEFORE.search(before) or _PRONOUN_AFTER.match(tail)
        )
        rank = LABEL if pronoun else _WORDED
        yield Numeral(start, end, -value if match["minus"] else value, rank, ratio=match["below"] is not None)


def _in_chinese(sentence: str) -> Iterator[Numeral]:
    for match in _HAN.finditer(sentence):
        start, end = match.span()
        words = match["words"] or ""
        if match["below"]:
            below, above = _chinese(match["below"]), _chinese(match["above"])
            value = above / below if below and above is not None else None
        else:
            value = _chinese(match["percent"] or match["mixed"] or words)
        if value is None:
            continue
        if match["half"]:
            value += Fraction(1, 2)
        in_a_word = len(words) == 1 and _HAN_INSIDE.search(sentence[max(0, start - 1) : start])
        idiom = 0 < len(words) <= 2 and _HAN_IDIOM.match(sentence, start)
        rank = LABEL if in_a_word or idiom else _WORDED if words else _CLEAN
        yield Numeral(start, end, -value if match["minus"] else value, rank, ratio=match["below"] is not None)


def numbers_in(sentence: str, continental: bool, bare: bool) -> list[Numeral]:
    """Every number of a sentence, ranked, in order of place."""
    chinese = [] if sentence.isascii() else list(_in_chinese(sentence))
    # 3万5千 is one numeral: what mixes both scripts goes before the digits in it, words come last.
    mixed = [numeral for numeral in chinese if numeral.rank == _CLEAN]
    worded = [numeral for numeral in chinese if numeral.rank != _CLEAN]
    taken = bytearray(len(sentence))
    reason = _REASON.search(sentence)
    inside = bytearray(len(sentence))
    for span in _PARENTHESES.finditer(sentence):
        inside[span.start() : span.end()] = b"\1" * (span.end() - span.start())
    found: list[Numeral] = []
    for numeral in (*mixed, *_in_digits(sentence, continental, bare), *worded, *_in_english(sentence)):
        start, end = numeral.start, numeral.end
        if any(taken[start:end]):
            continue
        taken[start:end] = b"\1" * (end - start)
        reasoned = reason is not None and bool(found) and start > reason.start()
        rank = _rank(
            numeral, sentence[max(0, start - 24) : start], sentence[end : end + 24], bool(inside[start]) or reasoned
        )
        found.append(replace(numeral, rank=rank))
    return sorted(found, key=lambda numeral: numeral.start)


def _rank(numeral: Numeral, before: str, after: str, aside: bool) -> int:
    in_words = numeral.rank == _WORDED
    if numeral.rank == LABEL or _LABEL_BEFORE.search(before) or (not in_words and _ORDINAL_AFTER.match(after)):
        return LABEL
    if (_TIME_BEFORE.search(before) and _TIME_AFTER.match(after)) or _TIME_HAN_AFTER.match(after):
        return _WORDED_ASIDE if in_words else _TIMED
    if aside or _DETERMINER_BEFORE.search(before):
        return _WORDED_ASIDE if in_words else ASIDE
    if not in_words and (_OPERATOR_AFTER.match(after) or _OPERATOR_BEFORE.search(before)):
        return ASIDE
    return numeral.rank
