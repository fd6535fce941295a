"""From what a model wrote to one answer: take it apart, extract, normalise, vote.

Pure functions over text and small frozen objects; nothing here knows an engine, a tree or a reference answer.
Text is untrusted: every function accepts any string, and every pattern is bounded so that time grows with its length.

- `split_output` separates the thought from the output.
- `kind_of` reads off a question what its answer looks like; `extract` finds such an answer in an output.
- `normalise` gives the key under which two answers count as the same.
- `select` chooses among candidates; `settled` says whether more of them could still change a vote.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]{0,200}`", re.DOTALL)
_PARAGRAPH = re.compile(r"\n\s*\n")


def _tags(text: str) -> Iterator[tuple[int, int, str, bool]]:
    """(start, end, "thought" or "output", whether it closes) of each tag, in order."""
    # `<output>` is an element of HTML too: where the tags are written properly, only proper ones count; otherwise
    # those in code don't.
    exact = list(_EXACT_TAG.finditer(text))
    if any(tag["name"] == "Output" and not tag["close"] for tag in exact):
        for tag in exact:
            yield tag.start(), tag.end(), tag["name"].lower(), bool(tag["close"])
        return
    codes = (code.span() for code in _CODE.finditer(text))
    code = next(codes, None)
    for tag in _LOOSE_TAG.finditer(text):
        while code and code[1] <= tag.start():
            code = next(codes, None)
        if code and code[0] < tag.start():
            continue
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

_OPTION = re.compile(
    r"(?P<line>^|\n|\\n)?[ \t(（\[-]{0,4}(?<![A-Za-z])(?P<letter>[A-H])[ \t]?(?P<mark>[).:、．）：\]])\s{0,3}\S"
)
_CHOOSE = re.compile(
    r"which (?:one )?of|following|choose|select|options?\b|choices?\b|multiple[- ]choice|选择|选项|下列"
    r"|哪[一个项]|以下哪|選択|次のうち"
    r"|welche|cuál|lequel|laquelle|quel(?:le)? (?:option|réponse)|какой из|выберите|chagua|ข้อใด|কোনটি|ఏది",
    re.IGNORECASE,
)
_YES_NO_OPTIONS = re.compile(
    r"\byes\s{0,3}(?:/|or|,|\|)\s{0,3}no\b|\btrue\s{0,3}(?:/|or|,|\|)\s{0,3}false\b|是(?:或|还是|/)\s?(?:否"
    r"|不是)|[对對](?:或|还是|/)[错錯]"
    r"|正确(?:或|还是|/)错误|はいかいいえ|\boui\s{0,3}(?:/|ou)\s{0,3}non\b|\bja\s{0,3}(?:/|oder)\s{0,3}nein\b"
    r"|\bsí\s{0,3}(?:/|o)\s{0,3}no\b"
    r"|\bда\s{0,3}(?:/|или)\s{0,3}нет\b|\bndiyo\s{0,3}(?:/|au)\s{0,3}hapana\b",
    re.IGNORECASE,
)
_OPTIONS_HEAD = re.compile(r"(?:options|choices|选项|選択肢)\s{0,3}[:：]", re.IGNORECASE)

# Requests for something other than a number, whatever figures they mention.
_TASK = re.compile(
    r"(?:^|[.?!:,\n]\s{0,3}|\b(?:please|you|me|to|and|then|should|must) )"
    r"(?:write|create|generate|implement|develop|design|build|author|craft|show me|give me|code"
    r"|provide)\b[^.?!\n]{0,100}"
    r"\b(?:code|function|program|script|class|query|algorithm|app|application|website|template|animation|method|test"
    r"|python|java|javascript|typescript|rust|sql|html|css|regex|api|essay|story|poem|summary|paragraph|song)\b"
    r"|\b(?:python|javascript|typescript|java|c\+\+|rust|sql|html|css|numpy|pandas) (?:code|function|program"
    r"|script|class|query|method)\b"
    r"|\busing (?:python|javascript|typescript|java|c\+\+|rust|sql|numpy|pandas)\b"
    r"|^\W{0,3}(?:please\s+)?(?:prove|translate|summari[sz]e|explain|describe|define|write|rewrite|list)\b"
    r"|\bprove that\b|\bshow that\b"
    r"|\btranslate (?:the|this|into|to|from)\b|\binterval notation\b|^\W{0,3}how (?:do|can|should|would"
    r"|could) (?:i|we|you|one)\b"
    r"|\bwhat(?:'s|’s| is| are) the ratio\b|\bwhat time\b|\bwhat day\b|翻译|翻譯|证明[：:]|^\W{0,3}(?:请)?证明|證明"
    r"|写一[个篇段首]|(?:写|编写|实现|设计)[^。？\n]{0,20}(?:代码|程序|函数|脚本|作文)|几点(?:钟|了|？)?",
    re.IGNORECASE,
)
_HOW_MANY = re.compile(
    r"\bhow many\b|\bwhat (?:percent(?:age)?|fraction|number)\b|\bcuánt[oa]s?\b|\bcombien\b|\bwie\s?viele?\b"
    r"|\bсколько\b|\w{0,4}ngapi\b|\bkiasi gani\b"
    r"|กี่|เท่าไร|เท่าไหร่|เท่าใด|কত|কয়টি|কয়টা|ఎన్ని|ఎంత|多少|几(?![何乎点])|幾(?![何乎點])|いくつ|いくら"
    r"|何(?:人|個|本|枚|円|ドル|時間|分|秒|日|週|か月"
    r"|ヶ月|年|歳|才|匹|頭|羽|冊|回|台|杯|倍|メートル|キロ|センチ|グラム|リットル|マイル|ポンド|ページ"
    r"|パーセント|％|%|つ|点|件|袋|箱|階)|どのくらい|どれくらい|どれだけ",
    re.IGNORECASE,
)
# These ask for a number only where there are figures to reckon with.
_RECKON = re.compile(
    r"\bhow (?:much|old|far|long|fast|tall|deep|heavy|wide|big|large|load|high)\b|\bcalculate\b|\bcompute\b"
    r"|\bevaluate\b|\bdetermine the\b"
    r"|\b(?:what|find|give)\b[^.?!\n]{0,40}\b(?:total|sum|number|average|mean|median|difference|percentage"
    r"|product|quotient|price|cost|profit|loss|salary"
    r"|income|pension|distance|speed|age|area|volume|perimeter|length|width|height|weight|value|remainder"
    r"|probability|amount|footage|score|zeros?|fraction|rate)\b"
    r"|\bwas ist\b|\bwie (?:lange?|weit|alt|schnell|hoch|groß|schwer|oft)\b|\bberechne"
    r"|\bwelche[nrs]?\b[^.?!\n]{0,30}(?:prozent|strecke|abstand|summe|gesamt)"
    r"|\bcalcul|\bqué (?:porcentaje|distancia|edad|velocidad|fracción|tan)\b|\bcuál (?:es|fue|era|será|sería)\b"
    r"|\bquel(?:le)?\b|\bвычисл|\bрассчита|\bпосчита|\bкаков[аоы]?\b|\bкак(?:ое|ая|ой|ую)\b|\bкак долго\b"
    r"|\bhesabu\b|\bkokotoa\b|\bmuda gani\b|\basilimia\b|\bumbali gani\b"
    r"|คำนวณ|แค่ไหน|গণনা|হিসাব|లెక్కించ|计算|計算|总数|總數|求|等于|等於|多(?:长|遠|远|久|大|重|高|宽|深|快|旧"
    r"|長)|何です|どれほど|求め",
    re.IGNORECASE,
)
_SUM = re.compile(r"\\(?:left|right|[dt]?frac|cdot|times|div|sqrt|pm)|[\s\d.,+\-−*/×÷·^()=?？!%$\\{}\[\]|:]")
_ASKS_SUM = re.compile(
    r"^\W{0,3}(?:what(?:'s|’s| is| does)|how much is|was ist|cuánto es|combien font|сколько будет)?\s*", re.IGNORECASE
)
_FIGURE = re.compile(
    r"\d|\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve|dozen|twice|half|double)\b"
    r"|[二两兩三四五六七八九十百千半]",
    re.IGNORECASE,
)


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
    r"(?<![A-Za-z])(?:USD|EUR|GBP|CNY|RMB|JPY|INR|RUB|KSh|Ksh|KES|TSh|Tsh|TZS|BDT|THB|Rs|Tk|Sh|Rp|NT|HK|US"
    r"|R)\.?[ ]?(?=\d)"
)
_TIGHT_SPACE = re.compile(r"(?<=\d)[\u00a0\u202f\u2009](?=\d{3}(?!\d))")
_SPACED = re.compile(r"(?<![\d.,])(?<!\d )(\d{1,3})((?: \d{3}){1,5})(?!\d| \d)")

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
_ENGLISH = re.compile(
    r"\b(?:the|is|are|of|and|to|has|have|makes|for|with|was|will|she|he|they|it|answer)\b", re.IGNORECASE
)


_MAX_SEARCHED = 20_000
"""Characters at the end of an output in which its answer is looked for."""
_MAX_SENTENCE = 2_000
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
    if "\\" in text or "{,}" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    text = _NEGATIVE_MONEY.sub("-", text)
    text = _MONEY.sub(" ", text)
    return _MONEY_CODE.sub(" ", text)


def _continental(text: str) -> bool:
    """Whether `text` is in a language that writes 1.234,5 for what English writes 1,234.5."""
    ending = text[-4000:]
    return len(_CONTINENTAL.findall(ending)) > len(_ENGLISH.findall(ending))


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


def _show(value: Fraction, *, ratio: bool = False) -> str:
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
_CLEAN, _ASIDE, _WORDED, _TIMED, _WORDED_ASIDE, _LABEL = range(6)

_LABEL_BEFORE = re.compile(
    r"(?:^|[^a-z])(?:step|part|question|problem|day|week|figure|case|option|item|line|round|no\.?|paso|étape"
    r"|schritt|шаг|hatua|ステップ|步骤|第)\s{0,2}#?$|[#№]$",
    re.I,
)
_ORDINAL_AFTER = re.compile(r"(?:st|nd|rd|th|º|ª|er|ème|-й|-я)(?![a-zа-я])|\.? ?(?:步|题|題|番目)", re.I)
_LIST_STARTS = re.compile(r"^[ \t>*#-]{0,8}1[.)、]\s", re.MULTILINE)
_LIST_MARK = re.compile(r"^([ \t>*#-]{0,8})\d{1,2}[.)、](?=[ \t])", re.MULTILINE)
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
class _Numeral:
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


def _in_digits(sentence: str, continental: bool, bare: bool) -> Iterator[_Numeral]:
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
        yield _Numeral(start, end, value * _sign(sentence, start), ratio=match["below"] is not None)


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


def _in_english(sentence: str) -> Iterator[_Numeral]:
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
        rank = _LABEL if pronoun else _WORDED
        yield _Numeral(start, end, -value if match["minus"] else value, rank, ratio=match["below"] is not None)


def _in_chinese(sentence: str) -> Iterator[_Numeral]:
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
        rank = _LABEL if in_a_word or idiom else _WORDED if words else _CLEAN
        yield _Numeral(start, end, -value if match["minus"] else value, rank, ratio=match["below"] is not None)


def _numbers(sentence: str, continental: bool, bare: bool) -> list[_Numeral]:
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
    found: list[_Numeral] = []
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


def _rank(numeral: _Numeral, before: str, after: str, aside: bool) -> int:
    in_words = numeral.rank == _WORDED
    if numeral.rank == _LABEL or _LABEL_BEFORE.search(before) or (not in_words and _ORDINAL_AFTER.match(after)):
        return _LABEL
    if (_TIME_BEFORE.search(before) and _TIME_AFTER.match(after)) or _TIME_HAN_AFTER.match(after):
        return _WORDED_ASIDE if in_words else _TIMED
    if aside or _DETERMINER_BEFORE.search(before):
        return _WORDED_ASIDE if in_words else _ASIDE
    if not in_words and (_OPERATOR_AFTER.match(after) or _OPERATOR_BEFORE.search(before)):
        return _ASIDE
    return numeral.rank


# --------------------------------------------------------------------------------------------------------------
# Extraction
# --------------------------------------------------------------------------------------------------------------

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
    return _show(number.value, ratio=number.ratio) if isinstance(number, _Numeral) else number


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


def _number_in(source: str, marked_only: bool) -> _Numeral | str | None:
    """The number that `source` answers with, or a short expression that is none."""
    box = _box(source)
    text = _clean(source[-_MAX_SEARCHED:])
    if _LIST_STARTS.search(text):
        text = _LIST_MARK.sub(r"\1", text)
    continental = _continental(text)
    bare = not _ENGLISH.search(text)
    if continental:
        text = _SPACED.sub(lambda match: match.group().replace(" ", ""), text)

    def point(sentence: str, *, answers: bool = False) -> _Numeral | None:
        return _point(sentence, continental, bare, answers)

    if box is not None:
        inside = _clean(box)
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
        if labels := _numbers(sentence[-_MAX_SENTENCE:].replace("**", ""), continental, bare):
            return labels[-1]
    return _expression(text)


def _point(sentence: str, continental: bool, bare: bool, answers: bool) -> _Numeral | None:
    """The number a sentence is about; `answers`: it follows a cue, so that a number at its beginning is the answer."""
    sentence = sentence[:_MAX_SENTENCE] if answers else sentence[-_MAX_SENTENCE:]
    for part in [*reversed(_BOLD.findall(sentence)), sentence.replace("**", "")]:
        found = [one for one in _numbers(part, continental, bare) if one.rank < _LABEL or answers]
        if not found:
            continue
        first = found[0]
        if answers and "=" not in part and first.rank != _ASIDE and _OPENING.fullmatch(part[: first.start][-40:]):
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
    text = _clean(source[-_MAX_SEARCHED:].replace("**", "").replace("__", ""))
    box = _box(source)
    if box is not None:
        inside = _clean(box)
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
    false joined to them. Texts, and choices in words: compatibility form, case folded, blanks collapsed,
    punctuation at both ends removed (kept where nothing else is left).
    """
    if kind == "number":
        number = _number_in(answer, marked_only=False)
        if isinstance(number, _Numeral):
            return _show(number.value)
        return "".join("".join(_digits(answer)).casefold().split())
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
    """Margin of the vote, 0 to 1: (winner - runner-up) / total. 1 where there is one answer only, 0 where nothing sound
    was there."""
    votes: tuple[Vote, ...]
    """Descending by weight; the winner comes first, save under a selection of the caller's own."""


