"""From what a model wrote to one answer: take it apart, extract, normalise, vote.

Pure functions over text and small frozen objects; nothing here knows an engine, a tree or a reference answer.
Text is untrusted: every function accepts any string, and every pattern is bounded so that time grows with its length.

- `split_output` separates the thought from the output.
- `kind_of` reads off a question what its answer looks like; `extract` finds such an answer in an output.
- `normalise` gives the key under which two answers count as the same.
- `select` chooses among candidates; `settled` says whether more of them could still change a vote.
"""

from __future__ import annotations

import bisect
import functools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from marco.config import SELECTIONS
from marco.errors import InvalidOption, SearchError

AnswerKind = Literal["number", "choice", "text"]

# --------------------------------------------------------------------------------------------------------------
# Thought and output
# --------------------------------------------------------------------------------------------------------------

_EXACT_TAG = re.compile(r"<(?P<close>/?)(?P<name>Thought|Output)>")
_LOOSE_TAG = re.compile(
    r"[<＜][ \t]{0,3}(?P<close>/?)[ \t]{0,3}(?P<name>thoughts?|outputs?)[ \t]{0,3}(?:[>＞]|(?=\n|\Z))"
    r"|(?:^|(?<=\n)|(?<=[>＞]))(?P<bare_close>/?)(?P<bare>thoughts?|outputs?)[>＞]",
    re.IGNORECASE,
)
_PARAGRAPH = re.compile(r"\n\s*\n")


def _tags(text: str) -> Iterator[tuple[int, int, str, bool]]:
    """(start, end, "thought" or "output", whether it closes) of each tag, in order."""
    # `<output>` is an element of HTML too: where the tags are written properly, only proper ones count.
    exact = list(_EXACT_TAG.finditer(text))
    if any(tag["name"] == "Output" and not tag["close"] for tag in exact):
        for tag in exact:
            yield tag.start(), tag.end(), tag["name"].lower(), bool(tag["close"])
        return
    for tag in _LOOSE_TAG.finditer(text):
        name = (tag["name"] or tag["bare"]).lower().rstrip("s")
        yield tag.start(), tag.end(), name, bool(tag["close"] or tag["bare_close"])


def split_output(text: str) -> tuple[str, str]:
    """What was thought and what was answered, both stripped.

    Tags may be missing, unclosed, doubled, in lower case or without their first bracket (`Output>`). Without any
    tag all of it is output. The last output that holds something counts; what follows its closing tag is dropped,
    and everything before it belongs to the thought. After a closed thought plain text is output. An output that
    was opened and closed with nothing in it falls back to the last paragraph of the thought. A text that
    breaks off inside its thought has the output "", so that nothing flickers while it streams.
    """
    tags = list(_tags(text))
    if not tags:
        return "", text.strip()
    # A text whose first tag closes was opened in the prompt.
    place = tags[0][2] if tags[0][3] else "thought"
    thoughts: list[str] = []
    outputs: list[str] = []
    position, closed_empty, opened_output = 0, False, False
    for start, end, name, closes in [*tags, (len(text), len(text), "", False)]:
        piece = text[position:start].strip()
        position = end
        if piece and place == "output":
            outputs.append(piece)
        elif piece and place in ("thought", "between"):
            thoughts.append(piece)
        elif piece and place == "after thought":
            # Plain text after the thought is the output, unless a tagged output comes.
            (thoughts if name == "output" and not closes else outputs).append(piece)
        elif not piece and place == "output" and name == "output" and closes:
            closed_empty = True
        if closes:
            opened_output = opened_output or name == "output"
            place = "after thought" if name == "thought" and not opened_output else "after"
        else:
            place = name
    thought = "\n".join([*thoughts, *outputs[:-1]]) if len(outputs) > 1 else "\n".join(thoughts)
    if outputs:
        return thought, outputs[-1]
    if closed_empty and thought:
        return thought, _PARAGRAPH.split(thought)[-1].strip()
    return thought, ""


# --------------------------------------------------------------------------------------------------------------
# What a question asks for
# --------------------------------------------------------------------------------------------------------------

_OPTION = re.compile(r"(?P<line>^|\n|\\n)?[ \t(（\[-]{0,4}(?<![A-Za-z])(?P<letter>[A-H])[ \t]?(?P<mark>[).:、．）：\]])\s{0,3}\S")
_CHOOSE = re.compile(
    r"which (?:one )?of|following|choose|select|options?\b|choices?\b|multiple[- ]choice|选择|选项|下列|哪[一个项]|以下哪|選択|次のうち"
    r"|welche|cuál|lequel|laquelle|quel(?:le)? (?:option|réponse)|какой из|выберите|chagua|ข้อใด|কোনটি|ఏది",
    re.IGNORECASE,
)
_YES_NO_OPTIONS = re.compile(
    r"\byes\s{0,3}(?:/|or|,|\|)\s{0,3}no\b|\btrue\s{0,3}(?:/|or|,|\|)\s{0,3}false\b|是(?:或|还是|/)\s?(?:否|不是)|[对對](?:或|还是|/)[错錯]"
    r"|正确(?:或|还是|/)错误|はいかいいえ|\boui\s{0,3}(?:/|ou)\s{0,3}non\b|\bja\s{0,3}(?:/|oder)\s{0,3}nein\b|\bsí\s{0,3}(?:/|o)\s{0,3}no\b"
    r"|\bда\s{0,3}(?:/|или)\s{0,3}нет\b|\bndiyo\s{0,3}(?:/|au)\s{0,3}hapana\b",
    re.IGNORECASE,
)
_OPTIONS_HEAD = re.compile(r"(?:options|choices|选项|選択肢)\s{0,3}[:：]", re.IGNORECASE)

