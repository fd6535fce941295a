"""Make sure that there is a browser for the page's tests: `python tests/get_browser.py`.

Takes what is there; else what Playwright can download; else the system's Chromium package, where this user may
install one. Ends with a clear sentence when none of these works.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str | None:
    """Path of a Chromium: MARCO_CHROMIUM, Playwright's own, or one on the PATH."""
    named = os.environ.get("MARCO_CHROMIUM")
    if named and Path(named).exists():
        return named
    try:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            own = playwright.chromium.executable_path
        if own and Path(own).exists():
            return own
    except Exception:  # a Playwright that can't start is no reason to miss a browser that is there
        pass
    for name in NAMES:
        found = shutil.which(name)
        if found:
            return found
    return None


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, check=False, timeout=900, stdout=subprocess.DEVNULL).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> int:
    if find_browser() is None:
        _run(sys.executable, "-m", "playwright", "install", "chromium")
    if find_browser() is None and shutil.which("apt-get"):
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
        _run(*sudo, "apt-get", "update", "-qq")
        _run(*sudo, "apt-get", "install", "-y", "-qq", "chromium", "fonts-noto-cjk", "fonts-noto-color-emoji")
    found = find_browser()
    if found is None:
        print(
            "No browser for the tests: install Chromium, or name one in MARCO_CHROMIUM.",
            file=sys.stderr,
        )
        return 1
    print(f"Browser for the tests: {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
