"""Whether a translation says an expression word for word that means something else.

Pure functions of English-like text: words are compared by their stems, so that "poops" is "poop".
"""

from __future__ import annotations

import re

_STOP_WORDS = frozenset(
    re.findall(
        r"\S+",
        """a an the of to in on at for with and or is are be been was were as it its this that these those one one's
        someone somebody very so really feel feels feeling like having have has make makes made do does get gets not no
        i you he she we they me my your""",
    )
)
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def word_for_word(translation: str, literal: str, *meant: str) -> bool:
    """Whether `translation` says an expression word for word: it has all the telling words of the `literal` sense, and
    none of what is `meant` (its meaning, the words chosen for it) shares any of them.

    Where they do, the expression says about what it means.
    """
    telling = _telling(literal)
    sense = set().union(*map(_telling, meant))
    return bool(telling) and not telling & sense and telling <= _telling(translation)


def _telling(text: str) -> set[str]:
    return {_stem(word) for word in _WORD.findall(text.casefold()) if word not in _STOP_WORDS}


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s", "y", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word