# Requests for something other than a number, whatever figures they mention.
_TASK = re.compile(
    r"(?:^|[.?!:,\n]\s{0,3}|\b(?:please|you|me|to|and|then|should|must) )"
    r"(?:write|create|generate|implement|develop|design|build|author|craft|show me|give me|code|provide)\b[^.?!\n]{0,100}"
    r"\b(?:code|function|program|script|class|query|algorithm|app|application|website|template|animation|method|test"
    r"|python|java|javascript|typescript|rust|sql|html|css|regex|api|essay|story|poem|summary|paragraph|song)\b"
    r"|\b(?:python|javascript|typescript|java|c\+\+|rust|sql|html|css|numpy|pandas) (?:code|function|program|script|class|query|method)\b"
    r"|\busing (?:python|javascript|typescript|java|c\+\+|rust|sql|numpy|pandas)\b"
    r"|^\W{0,3}(?:please\s+)?(?:prove|translate|summari[sz]e|explain|describe|define|write|rewrite|list)\b|\bprove that\b|\bshow that\b"
    r"|\btranslate (?:the|this|into|to|from)\b|\binterval notation\b|^\W{0,3}how (?:do|can|should|would|could) (?:i|we|you|one)\b"
    r"|\bwhat(?:'s|’s| is| are) the ratio\b|\bwhat time\b|\bwhat day\b|翻译|翻譯|证明[：:]|^\W{0,3}(?:请)?证明|證明"
    r"|写一[个篇段首]|(?:写|编写|实现|设计)[^。？\n]{0,20}(?:代码|程序|函数|脚本|作文)|几点(?:钟|了|？)?",
    re.IGNORECASE,
)
_HOW_MANY = re.compile(
    r"\bhow many\b|\bwhat (?:percent(?:age)?|fraction|number)\b|\bcuánt[oa]s?\b|\bcombien\b|\bwie\s?viele?\b|\bсколько\b|\bngapi\b|\bkiasi gani\b"
    r"|กี่|เท่าไร|เท่าไหร่|เท่าใด|কত|কয়টি|কয়টা|ఎన్ని|ఎంత|多少|几(?![何乎点])|幾(?![何乎點])|いくつ|いくら|何(?:人|個|本|枚|円|ドル|時間|分|秒|日|週|か月"
    r"|ヶ月|年|歳|才|匹|頭|羽|冊|回|台|杯|倍|メートル|キロ|センチ|グラム|リットル|マイル|ポンド|ページ|パーセント|％|%|つ|点|件|袋|箱|階)|どのくらい|どれくらい|どれだけ",
    re.IGNORECASE,
)
# These ask for a number only where there are figures to reckon with.
_RECKON = re.compile(
    r"\bhow (?:much|old|far|long|fast|tall|deep|heavy|wide|big|large|load|high)\b|\bcalculate\b|\bcompute\b|\bevaluate\b|\bdetermine the\b"
    r"|\b(?:what|find|give)\b[^.?!\n]{0,40}\b(?:total|sum|number|average|mean|median|difference|percentage|product|quotient|price|cost|profit|loss|salary"
    r"|income|pension|distance|speed|age|area|volume|perimeter|length|width|height|weight|value|remainder|probability|amount|footage|score|zeros?|fraction|rate)\b"
    r"|\bwas ist\b|\bwie (?:lange?|weit|alt|schnell|hoch|groß|schwer|oft)\b|\bberechne|\bwelche[nrs]?\b[^.?!\n]{0,30}(?:prozent|strecke|abstand|summe|gesamt)"
    r"|\bcalcul|\bqué (?:porcentaje|distancia|edad|velocidad|fracción|tan)\b|\bcuál (?:es|fue|era|será|sería)\b"
    r"|\bquel(?:le)?\b|\bвычисл|\bрассчита|\bпосчита|\bкаков[аоы]?\b|\bкак(?:ое|ая|ой|ую)\b|\bкак долго\b|\bhesabu\b|\bkokotoa\b|\bmuda gani\b|\basilimia\b|\bumbali gani\b"
    r"|คำนวณ|แค่ไหน|গণনা|হিসাব|లెక్కించ|计算|計算|总数|總數|求|等于|等於|多(?:长|遠|远|久|大|重|高|宽|深|快|旧|長)|何です|どれほど|求め",
    re.IGNORECASE,
)
_SUM = re.compile(r"\\(?:left|right|[dt]?frac|cdot|times|div|sqrt|pm)|[\s\d.,+\-−*/×÷·^()=?？!%$\\{}\[\]|:]")
_ASKS_SUM = re.compile(r"^\W{0,3}(?:what(?:'s|’s| is| does)|how much is|was ist|cuánto es|combien font|сколько будет)?\s*", re.IGNORECASE)
_FIGURE = re.compile(r"\d|\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve|dozen|twice|half|double)\b|[二两兩三四五六七八九十百千半]", re.IGNORECASE)


def kind_of(question: str) -> AnswerKind:
    """What an answer to `question` looks like, told from its wording alone.

    "choice": options are listed as A) B) ..., or as yes and no. "number": it asks how many or how much, or for a
    sum (in English, Chinese and the other languages of MGSM). Everything else is "text": the safe default, because
    there nothing of the output is thrown away.
    """
    if _offers_choice(question):
        return "choice"
    plain = "".join(_digits(question))
    if _SUM.sub("", _ASKS_SUM.sub("", plain)) == "" and re.search(r"\d", plain):
        return "number"
    if _TASK.search(plain):
        return "text"
    if _HOW_MANY.search(plain) or (_RECKON.search(plain) and _FIGURE.search(plain)):
        return "number"
    return "text"


def _offers_choice(question: str) -> bool:
    found = list(_OPTION.finditer(question))
    letters = {option["letter"] for option in found}
    if {"A", "B"} <= letters:
        in_lines = {option["letter"] for option in found if option["line"] is not None}
        brackets = {option["letter"] for option in found if option["mark"] in ")）]"}
        if {"A", "B"} <= in_lines or {"A", "B"} <= brackets or _CHOOSE.search(question):
            return True
    if _YES_NO_OPTIONS.search(question):
        return True
    head = _OPTIONS_HEAD.search(question)
    if head is None:
        return False
    # Escaped line breaks are common in data sets that were written to JSON twice.
    items = re.split(r"[\n\-*•,;/]|\\n", question[head.end() : head.end() + 400].casefold())
    words = {item.strip(" .") for item in items} | {" ".join(item.split()[:1]).strip(".") for item in items}
    return {"yes", "no"} <= words or {"true", "false"} <= words or {"是", "否"} <= words


# --------------------------------------------------------------------------------------------------------------
# Numbers in text
# --------------------------------------------------------------------------------------------------------------

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
    r"(?<![A-Za-z])(?:USD|EUR|GBP|CNY|RMB|JPY|INR|RUB|KSh|Ksh|KES|TSh|Tsh|TZS|BDT|THB|Rs|Tk|Sh|Rp|NT|HK|US|R)\.?[ ]?(?=\d)"
)
_TIGHT_SPACE = re.compile(r"(?<=\d)[\u00a0\u202f\u2009](?=\d{3}(?!\d))")
_SPACED = re.compile(r"(?<![\d.,])(?<!\d )(\d{1,3})((?: \d{3}){1,5})(?!\d| \d)")

