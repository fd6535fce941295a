"""Whose runs are whose.

On a machine of one's own all runs are in one folder. On a shared server each visitor has a folder within it: an
authenticated user by name, anybody else by a secret that stays in their browser.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import gradio as gr

SECRET_BYTES = 24
SECRET_CHARS = 32
"""What so many bytes come to in the alphabet of addresses."""


def new_secret() -> str:
    """What a browser keeps to be known again by."""
    return secrets.token_urlsafe(SECRET_BYTES)


def folder_of(runs: Path | None, request: gr.Request, secret: str | None, *, shared: bool) -> Path | None:
    """Where this visitor's runs are kept; None for nowhere."""
    if runs is None or not shared:
        return runs
    user = getattr(request, "username", None)
    # A secret comes from the browser: one that is too short to be ours might be somebody else's as well.
    own = isinstance(secret, str) and len(secret) >= SECRET_CHARS
    name = f"user:{user}" if user else f"secret:{secret}" if own else None
    if name is None:
        return None
    return runs / f"visitor-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
