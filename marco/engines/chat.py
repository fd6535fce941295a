"""Text to token ids and back, the way the model's own tokenizer and chat template have it.

A conversation is rendered by the template around placeholders, and what people (or models) wrote is put in
afterwards as plain text: `<|im_end|>` typed by a user is ten characters, not the end of a turn. Which token ends
a turn is read off the rendered template, because the metadata of some GGUF files name the wrong one.

`load_tokenizer` reads a .gguf file or a transformers folder. Reading it from a GGUF takes tens of seconds, so the
result is kept in Marco's cache; from there it takes about two. Importing this module is light.
"""

from __future__ import annotations

import codecs
import importlib.metadata
import json
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from marco.engines.models import Progress, cache_folder, file_hash, is_gguf
from marco.errors import ModelUnavailable

_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<eos>")
"""Special tokens that end what a model writes wherever they exist; llama.cpp goes by such names as well."""

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class HFChatTokenizer:
    """A tokenizer of transformers behind Marco's `ChatTokenizer`. Thread-safe: nothing changes after construction.

    Works on tokens as bytes, so that characters split between tokens come out whole, with exact offsets.
    """

    def __init__(self, tokenizer: Any, *, end_ids: Iterable[int] = ()) -> None:
        """`tokenizer` is a fast tokenizer of transformers, which from now on belongs to this object; `end_ids` are
        further ids known to end a turn. Raises `ModelUnavailable` where it has no chat template."""
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        # From here on special tokens in a text are text; those of the template are looked up by name instead.
        # The first line is for transformers, which sets the second anew whenever it tokenises something itself.
        tokenizer.split_special_tokens = True
        self._backend.encode_special_tokens = True
        added = tokenizer.added_tokens_decoder
        self._special = {token.content: (number, token) for number, token in added.items() if token.special}
        self._pieces = _pieces(self._backend, added)
        self._ids = {piece: number for number, piece in reversed(list(enumerate(self._pieces))) if piece}
        self._longest = max(map(len, self._ids), default=0)
        self._marks = _marks(self._special)
        self._turn_end = self._find_turn_end()
        self._end_ids = self._find_end_ids(end_ids)

    @property
    def turn_end(self) -> int | None:
        """The token that the template closes the assistant's turn with; the tokenizer's own end where it has none."""
        return self._turn_end

    @property
    def end_ids(self) -> frozenset[int]:
        return self._end_ids

    def chat_ids(self, messages: Sequence[Mapping[str, str]], *, prefill: str = "") -> tuple[int, ...]:
        if not messages:
            raise ValueError("A conversation needs at least one message.")
        try:
            parts = self._render(messages)
        except _Refused:
            parts = self._render(_fold_system(messages))
        ids: list[int] = []
        # Neighbouring text is joined before it is tokenised, as it is where a model was trained on it.
        text = ""
        for part in (*parts, prefill):
            if isinstance(part, int):
                ids.extend(self.encode(text))
                ids.append(part)
                text = ""
            else:
                text += part
        ids.extend(self.encode(text))
        return tuple(ids)

    def encode(self, text: str) -> tuple[int, ...]:
        if not text:
            return ()
        return tuple(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text: list[str] = []
        offsets = []
        length = 0
        for number in ids:
            written = decoder.decode(self.piece(number))
            text.append(written)
            length += len(written)
            offsets.append(length)
        text.append(decoder.decode(b"", final=True))
        return "".join(text), tuple(offsets)

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; none for a special token."""
        return self._pieces[token] if 0 <= token < len(self._pieces) else b""

    def withheld(self, data: bytes, count: int, last: int) -> tuple[int, ...] | None:
        """Ids of the `count` tokens, each ending in mid-character, that with the token `last` wrote `data`.

        Where several sequences fit, the one that the tokenizer itself would write; None where none does.
        """
        if not data.endswith(self.piece(last)):
            return None
        fitting = list(self._splits(data[: len(data) - len(self.piece(last))], count))
        if len(fitting) > 1:
            usual = self.encode(data.decode("utf-8", "replace"))[:-1]
            return usual if usual in fitting else fitting[0]
        return fitting[0] if fitting else None

    def _splits(self, data: bytes, count: int, start: int = 0) -> Iterator[tuple[int, ...]]:
        if count == 0:
            if start == len(data):
                yield ()
            return
        for end in range(start + 1, min(start + self._longest, len(data) - count + 1) + 1):
            token = self._ids.get(data[start:end])
            if token is not None and _in_mid_character(data[:end]):
                for rest in self._splits(data, count - 1, end):
                    yield (token, *rest)

    def _render(self, messages: Sequence[Mapping[str, str]]) -> list[str | int]:
        """The conversation as special token ids and plain text, in order, the assistant's turn opened."""
        marks = [f"m{secrets.token_hex(12)}m" for _ in messages]
        shell = [{"role": message["role"], "content": mark} for message, mark in zip(messages, marks, strict=True)]
        rendered = self._apply(shell, opened=True)
        contents = dict(zip(marks, (message["content"] for message in messages), strict=True))
        if any(mark not in rendered for mark in marks):
            raise _Refused
        parts: list[str | int] = []
        for piece in re.split("(" + "|".join(marks) + ")", rendered):
            if piece in contents:
                parts.append(contents[piece])
            else:
                parts.extend(self._literal(piece))
        return parts

    def _apply(self, messages: Sequence[Mapping[str, str]], *, opened: bool) -> str:
        from jinja2 import TemplateError

        try:
            return str(
                self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=opened)
            )
        except TemplateError as error:
            raise _Refused from error
        except ValueError as error:
            raise ModelUnavailable("This model has no chat template, so Marco can't talk to it.") from error

    def _literal(self, text: str) -> Iterator[str | int]:
        """Text of the template itself, in which special tokens are special."""
        start = 0
        for match in self._marks.finditer(text) if self._marks else ():
            yield text[start : match.start()]
            name = match.group() if match.group() in self._special else match.group().strip()
            yield self._special[name][0]
            start = match.end()
        yield text[start:]

    def _find_turn_end(self) -> int | None:
        mark = f"m{secrets.token_hex(12)}m"
        try:
            rendered = self._apply(
                [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}], opened=False
            )
        except _Refused:
            rendered = ""
        after = rendered.partition(mark)[2]
        closing = next((part for part in self._literal(after) if isinstance(part, int)), None)
        return closing if closing is not None else self._tokenizer.eos_token_id

    def _find_end_ids(self, further: Iterable[int]) -> frozenset[int]:
        found = set(further)
        if self._turn_end is not None:
            found.add(self._turn_end)
        found.update(self._special[name][0] for name in _END_OF_TEXT if name in self._special)
        return frozenset(found)