_DIGITS = re.compile(
    r"(?<![A-Za-z_^])(?<!\d[.,:/])"
    r"(?:(?P<whole>\d{1,6})[ ](?P<part>\d{1,6}/\d{1,6})(?![\d/])"
    r"|(?P<number>\d{1,3}(?:,\d{2,3}){0,8},\d{3}(?!\d)(?:\.\d+)?"
    r"|\d{1,3}(?:\.\d{3}){1,8},\d+"
    r"|\d{1,3}(?:\.\d{3}){2,8}(?!\d)"
    r"|\d{1,3}(?:['’]\d{3}){1,8}(?!\d)(?:\.\d+)?"
    r"|(?<![(\[])\d+,\d{1,2}(?![\d])(?!,\d)"
    r"|\d+(?:\.\d+)?|\.\d+)"
    r"(?:/(?P<below>\d{1,12}(?:\.\d{1,6})?)(?![\d/])|[ ]?[×*][ ]?10\^?\{?\^?\{?(?P<ten>-?\d{1,2})\}?(?=\D|$)(?<=[\d}])(?<!10)"
    r"|[eE](?P<exponent>[+-]?\d{1,2})(?![\w.])|\^\{?(?P<power>\d{1,2})\}?)?)"
)
_SCALES = (
    (re.compile(r"[ -]?(?:hundred|cientos|hundert)(?![a-z])", re.I), 100),
    (re.compile(r"[ -]?(?:thousand|tausend|mil|mille|тыс(?:яч[аи]?|\.)?|elfu|พัน|হাজার|వేల)(?![a-zа-я])", re.I), 1_000),
    (re.compile(r"[kK](?![A-Za-z])"), 1_000),
    (re.compile(r"[ -]?(?:lakhs?|লাখ|లక్షల?|แสน)(?![a-z])", re.I), 100_000),
    (re.compile(r"[ -]?(?:crores?|কোটি|కోట్ల?)(?![a-z])", re.I), 10_000_000),
    (re.compile(r"[ -]?(?:millions?|millionen|mio\.?|millones|millón|миллион(?:а|ов)?|млн|ล้าน)(?![a-zа-я])", re.I), 1_000_000),
    (re.compile(r"[ -]?(?:billions?|milliarden?|milliards?|миллиард(?:а|ов)?|млрд)(?![a-zа-я])", re.I), 1_000_000_000),
    (re.compile(r"[ ]?หมื่น"), 10_000),
    (re.compile(r"[ -]?dozen(?![a-z])", re.I), 12),
)  # fmt: skip
_AND_A_HALF = re.compile(r"\s(?:and\s(?:a|one)\s|y\s(?=medi)|et\s(?=demi))(?:half|medi[oa]|demie?)\b", re.I)

_UNITS = "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_NUMBER_WORD = f"(?:{_UNITS}|{_TENS}|hundred|thousand|million|billion)(?![a-z])"
_WORDS = re.compile(
    rf"(?<![A-Za-z0-9-])(?P<minus>(?:minus|negative) )?(?:(?P<numerator>a|one|two|three|four|five|seven)[ -](?P<below>half|halves|thirds?|quarters?|fourths?|fifths?|sixths?|eighths?|tenths?)(?![a-z])"
    rf"|(?P<words>(?:a (?=hundred|thousand|million|billion|dozen))?(?:{_NUMBER_WORD}|dozen(?![a-z]))(?:[ -]{{1,2}}(?:and )?(?:{_NUMBER_WORD}|dozen(?![a-z])|point(?= (?:{_UNITS})))){{0,24}}))",
    re.IGNORECASE,
)
_BELOW = {"hal": 2, "thi": 3, "qua": 4, "fou": 4, "fif": 5, "six": 6, "eig": 8, "ten": 10}
_PRONOUN_BEFORE = re.compile(r"(?:the|this|that|each|every|which|no|any|another|last|first|only|next|good|right|correct|some|every) $", re.I)
_PRONOUN_AFTER = re.compile(r" (?:of|another|who|that|by|can|could|must|might|should|way|thing|by one)\b", re.I)

_HAN_DIGITS = "零〇一二两兩三四五六七八九壹贰貳叁參肆伍陆陸柒捌玖"
_HAN_UNITS = "十拾百佰千仟万萬亿億廿"
_HAN = re.compile(
    rf"(?P<minus>[负負])?(?:百分之(?P<percent>[{_HAN_DIGITS}{_HAN_UNITS}点點\d.]{{1,24}})"
    rf"|(?P<below>[{_HAN_DIGITS}{_HAN_UNITS}\d]{{1,16}})分之(?P<above>[{_HAN_DIGITS}{_HAN_UNITS}\d]{{1,16}})"
    rf"|(?P<mixed>\d[\d,]{{0,18}}(?:\.\d{{1,9}})?[ ]?[百千万萬亿億](?![克米瓦卡焦赫帕])[\d{_HAN_UNITS}{_HAN_DIGITS}]{{0,16}})"
    rf"|(?P<words>[{_HAN_DIGITS}{_HAN_UNITS}][{_HAN_DIGITS}{_HAN_UNITS}]{{0,31}}(?:[点點][{_HAN_DIGITS}]{{1,16}})?))"
    r"(?P<half>[个個]半)?"
)
_HAN_IDIOM = re.compile(
    r"一(?:共|起|样|樣|些|下|直|定|般|旦|切|致|种|種|边|邊|方|步|点|點|律|时|時|半|同|并|齐|番|度|向|再|系列)|十(?:分|足|字)|三角|四(?:周|处|边形|川)|万一|两者|百姓|千万(?!\d)|万物"
)
_HAN_INSIDE = re.compile(r"(?:[统唯单每某另同第进逐之周任哪这那统万])$")

_CONTINENTAL = frozenset(
    "der die das und ist insgesamt sind hat haben kostet beträgt el los las del que en es por tiene total cuesta le les des est et il elle sont coûte "
    "antwort respuesta réponse lautet résultat gesamt она он они это итого всего ответ будет составляет рублей долларов долларов стоит у в на".split()
)
_ENGLISH = frozenset("the is are of and to has have makes total for with was will she he they it answer".split()) - {"total"}
_WORD = re.compile(r"[^\W\d_]+")

_MAX_DIGITS = 40
"""A longer run of digits is no answer to a question, and exact arithmetic on it is not free."""


@functools.cache
def _decimal_digit(character: str) -> str:
    digit = unicodedata.decimal(character, None)
    return character if digit is None else str(digit)


def _digits(text: str) -> Iterator[str]:
    """The characters of `text`, with full-width forms and the decimal digits of all scripts in ASCII."""
    if text.isascii():
        yield text
        return
    for character in text.translate(_WIDE):
        yield character if character.isascii() or not character.isdecimal() else _decimal_digit(character)


def _clean(text: str) -> str:
    """`text` as the number patterns want it: ASCII digits, LaTeX and currency signs taken out."""
    text = "".join(_digits(text))
    if not text.isascii():
        text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda run: "^" + run.group().translate(_SUPERSCRIPTS), text)
        text = re.sub("[" + "".join(_VULGAR) + "]", lambda one: " " + _VULGAR[one.group()], text)
        text = _TIGHT_SPACE.sub("", text)
    if "\\" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    text = _NEGATIVE_MONEY.sub("-", text)
    text = _MONEY.sub(" ", text)
    return _MONEY_CODE.sub(" ", text)


def _continental(text: str) -> bool:
    """Whether `text` is in a language that writes 1.234,5 for what English writes 1,234.5."""
    words = Counter(word for word in _WORD.findall(text.casefold()[-4000:]))
    return sum(words[word] for word in _CONTINENTAL) > sum(words[word] for word in _ENGLISH)


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
    elif dot >= 1 and len(number) - dot == 4 and dot <= 3 and not number.startswith("0"):
        # 70.000 without a word of English near it: nobody writes three zeros behind a decimal point.
        if continental or (bare and number.endswith(".000")):
            number = number.replace(".", "")
    return Fraction(number if not number.startswith(".") else "0" + number)


