"""Who gets in: names and passwords from a file or from the environment, with attempts throttled.

The file (or the variable `MARCO_AUTH`) has one `name:password` a line; empty lines and those that begin with # are
left out. Without either, everybody who reaches the address gets in. Passwords are compared in constant time and
written nowhere.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from marco.errors import InvalidOption

ATTEMPTS_A_MINUTE = 10
"""Log-ins that may fail for one name."""

VARIABLE = "MARCO_AUTH"


def credentials(file: Path | None = None) -> dict[str, str]:
    """Passwords by name; empty where none are asked for. Raises `InvalidOption` for a file that makes no sense."""
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidOption("auth", str(file), f"a file that can be read ({type(error).__name__})") from None
        where = str(file)
    else:
        text, where = os.environ.get(VARIABLE, ""), VARIABLE
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, password = line.partition(":")
        name = name.strip()
        if not colon or not name or not password:
            raise InvalidOption("auth", f"line {number} of {where}", "lines of the form name:password")
        if name in found:
            raise InvalidOption("auth", f"line {number} of {where}", "a name that stands there once")
        found[name] = password
    if file is not None and not found:
        raise InvalidOption("auth", where, "a file with at least one name:password")
    return found


def gatekeeper(known: Mapping[str, str]) -> Callable[[str, str], bool]:
    """Whether a name and a password belong together; after too many failures a name has to wait a minute."""
    limiter = MovingWindowRateLimiter(MemoryStorage())
    often = RateLimitItemPerMinute(ATTEMPTS_A_MINUTE)

    def may_enter(name: str, password: str) -> bool:
        key = name[:200]
        if not limiter.test(often, key):
            return False
        # A name that nobody has takes as long as one that somebody has.
        right = hmac.compare_digest(password.encode("utf-8", "replace"), known.get(name, "\0").encode("utf-8"))
        if not right or name not in known:
            limiter.hit(often, key)
            return False
        return True

    return may_enter
