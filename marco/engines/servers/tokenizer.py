"""The tokenizer of a llama.cpp server whose model file is not on this machine."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from marco.errors import ServerError

if TYPE_CHECKING:
    import httpx


class ServerTokenizer:
    """A llama.cpp server's own tokenizer and chat template, over HTTP. Slower than one that is here; as right."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._texts: dict[int, str] = {}
        mark = _mark()
        turns = [("user", "?"), ("assistant", mark), ("user", "?")]
        rendered = self._render([{"role": role, "content": content} for role, content in turns])
        # What follows the assistant's words begins with the token that ends a turn.
        self._end_ids = frozenset(self._ids(rendered.partition(mark)[2], special=True)[:1])

    @property
    def end_ids(self) -> frozenset[int]:
        return self._end_ids

    def chat_ids(self, messages: Sequence[Mapping[str, str]], *, prefill: str = "") -> tuple[int, ...]:
        marks = [_mark() for _ in messages]
        rendered = self._render([{"role": m["role"], "content": mark} for m, mark in zip(messages, marks, strict=True)])
        contents = dict(zip(marks, (message["content"] for message in messages), strict=True))
        ids: list[int] = []
        for part in re.split("(" + "|".join(marks) + ")", rendered):
            # The server adds what opens every text (a BOS token) itself: its templates leave it out.
            ids.extend(self._ids(contents.get(part, part), special=part not in contents, opening=not ids))
        return (*ids, *self.encode(prefill))

    def encode(self, text: str) -> tuple[int, ...]:
        return self._ids(text, special=False)

    def decode(self, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        text = ""
        offsets = []
        waiting: list[int] = []
        for number in ids:
            waiting.append(number)
            written = self._text(waiting)
            complete = len(written.rstrip("\ufffd"))
            offsets.append(len(text) + complete)
            if complete == len(written):
                text += written
                waiting = []
        return text + (self._text(waiting) if waiting else ""), tuple(offsets)

    def withheld(self, data: bytes, count: int, last: int) -> tuple[int, ...] | None:
        """The server's own way of writing `data`, where that has the right length and end."""
        ids = self.encode(data.decode("utf-8", "replace"))
        return ids[:-1] if len(ids) == count + 1 and ids[-1] == last else None

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return str(self._post("/apply-template", {"messages": list(messages)})["prompt"])

    def _ids(self, text: str, *, special: bool, opening: bool = False) -> tuple[int, ...]:
        if not text:
            return ()
        answer = self._post("/tokenize", {"content": text, "add_special": opening, "parse_special": special})
        return tuple(int(number) for number in answer["tokens"])

    def _text(self, ids: list[int]) -> str:
        if len(ids) == 1 and ids[0] in self._texts:
            return self._texts[ids[0]]
        text = "" if ids[0] in self._end_ids else str(self._post("/detokenize", {"tokens": ids})["content"])
        if len(ids) == 1:
            self._texts[ids[0]] = text
        return text

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        import httpx

        try:
            answer = self._client.post(path, json=body)
            answer.raise_for_status()
            return dict(answer.json())
        except (httpx.HTTPError, ValueError) as error:
            raise ServerError(f"The server at {self._client.base_url} could not do {path}: {error}.") from error


def _mark() -> str:
    return f"m{secrets.token_hex(12)}m"