def _show(value: Fraction) -> str:
    """Canonical numeral: an integer, a decimal where it ends, else a reduced fraction."""
    if value.denominator == 1:
        return str(value.numerator)
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
_CLEAN, _ASIDE, _WORDED, _TIMED, _WORDED_ASIDE, _LABEL = range(6)

_LABEL_BEFORE = re.compile(
    r"(?:^|[^a-z])(?:step|part|question|problem|day|week|figure|case|option|item|line|round|no\.?|paso|étape|schritt|шаг|hatua|ステップ|步骤|第)\s{0,2}#?$|[#№]$",
    re.I,
)
_ORDINAL_AFTER = re.compile(r"(?:st|nd|rd|th|º|ª|er|ème|-й|-я)(?![a-zа-я])|\.? ?(?:步|题|題|番目)", re.I)
_LIST_MARK = re.compile(r"[.)、] ?\S")
_DETERMINER_BEFORE = re.compile(r"(?:^|[^a-z])(?:at|across|the|all|these|those|her|his|their|its|both|out of|@|other)\s{1,2}$", re.I)
_TIME_BEFORE = re.compile(
    r"(?:^|[^\w])(?:in|after|over|within|every|per|each|for|during|next|last|first|past|another|nach|pro|für|über|après|en|par|pendant|dans|después de|durante"
    r"|cada|por|tras|через|за|после|каждые|baada ya|kila|ndani ya|在|每|过|経|หลังจาก|ใน|ทุก)\s{0,2}(?:the |these |all |las |les |los |siku |saa |miaka |wiki )?$",
    re.I,
)
_TIME_AFTER = re.compile(
    r"[ -]{0,2}(?:seconds?|minutes?|mins?|hours?|days?|weeks?|months?|years?|sekunden|minuten|stunden?|tagen?|wochen?|monaten?|jahren?"
    r"|secondes?|minutos?|horas?|días?|semanas?|meses|años?|heures?|jours?|semaines?|mois|ans|années|секунд|минут|час|дн|день|недел|месяц|лет|год"
    r"|วัน|ชั่วโมง|นาที|ปี|สัปดาห์|เดือน)",
    re.I,
)
_TIME_HAN_AFTER = re.compile(r" ?(?:天|年|周|个月|小时|分钟|秒|日|週間|時間|分|か月|ヶ月)(?:后|後|内|里|中|之后|以后|间|間|来)")
_OPERATOR_AFTER = re.compile(r"\s?(?:%\s?)?(?:[+×÷·*]|[-–/x](?=\s?\d)|\s[-–]\s(?=\d))\s?[\d(-]")
_OPERATOR_BEFORE = re.compile(r"(?:[\d)%]|[a-z])\s?(?:[+×÷·*]|\s[-–/x]\s|(?<=\d)[-/])\s?$")
_REASON = re.compile(r"\b(?:because|since|given that|to (?:ensure|make sure|reach)|so that|by (?:selling|adding|multiplying|dividing|subtracting|taking))\b|因为|因為|なぜなら|weil|porque|parce que|потому что", re.I)
_PARENTHESES = re.compile(r"[(（][^()（）\n]{0,200}[)）]")
_IRRATIONAL_AFTER = re.compile(r"\s?[π√]")
_TIME_OF_DAY = re.compile(r":\d")


@dataclass(frozen=True, slots=True)
class _Found:
    start: int
    value: Fraction
    rank: int


def _sign(sentence: str, start: int) -> int:
    """-1 where the numeral at `start` has a minus of its own, not one between two terms."""
    before = sentence[max(0, start - 10) : start]
    if before.endswith("-"):
        rest = before[:-1]
        bound = rest.rstrip()
        if bound and (bound[-1].isdigit() or bound[-1] in ")%"):
            return 1
        return -1 if not rest or not rest[-1].isalnum() else 1
    return -1 if re.search(r"(?:minus|negative) $|[负負] ?$", before, re.I) else 1


def _numerals(sentence: str, continental: bool, bare: bool) -> Iterator[tuple[int, int, Fraction]]:
    for match in _DIGITS.finditer(sentence):
        start, end = match.span()
        if match["whole"]:
            above, _, below = match["part"].partition("/")
            value = Fraction(int(match["whole"])) + Fraction(int(above), int(below)) if int(below) else None
        else:
            value = _parse(match["number"], continental, bare)
        if value is None:
            continue
        if match["below"]:
            below_value = Fraction(match["below"])
            if not below_value:
                continue
            value /= below_value
        exponent = match["ten"] or match["exponent"]
        if exponent:
            value *= Fraction(10) ** int(exponent)
        if match["power"]:
            if value > 1000:
                continue
            value **= int(match["power"])
        tail = sentence[end : end + 16]
        if _IRRATIONAL_AFTER.match(tail) or _TIME_OF_DAY.match(tail):
            continue
        half = _AND_A_HALF.match(tail)
        if half:
            value += Fraction(1, 2)
        for pattern, factor in _SCALES:
            scale = pattern.match(tail)
            if scale:
                value *= factor
                end += scale.end()
                break
        yield start, end, value * _sign(sentence, start)


def _english(words: str) -> Fraction | None:
    from word2number import w2n

    words = re.sub(r"[\s-]+", " ", words.casefold()).strip()
    dozens = words.endswith("dozen")
    if dozens:
        words = words.removesuffix("dozen").strip()
    words = re.sub(r"^a ?", "one ", words) if words.startswith(("a ", "a")) and words[:2] in ("a", "a ") else words
    if not words:
        return Fraction(12) if dozens else None
    try:
        value = Fraction(str(w2n.word_to_num(words)))
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return value * 12 if dozens else value


def _chinese(words: str) -> Fraction | None:
    import cn2an

    words = words.replace(",", "").replace(" ", "").rstrip("点點")
    if not words or words[0] in "百佰千仟万萬亿億":
        return None
    try:
        return Fraction(str(cn2an.cn2an(words, "smart")))
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def _worded(sentence: str) -> Iterator[tuple[int, int, Fraction, bool]]:
    """(start, end, value, whether it is hardly meant as a number) of numbers written in words."""
    for match in _WORDS.finditer(sentence):
        if match["numerator"]:
            above = _english(match["numerator"]) or Fraction(1)
            value: Fraction | None = above / _BELOW[match["below"][:3].lower()]
        else:
            value = _english(match["words"])
        if value is None:
            continue
        tail = sentence[match.end() : match.end() + 16]
        if _AND_A_HALF.match(tail):
            value += Fraction(1, 2)
        alone = match["words"] is not None and match["words"].lower() == "one"
        weak = alone and bool(
            _PRONOUN_BEFORE.search(sentence[max(0, match.start() - 12) : match.start()]) or _PRONOUN_AFTER.match(tail)
        )
        yield match.start(), match.end(), -value if match["minus"] else value, weak
    if sentence.isascii():
        return
    for match in _HAN.finditer(sentence):
        if match["percent"]:
            value = _chinese(match["percent"])
        elif match["below"]:
            below, above_han = _chinese(match["below"]), _chinese(match["above"])
            value = above_han / below if below and above_han is not None else None
        else:
            value = _chinese(match["mixed"] or match["words"])
        if value is None:
            continue
        if match["half"]:
            value += Fraction(1, 2)
        words = match["words"] or ""
        weak = len(words) == 1 and bool(
            _HAN_INSIDE.search(sentence[max(0, match.start() - 2) : match.start()])
        )
        weak = weak or (len(words) in (1, 2) and bool(_HAN_IDIOM.match(sentence, match.start())))
        yield match.start(), match.end(), -value if match["minus"] else value, weak


