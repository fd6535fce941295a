"""What the model is told for each mode, and the examples that show it how.

- `paper`: the paper's plain request, in English (arXiv 2411.14405 shows it in Chinese), nothing more.
- `direct`: a plain request for the translation alone, which measurements compare with.
- `plain`: the same, told what dictionaries say: one of the ways in which `careful` asks.
- `quick`: one pass, the translation alone.
- `careful`: the reading comes first, in a form that `marco.translation.reasoned` takes apart: a first draft, then one
  paragraph for each expression in it that can't be taken literally, so that the search can branch at each, then the
  translation. (A draft to be mended keeps the rest of the text: without it, small models translate their notes.)

Small models follow examples better than instructions, so the last two come with some: earlier turns of the
conversation, in the target language where there are any, from the source language first. All of them are our own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from marco.prompts import Message, knows_the_format
from marco.translation.dictionary import Entry, entries_in
from marco.translation.languages import Language

LITERAL = "word for word"
MEANING = "here"
WORDS = "say"
SENSES = "senses"
"""The labels of an expression's line in the thought."""
DRAFT = "First draft"
_DRAFT = re.compile(rf"^\W{{0,3}}{DRAFT}\W{{0,2}}[:：][ \t]*(?P<draft>.*)", re.IGNORECASE)

TOLD = ("plain", "quick", "careful")
"""The modes that are told what dictionaries say."""

SHOTS = 5
"""Examples in one prompt."""

PHRASE_WORDS = 5
"""Words of a phrase at most, of each half where a comma parts it into two alike; of Chinese or Japanese, characters."""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_SAID = re.compile(r"[\n.!?…。！？~～#@]|[\U0001f000-\U0001faff\u2600-\u27bf]")


@dataclass(frozen=True, slots=True)
class Reading:
    """An expression of an example, and how it is read."""

    source: str
    literal: str
    meaning: str
    chosen: str

    def __str__(self) -> str:
        return f"“{self.source}” | {LITERAL}: {self.literal} | {MEANING}: {self.meaning} | {WORDS}: {self.chosen}"


@dataclass(frozen=True, slots=True)
class Example:
    """A text and how it is translated."""

    source_language: str
    target_language: str
    text: str
    readings: tuple[Reading, ...]
    translation: str
    word_for_word: str = ""
    """The whole text so; "" where the literal senses of its expressions in the translation say it."""

    @property
    def draft(self) -> str:
        """The translation as it would be, if nobody thought about it."""
        draft = self.translation
        for reading in self.readings:
            draft = draft.replace(reading.chosen, reading.literal)
        return self.word_for_word or draft

    @property
    def reasoned(self) -> str:
        return written(self.draft, self.readings, self.translation)


def written(draft: str, readings: Sequence[Reading], translation: str) -> str:
    """A thought and its output as a model is meant to write them."""
    lines = "\n\n".join([f"{DRAFT}: {draft}", *map(str, readings)])
    return f"<Thought>\n{lines}\n</Thought>\n<Output>\n{translation}\n</Output>"


def draft_in(paragraph: str) -> str | None:
    """The first draft, where `paragraph` gives it."""
    match = _DRAFT.match(paragraph)
    return (match["draft"] + paragraph[match.end() :]).strip() if match else None


def is_reading(line: str) -> bool:
    """Whether a line belongs to the thought, by its form."""
    return draft_in(line) is not None or (line.count("|") >= 2 and f"{LITERAL}:" in line.casefold())


