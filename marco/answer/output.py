"""What was thought and what was answered: the chat format, read tolerantly."""

from __future__ import annotations

import re
from collections.abc import Iterator

_EXACT_TAG = re.compile(r"<(?P<close>/?)(?P<name>Thought|Output)>")
_LOOSE_TAG = re.compile(
    r"[<＜][ \t]{0,3}(?P<close>/?)[ \t]{0,3}(?P<name>thoughts?|outputs?)[ \t]{0,3}(?:[>＞]|(?=\n|\Z))"
    r"|(?:^|(?<=\n)|(?<=[>＞]))(?P<bare_close>/?)(?P<bare>thoughts?|outputs?)[>＞]",
    re.IGNORECASE,
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]{0,200}`", re.DOTALL)
_BOXED = "\\boxed{"
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
    tag all of it is output, save that a last paragraph with the answer in a box ends a thought. The last output that
    holds something counts; what follows its closing tag is dropped, and everything before it belongs to the thought.
    After a closed thought plain text is output. An output that was opened and closed with nothing in it falls back
    to the last paragraph of the thought. A text that breaks off inside its thought has the output "", so that nothing
    flickers while it streams.
    """
    tags = list(_tags(text))
    if not tags:
        text = text.strip()
        breaks = list(_PARAGRAPH.finditer(text))
        if breaks and _BOXED in text[breaks[-1].end() :]:
            return text[: breaks[-1].start()].rstrip(), text[breaks[-1].end() :]
        return "", text
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
