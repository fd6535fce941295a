"""Rows of training data, read from whatever form they come in; every one of them, good or bad, with its place.

A row is a conversation that ends with the assistant's reply. It is read from the released form (a JSON list of
`instruction` and `response`), chat JSON lines (`messages` of `role` and `content`, or `conversations` of `from` and
`value`), Parquet with such columns, or a data set of the hub. What can't be read as a row becomes an `Unreadable`;
only a file that is no list of rows at all raises `UserMistake`, with the line.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marco.answer import split_output
from marco.errors import UserMistake

FIELDS: tuple[tuple[str, str], ...] = (
    ("instruction", "response"),
    ("instruction", "output"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "response"),
)
"""Names under which a question and its reply are looked for, in this order."""
REFERENCES = ("reference", "answer")
"""Names under which a known answer is looked for."""
ROLES: Mapping[str, str] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")
"""What ends so is a file, and no data set of the hub."""

EXCERPT = 120
"""Characters of a row that a report quotes."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?::[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation that ends with the reply to be learnt."""

    messages: tuple[Mapping[str, str], ...]
    """{"role", "content"}; at least a user's message, and the assistant's at the end."""
    source: str
    place: str
    """File and line (or row), for a person."""
    reference: str | None = None
    """The answer that is known to be right, where the data says."""

    @property
    def instruction(self) -> str:
        """The last thing that the user said."""
        return next(turn["content"] for turn in reversed(self.messages) if turn["role"] == "user")

    @property
    def response(self) -> str:
        return self.messages[-1]["content"]

    @property
    def thought(self) -> str:
        return split_output(self.response)[0]

    @property
    def output(self) -> str:
        return split_output(self.response)[1]

    def with_response(self, response: str) -> Row:
        return replace(self, messages=(*self.messages[:-1], {"role": "assistant", "content": response}))


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What stands where a row should."""

    source: str
    place: str
    why: str
    excerpt: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from."""

    name: str
    address: str
    """A path, or a hub id with an optional `:split`."""

    @property
    def is_hub(self) -> bool:
        path = Path(self.address)
        return not path.exists() and path.suffix not in SUFFIXES and _HUB_ID.fullmatch(self.address) is not None


def source_of(given: str) -> Source:
    """`PATH`, `NAME=PATH`, `owner/name` or `owner/name:split`, as a person types it.

    Raises `UserMistake` where there is neither such a file nor could it be a hub id.
    """
    name, equals, address = given.partition("=")
    if not equals or not _NAME.fullmatch(name) or Path(given).exists():
        name, address = "", given
    source = Source(name or Path(address.partition(":")[0]).stem, address)
    if not Path(address).is_file() and not source.is_hub:
        raise UserMistake(f"There is no data file {address}; give a file, NAME=FILE, or a hub id like owner/name.")
    return source


def read(source: Source) -> Iterator[Row | Unreadable]:
    """Every row of a source, in order."""
    if source.is_hub:
        yield from _read_hub(source)
        return
    path = Path(source.address)
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if head == b"PAR1":
            yield from _read_parquet(path, source)
        elif _first_sign(path) == b"[":
            yield from _read_list(path, source)
        else:
            yield from _read_lines(path, source)
    except OSError as error:
        raise UserMistake(f"{path} can't be read ({error.strerror or error}).") from None


def fingerprint(source: Source) -> str:
    """sha256 of a file's bytes; of a hub data set, empty (its own version is not ours to know)."""
    if source.is_hub:
        return ""
    with Path(source.address).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def row_of(value: object, source: str, place: str) -> Row | Unreadable:
    """What a JSON value says, as a row."""
    bad = Unreadable(source, place, "", excerpt_of(value))
    if not isinstance(value, Mapping):
        return replace(bad, why=f"it is {_kind(value)}, not an object")
    messages = _messages_of(value)
    if isinstance(messages, str):
        return replace(bad, why=messages)
    reference = next((value[name] for name in REFERENCES if value.get(name) is not None), None)
    if reference is not None and not isinstance(reference, str | int | float):
        reference = None
    return Row(messages, source, place, None if reference is None else str(reference))


