"""Whose runs are whose.

On a machine of one's own all runs are in one folder. On a shared server each visitor has a folder within it: an
authenticated user by name, anybody else by a secret that stays in their browser.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import gradio as gr


def new_secret() -> str:
    """What a browser keeps to be known again by."""
    return secrets.token_urlsafe(24)


def folder_of(runs: Path | None, request: gr.Request, secret: str | None, *, shared: bool) -> Path | None:
    """Where this visitor's runs are kept; None for nowhere."""
    if runs is None or not shared:
        return runs
    user = getattr(request, "username", None)
    name = f"user:{user}" if user else f"secret:{secret}" if secret else None
    if name is None:
        return None
    return runs / f"visitor-{hashlib.sha256(name.encode()).hexdigest()[:32]}"
