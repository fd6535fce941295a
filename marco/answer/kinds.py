"""What kind of answer a question asks for."""

from __future__ import annotations

import re
from typing import Literal

from marco.answer.numerals import digits_of

AnswerKind = Literal["number", "choice", "text"]

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
    plain = "".join(digits_of(question))
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