EXAMPLES: tuple[Example, ...] = (
    Example(
        "zh", "en", "这家店的奶茶绝绝子，我直接炫了两杯😋",
        (
            Reading("绝绝子", "absolutely absolute", "amazing, the best", "unreal"),
            Reading("炫了两杯", "showed off two cups", "drank two cups greedily", "downed two cups"),
        ),
        "The milk tea here is unreal, I downed two cups in one go 😋",
    ),
    Example(
        "zh", "en", "老板又画大饼，打工人真的会谢",
        (
            Reading("画大饼", "draw a big flatbread", "make empty promises", "empty promises"),
            Reading("打工人真的会谢", "working people will really thank", "thanks for nothing (ironic)", "gee, thanks"),
        ),
        "More empty promises from the boss. Gee, thanks, say all of us on the payroll.",
    ),
    Example(
        "zh", "en", "这支护手霜一股贵妇味，吸收巨快，无脑冲！",
        (
            Reading("一股贵妇味", "a whiff of rich lady", "it smells luxurious", "smells so luxurious"),
            Reading("无脑冲", "charge without a brain", "buy it without thinking twice", "just go and buy it"),
        ),
        "This hand cream smells so luxurious and sinks in super fast, just go and buy it!",
    ),
    Example(
        "zh", "en", "穿小鞋",
        (Reading("穿小鞋", "wear small shoes", "make life hard for somebody", "make life hard for somebody"),),
        "make life hard for somebody",
    ),
    Example(
        "zh", "en", "雪中送炭",
        (Reading("雪中送炭", "send charcoal in snowy weather", "provide timely help", "provide timely help"),),
        "provide timely help",
    ),
    Example(
        "zh", "en", "画蛇添足",
        (Reading("画蛇添足", "draw a snake and add feet", "gild the lily", "gild the lily"),),
        "gild the lily",
    ),
    Example(
        "zh", "en", "三天打鱼，两天晒网",
        (
            Reading("三天打鱼，两天晒网", "fish for three days and dry the nets for two", "work by fits and starts",
                    "work by fits and starts"),
        ),
        "work by fits and starts",
    ),
    Example(
        "zh", "en", "昨天坐了六个小时的火车才到家，路上一直在下雨。",
        (),
        "It took me six hours on the train to get home yesterday, and it rained the whole way.",
    ),
    Example(
        "zh", "en", "到家啦🏠\n今天的晚霞好治愈\n#随手拍一拍[话题]# #晚霞",
        (Reading("治愈", "healing a disease", "soothing to look at", "soothing"),),
        "Home at last 🏠\nTonight's sunset was so soothing\n#Quick snapshots[Topic]# #Sunset",
    ),
    Example(
        "es", "en", "Me la pasé bomba en la fiesta, pero hoy estoy hecho polvo 😴",
        (
            Reading("Me la pasé bomba", "I passed it bomb", "I had a great time", "I had a blast"),
            Reading("hecho polvo", "made dust", "exhausted", "wiped out"),
        ),
        "I had a blast at the party, but today I'm wiped out 😴",
    ),
    Example(
        "ja", "en", "推しのライブ、チケット全滅…もう沼から出られない",
        (
            Reading("推し", "the one I push", "favourite artist", "my favourite"),
            Reading("全滅", "total destruction", "not one application succeeded", "struck out on every ticket"),
            Reading("沼から出られない", "can't get out of the swamp", "am hopelessly hooked",
                    "there's no escaping this obsession"),
        ),
        "I struck out on every ticket for my favourite's show… and there's no escaping this obsession.",
    ),
    Example(
        "en", "zh", "That party was lit, but I'm so done with Kevin ghosting me 🙄",
        (
            Reading("lit", "on light", "great fun", "太嗨了"),
            Reading("I'm so done with", "I have finished with", "am fed up with", "真是受够了"),
            Reading("ghosting me", "being a ghost to me", "not answering my messages", "玩消失"),
        ),
        "昨晚的派对太嗨了，不过我真是受够了 Kevin 老玩消失🙄",
        "那个派对是点亮的，但我已经完成了和 Kevin 的幽灵我🙄",
    ),
    Example(
        "en", "zh", "Don't sweat it, the exam was a piece of cake.",
        (
            Reading("Don't sweat it", "don't perspire over it", "don't worry", "别担心"),
            Reading("a piece of cake", "a slice of cake", "very easy", "小菜一碟"),
        ),
        "别担心，那考试小菜一碟。",
        "别为它出汗，考试是一块蛋糕。",
    ),
    Example(
        "en", "ja", "That party was lit, but I'm beat. Let's call it a day 😴",
        (
            Reading("lit", "on light", "great fun", "めっちゃ盛り上がった"),
            Reading("I'm beat", "I am struck", "I'm exhausted", "もうヘトヘト"),
            Reading("call it a day", "name it a day", "stop for today", "今日はここまで"),
        ),
        "パーティーめっちゃ盛り上がったけど、もうヘトヘト。今日はここまでにしよう😴",
        "あのパーティーは点灯していたけど、私は打たれた。これを一日と呼ぼう😴",
    ),
    Example(
        "en", "es", "That party was lit, but I'm beat. Let's call it a day 😴",
        (
            Reading("lit", "on light", "great fun", "estuvo brutal"),
            Reading("I'm beat", "I am struck", "I'm exhausted", "estoy molido"),
            Reading("call it a day", "name it a day", "stop for today", "dejémoslo por hoy"),
        ),
        "La fiesta estuvo brutal, pero estoy molido. Dejémoslo por hoy 😴",
        "La fiesta estaba encendida, pero estoy golpeado. Llamémoslo un día 😴",
    ),
    Example(
        "en", "hi", "That party was lit, but I'm beat. Let's call it a day 😴",
        (
            Reading("lit", "on light", "great fun", "मज़ा आ गया"),
            Reading("I'm beat", "I am struck", "I'm exhausted", "थककर चूर हूँ"),
            Reading("call it a day", "name it a day", "stop for today", "आज के लिए बस"),
        ),
        "पार्टी में मज़ा आ गया, पर मैं थककर चूर हूँ। आज के लिए बस करते हैं 😴",
        "वह पार्टी जली हुई थी, पर मैं पीटा गया हूँ। इसे एक दिन कहते हैं 😴",
    ),
)  # fmt: skip