def _numbers(sentence: str, continental: bool, bare: bool) -> list[_Found]:
    """Every number of a sentence with its rank, in order; numbers inside a larger one are left out."""
    reason = _REASON.search(sentence)
    parentheses = [span.span() for span in _PARENTHESES.finditer(sentence)]
    opens = [start for start, _ in parentheses]
    found: list[_Found] = []
    taken: list[tuple[int, int]] = []
    han: dict[int, tuple[int, Fraction]] = {}
    if not sentence.isascii():
        # 3万5千 is one numeral, and its digits are not another.
        for match in _HAN.finditer(sentence):
            if match["mixed"] or (match["percent"] or match["above"] or match["below"] or "").isascii() and match.group():
                worth = next((v for s, _, v, _ in _worded(match.group()) if s == 0), None)
                if worth is not None and re.search(r"\d", match.group()):
                    han[match.start()] = (match.end(), worth)
    for start, end, value in _numerals(sentence, continental, bare):
        whole = next((s for s in range(max(0, start - 18), start + 1) if s in han and han[s][0] > start), None)
        if whole is not None:
            if whole != start and any(span[0] == whole for span in taken):
                continue
            end, value = han[whole]
            start = whole
        before, after = sentence[max(0, start - 24) : start], sentence[end : end + 24]
        rank = _CLEAN
        line_start = not before.strip(" *-\t") and start < 6
        if _LABEL_BEFORE.search(before) or _ORDINAL_AFTER.match(after) or (line_start and _LIST_MARK.match(after)):
            rank = _LABEL
        elif (_TIME_BEFORE.search(before) and _TIME_AFTER.match(after)) or _TIME_HAN_AFTER.match(after):
            rank = _TIMED
        elif _within(parentheses, opens, start) or _DETERMINER_BEFORE.search(before):
            rank = _ASIDE
        elif _OPERATOR_AFTER.match(after) or _OPERATOR_BEFORE.search(before) or (reason and found and start > reason.start()):
            rank = _ASIDE
        found.append(_Found(start, value, rank))
        taken.append((start, end))
    starts = [span[0] for span in taken]
    for start, end, value, weak in _worded(sentence):
        index = bisect.bisect_right(starts, end) - 1
        if index >= 0 and taken[index][1] > start:
            continue
        before, after = sentence[max(0, start - 24) : start], sentence[end : end + 24]
        aside = bool(_TIME_BEFORE.search(before) and _TIME_AFTER.match(after)) or bool(_TIME_HAN_AFTER.match(after))
        aside = aside or bool(_DETERMINER_BEFORE.search(before)) or _within(parentheses, opens, start)
        label = weak or bool(_LABEL_BEFORE.search(before))
        found.append(_Found(start, value, _LABEL if label else _WORDED_ASIDE if aside else _WORDED))
    return found


def _within(spans: list[tuple[int, int]], opens: list[int], position: int) -> bool:
    index = bisect.bisect_right(opens, position) - 1
    return index >= 0 and position < spans[index][1]


# --------------------------------------------------------------------------------------------------------------
# Extraction
# --------------------------------------------------------------------------------------------------------------

_HASHES = re.compile(r"####[ \t]{0,4}([^\n]{1,200})")
_CUE = re.compile(
    r"(?:answer|answers|result|solution)\b(?:[ ]+(?!is\b|are\b|was\b)[^\s.:=\n*]{1,20}){0,6}[ *]{0,4}(?:\bis\b|\bare\b|\bwas\b|\bwould be\b|\bwill be\b|:|=)"
    r"|correct (?:option|choice|one|statement|sentence) is\b"
    r"|(?:最终|正确|最后)?答案\s{0,2}\**(?:应该)?(?:是|为|為|：|:|=)|(?:^|\n)\W{0,4}答\s{0,2}\**[:：]|(?:最终|最后)?结果\**(?:是|为|：|:)|選|应?选择?\s?(?=[A-J])|选项?(?:是|为|：|:)"
    r"|答え\**\s?(?:は|：|:)|正解は|antwort\b[ *]{0,3}(?:ist|lautet|beträgt|:)|(?:respuesta|resposta)\b(?: (?:final|correcta|correta))?[ *]{0,3}(?:es|é|:)"
    r"|réponse\b(?: (?:finale|correcte))?[ *]{0,3}(?:est|:)|risposta\b[ *]{0,3}(?:è|:)|ответ\b[ *]{0,3}(?::|—|–|-|это|равен|есть)"
    r"|jibu\b(?: (?:sahihi|la mwisho))?[ *]{0,3}(?:ni|:)|คำตอบ\**\s?(?:สุดท้าย)?(?:ที่ถูกต้อง)?\**\s?(?:คือ|:|เท่ากับ)?|উত্তর\**\s?(?:হল|হলো|হচ্ছে|হবে|:)?|(?:సమాధానం|జవాబు)\**\s?:?",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"\n+|(?<=[.!?])[ \t]+|[。！？；।]|(?<=[.!?])(?=[*_\"”])")
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_STARTS_WITH_NUMBER = re.compile(r"\W{0,4}(?:(?:about|approximately|roughly|exactly|around|only|just|indeed|equal to|also)\s)?-?\W{0,2}$", re.I)
_EXPRESSION = re.compile(r"[\d\sA-Za-z+\-*/^().,:=π√∞]{1,40}")


