"""From rows to tokens: what the model is shown, and which tokens it learns.

The prompt is, token for token, what `marco solve` puts before the same model: its own chat template around Marco's
instructions, with what people wrote as plain text. The response follows, closed by the template's own end of turn,
and those tokens alone carry loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from marco.answer import kind_of
from marco.errors import ModelUnavailable
from marco.prompts import solve_messages
from marco.training.sources import Row

IGNORED = -100
"""The label of a token that carries no loss."""

SYSTEMS = ("auto", "none")


class TurnTokenizer(Protocol):
    """What is asked of a tokenizer; `marco.engines.chat.HFChatTokenizer` has it."""

    @property
    def turn_end(self) -> int | None: ...

    def chat_ids(self, messages: Sequence[Mapping[str, str]], *, prefill: str = "") -> tuple[int, ...]: ...

    def encode(self, text: str) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Example:
    """One row as tokens."""

    input_ids: tuple[int, ...]
    prompt: int
    """How many of them are the prompt."""
    place: str

    @property
    def labels(self) -> tuple[int, ...]:
        """One entry a token: itself where it carries loss, else `IGNORED`."""
        return (IGNORED,) * self.prompt + self.input_ids[self.prompt :]

    def __len__(self) -> int:
        return len(self.input_ids)


def prompt_of(row: Row, *, model: str = "", system: str = "auto") -> tuple[Mapping[str, str], ...]:
    """The conversation up to the reply.

    `system` is `auto`: the row's own system message, else Marco's instructions where the reply has a thought, else
    none; `none`: the row as it is; or a text that takes the place of every system message.
    """
    before = row.messages[:-1]
    if system == "none" or (system == "auto" and any(turn["role"] == "system" for turn in before)):
        return before
    asked = [turn for turn in before if turn["role"] != "system"]
    if system != "auto":
        return ({"role": "system", "content": system}, *asked)
    if not row.thought or asked[-1]["role"] != "user":
        return tuple(asked)
    question = asked[-1]["content"]
    return solve_messages(question, model=model, answer_kind=kind_of(question), history=asked[:-1])


def example_of(row: Row, tokenizer: TurnTokenizer, *, model: str = "", system: str = "auto") -> Example:
    """The row as tokens. Raises `ModelUnavailable` where the template closes turns with no token of its own."""
    if tokenizer.turn_end is None:
        raise ModelUnavailable("This model's template ends a turn with no token, so it can't learn where to stop.")
    prompt = tokenizer.chat_ids(prompt_of(row, model=model, system=system))
    return Example((*prompt, *tokenizer.encode(row.response.strip()), tokenizer.turn_end), len(prompt), row.place)