def is_phrase(text: str) -> bool:
    """Whether a text is a phrase by itself, such as an idiom, rather than something that somebody said."""
    halves = {len(_WORD.findall(half)) for half in re.split("[,，]", text)}
    return len(halves) == 1 and 0 < max(halves) <= PHRASE_WORDS and not _SAID.search(text)


def examples_for(source: Language | None, target: Language, text: str) -> tuple[Example, ...]:
    """At most `SHOTS` examples into the target, those from the source language first; phrases alone for a phrase, and
    none of them for what is none, where there are others: models take the form of what they write from them.

    For a target without any: none. Examples in another language make small models answer in it.
    """
    fitting = [example for example in EXAMPLES if example.target_language == target.code]
    code = source.code.partition("-")[0] if source is not None else ""
    phrase = is_phrase(text)
    alike = [example for example in fitting if is_phrase(example.text) == phrase]
    return tuple(sorted(alike or fitting, key=lambda example: example.source_language != code)[:SHOTS])


def translation_messages(
    text: str,
    source: Language | None,
    target: Language,
    *,
    mode: str,
    model: str = "",
    context: str = "",
    glossary: Sequence[tuple[str, str]] = (),
    entries: Sequence[Entry] = (),
) -> tuple[Message, ...]:
    """The conversation that asks for `text` in the target language.

    `context` is what came before the text, and its translation; `glossary` the pairs that occur in it; `entries`
    what dictionaries say of it, for the modes in `TOLD`.
    """
    if mode not in TOLD:
        entries = ()
    careful = mode == "careful"
    asked = _request(text, context, glossary, entries, reasoned=careful)
    if mode in ("direct", "plain"):
        return ({"role": "user", "content": f"{DIRECT.format(target=target.name)}\n\n{asked}"},)
    if mode == "paper":
        request = f"Translate into {target.name}: {asked}"
        if knows_the_format(model):
            return ({"role": "user", "content": request},)
        return ({"role": "system", "content": PAPER_FORMAT}, {"role": "user", "content": request})
    pair = f"from {source.name} into {target.name}" if source is not None else f"into {target.name}"
    instructions = (CAREFUL if careful else QUICK).format(pair=pair, target=target.name)
    explained = any(entry.expression for entry in entries)
    if explained and careful:
        instructions += FROM_DICTIONARY.format(
            said="in its own words if they fit as well" if target.code == "en" else f"in {target.name}"
        )
    messages: list[Message] = [{"role": "system", "content": instructions}]
    for example in examples_for(source, target, text):
        # What to do with a dictionary is shown as well, where there is one to be used.
        looked_up = entries_in(example.text, example.source_language) if explained else ()
        messages.append({"role": "user", "content": _request(example.text, entries=looked_up, reasoned=careful)})
        messages.append({"role": "assistant", "content": example.reasoned if careful else example.translation})
    messages.append({"role": "user", "content": asked})
    return tuple(messages)