def excerpt_of(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else line[: EXCERPT - 1] + "…"


def _messages_of(value: Mapping[str, Any]) -> tuple[Mapping[str, str], ...] | str:
    """The conversation, or what is wrong with it."""
    for name, role, content in (("messages", "role", "content"), ("conversations", "from", "value")):
        if value.get(name) is not None:
            return _conversation(value[name], name, role, content)
    for question, reply in FIELDS:
        if question in value and reply in value:
            asked, said = value[question], value[reply]
            for field, text in ((question, asked), (reply, said)):
                if not isinstance(text, str):
                    return f"its {field} is {_kind(text)}, not text"
                if not text.strip():
                    return f"its {field} is empty"
            further = value.get("input")
            if isinstance(further, str) and further.strip():
                asked = f"{asked}\n\n{further}"
            return ({"role": "user", "content": asked}, {"role": "assistant", "content": said})
    held = ", ".join(map(str, list(value)[:6])) or "nothing"
    return f"it has neither instruction and response nor messages (it has {held})"


def _conversation(turns: object, name: str, role: str, content: str) -> tuple[Mapping[str, str], ...] | str:
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        return f"its {name} are no list of turns"
    found: list[Mapping[str, str]] = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping):
            return f"turn {number} of its {name} is {_kind(turn)}, not an object"
        who, text = turn.get(role), turn.get(content)
        if not isinstance(who, str) or who not in ROLES:
            return f"turn {number} has the {role} {who!r}, which is none of {', '.join(ROLES)}"
        if not isinstance(text, str) or not text.strip():
            return f"turn {number} says nothing"
        found.append({"role": ROLES[who], "content": text})
    if found[-1]["role"] != "assistant":
        return "its last turn is not the assistant's"
    if not any(turn["role"] == "user" for turn in found[:-1]):
        return "no user's turn comes before the reply"
    return tuple(found)


def _kind(value: object) -> str:
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", type(None): "null"}
    return names.get(type(value), "an object")


def _first_sign(path: Path) -> bytes:
    with path.open("rb") as file:
        while piece := file.read(4096):
            stripped = piece.removeprefix(b"\xef\xbb\xbf").lstrip()
            if stripped:
                return stripped[:1]
    return b""


def _read_list(path: Path, source: Source) -> Iterator[Row | Unreadable]:
    """One element after another, so that each has its line."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserMistake(f"{path}, line {line}: this is not UTF-8 text.") from None
    decoder = json.JSONDecoder()
    position = _blank(text, text.index("[") + 1)
    line, counted = 1, 0
    if text[position : position + 1] == "]":
        return
    while True:
        line += text.count("\n", counted, position)
        counted = position
        try:
            value, position = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError) as error:
            where = text.count("\n", 0, error.pos) + 1 if isinstance(error, json.JSONDecodeError) else line
            raise UserMistake(
                f"{path}, line {where}: the JSON list breaks off here; no row after it is found."
            ) from None
        yield row_of(value, source.name, f"{path}, line {line}")
        position = _blank(text, position)
        sign = text[position : position + 1]
        if sign == "]":
            return
        if sign != ",":
            where = text.count("\n", 0, position) + 1
            raise UserMistake(f"{path}, line {where}: a comma or the end of the list belongs here.")
        position = _blank(text, position + 1)


def _blank(text: str, position: int) -> int:
    """Where the next sign that is no blank stands."""
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _read_lines(path: Path, source: Source) -> Iterator[Row | Unreadable]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            try:
                value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                yield Unreadable(source.name, place, "it is not UTF-8 text", excerpt_of(repr(line[:EXCERPT])))
            except (ValueError, RecursionError):
                shown = excerpt_of(line.decode("utf-8", "replace"))
                yield Unreadable(source.name, place, "it is no JSON object", shown)
            else:
                yield row_of(value, source.name, place)


def _read_parquet(path: Path, source: Source) -> Iterator[Row | Unreadable]:
    from marco.training import require

    require("pyarrow")
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1000):
            for value in batch.to_pylist():
                number += 1
                yield row_of(value, source.name, f"{path}, row {number}")
    except pyarrow.ArrowException as error:
        raise UserMistake(f"{path} is damaged behind row {number}: {str(error).splitlines()[0]}") from error


def _read_hub(source: Source) -> Iterator[Row | Unreadable]:
    from marco.engines.models import offline
    from marco.training import require

    require("datasets")
    name, _, split = source.address.partition(":")
    split = split or "train"
    if offline():
        raise UserMistake(f"{name} is no file here, and Marco is told to stay offline (MARCO_OFFLINE).")
    import datasets

    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # the library raises whatever the network or the repository make it raise
        reason = str(error).strip().splitlines()
        raise UserMistake(
            f"The data set {name} ({split}) can't be had from the hub: {reason[0] if reason else type(error).__name__}"
        ) from error
    for number, value in enumerate(rows, start=1):
        yield row_of(value, source.name, f"{name}:{split}, row {number}")
