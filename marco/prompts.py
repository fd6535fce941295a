"""Every prompt, and every fact about the chat format.

Marco-o1 was trained to think inside `<Thought>` and answer inside `<Output>`, and its own chat template tells it
so: it is given the question alone. Any other model is told the format in one sentence behind the question. The more
it is told of the form, the worse it reasons: see "What a prompt costs" in benchmarks/RESULTS.md. What a model makes
of it is read tolerantly (`marco.answer.split_output`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Message = Mapping[str, str]

THINK = (
    "Think step by step inside <Thought> and </Thought>, then give the final answer{language} inside "
    "<Output> and </Output>."
)

CHOICE = "The output names the chosen option only."

DIRECT = "Reply with the answer alone{language}: no reasoning, no explanation."


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
    messages: list[Message] = []
    instructions = f"Write the output in {language}." if language else ""
    if system is not None:
        messages.append({"role": "system", "content": "\n".join(part for part in (system, instructions) if part)})
        instructions = ""
    elif strategy == "direct":
        instructions = DIRECT.format(language=_answer_in(language, question))
    elif not knows_the_format(model):
        think = THINK.format(language=_answer_in(language, question))
        instructions = f"{think} {CHOICE}" if answer_kind == "choice" else think
    messages += [{"role": turn["role"], "content": turn["content"]} for turn in history]
    content = f"{question}\n\n{instructions}" if instructions else question
    messages.append({"role": "user", "content": content})
    return tuple(messages)


def _answer_in(language: str | None, question: str) -> str:
    """What is said of the language of the answer: nothing where it goes without saying, which costs least."""
    if language:
        return f" in {language}"
    if any(letter.isalpha() and not letter.isascii() for letter in question):
        return " in the language of the question"
    return ""