DIRECT = "Translate the following text into {target}. Reply with the translation alone."

PAPER_FORMAT = (
    "Think inside <Thought> and </Thought>, in short paragraphs. Then write the translation, and nothing else, "
    "inside <Output> and </Output>."
)

_STYLE = (
    "You translate everyday texts {pair} as a native speaker would put them to a friend: slang and idioms "
    "by what they mean here, everything else close to the original. Leave nothing out and add nothing: "
    "what is a phrase and no sentence stays one. "
    "Emoji, names, links, numbers and line breaks stay."
)

QUICK = f"{_STYLE} Reply with the translation alone, all of it in {{target}}."

CAREFUL = (
    f"{_STYLE}\n"
    f"First, inside <Thought> and </Thought>: one line that begins “{DRAFT}:” with a first translation; "
    "then a paragraph for each expression in it that would be wrong or odd word for word, of the form\n"
    f"“expression” | {LITERAL}: ... | {MEANING}: ... | {WORDS}: ...\n"
    f"with {MEANING} in keeping with the rest of the text, and {WORDS} in {{target}}. "
    "No such paragraph where the text means what it says. "
    "Then the translation alone, all of it in {target}, inside <Output> and </Output>."
)

FROM_DICTIONARY = " Where a dictionary is quoted, choose the sense that fits, {said}."


def _request(
    text: str,
    context: str = "",
    glossary: Sequence[tuple[str, str]] = (),
    entries: Sequence[Entry] = (),
    *,
    reasoned: bool = False,
) -> str:
    parts = []
    if context:
        parts.append(f"(What came before, already translated:\n{context}\n)")
    expressions = [entry for entry in entries if entry.expression]
    if expressions:
        lines = "\n".join(_looked_up(entry, reasoned) for entry in expressions)
        parts.append(f"(A dictionary says:\n{lines}\n)")
    words = "; ".join(f"{entry.source} = {entry.meaning}" for entry in entries if not entry.expression)
    if words:
        parts.append(f"(Words: {words})")
    if glossary:
        terms = "; ".join(f"{source} = {target}" for source, target in glossary)
        parts.append(f"(Use these words: {terms})")
    return "\n".join([*parts, text])


def _looked_up(entry: Entry, reasoned: bool) -> str:
    # Who only translates would take the literal sense for one to choose.
    literal = f" | {LITERAL}: {entry.literal}" if entry.literal and reasoned else ""
    return f"“{entry.source}”{literal} | {SENSES}: {entry.meaning}"


_REGISTERS = {
    "plain": "plain and neutral, without slang, as in a note to a colleague",
    "casual": "relaxed and everyday, as in a message to a friend",
    "playful": "playful and lively, as in a fun post, without adding new content",
}


def register_messages(source: str, translation: str, target: Language, register: str) -> tuple[Message, ...]:
    """The conversation that asks to say a translation in another register."""
    return (
        {
            "role": "system",
            "content": f"You rewrite {target.name} texts in another tone. Keep the meaning, names, numbers, links and "
            f"line breaks. Reply with the rewritten text alone, in {target.name}.",
        },
        {
            "role": "user",
            "content": f"Original: {source}\n\n{target.name}: {translation}\n\n"
            f"Make the {target.name} text {_REGISTERS[register]}.",
        },
    )
