"""Every prompt, and every fact about the chat format.

Marco-o1 was trained to think inside `<Thought>` and answer inside `<Output>`, and its own chat template tells it
so: it is given the question alone. Any other model is told the format in a system message. What a model
makes of it is read tolerantly (`marco.answer.split_output`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Message = Mapping[str, str]

THINK = (
    "You are a careful thinker. Reason inside <Thought> and </Thought>: short steps, one a paragraph, "
    "with an empty line between paragraphs, every calculation written out and checked. "
    "Then give the reply for the user inside <Output> and </Output>."
)

NUMBER = "The output states the final number once, on its own, without working."
CHOICE = "The output names the chosen option only."

DIRECT = "Reply with the answer alone: no reasoning, no explanation."

SAME_LANGUAGE = "Write the output in the language of the question."


def knows_the_format(model: str) -> bool:
    """Whether the model's own template already asks for `<Thought>` and `<Output>`."""
    return "marco-o1" in model.lower()


def solve_messages(
    question: str,
    *,
    model: str = "",
    strategy: str = "mcts",
    answer_kind: str = "text",
    language: str | None = None,
    system: str | None = None,
    history: Sequence[Message] = (),
) -> tuple[Message, ...]:
    """The conversation that is put to the model.

    `language` is the language of the answer (None follows the question); `system` replaces Marco's own
    instructions; `history` holds earlier turns as {"role", "content"}.
    """
    reply_in = f"Write the output in {language}." if language else SAME_LANGUAGE
    if system is not None:
        instructions = system
        if language:
            instructions = f"{system}\n{reply_in}"
    elif strategy == "direct":
        instructions = f"{DIRECT} {reply_in}"
    elif knows_the_format(model):
        instructions = reply_in if language else ""
    else:
        shape = {"number": NUMBER, "choice": CHOICE}.get(answer_kind, "")
        instructions = " ".join(part for part in (THINK, shape, reply_in) if part)
    messages: list[Message] = []
    if instructions and (system is not None or not knows_the_format(model)):
        messages.append({"role": "system", "content": instructions})
        instructions = ""
    messages += [{"role": turn["role"], "content": turn["content"]} for turn in history]
    # Marco-o1's template carries its own system prompt; what else is asked goes with the question.
    content = f"{question}\n\n{instructions}" if instructions else question
    messages.append({"role": "user", "content": content})
    return tuple(messages)
