"""Colloquial translation on top of the solver: slang by what it means, chosen by consensus over readings.

    for event in translate_stream(engine, "这个鞋拥有踩屎感", "English"):
        ...
    translated = reading(events)        # translation, expressions, alternatives, warnings

- `languages` names and recognises them, `segments` takes long texts apart and keeps what is in no language,
- `glossary` holds words of one's own, `prompting` what the model is told,
- `output` and `reasoned` read what the model wrote, `stream` runs the searches, `commands` is `marco translate`.
"""

from marco.translation.glossary import Glossary, GlossaryHit
from marco.translation.languages import LANGUAGES, Language, detect, language, recognise
from marco.translation.reasoned import Alternative, Expression, PartRead, Translation, by_part, reading
from marco.translation.stream import (
    COLUMNS,
    MODES,
    REGISTERS,
    back_translation,
    defaults,
    in_register,
    lines_of,
    row_of,
    task_of,
    to_csv,
    translate,
    translate_stream,
    whole,
)

__all__ = [
    "translate_stream", "translate", "reading", "Translation", "Expression", "Alternative", "PartRead", "by_part",
    "whole", "task_of", "defaults", "MODES", "Language", "LANGUAGES", "language", "detect", "recognise", "Glossary",
    "GlossaryHit", "back_translation", "in_register", "REGISTERS", "lines_of", "row_of", "to_csv", "COLUMNS",
]  # fmt: skip