def extract(text: str, kind: str) -> str | None:
    """The answer in an output, as shown to a person; None where there is none.

    `kind` as from `kind_of`. A number comes as a canonical numeral ("3", "70000", "0.5", "2/3" where the decimal
    doesn't end; a percent sign and units are dropped, so "50%" is "50"); a choice as "A", "yes", "no", "true",
    "false" or "it is not possible to tell"; a text as the stripped output.

    Tags are taken off first. Looked for, in this order: a LaTeX box, the mark ####, a phrase such as "the answer is" (in
    several languages), the one number in bold, the last sentence that has a number. Of several numbers in a
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
    return _extract_choice(source, marked_only) if kind == "choice" else _extract_number(source, marked_only)


def _boxes(text: str) -> list[str]:
    """Contents of `\\boxed{...}`, braces balanced, in order."""
    contents = []
    for match in re.finditer(r"\\(?:boxed|fbox)\s?\{", text):
        depth = 1
        for position in range(match.end(), min(len(text), match.end() + 400)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if not depth:
                contents.append(text[match.end() : position])
                break
    return contents


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007
        pass
    return found


def _extract_number(source: str, marked_only: bool) -> str | None:
    boxes = _boxes(source)
    text = _clean(re.sub(r"(?<=\d)\*\*(?=\S)", "** ", source))
    continental = _continental(text)
    bare = not any(word in _ENGLISH for word in _WORD.findall(text.casefold()))
    if continental:
        text = _SPACED.sub(lambda match: match.group().replace(" ", ""), text)

    def numbers(part: str) -> list[_Found]:
        return _numbers(part.replace("**", ""), continental, bare)

    def point(sentence: str, leading: bool = False) -> _Found | None:
        for bold in reversed(_BOLD.findall(sentence)):
            found = [one for one in numbers(bold) if one.rank < _LABEL]
            if found:
                sentence = bold
                break
        else:
            found = [one for one in numbers(sentence) if one.rank < _LABEL or leading]
        if not found:
            return None
        plain = sentence.replace("**", "")
        if leading and "=" not in plain and _STARTS_WITH_NUMBER.fullmatch(plain[: found[0].start][-40:]):
            first = min(found, key=lambda one: one.start)
            if first.rank != _ASIDE:
                return first
        best = min(one.rank for one in found)
        return max((one for one in found if one.rank == best), key=lambda one: one.start)

    if boxes:
        inside = _clean(boxes[-1])
        found = point(inside, leading=True)
        return _show(found.value) if found else _expression(inside)
    hashes = _last(_HASHES, text)
    if hashes:
        found = point(hashes[1], leading=True)
        if found:
            return _show(found.value)
    cue = _last(_CUE, text)
    if cue:
        for sentence in _SENTENCE_END.split(text[cue.end() :]):
            found = point(sentence, leading=True)
            if found:
                return _show(found.value)
    if marked_only:
        return None
    emphasised = set()
    for bold in _BOLD.findall(text):
        if len(bold.split()) <= 5 and not bold.rstrip().endswith(":"):
            found = point(bold)
            if found:
                emphasised.add(found.value)
    if len(emphasised) == 1:
        return _show(emphasised.pop())
    sentences = _SENTENCE_END.split(text)
    for sentence in reversed(sentences):
        found = point(sentence)
        if found:
            return _show(found.value)
    for sentence in reversed(sentences):
        rest = numbers(sentence)
        if rest:
            return _show(rest[-1].value)
    return _expression(text)


def _expression(text: str) -> str | None:
    """A short result that is no rational number, such as 3π or 2:3, without its blanks."""
    bare = text.replace("**", "").strip().rstrip(".")
    if not _EXPRESSION.fullmatch(bare) or not re.search(r"[\dπ√∞]", bare):
        return None
    return "".join(bare.split())


_YES = r"yes|yeah|yep|oui|ja|sí|да|はい|是的|是(?![否不])|[对對](?![于於])|正确|正確|ndiyo|ใช่|হ্যাঁ|అవును"
_NO = r"nope|no|non|nein|нет|いいえ|不是|不[对對]|不正确|否|[错錯]误?|hapana|ไม่ใช่|না|కాదు"
_UNSURE = (
    r"(?:it(?:'s| is) )?(?:not possible|impossible) to (?:tell|say|know|determine)|(?:can ?not|can't|can’t) (?:be determined|tell|be known)"
    r"|无法(?:判断|确定|得知)|不能(?:判断|确定)|不确定"
)
_VERDICT = re.compile(
    rf"(?:(?P<unsure>{_UNSURE})|(?P<no>{_NO})|(?P<yes>{_YES})|(?P<true>true)|(?P<false>false))(?![A-Za-zà-öø-ÿа-я])", re.IGNORECASE
)
_UNSURE_ANYWHERE = re.compile(_UNSURE, re.IGNORECASE)
_ENGLISH_VERDICT = re.compile(r"\b(?:(?P<yes>yes)|(?P<no>no)|(?P<true>true)|(?P<false>false)|(?P<unsure>\Z))(?![\w-])", re.IGNORECASE)
_NAMED = r"(?:(?:option|choice|letter|statement|sentence|选项|选|句子|答案|ข้อ|опция|вариант|option|respuesta)\s{0,2})?"
_LETTER_FIRST = re.compile(rf"\s{{0,4}}{_NAMED}[(（\[\"'“]{{0,2}}([A-J])(?![\w'’-])", re.IGNORECASE)
_LETTER_ALONE = re.compile(r"\W{0,6}([A-Ja-j])\W{0,6}")
_LETTER_OPENS = re.compile(rf"[\s(（\[\"'“]{{0,6}}{_NAMED}([A-J])\s?(?:[).:,、．）：\]]|\n|$|[-–—] |是|为|is\b)", re.IGNORECASE)
_LETTER_MARKED = re.compile(
    r"[(（\[]([A-J])[)）\]]|(?<![A-Za-z])([A-J])[)）]|(?i:\b(?:option|choice|sentence|statement)|选项?|句子) ?[\"'“]?([A-J])(?![\w'’])"
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
        if not (letter[1] in "AI" and re.match(r" [a-z]", following)) or re.match(r" (?:because|since|as|is|and|for)\b", following):
            return letter[1].upper()
    verdict = _VERDICT.match(text)
    return _verdict(verdict) if verdict else None


def _extract_choice(source: str, marked_only: bool) -> str | None:
    text = _clean(source.replace("**", "").replace("__", ""))
    boxes = _boxes(source)
    if boxes:
        inside = _clean(boxes[-1])
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


# --------------------------------------------------------------------------------------------------------------
# Sameness
# --------------------------------------------------------------------------------------------------------------


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


def normalise(answer: str, kind: str) -> str:
    """The key under which answers count as the same.

    Numbers: the canonical numeral, so "0.50", "1/2" and "½" are "0.5"; a percent sign is dropped, as MGSM's own
    scoring does, so "50%" is "50" and not "0.5". Choices: an upper-case letter, or yes and no with true and
    false joined to them. Texts, and whatever isn't what `kind` says: compatibility form, case folded, blanks
    collapsed, punctuation at both ends removed (kept where nothing else is left).
    """
    if kind == "number":
        number = _extract_number(answer, marked_only=False)
        if number is not None:
            return number
    folded = " ".join(unicodedata.normalize("NFKC", answer).casefold().split())
    trimmed = _trim(folded) or folded
    if kind == "choice":
        if len(trimmed) == 1 and trimmed.isascii() and trimmed.isalpha():
            return trimmed.upper()
        return {"true": "yes", "false": "no"}.get(trimmed, trimmed)
    return trimmed


def same(a: str, b: str, kind: str) -> bool:
    """Whether two answers count as one."""
    return normalise(a, kind) == normalise(b, kind)


# --------------------------------------------------------------------------------------------------------------
# Selection
# --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """One finished rollout, as far as choosing an answer is concerned."""

    rollout: int
    """Id of the rollout; distinct among candidates."""
    answer: str | None
    """As `extract` gives it."""
    text: str
    """The output that is shown when this candidate wins."""
    value: float | None
    """The reward that steered the search; higher is better. None where it is not available."""
    visits: int
    """Visits of the rollout's final node."""
    confidence: float | None
    """Mean token confidence, 0 to 1. None where it is not available."""
    degenerate: bool
    """A loop, cut off, or empty: not to win while there is anything better."""


