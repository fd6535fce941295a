"""Every exception that Marco raises on purpose.

    MarcoError
    ├── UserMistake            what was asked for can't be done as asked (exit code 2)
    │   ├── InvalidOption      an option, with its field, value and what is allowed
    │   ├── InvalidText        a question or sentence that is empty, too long or not text
    │   ├── ModelUnavailable   a model that is unknown, missing, damaged or does not fit
    │   ├── ServerUnreachable  no server answers at the address given
    │   └── RunFileError       a run file that can't be read, with its line
    ├── EngineError            a model or server failed while working (exit code 1)
    │   ├── OutOfMemory
    │   └── ServerError
    └── SearchError            the search was used wrongly by its caller
        └── UnknownWork        a result for a work item that was never handed out

Each message is one sentence for a person. Nothing here imports anything.
"""

from __future__ import annotations


class MarcoError(Exception):
    """The root: `except MarcoError` catches what Marco foresaw, and nothing else."""


class UserMistake(MarcoError):
    """What was asked for can't be done as asked; the message says what would."""


class InvalidOption(UserMistake):
    """An option with a value that is not allowed."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        shown = repr(value)
        if len(shown) > 80:
            # The end of a long path is its name.
            shown = shown[:47] + "..." + shown[-30:]
        super().__init__(f"{field} is {shown}, but must be {allowed}.")
        self.field = field
        self.value = value
        self.allowed = allowed


class InvalidText(InvalidOption):
    """A question or sentence that is empty, too long, or holds what text can't hold."""


class ModelUnavailable(UserMistake):
    """A model that is not in the catalogue, not on disk, damaged, or too large."""


class ServerUnreachable(UserMistake):
    """Nobody answers at the server's address."""


class RunFileError(UserMistake):
    """A run file that can't be read; `line` is 1-based, 0 where no line is to blame."""

    def __init__(self, path: object, line: int, problem: str) -> None:
        shown = str(path)
        if not shown.isprintable():
            shown = ascii(shown)
        if len(shown) > 300:
            shown = f"{shown[:150]}...{shown[-100:]}"
        where = f"{shown}, line {line}" if line else shown
        super().__init__(f"{where}: {problem}")
        self.path = path
        self.line = line
        self.problem = problem


class EngineError(MarcoError):
    """A model or a server failed while working."""


class OutOfMemory(EngineError):
    """Memory ran out even after the batch was halved to one row."""


class ServerError(EngineError):
    """A server answered with an error, or broke off, more often than is worth retrying."""


class SearchError(MarcoError):
    """The search was used in a way that its contract forbids."""


class UnknownWork(SearchError):
    """A result for a work item that the search never handed out."""

    def __init__(self, work: object) -> None:
        super().__init__(f"Work item {work!r} was never handed out by this search.")
        self.work = work