Selection = Callable[[Sequence[Candidate]], int | None]

TEMPERATURE = 2.0
"""Of the softmax that turns confidences into votes. See `vote_weights`."""
Z_LIMIT = 2.0
"""Standard scores are held within plus and minus this, so that no rollout counts more than e**2 times another."""

_MAX_CHRF_CHARS = 2_000


def _finite(number: float | None) -> float | None:
    # A figure whose square overflows is no more of use than an infinite one.
    return number if number is not None and abs(number) < 1e150 else None


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


def _answers(candidate: Candidate) -> bool:
    return candidate.answer is not None and bool(candidate.answer.strip())


def _sound(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if _answers(candidate) and not candidate.degenerate]


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

    Similarity is chrF (Popović 2015) as sacrebleu computes it, with beta 1: neither of two candidates is the
    reference, so precision and recall weigh the same. The winner is the one that loses least if any other is the truth,
    as in minimum Bayes risk decoding (Kumar and Byrne 2004).
    """
    counts = Counter(text[:_MAX_CHRF_CHARS] for text in texts)
    distinct = sorted(counts)
    if len(distinct) <= 1:
        return [1.0] * len(texts)
    total = {text: float(counts[text] - 1) for text in distinct}
    for i, one in enumerate(distinct):
        for other in distinct[i + 1 :]:
            likeness = _similarity(one, other)
            total[one] += likeness * counts[other]
            total[other] += likeness * counts[one]
    return [min(1.0, total[text[:_MAX_CHRF_CHARS]] / (len(texts) - 1)) for text in texts]


@functools.lru_cache(maxsize=4096)
def _similarity(one: str, other: str) -> float:
    # Cached because a search asks anew after every rollout, and only the pairs with the new one are new.
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF(beta=1).sentence_score(one, [other]).score) / 100


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
        return _least_bad(ordered)
    if not isinstance(how, str):
        return _by_function(sound, how, kind)
    if how in ("majority", "weighted") and kind == "text" and len(_by_key(sound, kind)) == len(sound):
        how = "consensus"
    groups = _tally(sound, how, kind)
    winner = groups[0]
    return Choice(
        answer=winner.shown.answer,
        rollout=winner.shown.rollout,
        confidence=_margin(winner.weight, [group.weight for group in groups[1:]]),
        votes=_votes(groups, shares=how != "consensus"),
    )


def _least_bad(ordered: Sequence[Candidate]) -> Choice:
    answered = [candidate for candidate in ordered if _answers(candidate)]
    pool = answered or [candidate for candidate in ordered if candidate.text.strip()]
    if not pool:
        return Choice(None, None, 0.0, ())
    shown = min(pool, key=_highest_value)
    return Choice(shown.answer, shown.rollout, 0.0, ())


def _by_function(sound: Sequence[Candidate], how: Selection, kind: str) -> Choice:
    votes = _votes(_tally(sound, "majority", kind), shares=True)
    rollout = how(tuple(sound))
    if rollout is None:
        return Choice(None, None, 0.0, votes)
    chosen = next((candidate for candidate in sound if candidate.rollout == rollout), None)
    if chosen is None:
        raise SearchError(f"The selection returned {rollout!r}, which is the id of no candidate that it was given.")
    mine = next(vote.weight for vote in votes if rollout in vote.rollouts)
    others = [vote.weight for vote in votes if rollout not in vote.rollouts]
    return Choice(chosen.answer, chosen.rollout, _margin(mine, others), votes)


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