@dataclass(frozen=True, slots=True)
class Vote:
    """What one answer got."""

    answer: str
    """As its best member wrote it."""
    key: str
    weight: float
    """Share of all weight, 0 to 1; under `consensus` the mean similarity to the other candidates, 0 to 1."""
    rollouts: tuple[int, ...]
    """Ids of the members, ascending."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The answer of a search, and how it came about."""

    answer: str | None
    rollout: int | None
    """The rollout whose text is shown; None where no candidate had any text."""
    confidence: float
    """Margin of the vote, 0 to 1: (winner - runner-up) / total. 1 where all weight is on one answer, 0 where nothing sound was there."""
    votes: tuple[Vote, ...]
    """Descending by weight; the winner comes first, save under a selection of the caller's own."""


Selection = Callable[[Sequence[Candidate]], int | None]

TEMPERATURE = 2.0
"""Of the softmax that turns confidences into votes. See `vote_weights`."""
Z_LIMIT = 2.0
"""Standard scores are held within plus and minus this, so that no rollout counts more than e**2 times another."""

_MAX_CHRF_CHARS = 4_000


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _or_lowest(number: float | None) -> float:
    known = _finite(number)
    return -math.inf if known is None else known


def vote_weights(confidences: Sequence[float | None]) -> tuple[float, ...]:
    """The weight of each vote, with mean 1: a softmax over standard scores within the tree, times their number.

    Confidence is comparable only among rollouts of one question, hence the normalisation within them (Taubenfeld
    et al. 2025, "Confidence Improves Self-Consistency in LLMs", who use a softmax with temperature). Standard scores
    make it independent of the scale. The temperature 2 is the likelihood ratio of a confidence whose AUROC with
    correctness is 0.65 within a question: d' = sqrt(2) * probit(0.65) = 0.54, and exp(d' z) is about exp(z / 2).

    Unknown and non-finite confidences count as average. Where all are equal or none is known, all weigh 1.
    """
    known = [number for number in map(_finite, confidences) if number is not None]
    if not confidences:
        return ()
    mean = math.fsum(known) / len(known) if known else 0.0
    spread = math.sqrt(math.fsum((number - mean) ** 2 for number in known) / len(known)) if known else 0.0
    if not spread > 1e-9:
        return (1.0,) * len(confidences)
    scores = [0.0 if number is None else (number - mean) / spread for number in map(_finite, confidences)]
    raw = [math.exp(max(-Z_LIMIT, min(Z_LIMIT, score)) / TEMPERATURE) for score in scores]
    total = math.fsum(raw)
    return tuple(len(raw) * weight / total for weight in raw)


@dataclass(frozen=True, slots=True)
class _Group:
    key: str
    members: tuple[Candidate, ...]
    shown: Candidate
    weight: float

    @property
    def order(self) -> tuple[float, float, int]:
        """Sorts winners first: weight, then summed confidence, then the earliest rollout."""
        confidence = math.fsum(_finite(member.confidence) or 0.0 for member in self.members)
        return -round(self.weight, 9), -round(confidence, 9), self.members[0].rollout


def _most_confident(candidate: Candidate) -> tuple[float, float, int]:
    return -_or_lowest(candidate.confidence), -_or_lowest(candidate.value), candidate.rollout


def _highest_value(candidate: Candidate) -> tuple[float, float, int]:
    return -_or_lowest(candidate.value), -_or_lowest(candidate.confidence), candidate.rollout


def _sound(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if candidate.answer is not None and not candidate.degenerate]


def _by_key(sound: Sequence[Candidate], kind: str) -> dict[str, list[Candidate]]:
    groups: dict[str, list[Candidate]] = {}
    for candidate in sound:
        groups.setdefault(normalise(candidate.answer or "", kind), []).append(candidate)
    return groups


def _tally(sound: Sequence[Candidate], how: str, kind: str) -> list[_Group]:
    """The answers with their weights, the winner first."""
    groups = _by_key(sound, kind)
    weigh: Callable[[Sequence[Candidate]], float]
    shown_by = _most_confident
    if how in ("majority", "weighted") and kind == "text" and len(groups) == len(sound) > 1:
        how = "consensus"
    if how == "best":
        values = [_or_lowest(candidate.value) for candidate in sound]
        # Shares need weights of at least 0: a reward that can be negative is counted from its lowest.
        floor = min([0.0, *(value for value in values if value > -math.inf)])
        shown_by = _highest_value

        def weigh(members: Sequence[Candidate]) -> float:
            return max(0.0, max(_or_lowest(member.value) for member in members) - floor)

    elif how == "visits":

        def weigh(members: Sequence[Candidate]) -> float:
            return float(sum(max(0, member.visits) for member in members))

    elif how == "consensus":
        similarity = _mean_similarities([candidate.answer or "" for candidate in sound])
        closeness = {candidate.rollout: mean for candidate, mean in zip(sound, similarity, strict=True)}

        def closest(candidate: Candidate) -> tuple[float, ...]:
            return -round(closeness[candidate.rollout], 9), *_most_confident(candidate)

        return sorted(
            (
                _Group(key, tuple(members), shown, closeness[shown.rollout])
                for key, members in groups.items()
                for shown in [min(members, key=closest)]
            ),
            key=lambda group: group.order,
        )
    elif how == "weighted":
        weights = vote_weights([candidate.confidence for candidate in sound])
        weight_of = {candidate.rollout: weight for candidate, weight in zip(sound, weights, strict=True)}

        def weigh(members: Sequence[Candidate]) -> float:
            return math.fsum(weight_of[member.rollout] for member in members)

    else:

        def weigh(members: Sequence[Candidate]) -> float:
            return float(len(members))

    tallied = [
        _Group(key, tuple(members), min(members, key=shown_by), weigh(members)) for key, members in groups.items()
    ]
    if how == "best":
        return sorted(tallied, key=lambda group: _highest_value(group.shown))
    return sorted(tallied, key=lambda group: group.order)