class _Refused(Exception):
    """The template does not take this conversation."""


def load_tokenizer(source: str | Path, *, progress: Progress | None = None) -> HFChatTokenizer:
    """The tokenizer of a .gguf file or of a transformers folder.

    Raises `ModelUnavailable` where there is none, it can't be read, or it has no chat template.
    """
    path = Path(source)
    folder = tokenizer_folder(path, progress=progress)
    if folder == path:
        return HFChatTokenizer(_read(folder, automatic=True), end_ids=_generation_ends(folder))
    return HFChatTokenizer(_read(folder, automatic=False))


def tokenizer_folder(source: str | Path, *, progress: Progress | None = None) -> Path:
    """The folder with the tokenizer's files: `source` itself, or for a .gguf file one in Marco's cache."""
    path = Path(source)
    if path.is_dir():
        return path
    if not is_gguf(path):
        raise ModelUnavailable(f"{path} is neither a GGUF file nor a folder, so it gives no tokenizer.")
    return _from_gguf(path, progress)


def _from_gguf(path: Path, progress: Progress | None) -> Path:
    """The folder in Marco's cache that holds the tokenizer of this file; made on first use."""
    version = importlib.metadata.version("transformers")
    target = cache_folder() / "tokenizers" / f"{file_hash(path, progress)[:24]}-{version}"
    if (target / "tokenizer.json").is_file():
        return target
    if progress:
        progress(0, 0, "Reading the tokenizer, once for this model")
    # Not AutoTokenizer, which imports torch, reads the file thrice, and comes to the same.
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(path.parent), gguf_file=path.name)
    except Exception as error:  # the reader raises whatever the file's contents make it raise
        raise ModelUnavailable(f"The tokenizer in {path} can't be read ({type(error).__name__}: {error}).") from error
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=target.parent))
        try:
            tokenizer.save_pretrained(folder)
            # Where another process was faster its folder stays, and holds the same.
            if not target.exists():
                folder.replace(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise ModelUnavailable(f"The tokenizer could not be kept in {target}: {error}.") from error
    return target


def _read(folder: Path, *, automatic: bool) -> Any:
    try:
        if automatic:
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        # What Marco saved is complete in itself, and read this way it does not import torch.
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelUnavailable(f"The tokenizer in {folder} can't be read: {error}") from error


def _generation_ends(folder: Path) -> list[int]:
    try:
        given = json.loads((folder / "generation_config.json").read_text()).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return []
    return [number for number in (given if isinstance(given, list) else [given]) if isinstance(number, int)]


def _fold_system(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The system's words at the head of the first user message, for templates that know no system role."""
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    folded: list[Mapping[str, str]] = [message for message in messages if message["role"] != "system"]
    for place, message in enumerate(folded):
        if message["role"] == "user":
            folded[place] = {"role": "user", "content": f"{system}\n\n{message['content']}"}
            break
    return folded


def _marks(special: Mapping[str, tuple[int, Any]]) -> re.Pattern[str] | None:
    """Finds special tokens in a template, the longest name first, with the blanks that a token swallows."""
    names = sorted(special, key=len, reverse=True)
    patterns = [
        (r"\s*" if special[name][1].lstrip else "") + re.escape(name) + (r"\s*" if special[name][1].rstrip else "")
        for name in names
    ]
    return re.compile("|".join(patterns)) if patterns else None


def _pieces(backend: Any, added: Mapping[int, Any]) -> list[bytes]:
    """The bytes of every token, by id."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    pieces = [b""] * (max(vocabulary.values(), default=-1) + 1)
    byte_level = "ByteLevel" in (backend.decoder.__getstate__() if backend.decoder else b"").decode()
    table = _byte_table()
    for text, number in vocabulary.items():
        token = added.get(number)
        if token is not None:
            pieces[number] = b"" if token.special else token.content.encode()
        elif byte_level:
            pieces[number] = text.translate(table).encode("latin-1", "ignore")
        elif match := _BYTE_PIECE.fullmatch(text):
            pieces[number] = bytes([int(match.group(1), 16)])
        else:
            pieces[number] = text.replace("\u2581", " ").encode()
    return pieces


def _byte_table() -> dict[int, int]:
    """The byte that a code point stands for in byte-level vocabularies: printable ones stand for themselves, those
    from 256 on, in order, for the bytes that are not printable."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    return {256 + place: byte for place, byte in enumerate(b for b in range(256) if b not in printable)}


def _in_mid_character(data: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return bool(decoder.getstate()[0])
