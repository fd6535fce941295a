"""Logs that a machine can read: one JSON object a line, with the id of the search that it is about.

    configure()          # the program's choice; a library that is imported configures nothing
    LOG: marco.session   {"time": ..., "level": "info", "event": "search ended", "search": "20260131-...", ...}

Questions, answers and keys are not logged. The search's id is its run's name.
"""

from __future__ import annotations

import contextvars
import datetime
import json
import logging
import sys
from typing import TextIO

SEARCH: contextvars.ContextVar[str] = contextvars.ContextVar("marco_search", default="")
"""The search that the current thread is at."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, event, the search's id, and whatever `extra` holds."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, object] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if search := SEARCH.get():
            told["search"] = search
        told.update({name: value for name, value in vars(record).items() if name not in _STANDARD})
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        # ASCII, so that no control character or lone surrogate of a model's reaches a terminal or a parser.
        return json.dumps(told, default=str)


def configure(form: str = "auto", stream: TextIO | None = None) -> None:
    """Send Marco's logs to `stream` (stderr): `json`, `text`, or `auto`, which is text on a terminal. Idempotent."""
    out = stream or sys.stderr
    logger = logging.getLogger("marco")
    for old in [handler for handler in logger.handlers if getattr(handler, "marco", False)]:
        logger.removeHandler(old)
    handler = logging.StreamHandler(out)
    handler.marco = True  # type: ignore[attr-defined]
    as_text = form == "text" or (form == "auto" and out.isatty())
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s") if as_text else JsonFormatter())
    # On a terminal a person reads: searches that begin and end are for machines.
    handler.setLevel(logging.WARNING if as_text else logging.INFO)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
