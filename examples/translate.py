"""Translate what can't be taken literally, and see how it was read: `python examples/translate.py`.

Chinese to English, and English to four other languages. Your own: `python examples/translate.py "a text" Spanish`.
"""

import sys

from marco.config import ModelConfig
from marco.engines import open_engine
from marco.translation import translate

TEXTS = (
    ("这个鞋拥有踩屎感，很舒服，推荐购买", "English"),
    ("I'm beat, let's call it a day 😴", "Chinese"),
    ("That concert was off the charts! I'm still on cloud nine 🎶", "Japanese"),
    ("Spill the tea: who ghosted whom?", "Spanish"),
    ("Don't sweat it, the exam was a piece of cake.", "Hindi"),
)


def main(engine=None, texts=TEXTS):
    """`engine` may be any engine; by default the embedded model is opened."""
    opened = engine or open_engine(ModelConfig())
    for text, to in texts:
        read = translate(opened, text, to)
        print(f"{text}\n  {to}: {read.translation}")
        for item in read.expressions:
            print(f"    {item.source}: {item.meaning or item.chosen}")
        for warning in read.warnings:
            print(f"    ! {warning}")
    if engine is None:
        opened.close()


if __name__ == "__main__":
    main(texts=[(sys.argv[1], sys.argv[2])] if len(sys.argv) > 2 else TEXTS)
