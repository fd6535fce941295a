"""Languages by name and code, and telling which one a text is in.

Recognition is the work of the library lingua, loaded when first needed and in its lean mode. It takes all its
languages for equally likely; weighing them by how often they are met keeps "so cute" from being Romanian.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from marco.errors import InvalidOption

if TYPE_CHECKING:
    from lingua import LanguageDetector


@dataclass(frozen=True, slots=True)
class Language:
    """A language that texts can be translated from and into."""

    code: str
    """BCP 47, as short as it goes: `en`, `zh`, `zh-Hant`."""
    name: str
    """In English."""
    own: str
    """In itself."""
    scripts: tuple[str, ...]
    """How Unicode's names of its letters begin, such as `LATIN` or `CJK UNIFIED`."""
    weight: float = 1.0
    """How often it is met, relative to the others."""
    aliases: tuple[str, ...] = ()


_LATIN = ("LATIN",)
_HAN = ("CJK",)
_ARABIC = ("ARABIC",)
_CYRILLIC = ("CYRILLIC",)
_DEVANAGARI = ("DEVANAGARI",)

LANGUAGES: tuple[Language, ...] = (
    Language("en", "English", "English", _LATIN, 12, ("eng", "american english", "british english")),
    Language("zh", "Chinese", "中文", _HAN, 6, ("zho", "chi", "cmn", "zh-hans", "zh-sg", "simplified chinese",
             "mandarin", "简体中文", "汉语", "普通话", "chinese (simplified)")),
    Language("zh-Hant", "Traditional Chinese", "繁體中文", _HAN, 0, ("zh-tw", "zh-hk", "zh-mo", "正體中文",
             "chinese (traditional)", "繁体中文")),
    Language("ja", "Japanese", "日本語", ("HIRAGANA", "KATAKANA", "CJK"), 3, ("jpn", "jp")),
    Language("ko", "Korean", "한국어", ("HANGUL",), 3, ("kor",)),
    Language("es", "Spanish", "español", _LATIN, 8, ("spa", "castellano", "castilian")),
    Language("fr", "French", "français", _LATIN, 8, ("fra", "fre")),
    Language("de", "German", "Deutsch", _LATIN, 8, ("deu", "ger")),
    Language("it", "Italian", "italiano", _LATIN, 5, ("ita",)),
    Language("pt", "Portuguese", "português", _LATIN, 5, ("por", "brazilian portuguese")),
    Language("ru", "Russian", "русский", _CYRILLIC, 3, ("rus",)),
    Language("ar", "Arabic", "العربية", _ARABIC, 3, ("ara",)),
    Language("hi", "Hindi", "हिन्दी", _DEVANAGARI, 3, ("hin",)),
    Language("bn", "Bengali", "বাংলা", ("BENGALI",), 1, ("ben", "bangla")),
    Language("ta", "Tamil", "தமிழ்", ("TAMIL",), 1, ("tam",)),
    Language("te", "Telugu", "తెలుగు", ("TELUGU",), 1, ("tel",)),
    Language("ur", "Urdu", "اردو", _ARABIC, 1, ("urd",)),
    Language("fa", "Persian", "فارسی", _ARABIC, 1, ("fas", "per", "farsi")),
    Language("he", "Hebrew", "עברית", ("HEBREW",), 1, ("heb", "iw")),
    Language("th", "Thai", "ไทย", ("THAI",), 1, ("tha",)),
    Language("vi", "Vietnamese", "Tiếng Việt", _LATIN, 1, ("vie",)),
    Language("id", "Indonesian", "Bahasa Indonesia", _LATIN, 1, ("ind", "in")),
    Language("tl", "Tagalog", "Tagalog", _LATIN, 1, ("tgl", "fil", "filipino")),
    Language("tr", "Turkish", "Türkçe", _LATIN, 1, ("tur",)),
    Language("pl", "Polish", "polski", _LATIN, 1, ("pol",)),
    Language("nl", "Dutch", "Nederlands", _LATIN, 1, ("nld", "dut")),
    Language("cs", "Czech", "čeština", _LATIN, 1, ("ces", "cze")),
    Language("uk", "Ukrainian", "українська", _CYRILLIC, 1, ("ukr",)),
    Language("el", "Greek", "ελληνικά", ("GREEK",), 1, ("ell", "gre")),
    Language("hu", "Hungarian", "magyar", _LATIN, 1, ("hun",)),
    Language("ro", "Romanian", "română", _LATIN, 1, ("ron", "rum")),
    Language("sv", "Swedish", "svenska", _LATIN, 1, ("swe",)),
    Language("da", "Danish", "dansk", _LATIN, 1, ("dan",)),
    Language("fi", "Finnish", "suomi", _LATIN, 1, ("fin",)),
    Language("sw", "Swahili", "Kiswahili", _LATIN, 1, ("swa",)),
)  # fmt: skip

SURE = 0.6
"""Share of the probability from which a language counts as recognised for certain."""
SURE_LETTERS = 12
"""Letters of an alphabet under which nothing is certain: "no" is a word in a dozen languages."""

_TELLING = {"¿": "es", "¡": "es"}
"""Signs that one language alone has, which lingua passes over."""