def _mean_similarities(texts: Sequence[str]) -> list[float]:
    """Of each text, the mean similarity to all others, 0 to 1; 1 where there is no other.

    Similarity is chrF (Popović 2015) as sacrebleu computes it, averaged over both directions: the candidate that
    loses least if any other is the truth, as in minimum Bayes risk decoding (Kumar and Byrne 2004).
    """
    counts = Counter(text[:_MAX_CHRF_CHARS] for text in texts)
    distinct = sorted(counts)
    if len(distinct) <= 1:
        return [1.0] * len(texts)
    from sacrebleu.metrics.chrf import CHRF

    chrf = CHRF()
    total = {text: float(counts[text] - 1) for text in distinct}
    for i, one in enumerate(distinct):
        for other in distinct[i + 1 :]:
            both = chrf.sentence_score(one, [other]).score + chrf.sentence_score(other, [one]).score
            likeness = both / 200
            total[one] += likeness * counts[other]
            total[other] += likeness * counts[one]
    return [min(1.0, total[text[:_MAX_CHRF_CHARS]] / (len(texts) - 1)) for text in texts]


def _votes(groups: Sequence[_Group], *, shares: bool) -> tuple[Vote, ...]:
    total = math.fsum(group.weight for group in groups)

    def weight(group: _Group) -> float:
        if not shares:
            return group.weight
        return group.weight / total if total > 0 else 1 / len(groups)

    return tuple(
        Vote(
            answer=group.shown.answer or "",
            key=group.key,
            weight=weight(group),
            rollouts=tuple(sorted(member.rollout for member in group.members)),
        )
        for group in groups
    )


def _margin(chosen: float, others: Sequence[float]) -> float:
    total = math.fsum([chosen, *others])
    if not others:
        return 1.0
    return max(0.0, min(1.0, (chosen - max(others)) / total)) if total > 0 else 0.0


def select(candidates: Sequence[Candidate], how: str | Selection, kind: str) -> Choice:
    """Choose an answer. Deterministic, and independent of the order of `candidates`.

    `how` is one of
    - `best`: the highest value, the paper's rule; then the higher confidence, then the lower rollout id;
    - `visits`: the answer whose rollouts' final nodes have most visits in sum;
    - `majority`: the answer most rollouts gave;
    - `weighted`: the same with `vote_weights`;
    - `consensus`: the answer with the highest mean chrF to all others;
    - a function that is given the sound candidates by ascending rollout id and returns the id of one, or None.
    Ties between answers go to the higher summed confidence, then to the earliest rollout. Shown is the most
    confident rollout of the winning answer (`best`: the one of highest value; `consensus`: the closest).

    For kind "text", `majority` and `weighted` fall back to `consensus` where no two answers are the same. Candidates
    that are degenerate or have no answer don't take part while any other is there; if there is none, the one of
    highest value among those with an answer, else with any text, is returned with confidence 0 and no votes.

    Raises `InvalidOption` for an unknown name, and `SearchError` where the function returns an unknown id.
    """
    if isinstance(how, str) and how not in SELECTIONS:
        raise InvalidOption("select", how, "one of " + ", ".join(SELECTIONS))
    ordered = sorted(candidates, key=lambda candidate: candidate.rollout)
    sound = _sound(ordered)
    if not sound:
        return _least_bad(ordered, how)
    if not isinstance(how, str):
        return _by_function(sound, how, kind)
    groups = _tally(sound, how, kind)
    shares = not (how == "consensus" or (kind == "text" and how in ("majority", "weighted") and len(groups) == len(sound)))
    winner = groups[0]
    return Choice(
        answer=winner.shown.answer,
        rollout=winner.shown.rollout,
        confidence=_margin(winner.weight, [group.weight for group in groups[1:]]),
        votes=_votes(groups, shares=shares or len(groups) == 1),
    )


def _least_bad(ordered: Sequence[Candidate], how: str | Selection) -> Choice:
    answered = [candidate for candidate in ordered if candidate.answer is not None]
    pool = answered or [candidate for candidate in ordered if candidate.text.strip()]
    if not pool:
        return Choice(None, None, 0.0, ())
    shown = min(pool, key=_highest_value)
    return Choice(shown.answer, shown.rollout, 0.0, ())


def _by_function(sound: Sequence[Candidate], how: Selection, kind: str) -> Choice:
    groups = _tally(sound, "majority", kind) if kind != "text" else _count_texts(sound)
    votes = _votes(groups, shares=True)
    rollout = how(tuple(sound))
    if rollout is None:
        return Choice(None, None, 0.0, votes)
    chosen = next((candidate for candidate in sound if candidate.rollout == rollout), None)
    if chosen is None:
        raise SearchError(f"The selection returned {rollout!r}, which is the id of no candidate that it was given.")
    mine = next(vote.weight for vote in votes if rollout in vote.rollouts)
    others = [vote.weight for vote in votes if rollout not in vote.rollouts]
    return Choice(chosen.answer, chosen.rollout, _margin(mine, others), votes)


def _count_texts(sound: Sequence[Candidate]) -> list[_Group]:
    groups = (
        _Group(key, tuple(members), min(members, key=_most_confident), float(len(members)))
        for key, members in _by_key(sound, "text").items()
    )
    return sorted(groups, key=lambda group: group.order)


# --------------------------------------------------------------------------------------------------------------
# Stopping early
# --------------------------------------------------------------------------------------------------------------


def settled(
    candidates: Sequence[Candidate], remaining: int, probability: float, how: str | Selection, kind: str
) -> bool:
    """Whether the vote stands, with at most `remaining` more rollouts to come.

    With `probability` 1: whatever those rollouts say, the leading answer stays ahead. Under `majority` its lead is
    greater than `remaining`. Under `weighted` confidences are normalised anew with each rollout, so the bound is on
    every weight: the leader's count at the least possible weight exceeds all others', those to come included, at the
    greatest. With less: also where the leader is the most probable answer of the model with that probability,
    P(X > 1/2) for X ~ Beta(v1 + 1, v2 + 1) and v1, v2 the weights of the first two answers (Aggarwal et al.
    2023, "Let's Sample Step by Step: Adaptive-Consistency"; there 0.95).

    Always True with nothing remaining. Other selections are no vote, and texts of which no two agree hold none:
    False until then.
    """
    if remaining <= 0:
        return True
    sound = _sound(sorted(candidates, key=lambda candidate: candidate.rollout))
    if not sound or how not in ("majority", "weighted"):
        return False
    counts = {key: len(members) for key, members in _by_key(sound, kind).items()}
    if kind == "text" and max(counts.values()) == 1:
        return False
    groups = _tally(sound, str(how), kind)
    leader = counts[groups[0].key]
    rivals = max((counts[group.key] for group in groups[1:]), default=0)
    weighs_alike = how == "majority" or all(_finite(candidate.confidence) is None for candidate in sound)
    spread = 1.0 if weighs_alike else math.exp(2 * Z_LIMIT / TEMPERATURE)
    if leader > (rivals + remaining) * spread:
        return True
    if probability >= 1:
        return False
    from scipy.special import betainc

    first, second = groups[0].weight, groups[1].weight if len(groups) > 1 else 0.0
    return bool(betainc(second + 1, first + 1, 0.5) >= probability)