_CJK_WORD = 1.5
"""Characters to a word, in scripts that write no blanks."""


def language(name_or_code: str) -> Language:
    """The language of that English name, own name, or ISO 639 code (with a region or script, if need be).

    Raises `InvalidOption` that names what is known.
    """
    wanted = unicodedata.normalize("NFC", str(name_or_code)).strip().casefold().replace("_", "-")
    for candidate in (wanted, wanted.partition("-")[0]):
        found = _by_name().get(candidate)
        if found is not None:
            return found
    known = ", ".join(f"{item.name} ({item.code})" for item in LANGUAGES)
    raise InvalidOption("language", name_or_code, f"a language's name or code, one of {known}")


@cache
def _by_name() -> dict[str, Language]:
    return {
        unicodedata.normalize("NFC", name).casefold(): item
        for item in LANGUAGES
        for name in (item.code, item.name, item.own, *item.aliases)
    }


def detect(text: str) -> Language | None:
    """The most likely language of `text`; None where it has no letters. Links, hashtags and names are left aside."""
    return recognise(text)[0]


def recognise(text: str) -> tuple[Language | None, bool]:
    """The most likely language, and whether that is certain enough to act upon."""
    words = prose(text)
    counts = script_words(words)
    total = sum(counts.values())
    if not total:
        return None, False
    for script in ("HIRAGANA", "KATAKANA"):
        if counts.get(script, 0) > 0.05 * total:
            return language("ja"), True
    main = max(counts, key=lambda script: counts[script])
    if main != "CJK" and counts.get("CJK", 0) >= 0.4 * total:
        main = "CJK"  # Chinese with English words in it is common, the reverse is not
    writing = [item for item in LANGUAGES if main in item.scripts and item.weight]
    if len(writing) == 1 or main == "CJK":
        return writing[0], counts[main] >= 0.7 * total
    told = next((code for sign, code in _TELLING.items() if sign in words), None)
    if told is not None:
        return language(told), True
    likely = _weighed(words, writing)
    if not likely:
        return None, False
    best = max(likely, key=lambda item: likely[item])
    letters = sum(character.isalpha() for character in words)
    return best, letters >= SURE_LETTERS and likely[best] >= SURE * sum(likely.values())


def _weighed(words: str, writing: list[Language]) -> dict[Language, float]:
    values = {
        value.language.iso_code_639_1.name.lower(): value.value
        for value in _detector().compute_language_confidence_values(words)
    }
    return {item: values.get(item.code, 0.0) * item.weight for item in writing if values.get(item.code, 0.0) > 0}


@cache
def _detector() -> LanguageDetector:
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    codes = [getattr(IsoCode639_1, item.code.upper()) for item in LANGUAGES if "-" not in item.code]
    return LanguageDetectorBuilder.from_iso_codes_639_1(*codes).with_low_accuracy_mode().build()


# --------------------------------------------------------------------------------------------------------------
# Scripts
# --------------------------------------------------------------------------------------------------------------

_UNTOUCHED = re.compile(r"https?://\S+|www\.\S+|(?<!\w)@[\w.-]+", re.IGNORECASE)
_ASIDE = re.compile(r"#[\w.-]+#?|\[[^\[\]\n]{1,12}\]")


def prose(text: str) -> str:
    """`text` without links, @names, hashtags and [emoticons]; with the last two where nothing else is left."""
    words = _UNTOUCHED.sub(" ", text)
    without = _ASIDE.sub(" ", words)
    return without if any(character.isalpha() for character in without) else words


def script_of(character: str) -> str | None:
    """`LATIN`, `CJK`, `HIRAGANA`, ...: the script of a letter as Unicode's name for it begins; None for no letter."""
    if not character.isalpha():
        return None
    name = unicodedata.name(character, "")
    first = name.split(" ", 1)[0]
    if first.startswith("CJK"):
        return "CJK"
    if first in ("FULLWIDTH", "MATHEMATICAL", "MODIFIER", "FEMININE", "MASCULINE", "KATAKANA-HIRAGANA", ""):
        return None
    return {"HALFWIDTH": "KATAKANA"}.get(first, first)


def script_words(text: str) -> dict[str, float]:
    """About how many words of each script `text` has."""
    counts: dict[str, float] = {}
    previous = None
    for character in text:
        script = script_of(character)
        if script in ("CJK", "HIRAGANA", "KATAKANA", "THAI"):
            counts[script] = counts.get(script, 0.0) + 1 / _CJK_WORD
        elif script is not None and script != previous:
            counts[script] = counts.get(script, 0.0) + 1
        # Marks within a word (accents, vowel signs, apostrophes) don't end it.
        if script is not None or character.isspace():
            previous = script
    return counts


def foreign_letters(text: str, target: Language, source: Language | None = None) -> str:
    """Letters in `text` that belong to the source's script and not to the target's.

    Where the source is unknown: of any script but the target's. Latin letters never count: names are written in them
    everywhere. Nor do links and @names.
    """
    alien = set(source.scripts) if source is not None else None
    found = []
    for character in _UNTOUCHED.sub(" ", text):
        script = script_of(character)
        if script is None or script == "LATIN" or script in target.scripts:
            continue
        if alien is None or script in alien:
            found.append(character)
    return "".join(found)
